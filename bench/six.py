"""What a Fréchet distance of six images says: how far it moves by chance, and whether it tells models apart.

The test images of CIFAR-100 in a fixed shuffle are cut in three: principal components are fitted to the first, sets are drawn from the
second, the third is the reference. So nothing that is compared was fitted, and no image is on both sides of a distance.
"""

import functools
import json
from collections.abc import Callable
from datetime import UTC, datetime

import torch
import torch.nn.functional as F
from tqdm import tqdm

from guidebook.config.datasets import CATALOG, DataError
from guidebook.config.params import Params
from guidebook.data.drawn import scenes
from guidebook.data.files import of_split
from guidebook.data.images import decoded
from guidebook.metrics.few import FEW, drawn
from guidebook.metrics.frechet import Gaussian, frechet_of_few, gaussian, influences
from guidebook.metrics.intervals import mean, share
from guidebook.metrics.judge import judge
from guidebook.metrics.networks import NETWORKS, Network, RandomConvolutions
from guidebook.metrics.weights import WeightsMissing
from guidebook.report.six import FILE, FIRST, REAL, SECOND
from guidebook.runs.run import commit, write
from guidebook.runtime.seeds import generator

NAME = "cifar100"
FITTED, POOL = 2000, 5000  # images that components are fitted to, and those that sets are drawn from
COUNTS, OFTEN = (6, 10, 50, 100, 500, 1000, 5000), 100  # sets of more images than the latter are drawn once, disjoint
LARGE, WORSE = 400, 1000  # images that show which model is worse, and images of each worse model, at most
SEEN = 10_000  # images of CIFAR-10 that its judge learns from: more take longer

Read = Callable[[torch.Tensor], torch.Tensor]  # images (N, C, H, W) uint8 to features (N, D)


def six(params: Params) -> dict:
    """Measures and keeps the record of the page. The params are those of the judge's images. Raises DataError."""
    split, skipped, _ = decoded(CATALOG[NAME], f"{NAME}/test", of_split(NAME, "test"))
    order = torch.randperm(len(split), generator=generator("six images"))
    fit, pool, rest = order.split([FITTED, POOL, len(order) - FITTED - POOL])
    fitted = split.images[fit]
    models = {REAL: split.images[pool], **worse(split.images[pool], split.labels[pool])}
    spaces, left_out = [], {}
    for name, make in SPACES.items():
        try:
            extractor, read = make(fitted, params)
        except (DataError, WeightsMissing) as error:
            left_out[name] = str(error)
            continue
        features = {model: read(images).double() for model, images in models.items()}
        reference = gaussian(read(split.images[rest]))
        width = features[REAL].shape[1]
        spaces.append({"name": name, "extractor": extractor, "width": width, **of_space(features, reference)})
    made = {"date": datetime.now(UTC).isoformat(timespec="seconds"), **commit(), "torch": torch.__version__}
    made |= {"images": len(split), "skipped": skipped, "side": split.images.shape[-1], "few": FEW, "large": LARGE}
    made |= {"fitted": len(fit), "pool": len(pool), "reference": len(rest), "data": CATALOG[NAME].note}
    found = {"made": made, "spaces": spaces, "left_out": left_out}
    FILE.parent.mkdir(parents=True, exist_ok=True)
    write(FILE, json.dumps(_rounded(found), indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    print(f"written to {FILE}")
    return found


# Feature spaces: each gives the name of what reads images, and the reading


def _components(k: int) -> Callable:
    """The first k principal components of pixels."""

    def make(fit: torch.Tensor, params: Params) -> tuple[str, Read]:
        middle, axes = _fitted(fit)
        return f"{k} principal components of {len(fit):,} images", lambda x: (x.flatten(1) - middle) @ axes[:, :k]

    return make


@functools.lru_cache(maxsize=1)
def _fitted(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The mean (D,) of the pixels of images (N, C, H, W), and their principal axes (D, N) in order."""
    x = images.flatten(1).double()
    return x.mean(0), torch.linalg.svd(x - x.mean(0), full_matrices=False)[2].T


def _network(make: Callable[[torch.Tensor, Params], Network]) -> Callable:
    def made(fit: torch.Tensor, params: Params) -> tuple[str, Read]:
        network = make(fit, params)
        if why := network.why_absent():
            raise WeightsMissing(why)
        return network.name, lambda x: network.read(x)["features"]

    return made


SPACES = {
    "pca-64": _components(64),
    "pca-256": _components(256),
    "random": _network(lambda fit, params: RandomConvolutions(fit.shape[1])),
    "judge": _network(lambda fit, params: judge(params.replace(data={"limit": SEEN}).data)),
    "inception": _network(lambda fit, params: NETWORKS["inception"]),
}


def worse(images: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
    """Images (N, C, H, W) uint8 of models that are worse than real ones, made of real images or by code."""
    first, rng = images[:WORSE].float(), generator("worse models")
    return {
        "the first ten of the hundred classes": images[labels < 10][:WORSE],
        "means of 4 × 4 pixels": F.interpolate(F.avg_pool2d(first, 4), scale_factor=4).round().byte(),
        "half the contrast": (first / 2 + 64).byte(),
        "grain of σ = 32": (first + 32 * torch.randn(first.shape, generator=rng)).round().clamp(0, 255).byte(),
        "drawn scenes": scenes.drawn(WORSE, 0, images.shape[-1])[0],
        "uniform noise": torch.randint(0, 256, first.shape, generator=rng, dtype=torch.uint8),
    }


# Distances


def of_space(features: dict[str, torch.Tensor], reference: Gaussian) -> dict:
    """All that is measured in one feature space, of features (N, D) by model."""
    real = features[REAL]
    base, first, second = real[drawn(len(real), 3 * FEW)].split(FEW, 1)
    ways = {
        "six": lambda sets: frechet_of_few(sets, base),
        "others": lambda sets: frechet_of_few(sets, reference),
    }
    mine = {way: distance(first) for way, distance in ways.items()}
    found = {"chance": {w: chance(mine[w], distance(second)) for w, distance in ways.items()}, "models": []}
    found["curve"] = [_point(real, n, reference) for n in COUNTS]
    large = _apart(real, LARGE, reference).mean()
    right = {way: [] for way in ways}  # per model, whether its set is the farther one, of each draw
    for name, rows in [(name, rows) for name, rows in features.items() if name != REAL]:
        sets = rows[drawn(len(rows), 2 * FEW)].split(FEW, 1)
        entry = {"name": name, "at_large": float(_apart(rows, LARGE, reference).mean() / large)}
        for way, distance in ways.items():
            one, other = distance(sets[0]), distance(sets[1])
            right_of_each = (mine[way] < one).cpu()
            entry[way] = {
                "mean": float(one.mean()),
                "fall": fall(one, other),
                "right": _interval(share(right_of_each.numpy())),
            }
            if entry["at_large"] >= FIRST / SECOND:
                right[way].append(right_of_each.double())
        found["models"].append(entry)
    found["right"] = {w: _interval(mean(torch.stack(r).mean(0).numpy())) for w, r in right.items()}
    return found


def chance(first: torch.Tensor, second: torch.Tensor) -> dict:
    """Two measurements (K,) of one model: the spread of the first over draws, and the quantiles of their ratio."""
    low, high = first.quantile(0.025), first.quantile(0.975)
    ratios = (second / first).quantile(torch.linspace(0, 1, 101, dtype=first.dtype, device=first.device))
    return {
        "mean": float(first.mean()), "low": float(low), "high": float(high), "spread": float(first.std() / first.mean()),
        "fall": fall(first, second), "ratios": ratios.tolist(),
    }  # fmt: skip


def fall(first: torch.Tensor, second: torch.Tensor) -> dict:
    """How often the second of two measurements (K,) is below the first by the published ratio or more."""
    return _interval(share((second / first <= SECOND / FIRST).cpu().numpy()))


def _apart(rows: torch.Tensor, n: int, reference: Gaussian) -> torch.Tensor:
    """The distances (K,) of all disjoint sets of n rows."""
    sets = rows.split(n)[: len(rows) // n]
    return torch.tensor([influences(each, reference)[0] for each in sets], dtype=torch.float64)


def _point(real: torch.Tensor, n: int, reference: Gaussian) -> dict:
    """The mean distance of sets of n images, and between which values 19 in 20 of them lie."""
    if n <= OFTEN:
        parts = drawn(len(real), n).split(100)  # of all draws at once the features fill memory
        each = torch.cat(
            [frechet_of_few(real[part], reference) for part in tqdm(parts, f"sets of {n}", delay=5, leave=False)]
        )
    else:
        each = _apart(real, n, reference)
    low, high = each.quantile(0.025), each.quantile(0.975)
    return {"n": n, "value": float(each.mean()), "low": float(low), "high": float(high), "sets": len(each)}


def _interval(found) -> dict:
    value, low, high = found
    return {"value": value, "low": low, "high": high, "n": len(found.each)}


def _rounded(x):
    """Numbers to six digits, however deep."""
    if isinstance(x, dict):
        return {k: _rounded(v) for k, v in x.items()}
    return [_rounded(v) for v in x] if isinstance(x, list | tuple) else float(f"{x:.6g}") if isinstance(x, float) else x
