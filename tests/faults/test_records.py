"""Records of strangers: whatever their files say in whatever field, it is shown, or left out in one line that names the file."""

import copy
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from guidebook.book import pages
from guidebook.book.status import everything
from guidebook.config.errors import ParamsError
from guidebook.config.paths import ROOT
from guidebook.report.banner import banner, fraction
from guidebook.runs.manifest import Corrupt
from guidebook.runs.run import every_run, usable
from guidebook.sampling.sets import stored

ODD = (None, True, "x", "1\n2", -1, 10**40, 1e308, float("nan"), float("-inf"), [], [[]], {}, {"x": {}})


def changed(value, at=()) -> Iterator[tuple[tuple, object]]:
    """A JSON value with one of its values odd or gone, and the place of that; in a list, in the first alone."""
    items = value.items() if isinstance(value, dict) else [*enumerate(value)][:1] if isinstance(value, list) else ()
    for key, inner in items:
        for odd in ODD:
            made = copy.copy(value)
            made[key] = odd
            yield (*at, key), made
        if isinstance(value, dict):
            yield (*at, key), {k: v for k, v in value.items() if k != key}
        for place, deeper in changed(inner, (*at, key)):
            made = copy.copy(value)
            made[key] = deeper
            yield place, made


@pytest.fixture
def record(tmp_path, monkeypatch) -> Path:
    """A record with a few numbers of each kind, as one that is older than checksums."""
    source, place = ROOT / "book/results/mnist/paper", tmp_path / "results/mnist/paper"
    shutil.copytree(source, place, ignore=shutil.ignore_patterns("variants", "samples", "manifest.json"))
    metrics, kinds = json.loads((source / "metrics.json").read_text()), {}
    for one in metrics["records"] if isinstance(metrics, dict) else metrics:
        kinds.setdefault((one["metric"], one["draw"] is None), one)
    few = sorted(kinds.values(), key=lambda one: one["draw"] is None)
    few = [*few[:2], few[-1]]
    assert {one["draw"] is None for one in few} == {True, False}
    lines = [json.loads(line) for line in (source / "stats.jsonl").read_text().splitlines()][-2:]
    for facts in (*few, *lines, provenance := json.loads((source / "provenance.json").read_text())):
        facts.pop("sha256", None)
    (place / "metrics.json").write_text(json.dumps(few))
    (place / "stats.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (place / "provenance.json").write_text(json.dumps(provenance))
    monkeypatch.setattr("guidebook.runs.run.RESULTS", tmp_path / "results")
    monkeypatch.setenv("GUIDEBOOK_RUNS", str(tmp_path / "runs"))
    return place


def shown() -> None:
    """What a build reads of runs, but for the notebooks that it executes; and `guidebook status`."""
    runs = usable(every_run())
    pages.results(runs), pages.status(runs), everything()
    for run in runs:
        banner(run), fraction(run)


@pytest.mark.parametrize("name", ["metrics.json", "stats.jsonl", "provenance.json"])
def test_an_odd_value_anywhere_is_shown_or_its_record_left_out_in_one_line(name, record, caplog):
    file = record / name
    lines = name.endswith("l")
    value = [json.loads(line) for line in file.read_text().splitlines()] if lines else json.loads(file.read_text())
    shown()
    assert caplog.records == []
    tried = left = 0
    for place, odd in changed(value[-1:] if lines else value):
        file.write_text("".join(json.dumps(line) + "\n" for line in odd) if lines else json.dumps(odd))
        caplog.clear()
        shown()
        said = [r.getMessage() for r in caplog.records]
        assert all(name in text and len(text.splitlines()) == 1 for text in said), (place, said)
        tried, left = tried + 1, left + bool(said)
    assert tried > 100
    assert left > tried / 10


@pytest.mark.parametrize("name", ["faults", "coverage"])
def test_an_odd_record_of_no_run_is_shown_or_refused_in_one_line(name, tmp_path, monkeypatch):
    value, file = json.loads((ROOT / f"book/results/{name}.json").read_text()), tmp_path / f"{name}.json"
    monkeypatch.setattr(pages, name.upper(), file)
    short = {k: of[:1] if isinstance(of, list) else of for k, of in value.items()}
    every, refused = [((), []), ((), None), ((), {}), *changed(short)], []
    for place, odd in every:
        file.write_text(json.dumps(odd))
        try:
            {"faults": pages.reliability, "coverage": pages.how_to_read}[name]()
        except ParamsError as error:
            refused.append((place, str(error)))
    assert [where for where, text in refused if str(file) not in text or len(text.splitlines()) > 1] == []
    assert len(every) / 10 < len(refused) < len(every)
    assert len(every) > 50


@pytest.mark.parametrize("text", ["", "{", "\x00", "[" * 10**5])
@pytest.mark.parametrize("name", ["faults", "coverage"])
def test_a_record_of_no_run_that_is_no_json_is_refused_in_one_line(name, text, tmp_path, monkeypatch):
    monkeypatch.setattr(pages, name.upper(), tmp_path / f"{name}.json")
    (tmp_path / f"{name}.json").write_text(text)
    with pytest.raises(ParamsError, match=rf"{name}\.json is not what was written"):
        {"faults": pages.reliability, "coverage": pages.how_to_read}[name]()


def test_an_odd_set_is_read_or_refused_in_one_line(tmp_path):
    """Of a record that is older than checksums of its sets."""
    source = next((ROOT / "book/results/mnist/paper/samples").glob("w1-ddpm-*"))
    folder = Path(shutil.copytree(source, tmp_path / source.name, ignore=shutil.ignore_patterns("manifest.json")))
    facts, refused = json.loads((folder / "set.json").read_text()), []
    stored(folder)
    for place, odd in [((), []), ((), None), *changed(facts)]:
        (folder / "set.json").write_text(json.dumps(odd))
        try:
            stored(folder)
        except Corrupt as error:
            refused.append((place, str(error)))
    assert [where for where, text in refused if str(folder) not in text or len(text.splitlines()) > 1] == []
    assert len(refused) > 20
