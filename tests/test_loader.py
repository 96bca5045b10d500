"""Ways to load that are compared: every one gives the images of the files, shuffled, with their labels."""

import io
import json
import math
import os
import statistics
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from bench import loader, measuring, ways
from bench.apart import apart, memory
from bench.loader import _entropy
from guidebook.config.params import load
from guidebook.report import loading, performance
from guidebook.training.profiler import PARTS

FILES, ROWS = 6, 10


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Sixty grey pictures, whose shade says their number; one of them broken."""
    folder = tmp_path_factory.mktemp("ways")
    for f in range(FILES):
        rows = []
        for n in range(f * ROWS, (f + 1) * ROWS):
            file = io.BytesIO()
            Image.new("RGB", (300, 280), (4 * n,) * 3).save(file, "JPEG")
            rows.append({"image": {"bytes": b"<html>" if n == 33 else file.getvalue(), "path": ""}, "style": n % 27})
        schema = pa.schema({"image": pa.struct({"bytes": pa.binary(), "path": pa.string()}), "style": pa.int64()})
        pq.write_table(pa.Table.from_pylist(rows, schema), folder / f"train-{f:05}-of-00006.parquet", row_group_size=5)
    ways.prepare(folder)
    return folder


# Workers are forked while the test's own threads sleep, and a library's remark on its own future is no failure here.
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
@pytest.mark.parametrize("way", ways.WAYS)
def test_every_way_gives_the_images_with_their_labels_in_a_shuffled_order(folder, way):
    batches, seen = ways.WAYS[way](folder), []
    for _ in range(3):
        images, labels = next(batches)
        assert images.shape == (len(labels), 3, ways.SIDE, ways.SIDE)
        assert images.dtype == torch.uint8
        seen += list(zip((images[:, 0].float().mean((1, 2)) / 4).round().int().tolist(), labels.tolist(), strict=True))
    batches.close()
    assert all(n % 27 == label for n, label in seen)
    assert len(seen) > 40
    assert [n for n, _ in seen] != sorted(n for n, _ in seen)


def test_whole_images_are_cut_to_their_middle_square():
    picture = np.zeros((40, 100, 3), np.uint8)
    picture[:, 30:70] = 200
    made = ways.whole(Image.fromarray(picture))
    assert (made[:, :, 20:-20] == 200).all()
    assert (made > 120).all()


def test_the_entropy_of_labels():
    assert _entropy([1, 1, 1, 1]) == 0
    assert _entropy([0, 1, 2, 3]) == 2
    assert _entropy([5, 5, 7, 7]) == 1


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_report_holds_every_way_every_ratio_and_every_law(folder, monkeypatch, tmp_path):
    """Its processes and its set are replaced by small ones: what is tried is what becomes of the numbers."""
    monkeypatch.setattr(
        loader, "_write", lambda place, params: [os.link(f, place / f.name) for f in folder.glob("*.parquet")]
    )
    told = {"speed": 50.0, "first_s": 1.0, "batch_s": 0.32, "entropy": 3.0}
    monkeypatch.setattr(loader, "apart", lambda *_, watched, libraries: told | ({"memory_mb": 7.0} if watched else {}))
    monkeypatch.setattr(measuring, "FOLDER", tmp_path)
    found = loader.loader(load("wikiart", "demo"), repeats=2)
    assert [json.loads(f.read_text()) for f in tmp_path.glob("loader-*.json")] == [found]
    assert [r["name"] for r in found["rows"]] == [*loader.ALONE, *ways.WAYS]
    assert all(r["memory_mb"] == 7 and r["entropy"] == 3 for r in found["rows"] if r["name"] in ways.WAYS)
    assert {r["name"] for r in found["ratios"]} >= {
        "against decoding whole",
        "against the decoder alone",
        "later epochs",
    }
    made = found["made"]
    assert [g["times"] for g in made["growth"]] == [1, 2, 4, 8, 16]
    assert made["psnr_db"]["low"] > 30
    assert 0 < made["resume_s"]["median"] < 5
    assert 3 < made["entropy_random"] < 4
    assert performance.speeds([found], log=True).axes[0].get_xscale() == "log"
    assert all(name in loading.cost([found]).text for name in ways.WAYS)
    floor = next(r["speed"]["median"] for r in found["rows"] if r["name"] == "decoder alone, at 1/8")
    assert f"<td>{50 / floor:.2f}</td>" in loading.cost([found]).text
    told = loading.growth([found]).text
    assert "7 MB over 1 and 7 MB over 4 epochs" in told
    assert f"of {loader.RESUMES} tries" in told
    assert f"], of {made['compared']} images." in told
    assert made["compared"] == 53  # of 54 for training one is broken


def _takes(mb: int) -> dict:
    held = bytearray(os.urandom(1)) * (mb * 2**20)
    import time

    time.sleep(0.3)
    return {"length": len(held)}


def _fails() -> dict:
    raise ValueError("the reason")


def test_memory_is_what_the_work_took_above_what_it_began_with(forked):
    found = apart(_takes, 150)
    assert found["length"] == 150 * 2**20
    assert 140 < found["memory_mb"] < 175


def test_work_that_fails_apart_fails_here(forked):
    with pytest.raises(RuntimeError, match=r"^_fails\(\) ended without an answer"):
        apart(_fails)


def test_children_count_and_what_is_gone_does_not():
    assert memory(os.getpid()) > 50
    assert memory(2**22 + 1) == 0


def report(rows, ratios, **made):
    told = {"device": "some CPU", "kind": "cpu", "cores": 2, "experiment": "wikiart", "profile": "demo", "workers": 2}
    return {"made": told | made, "rows": rows, "ratios": ratios}


def ratio(name, low, value, high):
    return {"name": name, "low": low, "value": value, "high": high, "repeats": 5}


@pytest.mark.parametrize(
    ("low", "high", "verdict"), [(25, 30, "holds"), (3, 5, "does not hold"), (10, 30, "undecided")]
)
def test_a_verdict_on_file_after_file_needs_the_whole_range(low, high, verdict):
    found, said = loading.sequential([report([], [ratio("file after file", low, (low + high) / 2, high)])])
    assert said[0] == verdict
    assert f"[{low:.1f}, {high:.1f}]" in found


@pytest.mark.parametrize(
    ("low", "high", "verdict"), [(1.0, 1.1, "holds"), (3.5, 4.1, "does not hold"), (1.1, 1.4, "undecided")]
)
def test_a_verdict_on_the_batch_needs_the_whole_range(low, high, verdict):
    assert loading.batch_growth([report([], [ratio("step", low, (low + high) / 2, high)])])[1][0] == verdict


def test_without_a_measurement_there_is_no_verdict():
    assert {f([])[1][0] for f in (loading.sequential, loading.batch_growth)} == {"undecided"}
    assert loading.data_share(trained([]))[1][0] == "undecided"


def trained(parts: list[dict | None]) -> SimpleNamespace:
    """A run of two epochs with these parts in its lines of statistics."""
    stats = [{"nimg": 10 * i} | ({"ms_by_part": p} if p is not None else {}) for i, p in enumerate(parts, 1)]
    return SimpleNamespace(stats=lambda: stats, params=SimpleNamespace(train=SimpleNamespace(epochs=2)))


def test_the_share_of_data_is_that_of_all_lines_but_the_first():
    quick = dict.fromkeys(PARTS, 10.0)
    slow = quick | {"data": 300.0}
    run = trained([quick | {"data": 1e6}, slow, {}, quick, None, quick])
    found, verdict = loading.data_share(run)
    n = len(PARTS) - 1
    assert f"takes {100 * 300 / (300 + 10 * n):.2f} % of a step in the first epoch" in found
    assert f"and {100 / (n + 1):.2f} % of a step in the later epochs" in found
    assert verdict[0] == "does not hold"
    assert loading.data_share(trained([quick, slow]))[1][0] == "holds"  # decided by what there is
    rows = loading.profile(run).text
    assert f"<td>{300 + 10 * n:.2f}</td>" in rows
    assert f"<td>{10 * (n + 1):.2f}</td>" in rows
    assert f"{sum(loading.PUBLISHED.values()):,.1f}" == "2,639.5"
    assert math.isclose(loading.PUBLISHED["data"] / sum(loading.PUBLISHED.values()), 0.704, abs_tol=5e-4)
    assert statistics.fsum(loading.PUBLISHED.values()) == pytest.approx(2639.5)
