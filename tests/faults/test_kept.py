"""Every kind of file that a finished run and its caches keep: a byte flipped or a file cut is found or harmless."""

import hashlib
import os
import random
import shutil
from pathlib import Path

import pytest
import torch
from forks import executed

from guidebook.book.status import everything
from guidebook.config.params import ParamsError, load
from guidebook.metrics import judge as judges
from guidebook.metrics.measure import measure
from guidebook.metrics.records import SPACES, reference
from guidebook.models import autoencoder
from guidebook.runs import manifest
from guidebook.runs.executed import complete
from guidebook.runs.manifest import Corrupt
from guidebook.runs.recording import record
from guidebook.runs.run import open_run, opened
from guidebook.sampling.draw import draw
from guidebook.training import checkpoint, loop
from guidebook.training.model import load_model
from guidebook.training.step import prepared


@pytest.fixture(scope="module")
def params():
    """A run with an autoencoder: five steps of training, with a checkpoint after each second one."""
    return load("celeba", "smoke").replace(
        data={"limit": 40},
        train={"batch": 8, "epochs": 1, "checkpoint_every": 0.4, "ema": [0.9]},
        sample={"guidance": [1], "steps": 2, "batch": 10},
        evaluate={"samples": 30, "trainings": 1},
    )


def finished(params):
    run = open_run(params)
    loop.train(run)
    measure(run, draw(run, 1.0, 30), ("judge", "blind"))
    executed(run.path)
    return run


@pytest.fixture(scope="module")
def original(params, tmp_path_factory):
    """The folder of runs with a finished run, and the record of it."""
    folder = tmp_path_factory.mktemp("kept")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GUIDEBOOK_RUNS", str(folder / "runs"))
        patch.setattr("guidebook.runs.run.RESULTS", folder / "results")
        forget()
        record(finished(params))
    return folder


def forget() -> None:
    """As in another process."""
    manifest._verified.clear()
    judges.judge.cache_clear()
    autoencoder.autoencoder.cache_clear()
    measure.__globals__["_siblings"].cache_clear()
    reference.cache_clear()


def digest(*values) -> str:
    found = hashlib.sha256()
    for value in values:
        tensors = (
            value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else [("", value)]
        )
        for name, x in tensors:
            found.update(f"{name}".encode())
            found.update(x.detach().numpy().tobytes() if isinstance(x, torch.Tensor) else repr(x).encode())
    return found.hexdigest()


def numbers(params, path: Path) -> dict[str, str]:
    """Every number that a run and its caches give, by what gives it."""
    forget()
    run = opened(path)
    found = {"params": digest(run.params.yaml()), "provenance": digest(run.provenance()), "stats": digest(run.stats())}
    found["metrics"] = digest(run.metrics())
    images = draw(run, 1.0, 30)
    found["images"] = digest(images.images, images.labels, images.facts)
    if run.recorded:
        return found
    run = open_run(params)  # as a notebook does
    found["page"] = digest(complete(run.path / "notebook.ipynb"))
    for weights in ("raw", "ema-0.9"):
        found[weights] = digest(dict(load_model(run, weights).state_dict()))
    for path in checkpoint.complete(run.path / "checkpoints"):
        found[path.name] = digest(*checkpoint.load(path)[0].values())
    for space in ("judge", "random"):
        network = SPACES[space](params.data)
        found[space] = digest(network.features(images.images), reference(params.data, network).mean)
    trainer = prepared(run.params, known=run.provenance()["autoencoder"])
    batch = trainer.feed.batch(0)
    found["latents"], found["captions"] = digest(batch.images), digest(trainer.conditions(*batch[1:]).tokens)
    return found


def kind(file: Path, root: Path) -> str:
    """The place of a file, with those that are written by the same code in one."""
    parts = [p.partition("-")[0] if any(c.isdigit() for c in p) else p for p in file.relative_to(root).parts]
    return "/".join([*parts[:-1], file.name]).replace("/raw/", "/ema/")


FOUND, MADE, HARMLESS = "found", "made anew", "harmless"


def outcome(params, path: Path, file: Path, raw: bytes, expected: dict[str, str]) -> str:
    """What a damaged file, once `raw`, leads to: it is found, made anew, harmless, or what went wrong."""
    try:
        everything()  # never stopped by one bad run
        found = numbers(params, path)
    except (Corrupt, ParamsError) as error:
        text = str(error)
        # A changed manifest accuses the file whose entry was changed: the two cannot be told apart.
        named = len(text.splitlines()) == 1 and (file.name in text or file.name == manifest.MANIFEST)
        return FOUND if named else f"not one line that names it: {text}"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    changed = [name for name in expected if found[name] != expected[name]]
    if changed == ["page"]:
        return FOUND  # the notebook is executed again
    if changed:
        return f"changed in silence: {', '.join(changed)}"
    return MADE if file.read_bytes() == raw else HARMLESS


def damages(raw: bytes, rng: random.Random, n: int):
    """n times a byte flipped, n times cut."""
    for _ in range(n):
        at = rng.randrange(len(raw))
        yield f"byte {at} flipped", raw[:at] + bytes([raw[at] ^ rng.randrange(1, 256)]) + raw[at + 1 :]
    lines = [i + 1 for i, c in enumerate(raw) if c == 10][:-1]  # cut between two lines, too
    for size in [*rng.sample(lines, min(n, len(lines))), *(rng.randrange(len(raw)) for _ in range(n))]:
        yield f"cut to {size} bytes", raw[:size]


def attacked(params, original: Path, root: Path, patch, files: list[Path], each: int) -> dict[str, set[str]]:
    """The kinds of files by what damage to them leads to."""
    patch.setenv("GUIDEBOOK_RUNS", str(root / "runs"))
    patch.setattr("guidebook.runs.run.RESULTS", root / "results")
    shutil.copytree(original, root)
    (run,) = (root / "runs").glob("celeba/smoke-*")
    places = {"runs": run, "results": root / "results" / "celeba" / "smoke"}
    known = {name: numbers(params, path) for name, path in places.items()}
    rng, outcomes = random.Random(0), {FOUND: set(), MADE: set(), HARMLESS: set()}
    for file in files:
        inside, raw, stat = file.relative_to(original), file.read_bytes(), file.stat()
        for what, damaged in damages(raw, rng, each):
            (root / inside).write_bytes(damaged)
            os.utime(root / inside, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # its time says nothing
            name = inside.parts[0]
            result = outcome(params, places[name], root / inside, raw, known[name])
            wrong = "" if result in outcomes else f"{inside}, {what}: "
            outcomes.setdefault(f"{wrong}{result}", set()).add(kind(file, original))
            shutil.rmtree(root)
            shutil.copytree(original, root)
    return outcomes


def kinds(original: Path) -> dict[str, Path]:
    """One file of each kind."""
    return {kind(f, original): f for f in sorted(original.rglob("*")) if f.is_file() and f.stat().st_size}


def holds(outcomes: dict[str, set[str]]) -> None:
    wrong = outcomes.keys() - {FOUND, MADE, HARMLESS}
    assert not wrong, "\n".join(sorted(wrong)[:9])
    unread = {where for where in outcomes[HARMLESS] if not where.endswith(CHANGING)}
    assert not unread, f"nothing reads {', '.join(sorted(unread))}, so that nothing could go wrong"


CHANGING = (
    "metrics.json",
    "provenance.json",
    "stats.jsonl",
    "params.yml",
)  # damage to their checksum alone is harmless
OWN = (*CHANGING, "notebook.ipynb", "moments.npy", "set.json")


def test_a_file_that_changes_and_a_cache_prove_their_bytes(params, original, tmp_path, monkeypatch):
    """A digit changed in metrics.json, lines lost of stats.jsonl, a byte of cached latents whose time stayed."""
    chosen = [file for file in kinds(original).values() if file.name in OWN]
    assert len(chosen) > 10
    outcomes = attacked(params, original, tmp_path / "attacked", monkeypatch, chosen, 1)
    holds(outcomes)
    assert len(outcomes[FOUND]) > 10


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_of_every_kind_of_file_a_byte_flipped_or_a_cut_is_found_or_harmless(
    params, original, tmp_path, monkeypatch, tally
):
    every = kinds(original)
    assert len(every) > 40
    outcomes = attacked(params, original, tmp_path / "attacked", monkeypatch, [*every.values()], 3)
    holds(outcomes)
    tally(3, "a byte flipped, a file cut, in every kind of file of a run, its record and its caches", len(every), len(every),
        f"{len(outcomes[FOUND])} kinds refused in one line, {len(outcomes[MADE])} made anew, {len(outcomes[HARMLESS])} without effect, "
        "three flips and up to six cuts each",
    )  # fmt: skip
