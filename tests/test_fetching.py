"""What is brought to a machine beforehand, and latents that the tasks of an array encode together."""

import re

import numpy as np
import pytest

from guidebook.config.datasets import DataError
from guidebook.config.params import load
from guidebook.models import latents
from guidebook.models.autoencoder import autoencoder
from guidebook.slurm.fetch import fetched

FACES = load("celeba", "smoke")


@pytest.fixture(autouse=True)
def parts(runs, shared, monkeypatch):
    """Three parts of 40 faces, and the autoencoder that all tests share."""
    shared(runs, ["vaes"])
    monkeypatch.setattr(latents, "PART", 40 * 16**2)
    autoencoder.cache_clear()
    yield
    autoencoder.cache_clear()


def task(monkeypatch, k: int, tasks: int = 3, first: int = 1, last: int | None = None) -> list[str]:
    """The lines of one task of an array."""
    facts = {"ID": first + k, "COUNT": tasks, "MIN": first, "MAX": first + tasks - 1 if last is None else last}
    for name, value in facts.items():
        monkeypatch.setenv(f"SLURM_ARRAY_TASK_{name}", str(value))
    return list(fetched([FACES], decode=True))


def test_tasks_of_an_array_encode_a_share_each_and_the_last_to_end_puts_them_together(runs, monkeypatch):
    for k in (2, 0):
        assert task(monkeypatch, k)[-1].endswith("this share is done, the last task to end puts them together")
        assert not list(runs.glob("data/latents-*"))
    said = task(monkeypatch, 1)[-1]
    (folder,) = runs.glob("data/latents-*")
    assert re.fullmatch(rf"faces: latents of vae-faces-\w+@\w+ in {re.escape(str(folder))}", said)
    shared = np.load(folder / "moments.npy")
    folder.rename(runs / "aside")
    for name in ("ID", "COUNT", "MIN", "MAX"):
        monkeypatch.delenv(f"SLURM_ARRAY_TASK_{name}")
    alone = list(fetched([FACES], decode=True))
    assert alone == ["embedded: needs no download", "faces: drawn", said]  # each model once
    np.testing.assert_array_equal(np.load(folder / "moments.npy"), shared)


def test_an_array_whose_tasks_have_gaps_is_refused(runs, monkeypatch):
    with pytest.raises(DataError, match="numbered without gaps"):
        task(monkeypatch, 0, last=9)
    assert not list(runs.glob("data/latents-*"))


def test_nothing_is_encoded_before_it_is_asked_for(runs):
    assert list(fetched([FACES], decode=False))[-1] == "faces: drawn"
    assert not list(runs.glob("data/*"))
