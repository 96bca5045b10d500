// Claims by document, verdict and data. Without this script the verdicts are filtered by the style sheet alone.
document.addEventListener("DOMContentLoaded", () => {
  const filter = document.querySelector(".filter");
  if (!filter) return;
  const forest = [...document.querySelectorAll(".forest > .verdict")], claims = new Map();
  const verdicts = [...filter.querySelectorAll("input")];
  let claim = null;
  for (const row of document.querySelectorAll(".bd-article tr:has(td .verdict)")) {
    const mark = row.querySelector(".verdict");
    if (mark.id) {
      claim = {words: row.cells[1].textContent, document: row.closest("section").querySelector("h2").firstChild.textContent, rows: []};
      claim.kind = verdicts.find((box) => mark.classList.contains(`of-${box.name}`)).name;
      claims.set(mark.id, claim);
    }
    claim.rows.push(row);
  }

  const make = (tag, parent, text = "") => {
    const element = document.createElement(tag);
    element.textContent = text;
    parent.append(element);
    return element;
  };
  const choice = make("label", filter, "document "), select = make("select", choice);
  make("option", select, "all").value = "";
  for (const name of new Set([...claims.values()].map((c) => c.document))) make("option", select, name).value = name;
  const label = make("label", filter), real = document.createElement("input");
  real.type = "checkbox";
  label.append(real, " without stand-in data");
  const count = make("span", filter);
  count.setAttribute("role", "status");
  const numbers = verdicts.map((box) => [box.name, make("span", box.parentElement)]);

  function update() {
    const open = new Set(verdicts.filter((box) => box.checked).map((box) => box.name)), of = {};
    let shown = 0;
    for (const [id, {kind, words, rows, document: name}] of claims) {
      const inside = !select.value || name === select.value;
      const kept = rows.filter((row) => inside && !(real.checked && row.querySelector(".stand-in")));
      if (kept.length) of[kind] = (of[kind] ?? 0) + 1;
      const visible = open.has(kind) || location.hash === `#${id}` ? kept : [];
      shown += visible.length > 0;
      for (const row of rows) {
        row.hidden = !visible.includes(row);
        row.cells[1].textContent = row === visible[0] ? words : "";
      }
    }
    for (const line of forest) {
      const its = claims.get(line.querySelector("a").hash.slice(1));
      line.hidden = (select.value && its?.document !== select.value) || (real.checked && line.classList.contains("stand-in")) || !open.has(its?.kind);
    }
    for (const [name, place] of numbers) place.textContent = ` ${of[name] ?? 0}`;
    count.textContent = `${shown} of ${claims.size} claims`;
  }
  filter.addEventListener("change", update);
  window.addEventListener("hashchange", update);
  update();
});
