"""A Sphinx extension with what the theme lacks: light pages, figures numbered by page, descriptions, and a bibliography to look up by name.

It is listed in `book/_config.yml`, so that jupyter-book and plain Sphinx make the same pages of it.
"""

import html
import re
from pathlib import Path
from urllib.parse import unquote

from docutils import nodes
from PIL import Image
from pybtex.plugin import register_plugin
from pybtex.style.formatting.unsrt import Style
from pybtex.style.labels import BaseLabelStyle

ICONS = re.compile(
    r'\s*<script [^>]*src="[^"]*fontawesome\.js[^"]*"></script>'
)  # 1.5 MB; custom.css has the icons of the theme
# For results while one types, which the book does not show: the page of results alone needs them
SEARCH = re.compile(r'\s*<script src="[^"]*(?:searchtools|language_data|searchindex|js/search)\.js[^"]*"></script>')
# The list's children are no list items, so that it would be announced as an empty one
PLAIN = re.compile(r'<span class="[npw]">([^<]*)</span>')  # names, signs and spaces, whose colour is that of all code
LIST = '<div role="list" class="citation-list">'
FOLD = '<summary><span class="toctree-toggle"'  # in the contents, without a word
GLYPHS = re.compile(
    r'(?:\.fa-[a-z0-9-]+:before,?)+\{content:"[^"]*"\}'
)  # of the same icons, in the theme's style sheet
IMAGE = re.compile(r'<img (?![^>]*\b(?:loading|height)=)([^>]*?)src="([^":]+\.png)"')
WORDS = 155  # characters of a description


class Labels(BaseLabelStyle):
    """`Ho and Salimans, 2022`: an entry is called what the text calls it, with a letter where two are called alike."""

    def format_labels(self, entries):
        names = []
        for entry in entries:
            people = [" ".join(map(str, p.rich_prelast_names + p.rich_last_names)) for p in entry.persons["author"]]
            more = f" and {people[1]}" if len(people) == 2 else " et al." if people[1:] else ""
            names.append(f"{people[0]}{more}, {entry.fields.get('year', 'undated')}")
        for i, name in enumerate(names):
            yield name + (chr(ord("a") + names[:i].count(name)) if names.count(name) > 1 else "")


class AuthorYear(Style):
    """Entries by name, labelled by author and year."""

    default_label_style, default_sorting_style = Labels, "author_year_title"


def setup(app) -> dict:
    """Called by Sphinx."""
    register_plugin("pybtex.style.formatting", "authoryear", AuthorYear)
    app.connect("env-get-updated", numbered, priority=900)  # after Sphinx has numbered the figures of the whole book
    app.connect("html-page-context", described)
    app.connect("build-finished", finished)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def numbered(app, env) -> list[str]:
    """Figures counted from 1 on each page; returns pages to write anew: none."""
    for kinds in env.toc_fignumbers.values():
        for number, figure in enumerate(kinds.get("figure", {}), 1):
            kinds["figure"][figure] = (number,)
    return []


def described(app, page: str, template: str, context: dict, doctree) -> None:
    """The first paragraph of a page as the description that search engines and links show."""
    texts = (" ".join(p.astext().split()) for p in doctree.findall(nodes.paragraph)) if doctree else ()
    first = next((text for text in texts if len(text) > 60), "")
    if len(first) > WORDS:
        first = first[:WORDS].rpartition(" ")[0] + " …"
    if first:
        context["metatags"] = (
            context.get("metatags", "") + f'<meta name="description" content="{html.escape(first)}" />\n'
        )


def finished(app, error) -> None:
    """Mends the pages that were written."""
    if error is None and app.builder.format == "html":
        named: set[str] = set()
        for kind, mend in (("*.html", mended), ("pydata-sphinx-theme.css", lambda text, _: GLYPHS.sub("", text))):
            for file in Path(app.outdir).rglob(kind):
                text = file.read_text()
                if (new := mend(text, file.parent)) != text:
                    file.write_text(new)
                named |= set(re.findall(r'_images/([^"]+\.png)"', new))
        for small in Path(app.outdir, "_images").glob("*.webp"):
            if (large := small.with_suffix(".png")).name not in named:  # by a link
                large.unlink(missing_ok=True)


def mended(text: str, folder: Path) -> str:
    """A page without scripts that it does not need, and with pictures that are loaded when they are scrolled to, in room kept for them.

    A picture becomes WebP without loss, which is a third as large, beside the file that it was.
    """

    def sized(found: re.Match) -> str:
        file = folder / unquote(found[2])
        if not file.is_file():
            return found[0]
        with Image.open(file) as picture:
            width, height = picture.size
            if not (small := file.with_suffix(".webp")).exists():
                picture.convert("RGBA" if "A" in picture.mode else "RGB").save(
                    small, lossless=True, quality=50, method=1
                )
        source = found[2].removesuffix("png") + "webp"
        return f'<img loading="lazy" width="{width}" height="{height}" {found[1]}src="{source}"'

    if 'id="search-results"' not in text:
        text = SEARCH.sub("", text)
    text = text.replace(LIST, '<div class="citation-list">').replace(
        FOLD, FOLD.replace("y>", 'y aria-label="other runs">')
    )
    return IMAGE.sub(sized, PLAIN.sub(r"\1", ICONS.sub("", text)))
