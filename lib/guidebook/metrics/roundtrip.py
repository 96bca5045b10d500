"""What an autoencoder loses: test images encoded and decoded again. No model of its latents can do better."""

import functools

import torch
from tqdm import tqdm

from guidebook.data.images import Split, load
from guidebook.metrics import intervals
from guidebook.metrics.frechet import frechet_to
from guidebook.metrics.groups import FRECHET, JACKKNIFE, TRAIN
from guidebook.metrics.measure import once
from guidebook.metrics.records import SPACES, reference
from guidebook.metrics.subject import Subject, of_real
from guidebook.models.autoencoder import autoencoder
from guidebook.runs.run import Run
from guidebook.sampling.sets import ImageSet, image_set

NAME, PART, SHOWN = "round trip", 500, 10


def round_trip(run: Run) -> tuple[ImageSet, list[dict]]:
    """Some test images, each before its round trip and after it, and the records `psnr`, `ssim`, `rfd_judge` and `rfid`.

    PSNR (dB) is the mean over images of 10 log₁₀(255² / mean squared error); SSIM is that of Wang et al. (2004). The Fréchet distances
    are between the test images after the trip and the train split; that of Inception is left out where its weights are not available.
    """
    subject = Subject(NAME, lambda: _after(run))
    records = once(run, subject, NAME, _errors, needed=True)
    for space in SPACES:
        distance = functools.partial(_distance, space=space)
        records += once(run, subject, f"{NAME} {space}", distance, weights=space)
    return image_set(run, "round-trip", {"images": f"{SHOWN} of the test split"}, lambda: _pairs(run)), records


def there_and_back(run: Run, images: torch.Tensor) -> torch.Tensor:
    """Images (N, 3, H, W) uint8 encoded and decoded again, by the posterior's mean in half precision, as latents are kept."""
    vae = autoencoder(run.params.model.vae, run.params.data)
    parts = tqdm(images.split(PART), NAME, unit="part", delay=2, leave=False)
    return torch.cat([vae.decode(vae.scale * vae.encode(part).chunk(2, 1)[0].half().float()) for part in parts])


def _pairs(run: Run) -> tuple[torch.Tensor, dict]:
    split = load(run.params.data).test
    before = split.images[:SHOWN]
    return torch.cat([before, there_and_back(run, before)]), {"labels": 2 * split.labels[:SHOWN].tolist()}


def _before(run: Run) -> Split:
    """The test images that make the trip."""
    test = of_real(run, "test")
    chosen = test.order[: run.params.evaluate.samples]
    return Split(test.images[chosen], test.labels[chosen])


def _after(run: Run) -> Split:
    before = _before(run)
    return Split(there_and_back(run, before.images), before.labels)


def _errors(run: Run, after: Subject) -> list[dict]:
    from torchmetrics.functional.image import structural_similarity_index_measure as similarity

    ratios, alike = [], []
    for a, b in zip(_before(run).images.split(PART), after.images.split(PART), strict=True):
        error = (a.double() - b.double()).square().mean((1, 2, 3))
        ratios.append(10 * torch.log10(255**2 / error.clamp(min=1e-3)))
        alike.append(similarity(b.float(), a.float(), data_range=255.0, reduction="none"))
    how = ("normal", autoencoder(run.params.model.vae, run.params.data), "test split")
    found = {"psnr": torch.cat(ratios), "ssim": torch.cat(alike)}
    return [after.record(metric, intervals.mean(values.numpy()), *how) for metric, values in found.items()]


def _distance(run: Run, after: Subject, space: str) -> list[dict]:
    network = SPACES[space](run.params.data)
    value = frechet_to(network.features(after.images)["features"], reference(run.params.data, network))
    return [after.record(f"r{FRECHET[space]}", value, JACKKNIFE, network, TRAIN)]
