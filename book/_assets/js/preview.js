// Previews of what a link leads to: an entry of the bibliography, whose words are its link's title, and a figure or an equation of the
// same page, of which copies are shown. By pointer and by keyboard; Escape closes. No word of a page becomes markup here.
document.addEventListener("DOMContentLoaded", () => {
  if (!matchMedia("(any-hover: hover)").matches) return;
  const box = Object.assign(document.createElement("div"), {id: "preview", hidden: true}), entries = new Map();
  box.setAttribute("role", "tooltip");
  document.body.append(box);
  let shown = null, soon = 0;

  // A figure, or the first one below an anchor that stands above its cell; or an equation
  function place(link) {
    if (!link.hash || link.pathname !== location.pathname) return null;
    const at = document.getElementById(decodeURIComponent(link.hash.slice(1)));
    return at?.id.startsWith("figure-") ? at.nextElementSibling?.querySelector("figure") : at?.matches("figure, div.math") ? at : null;
  }

  function copy(part) {
    const made = part.cloneNode(true);
    for (const of of [made, ...made.querySelectorAll("[id]")]) of.removeAttribute("id");
    for (const of of made.querySelectorAll("button, .headerlink")) of.remove();
    for (const of of [made, ...made.querySelectorAll("img")]) of.removeAttribute("loading");
    return made;
  }

  function show(link) {
    hide();
    const from = place(link);
    if (entries.has(link)) box.textContent = entries.get(link);
    else box.replaceChildren(...[...from.querySelectorAll("img, .samples, mjx-container[display], figcaption")].filter((e) => !e.parentElement.closest(".samples")).map(copy));
    shown = link;
    link.setAttribute("aria-describedby", box.id);
    box.hidden = false;
    const at = link.getClientRects()[0], wide = document.documentElement.clientWidth, below = at.bottom + box.offsetHeight < innerHeight || at.top < box.offsetHeight;
    box.style.left = `${scrollX + Math.max(8, Math.min(at.left, wide - box.offsetWidth - 8))}px`;
    box.style.top = `${scrollY + (below ? at.bottom : at.top - box.offsetHeight)}px`;
  }

  function hide() {
    clearTimeout(soon);
    shown?.removeAttribute("aria-describedby");
    shown = null;
    box.hidden = true;
  }

  function later(wait, act) {
    clearTimeout(soon);
    soon = setTimeout(act, wait);
  }

  for (const link of document.querySelectorAll(".bd-article a[href*='#']:not(.headerlink)")) {
    if (link.title && link.pathname.endsWith("/bibliography.html")) {
      entries.set(link, link.title);
      link.removeAttribute("title");  // which the browser would show, too
    } else if (!place(link)) continue;
    link.addEventListener("pointerenter", (event) => event.pointerType === "mouse" && later(150, () => show(link)));
    link.addEventListener("pointerleave", () => later(200, hide));
    link.addEventListener("focus", () => link.matches(":focus-visible") && show(link));
    link.addEventListener("blur", hide);
  }
  box.addEventListener("pointerenter", () => clearTimeout(soon));
  box.addEventListener("pointerleave", () => later(200, hide));
  document.addEventListener("keydown", (event) => event.key === "Escape" && hide());
});
