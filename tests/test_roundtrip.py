"""The round trip through an autoencoder, measured."""

import pytest
import torch

from guidebook.config.params import load
from guidebook.data.images import load as images_of
from guidebook.metrics import measure, roundtrip
from guidebook.models.autoencoder import Autoencoder
from guidebook.runs.run import open_run


@pytest.fixture
def run(runs, shared):
    shared(runs, ["vaes"])
    return open_run(load("celeba", "smoke"))


def test_what_comes_back_unchanged_has_no_error(run, monkeypatch):
    monkeypatch.setattr(Autoencoder, "there_and_back", lambda vae, images: images.clone())
    found = {r["metric"]: r for r in measure.round_trip_records(run)}
    assert found["psnr"]["value"] > 70
    assert found["ssim"]["value"] == pytest.approx(1, abs=1e-4)
    assert found["psnr"]["n"] == run.params.evaluate.samples


def test_psnr_is_that_of_the_error_that_was_made(run, monkeypatch):
    def off_by_four(vae, images):
        return torch.where(images > 127, images - 4, images + 4)

    monkeypatch.setattr(Autoencoder, "there_and_back", off_by_four)
    found = {r["metric"]: r for r in measure.round_trip_records(run)}
    assert found["psnr"]["value"] == pytest.approx(36.09, abs=0.01)  # 10 log₁₀(255² / 16)
    assert 0.5 < found["ssim"]["value"] < 1


def test_pairs_are_the_first_test_images_above_their_reconstructions_and_are_measured_once(run, monkeypatch):
    records = measure.round_trip_records(run)
    before, after = measure.round_trip(run).images.chunk(2)
    assert torch.equal(before, images_of(run.params.data).test.images[: len(before)])
    assert not torch.equal(before, after)
    monkeypatch.setattr(roundtrip, "after", lambda run, enlarged: pytest.fail("measured again"))
    assert measure.round_trip_records(run) == records


def test_errors_of_larger_images_are_those_of_what_is_encoded_and_no_distance_is_taken(run, monkeypatch):
    sides = []

    def off_by_four(vae, images):
        sides.append(images.shape[-1])
        return torch.where(images > 127, images - 4, images + 4)

    monkeypatch.setattr(Autoencoder, "there_and_back", off_by_four)
    found = {r["metric"]: r for r in measure.round_trip_records(run, enlarged=4)}
    side = run.params.data.resolution
    assert set(sides) == {4 * side}
    assert set(found) == {"psnr", "ssim"}
    assert found["psnr"]["value"] == pytest.approx(36.09, abs=0.01)  # as of images that were not made larger
    assert (found["psnr"]["set"], found["psnr"]["n"]) == (
        f"round trip at {4 * side} pixels",
        run.params.evaluate.samples,
    )
