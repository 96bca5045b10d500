"""Every cache among the runs and in a run's folder, and a training on its way: whatever is damaged, no other number comes of it."""

import dataclasses
import hashlib
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from faults.lives import TIMING
from guidebook.conditioning.source import kept_captions
from guidebook.config.params import load
from guidebook.config.paths import runs
from guidebook.data import images as module
from guidebook.data.drawn import paintings
from guidebook.diffusion import classifier
from guidebook.metrics import judge as judges
from guidebook.metrics.networks import RandomConvolutions
from guidebook.models import autoencoder, small_vae
from guidebook.models.latents import latents
from guidebook.runs import manifest
from guidebook.runs.manifest import Corrupt
from guidebook.runs.preemption import Preempted, Stop
from guidebook.runs.run import open_run, opened
from guidebook.sampling.sampler import drawn
from guidebook.sampling.sets import path_of
from guidebook.sampling.spec import Draw
from guidebook.training import train
from guidebook.training.estimate import counted
from guidebook.training.reconstruction import reconstructed

FACES = load("celeba", "smoke").replace(data={"limit": 40, "resolution": 8, "phrasings": 2}, text={"tokens": 60})
POWER = {"ema": ["power:0.05", "power:0.1"], "snapshots": 4, "checkpoint_every": 0.25}


def vae() -> autoencoder.Autoencoder:
    autoencoder.autoencoder.cache_clear()
    return autoencoder.autoencoder("embedded", FACES.data)


def judge(tiny) -> dict:
    judges.judge.cache_clear()
    found = judges.judge(tiny.data)
    return {"name": found.name, "mean": found.mean, "std": found.std, **found.network.state_dict()}


def noisy(tiny) -> dict:
    classifier.noisy_classifier.cache_clear()
    found = classifier.noisy_classifier(tiny)
    return {"accuracy": found.accuracy, **found.state_dict()}


def averaged(tiny) -> dict:
    (run,) = (opened(path) for path in runs().glob("mnist/smoke-*"))
    return load_file(reconstructed(run, "power-0.26") / "diffusion_pytorch_model.safetensors")


def parts(tiny) -> torch.Tensor:
    """Samples of which all parts are drawn, and the set is not made yet."""
    (run,) = (opened(path) for path in runs().glob("mnist/smoke-*"))
    draw = Draw.of(run.params, 1.0, 30, weights="raw")
    return drawn(run, draw, path_of(run, draw.name, {"draw": draw.json}))[0]


def painted(tiny) -> dict:
    return {f.name: f.read_bytes() for f in paintings.drawn(runs() / "data", 6, files=2, group=2).glob("*.parquet")}


# Where a cache lies, and what reads it, or makes it
CACHES: dict[str, tuple[str, Callable]] = {
    "captions": ("data/captions-*", lambda tiny: kept_captions(FACES, module.load(FACES.data).train.labels)),
    "latents": ("data/latents-*", lambda tiny: latents(vae(), module.load(FACES.data).train.images, "x", True)),
    "drawn paintings": ("data/paintings-*", painted),
    "autoencoder": ("vaes/vae-*", lambda tiny: dict(vae().network.state_dict()) | {"scale": vae().scale}),
    "judge": ("judges/judge-*", judge),
    "noisy classifier": ("judges/noisy-*", noisy),
    "features": ("features/*", lambda tiny: RandomConvolutions(1).features(module.load(tiny.data).train.images)),
    "cost": ("atlas/cost-*", lambda tiny: dataclasses.asdict(counted(tiny).network)),
    "reconstructed average": ("mnist/smoke-*/reconstructed/*", averaged),
    "parts of samples": ("mnist/smoke-*/samples/.parts-*", parts),
}


@pytest.fixture(scope="module")
def small(tiny, tmp_path_factory):
    """What is trained is trained for a step or two; paintings are small. A folder of runs with one that has snapshots."""
    with pytest.MonkeyPatch.context() as patch:
        recipes = judges.recipes()
        brief = {"digits": {"cpu": dataclasses.replace(recipes["digits"]["cpu"], epochs=2)}}
        patch.setattr(judges, "recipes", lambda: recipes | brief)
        patch.setattr(classifier, "STEPS", 2)
        patch.setattr(small_vae, "STEPS", {8: 2})
        patch.setattr(paintings, "LONG", (120, 150))
        patch.setattr(paintings, "SHORT", (90, 110))
        paintings._grain.cache_clear()
        folder = tmp_path_factory.mktemp("caches")
        patch.setenv("GUIDEBOOK_RUNS", str(folder))
        train(open_run(tiny.replace(train=POWER, sample={"weights": "raw"})))
        yield folder
    for cached in (judges.judge, classifier.noisy_classifier, autoencoder.autoencoder, paintings._grain):
        cached.cache_clear()


def digest(value) -> str:
    found = hashlib.sha256()
    for name, x in value.items() if isinstance(value, dict) else [("", value)]:
        found.update(
            name.encode() + (x.detach().numpy().tobytes() if isinstance(x, torch.Tensor) else repr(x).encode())
        )
    return found.hexdigest()


def damages(raw: bytes) -> Iterator[tuple[str, bytes | None]]:
    for place in sorted({0, len(raw) // 2, len(raw) - 1}):
        yield f"byte {place} of {len(raw)}", raw[:place] + bytes([raw[place] ^ 4]) + raw[place + 1 :]
    yield from {"half": raw[: len(raw) // 2], "empty": b"", "gone": None}.items()


def put(file: Path, raw: bytes | None) -> None:
    file.unlink(missing_ok=True)
    if raw is not None:
        file.write_bytes(raw)


@pytest.mark.parametrize("name", CACHES)
def test_a_damaged_cache_is_made_anew_with_a_warning_and_gives_the_same(name, small, tiny, caplog, tally):
    pattern, read = CACHES[name]
    known, tried, wrong = digest(read(tiny)), 0, []
    (folder,) = (path for path in small.glob(pattern) if path.is_dir())
    files = [f for f in folder.iterdir() if f.is_file()]
    assert digest(read(tiny)) == known
    assert not caplog.records
    for file in files:
        for damage, raw in damages(file.read_bytes()):
            put(file, raw)
            manifest._verified.clear()  # as in another process
            caplog.clear()
            same = digest(read(tiny)) == known
            told = [
                r.getMessage() for r in caplog.records if "is not what was written; it is made anew" in r.getMessage()
            ]
            tried += 1
            if not (same and told and folder.name in told[0]):
                wrong.append(f"{file.name}, {damage}: {'the same' if same else 'another number'}, {told}")
    assert wrong == []
    assert tried >= 12
    tally(
        3,
        f"a file of a cache flipped, cut or gone: {name}",
        tried,
        tried,
        f"{len(files)} files, made anew with a warning",
    )


@pytest.fixture(scope="module")
def trainings(tiny, tmp_path_factory):
    """The folder of runs with a training that was stopped after five of eight steps, and the lines of one that was not."""
    params, found = tiny.replace(train={"checkpoint_every": 0.5}), {}
    for name, steps in (("whole", 99), ("stopped", 5)):
        calls = iter(range(1, 100))
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("GUIDEBOOK_RUNS", str(tmp_path_factory.mktemp(name)))
            patch.setattr(Stop, "asked", lambda self, calls=calls, steps=steps: next(calls) == steps)
            found[name] = run = open_run(params)
            try:
                train(run)
            except Preempted:
                assert name == "stopped"
    return found["stopped"].path, found["whole"].stats()


def numbers(lines: list[dict]) -> list[dict]:
    return [{k: v for k, v in line.items() if k not in TIMING} for line in lines]


def test_a_training_whose_lines_are_damaged_names_the_file_and_goes_on_where_they_are_put_back(
    trainings, tmp_path, monkeypatch, tally
):
    stopped, whole = trainings
    raw = (stopped / "stats.jsonl").read_bytes()
    first, *_, last = (at + 1 for at, byte in enumerate(raw) if byte == 10)
    assert first < last == len(raw)  # lines, the last of them of the newest regular checkpoint
    tried = [*damages(raw), *((f"cut to {n}", raw[:n]) for n in (first, first + 9, last - 1))]
    tried += [("the first line gone", raw[first:]), ("a digit", raw.replace(b'"nimg": 32', b'"nimg": 33', 1))]
    monkeypatch.setenv("GUIDEBOOK_RUNS", str(tmp_path))
    run = opened(shutil.copytree(stopped, tmp_path / "mnist" / stopped.name))
    file, files = run.path / "stats.jsonl", len([*run.path.rglob("*")])
    for what, damaged in tried:
        put(file, damaged)
        with pytest.raises(Corrupt, match=rf"{file} .*; put it back, or delete {run.path} and run again"):
            train(run)
        assert (file.read_bytes() if file.exists() else None) == damaged, what
    put(file, raw)
    assert len([*run.path.rglob("*")]) == files
    train(run)
    assert numbers(run.stats()) == numbers(whole)
    tally(
        3,
        "the lines of a stopped training flipped, cut or gone",
        len(tried),
        len(tried),
        "refused in one line; put back, it goes on",
    )
