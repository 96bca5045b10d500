"""No changed byte is ever loaded: checkpoints, models and image sets are refused, judges trained anew."""

import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from guidebook.metrics import judge as judges
from guidebook.runs.manifest import MANIFEST, Corrupt
from guidebook.runs.run import open_run
from guidebook.sampling.draw import draw
from guidebook.training import checkpoint
from guidebook.training.model import load_model


@dataclass(frozen=True)
class Sealed:
    """A folder that proves its bytes, and the function that reads it."""

    folder: Path
    read: Callable[[], object]

    @property
    def files(self) -> list[Path]:
        """All but notes of an earlier verification, which hold no data."""
        return sorted(f for f in self.folder.iterdir() if f.is_file() and not f.name.startswith("."))


@pytest.fixture(scope="module")
def originals(trained_runs, tiny, tmp_path_factory):
    """A run with everything that is sealed, made once."""
    runs = shutil.copytree(trained_runs, tmp_path_factory.mktemp("corrupt"), dirs_exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GUIDEBOOK_RUNS", str(runs))
        draw(open_run(tiny), 1.0, 30)
    return runs


@pytest.fixture
def sealed(originals, tiny, tmp_path, monkeypatch) -> dict[str, Sealed]:
    """A fresh copy of each of them, by name."""
    runs = tmp_path / "runs"
    shutil.copytree(originals, runs)
    monkeypatch.setenv("GUIDEBOOK_RUNS", str(runs))
    run = open_run(tiny)
    newest = checkpoint.complete(run.path / "checkpoints")[-1]
    (drawn,) = run.path.glob("samples/w1-*")

    return {
        "checkpoint": Sealed(newest, lambda: checkpoint.load(newest)),
        "model": Sealed(run.path / "model" / "raw", lambda: load_model(run, "raw")),
        "averaged model": Sealed(run.path / "model" / "ema-0.9", lambda: load_model(run, "ema-0.9")),
        "image set": Sealed(drawn, lambda: draw(run, 1.0, 30)),
    }


def refused(thing: Sealed, file: Path | None = None) -> str | None:
    """What is wrong with the way in which it was refused; None where it was as it should be."""
    try:
        thing.read()
    except Corrupt as error:
        text = str(error)
        if len(text.splitlines()) != 1 or not text.isprintable():
            return f"more than a line: {text!r}"
        if "is not what was written; delete " not in text or " and run again: " not in text:
            return f"does not say what to do: {text}"
        # A changed manifest accuses the file whose entry was changed: the two cannot be told apart.
        if file and file.name != MANIFEST and file.name not in text:
            return f"does not name {file.name}: {text}"
        return None
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "accepted"


def places(raw: bytes, n: int, rng: random.Random) -> list[int]:
    """Positions in every region of a file: first and last byte, header length, header, payload; n in all or a few more."""
    size = len(raw)
    edges = {0, 7, 8, size // 2, size - 1}
    header = 8 + int.from_bytes(raw[:8], "little")  # of a safetensors file
    if header < size:
        edges |= {3, header // 2, header - 1, header, (header + size) // 2}
    chosen = rng.sample(sorted(p for p in edges if p < size), min(n, len([p for p in edges if p < size])))
    while len(chosen) < n:
        below = min(header, size)
        chosen.append(rng.randrange(below) if rng.random() < 0.4 else rng.randrange(size))
    return chosen


def flipped(things: dict[str, Sealed], each: int, rng: random.Random) -> tuple[int, list[str]]:
    """(flips of a byte, those that were not refused as they should be), `each` of them in every file."""
    tried, bad = 0, []
    for name, thing in things.items():
        for file in thing.files:
            raw = file.read_bytes()
            for place in places(raw, each, rng):
                flip = rng.randrange(1, 256)
                with open(file, "r+b") as changed:
                    changed.seek(place)
                    changed.write(bytes([raw[place] ^ flip]))
                tried += 1
                if wrong := refused(thing, file):
                    bad.append(f"{name}, {file.name}, byte {place} ^ {flip:#04x}: {wrong}")
                file.write_bytes(raw)
        assert refused(thing) == "accepted"
    return tried, bad


def test_a_flipped_byte_in_any_file_is_refused(sealed):
    tried, bad = flipped(sealed, 3, random.Random(0))
    assert tried >= 45
    assert not bad, "\n".join(bad[:9])


def test_a_judge_with_a_flipped_byte_is_trained_anew(tiny, runs, caplog):
    judges.judge.cache_clear()
    rng, weights = random.Random(2), judges.judge(tiny.data).network.state_dict()
    (folder,) = runs.glob("judges/judge-*")
    for file in sorted(f for f in folder.iterdir() if not f.name.startswith(".")):
        raw = file.read_bytes()
        for place in places(raw, 3, rng):
            file.write_bytes(raw[:place] + bytes([raw[place] ^ rng.randrange(1, 256)]) + raw[place + 1 :])
            judges.judge.cache_clear()
            caplog.clear()
            again = judges.judge(tiny.data).network.state_dict()
            assert "is not what was written; it is made anew" in caplog.text
            assert all(again[name].equal(x) for name, x in weights.items())
            assert file.read_bytes() == raw
    judges.judge.cache_clear()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_thousand_flipped_bytes_are_refused(sealed, tally):
    tried, bad = flipped(sealed, 75, random.Random(1))
    assert tried >= 1000
    files = sum(len(thing.files) for thing in sealed.values())
    assert not bad, "\n".join(bad[:9])
    tally(3, "one byte flipped", tried, tried - len(bad), f"in {files} files of a checkpoint, a model and images")


def test_a_manifest_with_a_name_that_breaks_lines_is_refused_in_one(sealed):
    thing = sealed["checkpoint"]
    manifest = thing.folder / MANIFEST
    manifest.write_text(manifest.read_text().replace("safetensors", "safete\\nsors", 1))
    assert refused(thing, manifest) is None


DAMAGE = {
    "empty": lambda raw: b"",
    "cut after its first byte": lambda raw: raw[:1],
    "cut in the header": lambda raw: raw[: min(len(raw) - 1, 40)],
    "cut in half": lambda raw: raw[: len(raw) // 2],
    "cut by a block": lambda raw: raw[: max(0, len(raw) - 4096)],
    "cut by a byte": lambda raw: raw[:-1],
    "longer by a zero": lambda raw: raw + b"\0",
    "longer by itself": lambda raw: raw + raw,
    "zeros": lambda raw: bytes(len(raw)),
    "missing": None,
}


def damaged(things: dict[str, Sealed]) -> tuple[int, list[str]]:
    tried, bad = 0, []
    for name, thing in things.items():
        for file in thing.files:
            raw = file.read_bytes()
            for kind in DAMAGE:
                if (name, file.name, kind) == ("checkpoint", MANIFEST, "missing"):
                    continue  # then it is incomplete: below
                file.unlink() if kind == "missing" else file.write_bytes(DAMAGE[kind](raw))
                tried += 1
                if wrong := refused(thing, file):
                    bad.append(f"{name}, {file.name}, {kind}: {wrong}")
            file.write_bytes(raw)
        assert refused(thing) == "accepted"
    return tried, bad


def test_a_file_cut_short_or_padded_or_missing_is_refused(sealed, tally):
    tried, bad = damaged(sealed)
    assert not bad, "\n".join(bad[:9])
    tally(3, "a file empty, cut short, padded or missing", tried, tried, f"{len(DAMAGE)} kinds of damage to every file")


@pytest.mark.slow
def test_a_file_cut_at_any_of_many_lengths_is_refused(sealed, tally):
    rng, tried, bad = random.Random(2), 0, []
    for name, thing in sealed.items():
        for file in thing.files:
            raw = file.read_bytes()
            for size in rng.sample(range(len(raw)), min(20, len(raw))):
                file.write_bytes(raw[:size])
                tried += 1
                if wrong := refused(thing, file):
                    bad.append(f"{name}, {file.name}, {size} of {len(raw)} bytes: {wrong}")
            file.write_bytes(raw)
    assert not bad, "\n".join(bad[:9])
    tally(3, "a file cut at a random length", tried, tried, "")


def test_a_file_of_another_sealed_folder_is_refused(sealed, tally):
    """Whole files, each valid in its own place: an older checkpoint's, another model's, one file for another."""
    newest, tried = sealed["checkpoint"], 0
    older = checkpoint.complete(newest.folder.parent)[0]
    pairs = [(newest, older / f.name, f) for f in newest.files if f.name != "statistics.safetensors"]
    raw, averaged = sealed["model"], sealed["averaged model"]
    pairs += [(raw, averaged.folder / f.name, f) for f in raw.files if f.name != "config.json"]
    pairs += [(newest, newest.folder / "model.safetensors", newest.folder / "ema-0.9.safetensors")]
    for thing, source, file in pairs:
        kept = file.read_bytes()
        assert source.read_bytes() != kept
        shutil.copyfile(source, file)
        assert refused(thing, None if file.name == MANIFEST else file) is None
        file.write_bytes(kept)
        tried += 1
    tally(3, "a file swapped for another", tried, tried, "of an older checkpoint, of another model")


def test_a_checkpoint_without_a_manifest_is_incomplete_and_skipped_with_a_log_line(sealed, caplog):
    newest = sealed["checkpoint"].folder
    before = checkpoint.complete(newest.parent)
    (newest / MANIFEST).unlink()
    assert checkpoint.complete(newest.parent) == before[:-1]
    assert f"skipped {newest.name}: not a complete checkpoint" in caplog.text
