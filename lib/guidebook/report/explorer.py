"""Explorers of samples: what a run kept of them, as settings that a reader turns on a built page. Its script is `explorer.js`."""

import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from guidebook.conditioning.captions import caption_of
from guidebook.metrics.groups import SHARES
from guidebook.report.charts import LOG, NAMES
from guidebook.report.claims import broken
from guidebook.report.tables import ASIDE, pick, with_interval
from guidebook.runs.manifest import Corrupt
from guidebook.runs.run import Run, usable
from guidebook.runs.trainings import variants
from guidebook.sampling.sets import COLUMNS, ImageSet, sheet, stored
from guidebook.sampling.spec import Draw

log = logging.getLogger(__name__)
PROMPTS, SEEDS, TILES = 30, 8, 120  # at most: prompts, images of each, and images of a setting
METRICS = (
    "adherence", "adherence_superclass", "fid", "fd_judge", "fd_random", "clip_score", "diversity", "grain", "saturation",
    "copying",
)  # fmt: skip
ITSELF, PLAIN = "the run itself", "classifier-free"
OFF, ON = 1, 5  # scales of the two settings that are shown first


@dataclass(frozen=True)
class Shown:
    """The samples of one setting."""

    at: dict[str, float | str]  # the setting
    prompts: list[str]
    pixels: np.ndarray  # (prompts · seeds, C, H, W): a prompt's images after each other
    numbers: dict[str, dict]  # a record of each metric

    def like(self, other: "Shown") -> bool:
        """A check that both show the same prompts in images of one size."""
        return self.prompts == other.prompts and self.pixels.shape[1:] == other.pixels.shape[1:]


def explorer(run: Run, folder: Path, place: str) -> str:
    """In HTML: the samples of a run and its variants by prompt and by every setting in which they differ, and what was measured of them.

    Images go into `folder`, a file a setting, native pixels with a prompt per row, and the page finds them at `place`; `row.png` has ten.
    Empty where fewer than two settings were kept. Sets of other prompts than those of the run's usual sets are left out.
    """
    usual, found = _setting(run, Draw.of(run.params, 1.0, 1), ITSELF), [*_shown(run)]
    usual["training"] = _read(run, found, usual)
    found.sort(key=lambda s: (_apart(s.at, usual), abs(s.at["w"] - OFF), -len(s.numbers)))
    sets = {tuple(s.at.values()): s for s in reversed(found) if s.like(found[0])}
    if len(sets) < 2:
        return ""
    folder.mkdir(parents=True, exist_ok=True)
    sets = [s for s in found if sets.get(tuple(s.at.values())) is s]
    axes = [_axis(name, [s.at[name] for s in sets], usual[name]) for name in usual]
    second = min(range(1, len(sets)), key=lambda i: (_apart(sets[i].at, usual), abs(sets[i].at["w"] - ON)))
    some = sets[second].pixels[:: len(sets[second].pixels) // len(sets[second].prompts)][:COLUMNS]
    Image.fromarray(sheet(some, columns=len(some))).save(folder / "row.png")
    facts = {
        "name": f"explore-{run.params.experiment}-{run.params.profile}", "files": place, "prompts": sets[0].prompts,
        "size": sets[0].pixels.shape[:1:-1], "axes": [{k: v for k, v in axis.items() if k != "of"} for axis in axes],
        "sets": [_kept(s, axes, folder, i) for i, s in enumerate(sets)], "metrics": _metrics(run, sets), "first": [0, second],
    }  # fmt: skip
    words = json.dumps(facts, ensure_ascii=False).replace("<", "\\u003c")
    without = "<noscript>This part needs JavaScript; the figures below show a part of it.</noscript>"
    return f'<div class="explorer" id="{facts["name"]}">{without}<script type="application/json">{words}</script></div>'


def _read(run: Run, found: list[Shown], usual: dict) -> str:
    """The training that is shown first: the run itself, or where a judge cannot read its unguided samples, another whose it reads best."""
    of = {s.at["training"]: s.numbers for s in found if s.at == usual | {"w": OFF, "training": s.at["training"]}}
    real, classes = pick(run.metrics(), "adherence", guidance=None), len(run.params.data.entry.classes)
    read = {k: r["value"] for k, n in of.items() if real and (r := n.get("adherence")) and not broken(r, real, classes)}
    return max(read, key=read.get) if read and ITSELF in of and ITSELF not in read else ITSELF


def _shown(run: Run) -> Iterator[Shown]:
    """The kept samples of a run and of its variants: of the usual seeds and the usual prompts."""
    for one in usable((run, *variants(run))):
        training = one.name.partition(" · ")[2] or ITSELF
        measured = [r for r in one.metrics() if r.get("draw") and _own(r)]
        for folder in sorted(one.path.glob("samples/[!.]*")):
            try:
                images = stored(folder)
                if "draw" not in images.facts:
                    continue
                draw = images.draw
                if (draw.kind, draw.prompt, draw.seed) != ("samples", None, run.params.sample.seed):
                    continue
                prompts, pixels = _by_prompt(one, images)
            except (Corrupt, ValueError, LookupError, TypeError) as error:
                log.warning("left out: %s: %s", folder, error)
                continue
            own = [r for r in measured if r["draw"] == draw.json]
            numbers = {m: r for m in METRICS if (r := pick(own, m))}
            yield Shown(_setting(run, draw, training), prompts, pixels, numbers)


def _by_prompt(run: Run, images: ImageSet) -> tuple[list[str], np.ndarray]:
    """Prompts, and as many of the first images of each as there are of all."""
    of: dict[str, list[int]] = {}
    for i, label in enumerate(images.facts["labels"][: len(images.pixels)]):
        of.setdefault(caption_of(run.params, label, i), []).append(i)
    of = dict([*of.items()][:PROMPTS])
    seeds = min(SEEDS, TILES // len(of), *map(len, of.values()))
    return [*of], images.pixels[np.concatenate([index[:seeds] for index in of.values()])]


def _setting(run: Run, draw: Draw, training: str) -> dict[str, float | str]:
    """Values by the names of their controls, in the order of these."""
    solver, _, *more = draw.walk()
    return {
        "w": draw.guidance.w, "steps": draw.solver.steps, "images seen": draw.at or run.provenance().get("images_seen", 0),
        "weights": draw.weights, "guidance": ", ".join(draw.way()) or PLAIN, "solver": ", ".join([solver, *more]), "training": training,
    }  # fmt: skip


def _apart(setting: dict, usual: dict) -> int:
    """In how many things a setting differs from the usual one, besides its scale."""
    return sum(setting[name] != usual[name] for name in usual if name != "w")


def _axis(name: str, values: list, usual: float | str) -> dict:
    """A control: its values as `of`, as words and, where they are quantities, as numbers."""
    of = sorted({*values}, key=lambda v: (v != usual, v) if isinstance(v, str) else v)
    texts, numbers = [f"{v:,g}" if isinstance(v, float) else str(v) for v in of], of
    if name == "images seen":
        texts = [f"{v:,}" for v in of]
    if isinstance(of[0], str):
        lengths = {v: 0.0 if v == "raw" else float(v[6:]) for v in of if v == "raw" or v.startswith("power-")}
        numbers = None
        if name == "weights" and len(lengths) == len(of) > 1:
            of = sorted(of, key=lengths.get)
            name, texts, numbers = "EMA length", [f"{lengths[v]:g}" for v in of], [lengths[v] for v in of]
    return {"name": name, "values": texts, "numbers": numbers, "of": of}


def _kept(shown: Shown, axes: list[dict], folder: Path, number: int) -> dict:
    """A setting for the page; its images are written."""
    seeds = len(shown.pixels) // len(shown.prompts)
    Image.fromarray(sheet(shown.pixels, columns=seeds)).save(folder / f"{number}.png")
    at = [axis["of"].index(value) for axis, value in zip(axes, shown.at.values(), strict=True)]
    numbers = {m: [*_scaled(r), r["n"], with_interval(r)] for m, r in shown.numbers.items()}
    return {"at": at, "seeds": seeds, "numbers": numbers}


def _metrics(run: Run, sets: list[Shown]) -> dict[str, dict]:
    """Of each metric that a setting has: its name, whether its axis is logarithmic, and what real images score."""
    real = [r for r in run.metrics(guidance=None) if _own(r)]
    found = {}
    for m in (m for m in METRICS if any(m in s.numbers for s in sets)):
        name = NAMES.get(m, m).replace("\n", " ").replace("(share)", "(%)")
        floor = pick(real, m)
        at = floor and [*_scaled(floor), floor["n"], with_interval(floor)]
        found[m] = {"name": name, "log": m in LOG, "real": at}
    return found


def _own(record: dict) -> bool:
    """A check that a record is of a whole set, by the usual protocol."""
    return not (record.get("attribute") or record.get("group", "").startswith(ASIDE))


def _scaled(record: dict) -> list[float]:
    """Value, low and high, of shares in per cent."""
    scale = 100 if record["metric"] in SHARES else 1
    return [float(f"{scale * record[key]:.5g}") for key in ("value", "low", "high")]
