"""The house: files and functions of one size, imports that run downwards, nothing twice the place it needs."""

import ast
import graphlib
import itertools
import re
from pathlib import Path

import pytest

from guidebook.config.paths import ROOT

PACKAGE = "guidebook"
ENTRIES, FILE, FUNCTION, SUBJECT = 17, 250, 45, 0.25
LINES = 18_223  # of the library: a feature raises it in its own commit, and so does nothing else
# Rooms from the ground upwards: each imports those before it, and none beside it
STOREYS = (
    "config runtime", "runs", "data", "conditioning", "models diffusion", "training", "sampling", "metrics", "report",
    "export slurm", "book", "cli __init__", "__main__",
)  # fmt: skip
ABOUT = ("diffusion", "conditioning", "models", "training", "sampling")  # the study's subject
OPTION, ROOMS = "spacing", 4  # one sampling option, and how many files may name it


class Library:
    """The source files of a library: lines, functions and imports."""

    def __init__(self, folder: Path):
        self.folder = folder
        files = [f for f in sorted(folder.rglob("*")) if f.is_file() and "__pycache__" not in f.parts]
        self.texts = {f.relative_to(folder).as_posix(): f.read_text() for f in files}
        self.lines = {name: text.count("\n") for name, text in self.texts.items()}
        self.trees = {name: ast.parse(text) for name, text in self.texts.items() if name.endswith(".py")}

    def module(self, dotted: str) -> str | None:
        """The file of a module of the library; None for what is none."""
        place = "/".join(dotted.split(".")[1:])
        names = (f"{place}.py", f"{place}/__init__.py".lstrip("/"))
        return next((name for name in names if name in self.trees), None) if dotted.split(".")[0] == PACKAGE else None

    def imports(self, name: str) -> dict[str, int]:
        """Modules that a file imports, in functions too, or names as `package.module:function`; with the line."""
        found = {}
        for node in ast.walk(self.trees[name]):
            if isinstance(node, ast.Import):
                found |= {alias.name: node.lineno for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                assert not node.level, f"{name}:{node.lineno}: a relative import"
                within = [f"{node.module}.{alias.name}" for alias in node.names]
                found |= {dotted if self.module(dotted) else node.module: node.lineno for dotted in within}
        return found

    def edges(self) -> list[tuple[str, str, int]]:
        """(file, file that it imports, line)."""
        pairs = [
            (name, self.module(dotted), line) for name in self.trees for dotted, line in self.imports(name).items()
        ]
        return [(a, b, line) for a, b, line in pairs if b and b != a and b != "__init__.py"]


def room(name: str) -> str:
    """The folder of a file, or the file itself at the top."""
    return name.partition("/")[0].removesuffix(".py")


def storey(name: str) -> int:
    """How high a file stands; -1 where its room is none of the house's."""
    return next((i for i, rooms in enumerate(STOREYS) if room(name) in rooms.split()), -1)


def many_entries(library: Library) -> list[str]:
    top = sorted(p.name for p in library.folder.iterdir() if p.name != "__pycache__")
    return [f"{len(top)} entries at the top, {ENTRIES} allowed: {', '.join(top)}"] if len(top) > ENTRIES else []


def long_files(library: Library) -> list[str]:
    return [f"{name} has {n} lines, {FILE} allowed" for name, n in library.lines.items() if n > FILE]


def long_functions(library: Library) -> list[str]:
    found = []
    for name, tree in library.trees.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                n = node.end_lineno - node.lineno + 1
                found += (
                    [f"{name}:{node.lineno}: {node.name} has {n} lines, {FUNCTION} allowed"] if n > FUNCTION else []
                )
    return found


def upward_imports(library: Library) -> list[str]:
    unknown = [f"{name}: room {room(name)} is none of the house's" for name in library.trees if storey(name) < 0]
    return unknown + [
        f"{a}:{line} imports {b}, which stands {'higher' if storey(b) > storey(a) else 'beside it'}"
        for a, b, line in library.edges()
        if storey(b) > storey(a) or (storey(b) == storey(a) and room(a) != room(b))
    ]


def circles(library: Library) -> list[str]:
    found = []
    for what, place in (("files", lambda name: name), ("rooms", room)):
        graph: dict[str, set[str]] = {}
        for a, b, _ in library.edges():
            if place(a) != place(b):
                graph.setdefault(place(a), set()).add(place(b))
        try:
            graphlib.TopologicalSorter(graph).prepare()
        except graphlib.CycleError as error:
            found.append(f"{what} import in a circle: {' ← '.join(error.args[1])}")
    return found


def foreign_imports(library: Library) -> list[str]:
    """What no file may import, and the parameters not even through others."""
    found = []
    for name in library.trees:
        for dotted, line in library.imports(name).items():
            top = dotted.partition(".")[0]
            found += [f"{name}:{line} imports bench"] if top == "bench" else []
            found += [f"{name}:{line} imports torch"] if top == "torch" and room(name) == "config" else []
    return found


def too_much(library: Library) -> list[str]:
    total = sum(library.lines.values())
    about = sum(n for name, n in library.lines.items() if room(name) in ABOUT)
    found = [f"{total:,} lines, {LINES:,} allowed"] if total > LINES else []
    if about < SUBJECT * total:
        found.append(f"{about / total:.1%} of the lines are about {', '.join(ABOUT)}, at least {SUBJECT:.0%} should")
    return found


def scattered(library: Library) -> list[str]:
    named = [name for name, text in library.texts.items() if re.search(rf"\b{OPTION}\b", text)]
    return [f"{len(named)} files name {OPTION}, {ROOMS} allowed: {', '.join(named)}"] if len(named) > ROOMS else []


LAWS = (many_entries, long_files, long_functions, upward_imports, circles, foreign_imports, too_much, scattered)


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
def test_the_library_keeps(law):
    found = law(Library(ROOT / "lib" / PACKAGE))
    assert not found, "\n".join(found)


# Each law on a small tree that breaks it


SOUND = {
    "__init__.py": "",
    "cli.py": "def main():\n    from guidebook.training import loop\n    loop.train()\n",
    "config/params.py": "import json\n",
    "runs/run.py": "from guidebook.config import params\n",
    "models/unet.py": "# spacing\n" * 20,
    "training/loop.py": "from guidebook.models import unet\nfrom guidebook.runs.run import open_run\n",
    "slurm/script.sh": "echo\n",
}
BROKEN = {
    "many_entries": (
        {f"extra{i}.txt": "" for i in range(11)},
        "18 entries at the top, 17 allowed: __init__.py, cli.py",
    ),
    "long_files": ({"slurm/script.sh": "echo\n" * 251}, "slurm/script.sh has 251 lines, 250 allowed"),
    "long_functions": (
        {"runs/run.py": "class A:\n    def long(self):\n" + "        pass\n" * 45},
        "runs/run.py:2: long has 46 lines, 45 allowed",
    ),
    "upward_imports": (
        {"runs/run.py": "\ndef f():\n    from guidebook.training.loop import train\n"},
        "runs/run.py:3 imports training/loop.py, which stands higher",
    ),
    "circles": (
        {
            "models/unet.py": "from guidebook.models import latents\n",
            "models/latents.py": "import guidebook.models.unet\n",
        },
        "files import in a circle: models/",
    ),
    "foreign_imports": (
        {"config/params.py": "def f():\n    from torch import nn\n"},
        "config/params.py:2 imports torch",
    ),
    "too_much": ({"data/images.py": "a = 1\n" * 249}, "of the lines are about diffusion, conditioning"),
    "scattered": ({f"data/{i}.py": "a = spacing\n" for i in range(4)}, "5 files name spacing, 4 allowed: data/0.py"),
}


def built(folder: Path, files: dict[str, str]) -> Library:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return Library(folder)


def test_a_sound_tree_breaks_no_law(tmp_path):
    library = built(tmp_path, SOUND)
    assert list(itertools.chain(*(law(library) for law in LAWS))) == []


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
def test_a_tree_that_breaks_a_law_is_told_where(law, tmp_path):
    change, said = BROKEN[law.__name__]
    found = law(built(tmp_path, SOUND | change))
    assert len(found) == 1
    assert said in found[0]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"sampling/a.py": "import bench.train\n"}, "sampling/a.py:1 imports bench"),
        ({"kitchen/a.py": ""}, "kitchen/a.py: room kitchen is none of the house's"),
        ({"diffusion/a.py": "from guidebook import models\nfrom guidebook.models.unet import x\n"}, "beside it"),
        (
            {"models/unet.py": "# spacing\n" * 20 + "from guidebook.training.loop import x\n"},
            "rooms import in a circle",
        ),
        ({"models/big.py": "a = 1\n" * LINES}, f"{LINES + 28:,} lines, {LINES:,} allowed"),
    ],
)
def test_and_so_it_is_of(change, said, tmp_path):
    library = built(tmp_path, SOUND | change)
    assert any(said in line for law in LAWS for line in law(library))
