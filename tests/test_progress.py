"""Progress: what long work says of itself, and that it can be stopped on the way."""

import json
import re
import time
from types import SimpleNamespace

import pytest

from guidebook.book.notebook import partial
from guidebook.book.progress import _line, watching
from guidebook.runs.preemption import Preempted, stopping
from guidebook.runs.progress import FILE, Bar, clock, measured, tell, told
from guidebook.runs.run import open_run
from guidebook.training.loop import train


@pytest.fixture
def file(tmp_path, monkeypatch):
    named = told(tmp_path / "notebook.ipynb")
    monkeypatch.setenv(FILE, str(named))
    return named


@pytest.mark.parametrize(("seconds", "text"), [(41.6, "42 s"), (185, "3:05"), (7385, "2:03:05")])
def test_times_are_written_as_they_are_said(seconds, text):
    assert clock(seconds) == text


def test_a_bar_tells_how_far_it_is_and_how_long_the_rest_takes(file, monkeypatch):
    now = [100.0]
    with Bar(None, "training", 1000, initial=200, unit="image") as bar:
        monkeypatch.setattr(bar, "_time", lambda: now[0])
        bar.start_t = bar.last_print_t = 100.0
        assert file.read_text() == "training, 200 of 1,000 images"
        now[0] += 20
        bar.update(400)  # 20 a second
        assert file.read_text() == "training, 600 of 1,000 images, 20/s, 20 s left"
    assert file.read_text() == ""
    tell("measuring")
    bar.close()  # as when it is collected
    assert file.read_text() == "measuring"


def test_the_bar_of_a_training_moves_with_each_step(runs, tiny, monkeypatch):
    seen = []

    class Watched(Bar):
        def update(self, n=1):
            super().update(n)
            seen.append((self.desc, self.n))

    monkeypatch.setattr("guidebook.training.tracking.Bar", Watched)
    train(run := open_run(tiny))
    assert seen == [("training mnist/smoke", 16 * step) for step in range(1, 9)]
    assert [line["nimg"] for line in run.stats()] == [64, 128]


def test_slow_parts_have_a_time_left_and_no_rate(file, monkeypatch):
    with Bar(None, "drawing w5", 4, unit="part") as bar:
        now = bar.start_t + 60
        monkeypatch.setattr(bar, "_time", lambda: now)
        bar.update()
        assert file.read_text() == "drawing w5, 1 of 4 parts, 3:00 left"


def test_nothing_is_told_where_nobody_asked_and_a_full_disk_stops_nothing(tmp_path, monkeypatch):
    monkeypatch.delenv(FILE, raising=False)
    tell("measuring")
    assert not [*tmp_path.iterdir()]
    monkeypatch.setenv(FILE, str(tmp_path / "absent" / "file"))
    tell("measuring")


@pytest.mark.parametrize(
    "raw", [b"", b"\xc2", b"{", b"[]", b"{}", b'{"cells": 1}', b'{"cells": [{"cell_type": "code"}]}']
)
def test_whoever_watches_a_notebook_passes_over_what_is_damaged(raw, tmp_path):
    run = SimpleNamespace(path=tmp_path)
    assert _line(run) == "starting"
    partial(tmp_path / "notebook.ipynb").write_bytes(raw)
    assert _line(run) == "starting"
    cell = {"cell_type": "code", "execution_count": 1}
    partial(tmp_path / "notebook.ipynb").write_text(json.dumps({"cells": [cell, cell | {"execution_count": None}]}))
    told(tmp_path / "notebook.ipynb").write_bytes(b"10 \xc3")
    assert _line(run) == "cell 2 of 2"
    told(tmp_path / "notebook.ipynb").write_text("10 %")
    assert _line(run) == "cell 2 of 2, 10 %"


def test_whoever_runs_a_notebook_is_told_now_and_then_how_far_it_is(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("guidebook.book.progress.QUIET", 0.01)
    cells = [{"cell_type": "code", "execution_count": None}] * 3
    partial(tmp_path / "notebook.ipynb").write_text(json.dumps({"cells": cells}))
    told(tmp_path / "notebook.ipynb").write_text("decoding folder, 0 of 1 parts")
    with watching(SimpleNamespace(name="birds/demo", path=tmp_path)):
        while not (said := capsys.readouterr().err):
            time.sleep(0.01)
    line, *_ = said.splitlines()
    assert re.fullmatch(r"birds/demo +\d+ s: cell 1 of 3, decoding folder, 0 of 1 parts", line)


def test_a_stop_is_obeyed_between_two_items_of_a_measurement(tiny, runs):
    run, seen = open_run(tiny), []
    with stopping(run):
        assert [*measured(range(3), "distances", "count")] == [0, 1, 2]
        (run.path / "STOP").touch()
        time.sleep(0.2)  # it is looked for ten times a second
        with pytest.raises(Preempted, match="distances"):
            seen.extend(measured(range(1000), "distances", "count"))
    assert not seen
    assert not (run.path / "STOP").exists()
