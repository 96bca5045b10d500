// On every page: what scrolls can be scrolled by keyboard, and samples are enlarged smoothly or pixel by pixel.
document.addEventListener("DOMContentLoaded", () => {
  const boxes = document.querySelectorAll(".bd-article :is(.scroll, pre, .math, .pst-scrollable-table-container, .output)");
  const scrollable = () => boxes.forEach((box) => {
    box.scrollWidth > box.clientWidth + 1 ? box.setAttribute("tabindex", "0") : box.removeAttribute("tabindex");
  });
  new ResizeObserver(scrollable).observe(document.documentElement);
  window.MathJax?.startup?.promise?.then(scrollable);

  let kept = null;
  try { kept = localStorage.getItem("pixels"); } catch { /* a browser that keeps nothing */ }
  const switches = [];
  const show = (pixels) => {
    document.documentElement.classList.toggle("pixels", pixels);
    for (const button of switches) button.textContent = pixels ? "Enlarge smoothly" : "Show pixels";
    try { localStorage.setItem("pixels", pixels ? "1" : ""); } catch { /* as above */ }
  };
  for (const grid of document.querySelectorAll("figure .samples")) {
    const button = document.createElement("button");
    button.className = "figure-switch";
    button.addEventListener("click", () => show(!document.documentElement.classList.contains("pixels")));
    switches.push(button);
    grid.closest("figure").querySelector("figcaption")?.append(button);
  }
  show(kept === "1");
});
