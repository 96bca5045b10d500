"""What an autoencoder loses: test images encoded and decoded again. No model of its latents can do better."""

import functools
from collections.abc import Callable

import torch

from guidebook.config.params import digest
from guidebook.data.images import load
from guidebook.metrics import intervals
from guidebook.metrics.distances import frechet_to
from guidebook.metrics.features import features
from guidebook.metrics.measure import FRECHET, once
from guidebook.metrics.subject import SPACES, record, reference, shuffle, undrawn
from guidebook.models.autoencoder import autoencoder
from guidebook.runs.run import Run
from guidebook.sampling.sets import ImageSet, image_set

NAME, PART, SHOWN = "round trip", 500, 10
Trip = Callable[[], tuple[torch.Tensor, torch.Tensor, dict]]


def round_trip(run: Run) -> tuple[ImageSet, list[dict]]:
    """Some test images, each before its round trip and after it, and the records `psnr`, `ssim`, `rfd_judge` and `rfid`.

    Of the posterior's mean, in half precision as it is kept. PSNR (dB) is the mean over images of 10 log₁₀(255² / mean squared error);
    SSIM is that of Wang et al. (2004). The Fréchet distances are between the test images after the trip and the train split as it is;
    that of Inception is left out where its weights are not at hand.
    """
    n, found = run.params.evaluate.samples, []
    trip = functools.cache(lambda: _trip(run))
    for space in ("pixels", *SPACES):
        key = digest([NAME, space, n])
        if not run.recorded and (space == "pixels" or SPACES[space](run.params.data).at_hand()):
            make = (
                functools.partial(_errors, run, trip)
                if space == "pixels"
                else functools.partial(_distance, run, trip, space)
            )
            once(run, NAME, key, NAME, make)
        found += run.metrics(key=key)
    if not found:
        run.needs("the round trip through the autoencoder")
    return image_set(run, "round-trip", {"images": f"{SHOWN} of the test split"}, lambda: _pairs(run)), found


def there_and_back(run: Run, images: torch.Tensor) -> torch.Tensor:
    """Images (N, 3, H, W) uint8 encoded and decoded again."""
    vae = autoencoder(run.params.model.vae, run.params.data)
    return vae.decode(vae.scale * vae.encode(images).chunk(2, 1)[0].half().float())


def _pairs(run: Run) -> tuple[torch.Tensor, dict]:
    split = load(run.params.data).test
    before = split.images[:SHOWN]
    return torch.cat([before, there_and_back(run, before)]), {"labels": 2 * split.labels[:SHOWN].tolist()}


def _trip(run: Run) -> tuple[torch.Tensor, torch.Tensor, dict]:
    """Test images, their reconstructions, and what every record says of them."""
    test = load(run.params.data).test.images
    test = test[shuffle(len(test))[: run.params.evaluate.samples]]
    return test, there_and_back(run, test), undrawn(len(test))


def _errors(run: Run, trip: Trip) -> list[dict]:
    from torchmetrics.functional.image import structural_similarity_index_measure as similarity

    test, after, known = trip()
    ratios, alike = [], []
    for a, b in zip(test.split(PART), after.split(PART), strict=True):
        error = (a.double() - b.double()).square().mean((1, 2, 3))
        ratios.append(10 * torch.log10(255**2 / error.clamp(min=1e-3)))
        alike.append(similarity(b.float(), a.float(), data_range=255.0, reduction="none"))
    told = ("normal", autoencoder(run.params.model.vae, run.params.data).name, "test split", known)
    return [
        record("psnr", intervals.mean(torch.cat(ratios).numpy()), *told),
        record("ssim", intervals.mean(torch.cat(alike).numpy()), *told),
    ]


def _distance(run: Run, trip: Trip, space: str) -> list[dict]:
    reader, (_, after, known) = SPACES[space](run.params.data), trip()
    value = frechet_to(features(after, reader)["features"], reference(run, space))
    return [record(f"r{FRECHET[space]}", value, "infinitesimal jackknife", reader, "train split", known)]
