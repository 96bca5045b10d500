"""What a browser finds wrong with a page of the built book. `python tests/book/look.py FOLDER` prints a table of all its pages."""

import shutil
import sys
from pathlib import Path
from urllib.parse import unquote, urlsplit

from axe_playwright_python.base import AXE_SCRIPT

DESK, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}
MOST = 2_500_000  # bytes of a page, with all its pictures, before a button is pressed
ELEMENTS = 9_000  # of a page when it opens; the chapter of formulas has the most
# Formulas typeset, and pictures loaded as if one had scrolled to the end
READY = """async () => {
  if (window.MathJax?.startup) await MathJax.startup.promise;
  for (const image of document.images) image.loading = "eager";
  await Promise.all([...document.images].map((image) => image.decode().catch(() => null)));
}"""
SERIOUS = """async () => {
  const {violations} = await axe.run({resultTypes: ["violations"], preload: false});
  return violations.filter((v) => ["serious", "critical"].includes(v.impact)).map((v) =>
    `${v.id} × ${v.nodes.length}: ${v.nodes[0].target.join(" ")} ${v.nodes[0].any.map((c) => c.message).join("; ")}`);
}"""
WIDE = """() => {
  const page = document.scrollingElement;
  if (page.scrollWidth <= page.clientWidth) return [];
  const out = [...document.querySelectorAll("body *")].filter((e) => e.getBoundingClientRect().right > page.clientWidth + 1);
  return [`${page.scrollWidth} px`, ...out.slice(0, 3).map((e) => `${e.tagName}.${e.className}`.slice(0, 80))];
}"""
# Pictures of the text, without those that a widget or a script made, and rows of samples that are links, whose words name them
PICTURES = """() => [...document.querySelectorAll(".bd-article img:not(.jupyter-widgets img, .strips img, .explorers img)")].map((e) => ({
  alt: e.getAttribute("alt"), caption: e.closest("figure")?.querySelector("figcaption")?.innerText ?? "", filter: getComputedStyle(e).filter,
}))"""
# The theme as the reader chooses it, without the seconds in which colours change
THEME = """(theme) => {
  document.head.append(Object.assign(document.createElement("style"), {textContent: "*, ::before, ::after { transition: none !important }"}));
  document.documentElement.dataset.theme = theme;
}"""


def pages(root: Path) -> dict[str, Path]:
    """The pages of a built book by their path in it."""
    files = sorted(f for f in root.rglob("*.html") if not {"vendor", "_static"} & set(f.relative_to(root).parts))
    return {str(f.relative_to(root)): f for f in files if 'http-equiv="Refresh"' not in f.read_text()}


def look(browser, file: Path) -> dict:
    """Requests outside, complaints of the console, bytes, axe's serious findings by theme, pictures, and what is too wide on a phone."""
    context = browser.new_context(viewport=DESK)
    page, outside, complaints, loaded = context.new_page(), [], [], {}

    def route(way):
        url = urlsplit(way.request.url)
        if url.scheme not in ("file", "data", "blob"):
            outside.append(way.request.url)
            return way.abort()
        if url.scheme == "file" and (place := Path(unquote(url.path))).is_file():
            loaded[place] = place.stat().st_size
        return way.continue_()

    page.route("**/*", route)
    page.on("console", lambda m: complaints.append(m.text) if m.type == "error" else None)
    page.on("pageerror", lambda e: complaints.append(str(e)))
    page.on("requestfailed", lambda r: complaints.append(f"{r.url}: {r.failure}"))
    page.goto(file.as_uri(), wait_until="load")
    page.evaluate(READY)
    seen = {"outside": outside, "complaints": complaints, "weight": sum(loaded.values())}
    seen["heavy"] = {k.name: v for k, v in sorted(loaded.items(), key=lambda of: -of[1])[:4]}
    seen["elements"] = page.evaluate("() => document.querySelectorAll('*').length")
    page.evaluate(AXE_SCRIPT)
    for theme in ("light", "dark"):
        page.evaluate(THEME, theme)
        seen[theme], seen["pictures"] = page.evaluate(SERIOUS), page.evaluate(PICTURES)
    page.set_viewport_size(PHONE)
    page.wait_for_timeout(100)
    seen["wide"] = page.evaluate(WIDE)
    context.close()
    return seen


def faults(seen: dict) -> list[str]:
    """What a page should not have."""
    found = [f"{theme}: {fault}" for theme in ("light", "dark") for fault in seen[theme]]
    found += [f"asks for {url}" for url in seen["outside"]] + [f"console: {text}" for text in seen["complaints"]]
    found += [f"{' '.join(seen['wide'])} wide on a phone"] if seen["wide"] else []
    found += [f"{seen['weight']:,} bytes: {seen['heavy']}"] if seen["weight"] > MOST else []
    found += [f"{seen['elements']:,} elements"] if seen["elements"] > ELEMENTS else []
    for picture in seen["pictures"]:
        alt = picture["alt"] or ""
        found += (
            [f"{alt!r:.80} is no alternative text"] if len(alt) < 8 or "_images" in alt or alt.endswith(".png") else []
        )
        found += [f"{alt:.80} has no number and caption"] if not picture["caption"].startswith("Figure ") else []
        found += [f"{alt:.80} is dimmed: {picture['filter']}"] if picture["filter"] != "none" else []
    return found


def main(root: Path) -> None:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        every = {}
        print("| page | MB | elements | axe, light | axe, dark | console | outside | 390 px | no words | no caption |")
        print("|---|---|---|---|---|---|---|---|---|---|")
        for name, file in pages(root).items():
            seen = look(browser, file)
            every[name] = faults(seen)
            counts = (len(seen[k]) for k in ("light", "dark", "complaints", "outside"))
            words = sum("no alternative" in f for f in every[name]), sum("no number" in f for f in every[name])
            cells = [
                name,
                f"{seen['weight'] / 1e6:.2f}",
                f"{seen['elements']:,}",
                *counts,
                *(seen["wide"][:1] or ["fits"]),
                *words,
            ]
            print("|", " | ".join(map(str, cells)), "|", flush=True)
        print(*(f"{name}: {fault}" for name, found in every.items() for fault in found), sep="\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
