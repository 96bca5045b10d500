"""The loss of an autoencoder: test images encoded and decoded again. No model of its latents can do better."""

import torch

from guidebook.data.images import Split, load, resized
from guidebook.metrics import intervals
from guidebook.metrics.frechet import frechet_to
from guidebook.metrics.groups import FRECHET, JACKKNIFE, TRAIN
from guidebook.metrics.records import SPACES, reference
from guidebook.metrics.subject import Subject, of_real
from guidebook.models.autoencoder import of_run
from guidebook.runs.progress import measured
from guidebook.runs.run import Run
from guidebook.sampling.sets import ImageSet

PART, LARGE = 500, 1000


def pairs(run: Run, n: int) -> tuple[torch.Tensor, dict]:
    """The first n test images, then the same after the trip, and their labels."""
    split = load(run.params.data).test
    before = split.images[:n]
    return torch.cat([before, of_run(run.params).there_and_back(before)]), {"labels": 2 * split.labels[:n].tolist()}


def _before(run: Run, enlarged: int) -> Split:
    """The test images that make the trip, larger by a factor; no more than `LARGE` of those that are larger."""
    test, n = of_real(run, "test"), run.params.evaluate.samples
    chosen = test.order[: n if enlarged == 1 else min(n, LARGE)]
    return Split(resized(test.images[chosen], enlarged * test.images.shape[-1]), test.labels[chosen])


def after(run: Run, enlarged: int = 1) -> Split:
    """The test images after the trip, made larger by a factor before it."""
    before, vae = _before(run, enlarged), of_run(run.params)
    parts = measured(before.images.split(max(PART // enlarged**2, 1)), "round trip", "part")
    return Split(torch.cat([vae.there_and_back(part) for part in parts]), before.labels)


# 10 log₁₀(255² / mean squared error)
def psnr(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Peak signal-to-noise ratio (N,) in dB of images (N, C, H, W) uint8, image by image; 78 dB of equal ones."""
    return 10 * torch.log10(255**2 / (a.double() - b.double()).square().mean((1, 2, 3)).clamp(min=1e-3))


def of_same_seeds(run: Run, samples: Subject, other: ImageSet) -> list[dict]:
    """psnr."""
    values = psnr(samples.images, other.images)
    return [samples.record("psnr", intervals.mean(values.numpy()), "normal", "pixels", other.name)]


def errors(run: Run, trip: Subject, enlarged: int = 1) -> list[dict]:
    """psnr, ssim."""
    from torchmetrics.functional.image import structural_similarity_index_measure as similarity

    ratios, alike = [], []
    size = max(PART // enlarged**2, 1)
    for a, b in zip(_before(run, enlarged).images.split(size), trip.images.split(size), strict=True):
        ratios.append(psnr(a, b))
        alike.append(similarity(b.float(), a.float(), data_range=255.0, reduction="none"))
    how = ("normal", of_run(run.params), "test split")
    found = {"psnr": torch.cat(ratios), "ssim": torch.cat(alike)}
    return [trip.record(metric, intervals.mean(values.numpy()), *how) for metric, values in found.items()]


def distance(run: Run, trip: Subject, space: str) -> list[dict]:
    """rfd_judge or rfid."""
    network = SPACES[space](run.params.data)
    value = frechet_to(network.features(trip.images)["features"], reference(run.params.data, network))
    return [trip.record(f"r{FRECHET[space]}", value, JACKKNIFE, network, TRAIN)]
