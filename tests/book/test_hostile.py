"""Records of strangers in the built pages: whatever they say is text, wherever it stands; nothing runs, nothing outside is read or linked."""

import json
import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from guidebook.config.errors import plain
from guidebook.config.yamlfile import read

ROOT = Path(__file__).parents[2]
EXTENSIONS = read(ROOT / "book/_config.yml")["sphinx"]["config"]["extensions"]
pytestmark = pytest.mark.timeout(900)

# Every role and directive that a page of the book could call
NAMES = """
import json, sys, tempfile
from pathlib import Path
from docutils.parsers.rst import directives, roles
from sphinx.application import Sphinx

with tempfile.TemporaryDirectory() as place:
    Path(place, "_toc.yml").write_text("root: index\\n")
    options = {"extensions": json.loads(sys.argv[1]), "bibtex_bibfiles": []}
    app = Sphinx(place, None, f"{place}/out", f"{place}/trees", "html", options, status=None, warning=None)
found = {"roles": {*roles._role_registry, *roles._roles}, "directives": {*directives._directive_registry, *directives._directives}}
for name, domain in app.registry.domains.items():
    for kind, names in found.items():
        names |= {f"{name}:{one}" for one in getattr(domain, kind)} | set(getattr(domain, kind))
print(json.dumps({kind: sorted(names) for kind, names in found.items()}))
"""
# Writes down in each Python process which files of the outside world it opens
SPY = """
import os, sys

def heard(event, args):
    if event == "open" and "outside-the-book" in str(args[0]):
        with os.fdopen(os.open(os.environ["SPIED"], os.O_WRONLY | os.O_APPEND | os.O_CREAT), "w") as file:
            file.write(f"{sys.argv} {args[0]}\\n")

sys.addaudithook(heard)
"""
BUILD = """
import json, os
from pathlib import Path
from forks import forked_kernels
from guidebook.book import build

words, drawn = (Path(os.environ["GUIDEBOOK_ROOT"]) / "attack.txt").read_text(), build.draw_pages
kinds = ("text/html", "text/plain", "text/markdown", "text/latex", "image/svg+xml", "application/javascript", "application/json")
page = {"output_type": "display_data", "data": dict.fromkeys(kinds, words), "metadata": {"text/html": {"x": words}, "x": words}}
error = {"output_type": "error", "ename": words, "evalue": words, "traceback": [words]}
said = [{"output_type": "stream", "name": name, "text": words} for name in ("stdout", "stderr")]
text = {"model_name": "TextModel", "model_module": "@jupyter-widgets/controls", "model_module_version": "2.0.0",
        "state": {"_view_name": "TextView", "value": words, "description": words, "description_allow_html": True}}
state = "application/vnd.jupyter.widget-state+json"
shown = {"output_type": "display_data", "data": {state.replace("state", "view"): {"model_id": "0123"}}, "metadata": {}}

def hostile(pages, say):  # whatever a notebook drew, these outputs are among it
    drawn(pages, say)
    for _, executed, *_ in pages:
        notebook = json.loads(executed.read_text())
        for cell in notebook["cells"][:4]:
            cell["attachments"] = {"x.png": {"image/svg+xml": words}}
            if cell["cell_type"] == "code":
                cell["outputs"] += [page, page | {"data": {"text/html": words}}, shown, *said, error]
        notebook["metadata"]["myst"] = notebook["metadata"]["hacked"] = {"substitutions": {"hacked": words}}
        widgets = notebook["metadata"].setdefault("widgets", {}).setdefault(state, {"state": {}})
        widgets["state"] |= {"0123": text, "4567": text | {"model_name": "HTMLModel"}, words: text}
        executed.write_text(json.dumps(notebook))

build.draw_pages = hostile
with forked_kernels():
    build.build()
"""
CAPTION = r"A {label} `{std:doc}` $\href{javascript:hacked()}{x}$ \(\href{javascript:hacked()}{x}\) </script><script>window.hacked=1</script> ]]> ../../x"
# What records must hold so that they can be drawn at all: names of metrics, of sets, of solvers
NEEDED = re.compile(
    r"\.(metric|group|set|key|f16|bench|kind|sampler|experiment|profile)$|\.draw\b|spaces.*\.name$|inception$|date$"
)


def attack(roles: list[str], directives: list[str], secret: Path) -> str:
    """All that MyST, reStructuredText and HTML can do, aimed at a file outside of the book."""
    place = "/.." * 12 + str(secret)  # Sphinx takes a leading stroke for its source folder
    parts = [f"{{{name}}}`{place}` {{{name}}}`x <{place}>` {{{name}}}`x <javascript:hacked()>`" for name in roles]
    parts += [f":{name}:`{place}`" for name in ("download", "doc", "raw")]
    for name in directives:
        parts.append(
            f"\n\n```{{{name}}} {place}\n:file: {place}\n:link: javascript:hacked()\n:format: html\n\n{place}\n```\n\n"
        )
        parts.append(f"\n\n:::{{{name}}} {place}\n:::\n\n.. {name}:: {place}\n   :file: {place}\n\n")
    parts += [
        f"![i]({place}) ![i](../../{place}) [l]({place}) [l](javascript:hacked()) <javascript:hacked()> [r][r]\n\n[r]: {place}\n\n",
        f"<script>window.hacked=1</script> <img src=x onerror='window.hacked=1'> <a href='javascript:hacked()'>a</a> <iframe src='{place}'>",
        "</td></table></div>\n\n<div>\n\n**bold** _it_ `code` $x$ $$\\href{javascript:hacked()}{x}$$ \\(\\href{javascript:hacked()}{x}\\) \\[x\\]",
        "{{ hacked }} {% include 'x' %} {{ 7*7 }} \\` \\\\ \\` www.hacked.example https://hacked.example a@hacked.example",
        "---\nmyst: {substitutions: {hacked: yes}}\n---\n\n# head\n\n+++\n\n% gone\n\n(target)=\n\n- item\n\n1. item\n\n> quoted\n\n| a |\n|---|\n| b |\n\"q\" 'q'",
        "    indented\n\n\t`tab\n\r\n\x0b\x0c\x85\u2028```{raw} html\n<!-- summary --> <!-- runs --> <!-- 1 --> <!-- --> --> <![CDATA[ &lt;script&gt; &#60;script&#62; end",
    ]
    return " ".join(parts)


def attacked(value, words: str, path: str = "", done: set | None = None):
    """A JSON value with the attack in the first string of each kind of field that it may hold, and in every name of what it need not."""
    done = set() if done is None else done
    if isinstance(value, dict):
        return {k: attacked(v, words, f"{path}.{k}", done) for k, v in value.items()}
    if isinstance(value, list):
        return [attacked(v, words, f"{path}[]", done) for v in value]
    if isinstance(value, str) and not NEEDED.search(path) and path not in done:
        done.add(path)
        return f"{value} <{path}> {words}"
    return value


def project(root: Path, names: dict) -> None:
    """A book of one recorded run, of benches, faults and simulations, all of them of strangers."""
    secret = root.parent / "outside-the-book.txt"
    secret.write_text("the builder's own words")
    words = attack(names["roles"], names["directives"], secret)
    (root / "attack.txt").write_bytes(words.encode())
    skip = shutil.ignore_patterns("_build", "results", ".ipynb_checkpoints")
    for name in ("params", "book"):
        shutil.copytree(ROOT / name, root / name, ignore=skip)
    (root / "notebooks").mkdir()
    for name in ("mnist", "performance", "explorer", "six-images"):
        shutil.copy(ROOT / f"notebooks/{name}.ipynb", root / "notebooks")
    results = root / "book/results"
    shutil.copytree(ROOT / "book/results/mnist", results / "mnist")
    shutil.copytree(ROOT / "book/results/bench", results / "bench")
    for name in ("faults", "coverage", "six-images"):
        shutil.copy(ROOT / f"book/results/{name}.json", results)
    record = results / "mnist/paper"
    metrics = json.loads((record / "metrics.json").read_text())
    first = next(r for r in metrics if r["draw"] and not r["group"].startswith(("curve-", "against-")))
    metrics.append(first | {"metric": "adherence_attribute", "attribute": "Smiling", "value": 0.5})
    metrics[-1]["draw"] = first["draw"] | {"prompt": f"<.draw.prompt> {words}"}
    (record / "metrics.json").write_text(json.dumps(metrics))
    for file in record.rglob("params.yml"):
        file.write_text(re.sub(r"(?<=\n  caption: ).+", lambda _: json.dumps(CAPTION), file.read_text()))
    shutil.copytree(
        next(record.glob("samples/w1-ddpm-*")), record / "samples" / "`{download}` <script>window.hacked=1<"
    )
    facts = record / "provenance.json"
    facts.write_text(json.dumps({"caveat": "c"} | json.loads(facts.read_text())))
    for file in results.rglob("*.json"):
        if "samples" not in file.parts:
            file.write_text(json.dumps(attacked(json.loads(file.read_text()), words)))
    for file in results.rglob("stats.jsonl"):
        lines = [json.loads(line) for line in file.read_text().splitlines()]
        file.write_text("".join(json.dumps(line | {"note": words, words: words}) + "\n" for line in lines))


class Page(HTMLParser):
    """The text of a page, its links and whatever could run."""

    def __init__(self, file: Path):
        super().__init__(convert_charrefs=True)
        self.pieces, self.links, self.runs, self._inside = [], [], [], ""
        self.feed(file.read_text())
        self.text = " ".join(" ".join(self.pieces).split())

    def handle_starttag(self, tag, attributes):
        self._inside = tag
        at = dict(attributes)
        self.links += [at[key] for key in ("href", "src", "data", "action", "formaction", "srcdoc") if at.get(key)]
        self.runs += [f"{tag} {key}" for key in at if key.startswith("on")]
        self.runs += [tag] if tag in ("iframe", "object", "embed", "base") else []

    def handle_endtag(self, tag):
        self._inside = ""

    def handle_data(self, data):
        if self._inside != "script":
            self.pieces.append(data)
        elif "window.hacked=1" in data and not data.lstrip().startswith("{"):  # JSON of a widget is no program
            self.runs.append(f"script {data[:60]}")


@pytest.fixture(scope="module")
def site(tmp_path_factory, shared) -> Path:
    root = tmp_path_factory.mktemp("hostile") / "project"
    command = [sys.executable, "-c", NAMES, json.dumps(EXTENSIONS)]
    names = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert len(names["roles"]) > 100
    assert {"download", "raw", "math"} < set(names["roles"])
    assert {"include", "literalinclude", "figure", "csv-table", "grid-item-card"} < set(names["directives"])
    root.mkdir()
    project(root, names)
    shutil.copy(ROOT / "book/results/costs.json", root / "book/results")  # counting takes a minute
    (root / "spy").mkdir()
    (root / "spy/sitecustomize.py").write_text(SPY)
    place = {
        "GUIDEBOOK_ROOT": str(root),
        "GUIDEBOOK_RUNS": str(shared(root / "runs")),
        "SPIED": str(root / "spied.txt"),
    }
    path = [str(root / "spy"), str(ROOT / "tests"), os.environ.get("PYTHONPATH")]
    place["PYTHONPATH"] = os.pathsep.join(filter(None, path))
    command = [sys.executable, "-c", BUILD]
    done = subprocess.run(command, env=os.environ | place, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-6000:]
    return root


@pytest.fixture(scope="module")
def pages(site) -> dict[str, Page]:
    built = site / "book/_build/html"
    files = [f for f in built.rglob("*.html") if not {"vendor", "_static"} & set(f.relative_to(built).parts)]
    return {str(f.relative_to(built)): Page(f) for f in files}


def test_nothing_outside_of_the_book_is_read_or_shown(site):
    assert not (site / "spied.txt").exists(), (site / "spied.txt").read_text()
    held = [
        f for f in (site / "book/_build").rglob("*") if f.is_file() and b"the builder's own words" in f.read_bytes()
    ]
    assert held == []
    assert [f for f in (site / "book/_build").rglob("*") if f.is_symlink() or "outside-the-book" in f.name] == []


def test_nothing_of_a_record_runs(pages):
    assert {name: page.runs for name, page in pages.items() if page.runs} == {}


def test_no_link_leads_where_a_record_wants(pages, site):
    built, wrong = site / "book/_build/html", []
    for name, page in pages.items():
        for link in page.links:
            url = urlsplit(link)
            inside = (built / name).parent.joinpath(url.path).resolve().is_relative_to(built)
            if url.scheme not in ("", "https", "mailto", "data") or "hacked" in link or not (url.scheme or inside):
                wrong.append((name, link))
    assert wrong == []


def test_a_readers_browser_runs_follows_and_loads_nothing_of_a_record(pages, site, browser):
    asked, errors, tags = [], [], []
    page = browser.new_page()
    page.set_default_timeout(120_000)  # on two cores that run jobs and a suite meanwhile
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: errors.append(str(error)))
    for name in (n for n in pages if 'http-equiv="Refresh"' not in (site / "book/_build/html" / n).read_text()):
        page.goto((site / "book/_build/html" / name).as_uri(), wait_until="load")
        page.evaluate("async () => { if (window.MathJax?.startup) await MathJax.startup.promise; }")
        if page.locator("script[type='application/vnd.jupyter.widget-view+json']").count():
            page.wait_for_selector(".jupyter-widgets", state="visible")
        tags += page.evaluate("() => [...document.querySelectorAll('[href], [src]')].map(e => e.outerHTML)")
        errors += [f"{name} ran"] if page.evaluate("() => window.hacked ?? null") else []
    page.close()
    assert [
        url for url in asked if urlsplit(url).scheme not in ("file", "data", "blob") or "outside-the-book" in url
    ] == []
    assert [error for error in errors if "hacked" in error or "ran" in error] == []
    assert [tag[:200] for tag in tags if re.search(r"""(href|src)=["'][^"']*(hacked|outside-the-book)""", tag)] == []


SHOWN = {
    "results.html": (".data_note",),  # the words of records: test_records.py
    "status.html": (".versions.torch", ".device", ".data.fingerprint"),
    "reliability.html": (".made.torch", ".faults[].fault", ".faults[].detail"),
    "how-to-read.html": (".rows[].what", ".rows[].of"),
    "experiments/mnist.html": (".data_note", ".caveat"),
    "performance.html": (".made.device", ".rows[].name"),
}


# What Sphinx makes of quotes and dashes in running text, where a backslash is the sign for a quote as it is
TYPESET = str.maketrans("“”‘’–—…", "\"\"''--.")


def bare(text: str) -> str:
    """Text without blanks and backslashes, and with quotes, dashes and dots as they are typed."""
    return re.sub(r"[\s_\\]|(?<=[.-])[.-]", "", text.translate(TYPESET))


@pytest.mark.parametrize("name", SHOWN)
def test_what_a_record_says_is_on_its_page_word_for_word(name, pages, site):
    words, text = (site / "attack.txt").read_bytes().decode(), bare(pages[name].text)
    assert [field for field in SHOWN[name] if bare(plain(f"<{field}> {words}")) not in text] == []
