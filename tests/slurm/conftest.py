"""Clusters for the tests of this folder, which are all marked slow."""

from pathlib import Path

import pytest
from cluster import cluster, obstacle


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.slow)


def _started(tmp_path_factory, **size):
    if reason := obstacle():
        pytest.skip(reason)
    with cluster(tmp_path_factory.mktemp("slurm"), **size) as slurm:
        yield slurm


@pytest.fixture(scope="session")
def slurm(tmp_path_factory):
    """A cluster of one node with two CPUs and one fake GPU."""
    yield from _started(tmp_path_factory, nodes=1, gpus=1)


@pytest.fixture(scope="module")
def two_nodes(tmp_path_factory):
    """A cluster of two nodes with one CPU and one fake GPU each, beside the other."""
    yield from _started(tmp_path_factory, nodes=2, gpus=1)


@pytest.fixture(scope="module")
def cancelling(tmp_path_factory):
    """A cluster of one node where a preempted job is cancelled."""
    yield from _started(tmp_path_factory, nodes=1, preempt="CANCEL")
