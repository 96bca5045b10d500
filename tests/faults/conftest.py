"""Two trainings that nothing interrupts, for comparison: a short one, and one long enough to be killed many times."""

import pytest

from faults.lives import EPOCH, PROMISED, TOTAL, the_run, trained


@pytest.fixture(scope="session")
def short(tiny):
    """44 steps, with checkpoints after 12, 24 and 36, and statistics there and after every 20."""
    train = {"epochs": TOTAL / EPOCH, "checkpoint_every": PROMISED / EPOCH, "caption_dropout": 0.2}
    return tiny.replace(data={"limit": EPOCH}, train=train)


@pytest.fixture(scope="session")
def unbroken(short, tmp_path_factory):
    runs = tmp_path_factory.mktemp("unbroken")
    assert trained(short, runs)[0] == 0
    return the_run(short, runs)


@pytest.fixture(scope="session")
def long(tiny):
    """400 small steps with a checkpoint after every 12; at most 13 are repeated."""
    train = {"batch": 4, "epochs": 400 * 4 / 64, "checkpoint_every": 13 * 4 / 64, "caption_dropout": 0.2}
    return tiny.replace(train=train)


@pytest.fixture(scope="session")
def long_unbroken(long, tmp_path_factory):
    runs = tmp_path_factory.mktemp("long")
    assert trained(long, runs)[0] == 0
    return the_run(long, runs)
