// The table of records: facets, order, rows made as they are needed, CSV and JSON. Every word ends as a text node.
document.addEventListener("DOMContentLoaded", () => {
  const place = document.getElementById("records"), data = document.getElementById("records-data");
  if (!place || !data) return;
  const {fields, coded, words, rows} = JSON.parse(data.textContent);
  const records = rows.map((row) => Object.fromEntries(fields.map((field, i) => [field, coded.includes(i) ? words[row[i]] : row[i]])));
  for (const r of records) {
    // The key tells records apart; the rest is for the eye
    r.id = [r.run.replaceAll(" · ", "."), r.metric.split(" ")[0], r.w === null ? "real" : `w${r.w}`, r.key].join("/").replaceAll(" ", "-");
  }
  const FACETS = {run: "run", metric: "metric", w: "w", drawn_by: "way"};
  const COLUMNS = {run: "run", metric: "metric", w: "w", value: "value [95 % interval]", n: "n", drawn_by: "way and measurement"};
  const STEP = 60;
  const chosen = {}, order = {by: "run", down: false};
  let found = records, shown = 0;

  const make = (tag, parent, text = "", given = {}) => {
    const element = Object.assign(document.createElement(tag), given);
    element.textContent = text;
    parent?.append(element);
    return element;
  };
  const named = (field, record) => field === "w" ? (record.w === null ? "real images" : String(record.w)) : record[field];
  const compared = (a, b) => a !== "" && b !== "" && !isNaN(a) && !isNaN(b) ? a - b : String(a ?? "").localeCompare(String(b ?? ""), "en", {numeric: true});

  const controls = make("div", place, "", {className: "facets"});
  const selects = Object.entries(FACETS).map(([field, title]) => {
    const group = make("span", controls), name = `facet-${field}`;
    make("label", group, title, {htmlFor: name});
    const select = make("select", group, "", {id: name});
    select.addEventListener("change", () => { chosen[field] = select.value; delete chosen.id; update(); });
    return [field, select];
  });
  const line = make("p", place, "", {className: "facets-line"});
  const count = make("span", line, "", {role: "status"});
  const button = (text, act) => make("button", line, text, {type: "button"}).addEventListener("click", act);
  button("Show all", () => { for (const field in chosen) delete chosen[field]; update(); });
  button("CSV", () => save("csv", "text/csv", [fields.join(","), ...found.map((r) => fields.map((f) => quoted(r[f])).join(","))].join("\n")));
  button("JSON", () => save("json", "application/json", JSON.stringify(found, null, 1)));
  const table = make("table", make("div", place, "", {className: "scroll"}), "", {className: "table records"});
  const heads = make("tr", make("thead", table)), body = make("tbody", table);
  for (const [field, title] of Object.entries(COLUMNS)) {
    const head = make("th", heads, "", {scope: "col"});
    head.dataset.field = field;
    make("button", head, title, {type: "button"}).addEventListener("click", () => {
      order.down = order.by === field && !order.down;
      order.by = field;
      update();
    });
  }
  const more = make("button", place, "", {type: "button", className: "more"});
  more.addEventListener("click", () => grow());

  function quoted(value) {
    const text = String(value ?? "");
    const safe = typeof value === "string" && /^[=+\-@\t\r]/.test(text) ? `'${text}` : text;  // no formula of a spreadsheet
    return /[",\n]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
  }

  function save(ending, type, text) {
    const link = make("a", null, "", {href: URL.createObjectURL(new Blob([text], {type})), download: `guidebook-records.${ending}`});
    link.click();
    URL.revokeObjectURL(link.href);
  }

  function grow() {
    for (const record of found.slice(shown, shown + STEP)) {
      const row = make("tr", body, "", {id: record.id});
      const cell = (field, text) => {
        const td = make(field === "run" ? "th" : "td", row, text);
        if (field === "run") td.scope = "row";
        td.dataset.label = COLUMNS[field];
        return td;
      };
      const small = (parent, text) => text && make("div", parent, text, {className: "rests"});
      const run = cell("run", "");
      make("a", run, record.run, {href: `#${encodeURI(record.id)}`});
      cell("metric", record.metric);
      cell("w", named("w", record)).classList.toggle("real", record.w === null);
      const [value, ...interval] = record.shown.split(" [");
      const number = cell("value", value);
      small(number, interval.length ? `[${interval.join(" [")}` : "");
      cell("n", record.n.toLocaleString("en"));
      const way = cell("drawn_by", record.drawn_by || "real images");
      small(way, [record.weights, record.read_by && `read by ${record.read_by}`, record.against && `against ${record.against}`, `interval: ${record.interval}`].filter(Boolean).join("; "));
    }
    shown = Math.min(found.length, shown + STEP);
    more.hidden = shown >= found.length;
    more.textContent = `Show ${Math.min(STEP, found.length - shown)} more of ${(found.length - shown).toLocaleString("en")}`;
  }

  function update() {
    const fits = (record, but) => (!chosen.id || record.id === chosen.id) &&
      Object.keys(FACETS).every((field) => field === but || !chosen[field] || named(field, record) === chosen[field]);
    for (const [field, select] of selects) {
      const names = [...new Set(records.filter((r) => fits(r, field)).map((r) => named(field, r)))].filter(Boolean).sort(compared);
      select.replaceChildren(make("option", null, "all", {value: ""}), ...names.map((name) => make("option", null, name, {value: name})));
      select.value = chosen[field] ?? "";
    }
    found = records.filter((record) => fits(record)).sort((a, b) => (order.down ? -1 : 1) * compared(a[order.by], b[order.by]));
    for (const head of heads.children) {
      head.setAttribute("aria-sort", head.dataset.field !== order.by ? "none" : order.down ? "descending" : "ascending");
    }
    count.textContent = `${found.length.toLocaleString("en")} of ${records.length.toLocaleString("en")} records`;
    body.replaceChildren();
    shown = 0;
    grow();
  }

  function follow() {
    const id = decodeURIComponent(location.hash.slice(1));
    if (records.some((record) => record.id === id)) {
      for (const field in chosen) delete chosen[field];
      chosen.id = id;
      update();
      document.getElementById(id).scrollIntoView({block: "center"});
    }
  }
  update();
  follow();
  window.addEventListener("hashchange", follow);
});
