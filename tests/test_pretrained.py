"""Weights of others: found at their pinned revisions, replaced with a warning, or refused in one line."""

import logging
from pathlib import Path

import pytest

from guidebook.config.hub import cached
from guidebook.config.pretrained import (
    CLIP,
    EMBEDDED,
    PRETRAINED,
    SD_VAE,
    PretrainedMissing,
    available,
    fetch,
    located,
    resolve,
)

BOTH = pytest.mark.parametrize("name", [CLIP, SD_VAE])


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An empty cache, where the hub's client looks."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.file_download.HF_HUB_CACHE", str(tmp_path), raising=False)
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    return tmp_path


@BOTH
def test_weights_that_are_missing_are_replaced_with_a_warning(name, caplog):
    caplog.set_level(logging.WARNING)
    assert resolve(EMBEDDED) == EMBEDDED
    assert not caplog.records
    assert resolve(name) == EMBEDDED
    told = f"the weights of {name} are not in the cache: {PRETRAINED[name].stand_in} takes their place"
    assert [r.getMessage() for r in caplog.records] == [told]


@BOTH
def test_in_a_job_of_slurm_they_are_refused_in_one_line(name, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    assert resolve(EMBEDDED) == EMBEDDED
    key = PRETRAINED[name].key.replace(".", r"\.")
    with pytest.raises(PretrainedMissing, match=f"is not in this node's cache.*--set {key}=embedded") as error:
        resolve(name)
    assert len(str(error.value).splitlines()) == 1


@BOTH
def test_they_are_refused_where_they_are_needed_and_where_the_hub_does_not_give_them(name):
    for ask in (located, fetch):
        with pytest.raises(PretrainedMissing, match=f"^{PRETRAINED[name].kind} {name}") as error:
            ask(name)
        assert len(str(error.value).splitlines()) == 1
    assert fetch(EMBEDDED) == "needs no download"


@BOTH
def test_a_download_that_leaves_files_out_is_none(name, cache, monkeypatch):
    """Offline the hub's client gives what the cache has."""
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: str(cache))
    with pytest.raises(PretrainedMissing, match="files are missing"):
        fetch(name)


@BOTH
def test_weights_are_available_when_all_their_files_are_there_at_the_pinned_revision(name, cache):
    model = PRETRAINED[name]
    for revision in ("0" * 40, model.revision):
        assert not available(name)
        place = cache / f"models--{name.replace('/', '--')}" / "snapshots" / revision
        place.mkdir(parents=True)
        for file in model.files:
            assert not available(name)
            (place / file).touch()
    assert available(name)
    assert located(name) == place
    assert resolve(name) == name


@pytest.mark.parametrize("kind", ["model", "dataset"])
def test_a_snapshot_is_sought_where_the_hubs_client_puts_it(kind):
    from huggingface_hub import constants, file_download

    name = file_download.repo_folder_name(repo_id="owner/name", repo_type=kind)
    assert cached("owner/name", "0123", kind) == Path(constants.HF_HUB_CACHE, name, "snapshots", "0123")
