"""A disk that is really full: what was there stays whole, the error says what was not written, and with space it goes on."""

import io
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from forks import executed
from PIL import Image

from faults.lives import EPOCH, EVERY, PROCESSES, checkpoints, refused, same_lines, same_weights, the_run, trained
from faults.study import study
from guidebook.book.notebook import missing
from guidebook.data.batches import Stream
from guidebook.data.cache import Cache
from guidebook.data.shards import Shards
from guidebook.runs.artifact import Parts, artifact
from guidebook.runs.executed import complete, sign
from guidebook.runs.run import open_run, opened
from guidebook.sampling.draw import draw
from guidebook.sampling.sets import path_of
from guidebook.sampling.spec import Draw
from guidebook.training import checkpoint

PAGE = 4096  # bytes of which such a disk gives out


class Disk:
    """A file system of its own, in memory."""

    def __init__(self, place: Path, size: int):
        self.place = place
        place.mkdir(parents=True, exist_ok=True)
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "guidebook", place]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"a small disk cannot be mounted here: {done.stderr.strip()}")

    def resize(self, size: int) -> None:
        subprocess.run(["mount", "-o", f"remount,size={size}", self.place], check=True)

    @property
    def free(self) -> int:
        space = os.statvfs(self.place)
        return space.f_bavail * space.f_frsize

    def leave(self, pages: int) -> None:
        """Fills the disk but for so many pages."""
        with open(self.place / ".ballast", "ab") as file:
            file.write(bytes(max(0, self.free - pages * PAGE)))

    def relieve(self) -> None:
        (self.place / ".ballast").unlink()


@pytest.fixture
def disk():
    """`disk(place, size)`: mounted there until the test ends."""
    if shutil.which("mount") is None or os.geteuid() != 0:
        pytest.skip("only root may mount a small disk")
    mounted = []

    def make(place: Path, size: int) -> Disk:
        mounted.append(Disk(place, size))
        return mounted[-1]

    yield make
    for one in mounted:
        subprocess.run(["umount", "--lazy", one.place], check=True)


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()}


def size_of(folder: Path) -> int:
    return sum(-(-f.stat().st_size // PAGE) * PAGE for f in folder.rglob("*") if f.is_file())


def test_a_disk_with_space_for_one_checkpoint_ends_the_training_and_with_more_it_goes_on(
    short, unbroken, tmp_path, disk, tally
):
    one = size_of(checkpoint.complete(unbroken.path / "checkpoints")[-1])
    small = disk(tmp_path / short.experiment, one * 3 // 2)
    before = None
    for _ in range(2):  # without space it fails again, and harms nothing
        text = refused(trained(short, tmp_path))
        assert f"nimg-{2 * EVERY:010d} was not written" in text
        assert "No space left on device" in text
        assert checkpoints(short, tmp_path) == [EVERY]
        folder = the_run(short, tmp_path).path / "checkpoints"
        assert [p.name for p in folder.iterdir()] == [f"nimg-{EVERY:010d}"]
        checkpoint.load(folder / f"nimg-{EVERY:010d}")
        before = before or bytes_of(folder)
        assert bytes_of(folder) == before
        assert not (the_run(short, tmp_path).path / "lock.json").exists()
    small.resize(8 * one)
    assert trained(short, tmp_path)[0] == 0
    assert same_weights(the_run(short, tmp_path), unbroken)
    assert same_lines(the_run(short, tmp_path), unbroken)
    tally(
        4, "a full disk at a checkpoint", 2, 2, "the checkpoint before it whole; with space, weights equal bit for bit"
    )


def _decodes(file: Path, folder: Path):
    os.environ["GUIDEBOOK_RUNS"] = str(folder)
    shards = Shards([file], "image", "style", range(27))
    cache = Cache("some", shards, 64, 0.0)
    try:
        cache.keep()
    except OSError as error:
        file.with_name("refused").write_text(str(error))
        sys.exit(1)
    with Stream(SimpleNamespace(shards=shards, cache=cache, window=50), seed=0) as stream:
        while not cache.complete():
            stream.next(10)


def test_a_disk_without_room_for_decoded_images_is_noticed_before_one_is_written(tmp_path, disk, tally):
    """Found out later, in a mapped file, it would be a SIGBUS."""
    file = io.BytesIO()
    Image.new("RGB", (80, 70), (200, 30, 90)).save(file, "JPEG")
    rows = [{"image": {"bytes": file.getvalue(), "path": ""}, "style": n % 27} for n in range(200)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "train-0.parquet", row_group_size=20)
    small = disk(tmp_path / "small", 200 * 3 * 64 * 64 // 2)

    def decoded() -> int:
        process = PROCESSES.Process(target=_decodes, args=(tmp_path / "train-0.parquet", small.place))
        process.start()
        process.join(60)
        return process.exitcode

    assert decoded() == 1
    assert "train.npy (0.00 GB) was not written" in (tmp_path / "refused").read_text()
    assert not list(small.place.rglob("*.npy"))
    small.resize(200 * 3 * 64 * 64 * 2)
    assert decoded() == 0
    tally(4, "a full disk at the decoded images", 1, 1, "none written, training streams on; with space, all of them")


def test_a_disk_without_space_for_the_model_keeps_the_checkpoint_and_publishes_nothing(
    short, unbroken, tmp_path, disk, tally
):
    brief = short.replace(train={"epochs": (EVERY + 16) / EPOCH})  # one checkpoint, then one step, then the model
    one = size_of(checkpoint.complete(unbroken.path / "checkpoints")[-1])
    model = size_of(unbroken.path / "model")
    small = disk(tmp_path / short.experiment, one + model * 3 // 4)
    text = refused(trained(brief, tmp_path))
    assert "model/ was not written" in text
    path = the_run(brief, tmp_path).path
    assert checkpoints(brief, tmp_path) == [EVERY]
    assert not (path / "model").exists()
    assert not list(path.glob(".model-*"))
    checkpoint.load(checkpoint.complete(path / "checkpoints")[0])
    small.resize(8 * one)
    assert trained(brief, tmp_path)[0] == 0
    assert trained(brief, tmp_path / "whole")[0] == 0
    assert same_weights(the_run(brief, tmp_path), the_run(brief, tmp_path / "whole"))
    tally(4, "a full disk when the model is published", 1, 1, "no half model; with space, weights equal bit for bit")


def _draws(folder: str, n: int):
    torch.set_num_threads(1)
    draw(opened(Path(folder)), 1.0, n)


def test_a_disk_that_fills_while_images_are_drawn_keeps_what_is_drawn(unbroken, tmp_path, disk, monkeypatch, tally):
    """The disk grows page by page: it is full in a part, in the images, in the sheet, in the manifest, and then it is not."""
    n, threads = 300, torch.get_num_threads()
    torch.set_num_threads(1)
    run = opened(shutil.copytree(unbroken.path, tmp_path / "runs" / "mnist" / unbroken.path.name))
    whole = opened(shutil.copytree(unbroken.path, tmp_path / "whole" / "mnist" / unbroken.path.name))
    small = disk(run.path / "samples", 200 * PAGE)
    spec = Draw.of(run.params, 1.0, n)
    folder = path_of(run, spec.name, {"draw": spec.json})
    small.leave(3)
    process = PROCESSES.Process(target=_draws, args=(str(run.path), n))
    process.start()
    process.join(60)
    assert process.exitcode == 1
    assert not folder.exists()
    full, said, times = 1, set(), {}
    for pages in range(60):
        small.relieve()
        small.leave(pages)
        parts = {f: f.stat().st_mtime_ns for f in small.place.glob("..parts-*/.parts/*-*.json")}
        assert times.items() <= parts.items()  # no part is drawn again
        times = parts
        try:
            draw(run, 1.0, n)
            break
        except OSError as error:
            full += 1
            said.add(str(error))
            assert not folder.exists()
            (left,) = {f.name for f in small.place.iterdir()} - {".ballast"}
            assert left.lstrip(".") == f"parts-{folder.name}"
    assert all(folder.name in text for text in said)
    assert any(text.startswith(f"drawing {folder.name} was not written") for text in said)
    assert all("No space left on device" in text and len(text.splitlines()) == 1 for text in said)
    assert [f.name for f in small.place.iterdir() if f.name != ".ballast"] == [folder.name]
    a, b = draw(run, 1.0, n), draw(whole, 1.0, n)
    assert torch.equal(a.images, b.images)
    torch.set_num_threads(threads)
    tally(
        4, "a full disk while images are drawn", full, full, "drawn parts kept, no half set; with space, equal images"
    )


def test_whatever_is_not_written_is_named_with_its_folder(tiny, tmp_path, disk, monkeypatch):
    small = disk(tmp_path / "runs", 100 * PAGE)
    monkeypatch.setenv("GUIDEBOOK_RUNS", str(small.place))
    run, record = open_run(tiny), {"metric": "grain", "value": 1.0, "low": 0.0, "high": 2.0, "n": 1, "guidance": None}
    executed(run.path)
    small.leave(0)
    writers = {
        "provenance.json": lambda: run.note(said="x" * PAGE),
        "metrics.json": lambda: run.add_metrics([record | {"said": "x" * PAGE}]),
        "notebook.ipynb": lambda: sign(run.path / "notebook.ipynb", "x" * PAGE),
    }
    for name, write in writers.items():
        with pytest.raises(OSError, match=rf"{re.escape(str(run.path / name))} was not written \(\[Errno 28\]"):
            write()
    assert complete(run.path / "notebook.ipynb")


def test_an_array_made_in_parts_is_named_wherever_the_disk_fills(tmp_path, disk):
    """At its rows, at the note of a part, at all notes, at the manifest."""
    small, said = disk(tmp_path, 100 * PAGE), []
    parts = Parts([0, 1, 2], {"x": ((PAGE,), "uint8")})
    for pages in (0, 3, 2, 1, 9):
        small.leave(pages)
        try:
            artifact(
                tmp_path, "things", [], lambda first, end: ({"x": np.ones((end - first, PAGE), np.uint8)}, []), parts
            )
            break
        except OSError as error:
            said.append(str(error))
        small.relieve()
    assert len(said) == 4
    assert "manifest.json" in said[-1]
    assert [text for text in said if "things" not in text or "No space left" not in text] == []


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_full_disk_while_the_notebook_is_written_keeps_the_page_before(tmp_path, disk, tally):
    here = study(tmp_path / "study")
    small = disk(here.runs, 60_000_000)
    status, text = here.run()
    assert status == 0, text
    page = here.page.read_bytes()
    source = here.root / "notebooks" / "tiny.ipynb"  # another text: the page is out of date
    source.write_text(source.read_text().replace("# Tiny: a study", "# Tiny: a changed study"))
    small.leave(8)
    status, text = here.run(fault="print('x' * 500_000)")
    assert status == 1, text
    assert text.count("guidebook: ") == 1
    assert "No space left on device" in text
    assert ".partial.ipynb was not written" in text
    assert "Traceback" not in text
    assert here.page.read_bytes() == page
    assert missing(here.page) == []
    small.relieve()
    status, text = here.run(fault="print('x' * 500_000)")
    assert status == 0, text
    assert "changed study" in here.page.read_text()
    tally(4, "a full disk while a notebook is written", 1, 1, "the page before it whole; with space it is completed")
