"""The library's own code on a page: a function or a class as it stands in its file."""

import ast
import textwrap
from pathlib import Path

from guidebook.config.errors import nearest
from guidebook.report.tables import Html

LIBRARY = Path(__file__).parents[1]


def source(place: str) -> Html:
    """The source of a function, method or class, with the comment above it, which is its equation; coloured as Python.

    `place` is MODULE:NAME in the library, as `diffusion.guidance:between` or `training.ema:EMA.update`. The file is parsed and not
    imported, so that a page that is redrawn needs no torch. Raises ValueError where no file or no name is so called.
    """
    from pygments import highlight
    from pygments.formatters import HtmlFormatter
    from pygments.lexers import PythonLexer

    module, _, name = place.partition(":")
    file = LIBRARY / f"{module.replace('.', '/')}.py"
    if not file.is_file():
        raise ValueError(f"no module {module} in the library: source takes MODULE:NAME, as diffusion.guidance:between")
    text = file.read_text()
    first, last = lines(text, name)
    code = textwrap.dedent("\n".join(text.splitlines()[first - 1 : last]))
    where = f"lib/guidebook/{file.relative_to(LIBRARY).as_posix()}, lines {first} to {last}"
    block = highlight(code, PythonLexer(), HtmlFormatter(nowrap=True))
    return Html(f'<div class="highlight"><pre>{block}</pre></div><p><em>{where}</em></p>')


def lines(text: str, name: str) -> tuple[int, int]:
    """First and last line, from 1 on, of what `text` defines as NAME or CLASS.NAME, the comment above it included. Raises ValueError."""
    scope, node = ast.parse(text).body, None
    for part in name.split("."):
        known = {n.name: n for n in scope if isinstance(n, ast.FunctionDef | ast.ClassDef)}
        if part not in known:
            raise ValueError(f"{name} is not defined there{nearest(part, known)}; there are: {', '.join(known)}")
        node = known[part]
        scope = node.body
    above, first = text.splitlines(), min([node.lineno, *(d.lineno for d in node.decorator_list)])
    while first > 1 and above[first - 2].lstrip().startswith("#"):
        first -= 1
    return first, node.end_lineno
