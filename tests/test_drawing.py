"""Pages drawn beside each other: each once, none after a failure, and nobody left behind."""

import os
import signal
import subprocess
import sys
import time

import nbformat
import psutil
import pytest

from guidebook.book import drawing
from guidebook.book.drawing import draw_pages
from guidebook.book.notebook import NotebookFailed


@pytest.fixture
def page(tmp_path):
    """Writes a notebook of one cell: what a build draws a page from."""

    def write(name, source):
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)])
        notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
        nbformat.write(notebook, tmp_path / f"{name}.ipynb")
        return tmp_path / f"{name}.ipynb", tmp_path / "pages" / f"{name}.ipynb", {}

    return write


MEETING = """
import os, time
assert os.environ["OMP_NUM_THREADS"] == "1"
from pathlib import Path
Path("{0}").touch()
end = time.monotonic() + 60
while not Path("{1}").exists():
    assert time.monotonic() < end, "alone"
    time.sleep(0.05)
"""


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="pages are drawn one a core, and there is one core")
def test_pages_are_drawn_beside_each_other_and_each_is_told_once(page, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    pages, said = [page("a", MEETING.format("a", "b")), page("b", MEETING.format("b", "a"))], []
    draw_pages(pages, said.append)
    assert sorted(line.split(": ")[1] for line in said) == ["a", "b"]
    assert [line.split(" drawn")[0] for line in said] == ["page 1 of 2", "page 2 of 2"]
    draw_pages(pages, said.append)
    assert len(said) == 2


SLOW = "import time; from pathlib import Path; Path('{}.begun').touch(); time.sleep(3)"


def test_a_page_that_fails_fails_the_build_and_what_has_not_begun_is_not_drawn(page, tmp_path):
    pages = [page("a", "1 / 0"), *(page(f"b{i}", SLOW.format(i)) for i in range(8))]
    with pytest.raises(NotebookFailed, match=r"^a\.ipynb, cell 1: ZeroDivisionError"):
        draw_pages(pages, print)
    assert len(list(tmp_path.glob("*.begun"))) < drawing.MOST


def test_a_process_that_is_killed_is_told_in_one_line(page):
    with pytest.raises(NotebookFailed, match=r"^a: its process was killed; perhaps memory ran out$"):
        draw_pages([page("a", "import os, signal; os.kill(os.getppid(), signal.SIGKILL)")], print)


@pytest.mark.parametrize(("number", "heard"), [(signal.SIGINT, "by all"), (signal.SIGKILL, "by one alone")])
def test_when_it_is_ended_nobody_goes_on(number, heard, page, tmp_path):
    pages = [page(f"b{i}", SLOW.format(i)) for i in range(8)]
    # Where the tests are started in the background, a shell has Ctrl-C ignored.
    heeds = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    source = (
        f"{heeds}; from pathlib import *; from guidebook.book.drawing import draw_pages; draw_pages({pages!r}, print)"
    )
    with subprocess.Popen([sys.executable, "-c", source], stderr=subprocess.DEVNULL, start_new_session=True) as builder:
        end = time.monotonic() + 60
        while not list(tmp_path.glob("*.begun")):
            assert builder.poll() is None
            assert time.monotonic() < end
            time.sleep(0.1)
        family = psutil.Process(builder.pid).children(recursive=True)
        (os.killpg if heard == "by all" else os.kill)(builder.pid, number)
        builder.wait(30)
    assert psutil.wait_procs(family, timeout=30)[1] == []
    assert len(family) > 2  # workers and their kernels
    assert len(list(tmp_path.glob("*.begun"))) <= drawing.MOST
