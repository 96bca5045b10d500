"""What an autoencoder loses: test images encoded and decoded again. No model of its latents can do better."""

import torch
from torchmetrics.functional.image import structural_similarity_index_measure as similarity

from guidebook.data.images import load
from guidebook.imagesets import ImageSet, image_set
from guidebook.lock import owned
from guidebook.metrics import intervals
from guidebook.metrics.distances import frechet_to
from guidebook.metrics.features import features
from guidebook.metrics.networks import Inception, JudgeNetwork
from guidebook.metrics.subject import HOW, record, reference, shuffle
from guidebook.models.vae import autoencoder
from guidebook.params import digest
from guidebook.run import Run

PART, SHOWN = 500, 10
FRECHET = {"judge": ("rfd_judge", JudgeNetwork), "inception": ("rfid", lambda data: Inception())}


def round_trip(run: Run) -> tuple[ImageSet, list[dict]]:
    """Some test images, each before its round trip and after it, and the records `psnr`, `ssim`, `rfd_judge` and `rfid`.

    Of the posterior's mean, in half precision as it is kept. PSNR (dB) is the mean over images of 10 log₁₀(255² / mean squared error);
    SSIM is that of Wang et al. (2004). The Fréchet distances are between the test images after the trip and the train split as it is;
    that of Inception is left out where its weights are not at hand.
    """
    key = digest(["round trip", run.params.evaluate.samples])
    if not run.metrics(key=key):
        run.needs("the round trip through the autoencoder")
        with owned(run.path):
            run.add_metrics([r | {"set": "round trip", "key": key, "group": "round trip"} for r in _measured(run)])
    return image_set(run, "round-trip", {"images": f"{SHOWN} of the test split"}, lambda: _pairs(run)), run.metrics(
        key=key
    )


def there_and_back(run: Run, images: torch.Tensor) -> torch.Tensor:
    """Images (N, 3, H, W) uint8 encoded and decoded again."""
    vae = autoencoder(run.params.model.vae, run.params.data)
    return torch.cat([vae.decode(vae.scale * vae.encode(x).chunk(2, 1)[0].half().float()) for x in images.split(PART)])


def _pairs(run: Run) -> tuple[torch.Tensor, dict]:
    split = load(run.params.data).test
    before = split.images[:SHOWN]
    return torch.cat([before, there_and_back(run, before)]), {"labels": 2 * split.labels[:SHOWN].tolist()}


def _measured(run: Run) -> list[dict]:
    test = load(run.params.data).test.images
    test = test[shuffle(len(test))[: run.params.evaluate.samples]]
    after, vae = there_and_back(run, test), autoencoder(run.params.model.vae, run.params.data)
    errors = torch.cat(
        [
            (a.double() - b.double()).square().mean((1, 2, 3))
            for a, b in zip(test.split(PART), after.split(PART), strict=True)
        ]
    )
    ratio = 10 * torch.log10(255**2 / errors.clamp(min=1e-3))
    parts = zip(test.split(PART), after.split(PART), strict=True)
    alike = torch.cat([similarity(b.float(), a.float(), data_range=255.0, reduction="none") for a, b in parts])
    known = dict.fromkeys((*HOW, "seconds_per_image")) | {"n": len(test)}
    found = [
        record("psnr", intervals.mean(ratio.numpy()), "normal", vae.name, "test split", known),
        record("ssim", intervals.mean(alike.numpy()), "normal", vae.name, "test split", known),
    ]
    for space, (metric, network) in FRECHET.items():
        if (reader := network(run.params.data)).at_hand():
            value = frechet_to(features(after, reader)["features"], reference(run, space))
            found.append(record(metric, value, "infinitesimal jackknife", reader, "train split", known))
    return found
