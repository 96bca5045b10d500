"""The contents of the book: what a build fills in, what it may leave out, and what it refuses to lose."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest
import yaml
from faults.study import gone

from guidebook.book import build, outputs
from guidebook.book.notebook import NotebookFailed
from guidebook.config.paths import BOOK, NOTEBOOKS, RESULTS
from guidebook.runs.lock import Locked
from guidebook.runs.run import opened


@pytest.fixture
def written(tmp_path, monkeypatch):
    """Writes a book of one chapter, `notes`, whose contents name others besides."""
    monkeypatch.setattr(build, "BOOK", tmp_path)
    monkeypatch.setattr(build, "SOURCE", tmp_path)
    monkeypatch.setattr(build, "experiments", lambda toc: pytest.fail("begun before the contents were checked"))
    for name in ("intro", "notes"):
        (tmp_path / f"{name}.md").write_text("# A page\n")

    def write(*names):
        part = {"caption": "Read", "chapters": [{"file": name} for name in ("notes", *names)]}
        toc = {"format": "jb-book", "root": "intro", "parts": [{"caption": "Experiments", "chapters": []}, part]}
        (tmp_path / "_toc.yml").write_text(yaml.safe_dump(toc))

    return write


@pytest.mark.parametrize("name", ["ntes", "notes.md", "experiments/mnist", "/notes", "*", "perfomance", "a\nb"])
def test_a_chapter_that_there_is_not_stops_the_build_at_once_in_one_line(written, name):
    written(name)
    with pytest.raises(NotebookFailed, match="there are: intro, notes, explorer") as caught:
        build.build()
    assert len(str(caught.value).splitlines()) == 1
    assert repr(name) in str(caught.value)


def test_a_mistyped_chapter_is_refused_with_the_nearest(written):
    written("ntes")
    with pytest.raises(NotebookFailed, match=r"'ntes' \(nearest: notes\)"):
        build.build()


def test_a_chapter_in_a_folder_and_a_notebook_are_chapters(written, tmp_path):
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "notes.md").touch()
    (tmp_path / "try.ipynb").touch()
    written("more/notes", "try")
    assert len(build._contents()["parts"][1]["chapters"]) == 3


def test_what_has_nothing_to_show_yet_is_left_out_and_nothing_else(written, tmp_path):
    written(*build.OPTIONAL)
    (tmp_path / "performance.ipynb").touch()
    build._toc(build._contents(), {})
    (part,) = yaml.safe_load((tmp_path / "_toc.yml").read_text())["parts"]  # no experiments yet
    assert [c["file"] for c in part["chapters"]] == ["notes", "performance"]


@pytest.mark.parametrize("cells", [["a"], ["a", "b"]])
def test_an_executed_notebook_is_its_page_while_its_cells_are_those_of_its_source(cells, tmp_path, monkeypatch):
    def notebook(name, cells):
        file = tmp_path / name / "foundations.ipynb"
        file.parent.mkdir()
        file.write_text(json.dumps({"cells": [{"cell_type": "markdown", "metadata": {}, "source": c} for c in cells]}))
        return file

    source, kept = notebook("notebooks", ["a"]), notebook("results", cells)
    for name, value in {"NOTEBOOKS": source.parent, "RESULTS": kept.parent, "SOURCE": tmp_path / "pages"}.items():
        monkeypatch.setattr(build, name, value)
    drawn, staged = [], []
    monkeypatch.setattr(build, "every_run", list)
    monkeypatch.setattr(build, "experiments", lambda toc: [])
    monkeypatch.setattr(build, "draw_pages", lambda pages, say: drawn.extend(p[0] for p in pages))
    monkeypatch.setattr(build, "stage", lambda c, *_: staged.append(c.page[1]))
    for name in ("_write_pages", "_toc", "_sphinx"):
        monkeypatch.setattr(build, name, lambda *_: None)
    build._build({}, lambda line: None)
    if cells == ["a"]:
        assert (drawn, staged) == ([], [kept])
    else:
        assert (drawn, staged) == ([source], [build.drawn("foundations")])


def test_the_page_of_foundations_was_executed_as_its_notebook_stands_and_names_no_folder_of_its_machine():
    kept = RESULTS / "foundations.ipynb"
    assert outputs.of(NOTEBOOKS / kept.name, kept), "python -m bench foundations"
    assert not re.search(r"/(home|root|tmp|work|usr)/", kept.read_text())


def test_the_contents_of_the_study_are_complete():
    files = [c["file"] for part in build._contents()["parts"] for c in part["chapters"]]
    assert {f for f in files if not (BOOK / f"{f}.md").exists() and "/" not in f} == {*build.OPTIONAL}


def test_the_contents_put_every_experiment_of_the_study_in_its_place_and_the_first_run_above_the_others(
    tmp_path, monkeypatch
):
    toc, there = build._contents(), build.experiments({})
    (part,) = (p for p in toc["parts"] if p["caption"] == build.HOME)
    assert sorted(c["file"] for c in part["chapters"] if "/" in c["file"]) == [f"experiments/{n}" for n in there]
    assert build.experiments(toc) == [c["file"].split("/")[1] for c in part["chapters"] if "/" in c["file"]]
    assert build.experiments({"parts": [{"caption": build.HOME, "chapters": [{"file": "experiments/sweep"}]}]})[:2] == [
        "sweep",
        there[0],
    ]

    monkeypatch.setattr(build, "SOURCE", tmp_path)
    (tmp_path / "experiments").mkdir()
    runs = [opened(RESULTS / "samplers" / p) for p in ("paper", "demo")]
    group = [
        build.Chapter(f"experiments/samplers{end}", r, (NOTEBOOKS / "samplers.ipynb",))
        for end, r in zip(("", "-demo"), runs, strict=True)
    ]
    for c in group:
        (tmp_path / f"{c.file}.ipynb").touch()
    build._toc(toc, {"ema": [], "samplers": group})
    (part,) = yaml.safe_load((tmp_path / "_toc.yml").read_text())["parts"]
    (listed,) = part["chapters"]
    assert (listed["file"], listed["title"]) == ("experiments/samplers", "Samplers")
    assert [c["file"] for c in listed["sections"]] == ["experiments/samplers-demo"]


def test_an_experiment_that_the_contents_name_and_that_there_is_not_stops_the_build(written, tmp_path, monkeypatch):
    monkeypatch.setattr(build, "PARAMS", tmp_path)
    toc = {"root": "intro", "parts": [{"caption": build.HOME, "chapters": [{"file": "experiments/birds"}]}]}
    (tmp_path / "_toc.yml").write_text(yaml.safe_dump(toc))
    with pytest.raises(NotebookFailed, match="experiments/birds"):
        build._contents()
    (tmp_path / "birds").mkdir()
    assert build._contents() == toc


# The pages of before, while new ones are made


@pytest.fixture
def built(tmp_path, monkeypatch):
    """A book whose pages say `old`; what comes of a build that does as it is told, in place of drawing and of Sphinx."""
    for name in ("BOOK", "OUTPUT", "ASIDE", "SOURCE", "BUILT"):
        monkeypatch.setattr(build, name, tmp_path / getattr(build, name).relative_to(BOOK))
    monkeypatch.setattr(build, "_contents", dict)
    build.OUTPUT.mkdir(parents=True)
    (build.OUTPUT / "index.html").write_text("old")

    def make(do):
        monkeypatch.setattr(build, "_build", lambda toc, say: do())
        return build.build().read_text()

    return make


def pages(text="new"):
    build.BUILT.mkdir(parents=True)
    (build.BUILT / "index.html").write_text(text)


def test_pages_that_are_new_or_say_something_else_are_named(built, monkeypatch):
    def page(folder, name, text, contents):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"<nav>{contents}</nav><article class='bd-article'>{text}</article>")

    def make():
        for name, text in (("log.html", "a"), ("claims.html", "c"), ("experiments/birds.html", "d")):
            page(build.BUILT, name, text, "mnist, birds")
        (build.BUILT / "index.html").write_text("<meta>")

    said = []
    for name, text in (("log.html", "a"), ("claims.html", "b"), ("gone.html", "a")):
        page(build.OUTPUT, name, text, "mnist")
    monkeypatch.setattr(build, "_build", lambda toc, say: make())
    assert build.build(said.append) == build.OUTPUT / "index.html"
    assert said == ["new: experiments/birds.html", "changed: claims.html"]
    said.clear()
    build.build(said.append)
    assert said == []


def test_new_pages_take_the_place_of_those_before_and_leave_nothing_beside(built):
    assert built(pages) == "new"
    assert not build.ASIDE.exists()


@pytest.mark.parametrize("error", [OSError(28, "No space left"), NotebookFailed("a warning"), KeyboardInterrupt()])
def test_a_build_that_fails_leaves_the_old_pages_and_nothing_of_its_own(built, error):
    def fail():
        pages("half")
        raise error

    with pytest.raises(type(error)):
        built(fail)
    assert (build.OUTPUT / "index.html").read_text() == "old"
    assert not build.ASIDE.exists()


def test_a_first_build_that_fails_leaves_no_pages_and_the_next_makes_them(built):
    shutil.rmtree(build.OUTPUT)

    def fail():
        raise NotebookFailed("a warning")

    with pytest.raises(NotebookFailed):
        built(fail)
    assert [f.name for f in build.OUTPUT.parent.iterdir()] == [".lock"]
    assert built(pages) == "new"


def test_what_a_killed_build_left_is_gone_after_the_next(built):
    build.BUILT.mkdir(parents=True)
    (build.BUILT / "half.html").touch()
    assert built(pages) == "new"
    assert [f.name for f in build.OUTPUT.iterdir()] == ["index.html"]


def test_a_second_build_is_refused_in_one_line_while_the_first_goes_on(built):
    def second():
        with pytest.raises(Locked, match=r"in use by process \d+") as refused:
            build.build()
        assert len(str(refused.value).splitlines()) == 1
        pages()

    assert built(second) == "new"


KILLED = """
import sys
from types import SimpleNamespace
from guidebook.book import build

build.sys = SimpleNamespace(executable=sys.argv[1] + "/python")
build._sphinx()
"""


def test_sphinx_dies_with_a_build_that_is_killed(tmp_path):
    command, seen = tmp_path / "jupyter-book", tmp_path / "pid"
    command.write_text(f"#!/bin/sh\necho $$ > {seen}.part && mv {seen}.part {seen}\nexec sleep 600\n")
    command.chmod(0o755)
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path)])
    until = time.monotonic() + 60
    while not seen.exists() and time.monotonic() < until:
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert gone([int(seen.read_text())], 10)
