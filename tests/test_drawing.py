"""Pages drawn beside each other: each once, none after a failure, and nobody left behind."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import psutil
import pytest

from guidebook.book import notebook as module
from guidebook.book.notebook import NotebookFailed, draw_pages


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
assert "MALLOC_TRIM_THRESHOLD_" in os.environ
assert os.environ.get("GUIDEBOOK_RECORD", "").endswith("{2}")
from pathlib import Path
Path("{0}").touch()
end = time.monotonic() + 60
while not Path("{1}").exists():
    assert time.monotonic() < end, "alone"
    time.sleep(0.05)
"""


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="pages are drawn one a core, and there is one core")
def test_pages_are_drawn_beside_each_other_each_in_its_own_environment_and_told_once(page, tmp_path, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    environment, said = dict(os.environ), []
    (tmp_path / "record").mkdir()
    pages = [
        page("a", MEETING.format("a", "b", "")),
        (*page("b", MEETING.format("b", "a", "record")), tmp_path / "record"),
    ]
    draw_pages(pages, said.append)
    assert sorted(line.split(": ")[1] for line in said) == ["a", "b"]
    assert [line.split(" drawn")[0] for line in said] == ["page 1 of 2", "page 2 of 2"]
    draw_pages(pages, said.append)
    assert len(said) == 2
    assert {**os.environ, "JUPYTER_PREFER_ENV_PATH": ""} == {**environment, "JUPYTER_PREFER_ENV_PATH": ""}


@pytest.mark.skipif(not Path("/proc/self/autogroup").exists(), reason="this kernel does not group processes by session")
def test_a_kernel_is_as_nice_as_what_began_it(page, monkeypatch):
    monkeypatch.setattr(os, "nice", lambda more: 7)
    source = "import time; time.sleep(0.5); assert open('/proc/self/autogroup').read().endswith('nice 7\\n')"
    draw_pages([page("a", source)], print)


SEES = "import json; print(json.load(open('{}'))['cells'][0]['metadata']['papermill']['status'])"


@pytest.mark.parametrize(("record", "status"), [(None, "running"), ("record", "pending")])
def test_a_notebook_that_computes_can_be_read_meanwhile_and_a_page_of_a_record_is_written_once(
    page, tmp_path, record, status
):
    (tmp_path / "record").mkdir()
    source, target, values = page("a", SEES.format("pages/a.partial.ipynb"))
    assert module.execute(source, target, values, record and tmp_path / record)
    (cell,) = nbformat.read(target, 4).cells
    assert cell.outputs[0].text.strip() == status
    assert cell.metadata.papermill.status == "completed"


SLOW = "import time; from pathlib import Path; Path('{}.begun').touch(); time.sleep(30)"


@pytest.mark.parametrize(
    ("code", "told"),
    [("1 / 0", r"^a\.ipynb, cell 1: ZeroDivisionError"), ("import os; os.kill(os.getpid(), 9)", r"^a\.ipynb: ")],
)
def test_a_page_that_fails_ends_the_others_and_what_has_not_begun_is_not_drawn(code, told, page, tmp_path):
    pages, started = [page("a", code), *(page(f"b{i}", SLOW.format(i)) for i in range(8))], time.monotonic()
    with pytest.raises(NotebookFailed, match=told):
        draw_pages(pages, print)
    assert time.monotonic() - started < 25
    assert len(list(tmp_path.glob("*.begun"))) <= module.MOST
    assert not module._kernels


@pytest.mark.parametrize(("number", "heard"), [(signal.SIGINT, "by all"), (signal.SIGKILL, "by one alone")])
def test_when_it_is_ended_nobody_goes_on(number, heard, page, tmp_path):
    pages = [page(f"b{i}", SLOW.format(i)) for i in range(8)]
    # Where the tests are started in the background, a shell has Ctrl-C ignored.
    heeds = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    source = (
        f"{heeds}; from pathlib import *; from guidebook.book.notebook import draw_pages; draw_pages({pages!r}, print)"
    )
    with subprocess.Popen([sys.executable, "-c", source], stderr=subprocess.DEVNULL, start_new_session=True) as builder:
        end = time.monotonic() + 60
        while not list(tmp_path.glob("*.begun")):
            assert builder.poll() is None
            assert time.monotonic() < end
            time.sleep(0.1)
        family = psutil.Process(builder.pid).children(recursive=True)
        (os.killpg if heard == "by all" else os.kill)(builder.pid, number)
        builder.wait(25)
    assert psutil.wait_procs(family, timeout=25)[1] == []
    assert family  # kernels
    assert len(list(tmp_path.glob("*.begun"))) <= module.MOST
