"""The sections of a params file but for sampling: what each parameter may be. Nothing here imports torch."""

import os
import re
from collections.abc import Hashable, Iterable, Iterator, Mapping
from typing import Annotated, Literal

from pydantic import Field, WrapValidator, model_validator

from guidebook.config import own
from guidebook.config.datasets import CATALOG, DataError, Entry, Subset
from guidebook.config.errors import nearest, shown
from guidebook.config.pretrained import is_pipeline
from guidebook.config.section import Kinds, Section, Tuple

WORD = r"^[a-z0-9][a-z0-9-]{0,39}$"  # what may become the name of a folder
Word = Annotated[str, Field(pattern=WORD)]
Count = Annotated[int, Field(ge=1, le=10**12)]
Positive = Annotated[float, Field(gt=0, le=1e12)]
Pixel = Annotated[float, Field(ge=-1e6, le=1e6)]
Share = Annotated[float, Field(gt=0, lt=1)]
Location = Annotated[float, Field(ge=-100, le=100)]
Line = Annotated[str, Field(min_length=1, max_length=300, pattern=r"^[^\p{Cc}]+$")]
Weights = Annotated[str, Field(pattern=r"^(raw|init|(ema|power)-0\.\d{1,9})$")]
Power = Annotated[str, Field(pattern=r"^power:0\.\d{1,9}$")]
LONGEST = 12**-0.5  # length of the power-function average in which all weights of a training count alike
# The name of one of a list, or the folder of a diffusers pipeline
OrFolder = WrapValidator(lambda value, handler: value if is_pipeline(value) else handler(value))


class Data(Section):
    name: Literal[(*CATALOG, own.NAME)]
    resolution: Annotated[int, Field(ge=4, le=1024)]
    range: Annotated[tuple[Pixel, Pixel], Tuple(2, 2)]  # what pixel 0 and pixel 255 become
    # `{label}` stands for the class name, of a face `{gender}` for man or woman; None where captions are built from attributes. One
    # line: pages show it as markdown
    caption: Annotated[str, Field(min_length=1, max_length=300, pattern=r"^[^\p{Cc}\p{Zl}\p{Zp}]+$")] | None
    phrasings: Count | None = None  # of an image of attributes, one an epoch in turn; None is a new one each epoch
    limit: Count | None  # use only the first images of each split
    flips: bool  # every image is seen as it is or mirrored, by chance
    subset: Subset | None = None  # what there is of the set; None is all of it, as published
    path: Annotated[str, Field(min_length=1, max_length=4096)] | None = None  # of images of one's own
    contents: own.Contents | None = None  # what there is below it; None reads it from the files

    @model_validator(mode="before")
    @classmethod
    def _with_contents(cls, raw):
        path = raw.get("path") if isinstance(raw, Mapping) and raw.get("name") == own.NAME else None
        if not isinstance(path, str) or raw.get("contents"):
            return raw
        path = os.path.abspath(os.path.expanduser(path))
        try:
            return {**raw, "path": path, "contents": own.found(path).contents}
        except DataError as error:
            raise ValueError(str(error)) from None

    @property
    def entry(self) -> Entry:
        """The data set in the files: that of the catalog, or the declared part of it."""
        if self.contents:
            return self.contents.entry
        return self.subset.entry(self.name) if self.subset else CATALOG[self.name]

    def conflicts(self):
        if self.range[0] >= self.range[1]:
            yield f"data.range = {list(self.range)} must be [low, high] with low < high"
        given, needed = [bool(x) for x in (self.path, self.contents)], self.name == own.NAME
        if given != [needed, needed] or (needed and self.subset):
            yield f"data.path is for data.name = {own.NAME}, which needs it, and takes no data.subset"
        if self.subset:
            yield from self.subset.misfits(self.name)

    def misfits(self, tokens: int) -> Iterator[str]:
        """Why captions of so many tokens do not tell the classes apart: what stands for `{label}` has to reach the model."""
        caption, entry = self.caption, self.entry
        if caption is None or (self.phrasings and not entry.captioned):
            yield f"data.caption = null and data.phrasings are for faces; data.name = {self.name} needs a caption"
            return
        if wrong := set(re.findall(r"{\w{2,}}", caption)) - {"{label}"}:
            word = min(wrong)
            yield f"data.caption = {shown(caption)}: {word} is not known{nearest(word, ['{label}'])}"
        if "{label}" not in caption:
            yield f"data.caption = {shown(caption)} holds no {{label}}, so that every class has the same caption"
            return
        # A word is a token at least, and so are the start and the end
        full = [tuple(re.findall(r"\w+|[^\w\s]+", caption.replace("{label}", name).lower())) for name in entry.classes]
        read = [words[: tokens - 2] for words in full]
        if (alike := same(read)) and (not entry.captioned or len(set(read)) == 1 < len(set(full))):
            one, other = (shown(entry.classes[i]) for i in alike)
            yield f"text.tokens = {tokens} cuts the captions of {one} and {other} to the same words"


def same(items: Iterable[Hashable]) -> tuple[int, int] | None:
    """Where an item stands that stood before, and where it stood first; None where all differ."""
    first: dict[Hashable, int] = {}
    return next(((first[x], i) for i, x in enumerate(items) if first.setdefault(x, i) != i), None)


class Text(Section):
    encoder: Annotated[Literal["embedded", "openai/clip-vit-base-patch32", "CompVis/stable-diffusion-v1-4"], OrFolder]
    tokens: Annotated[int, Field(ge=3, le=77)]  # captions are padded or cut to this length


class Objective(Kinds):
    """The path from image to noise, what the network predicts of it, and the weight of its error."""


class VP(Objective):
    """Variance preserving, in discrete time (Ho et al. 2020)."""

    kind: Literal["vp"] = "vp"
    schedule: Literal["squaredcos_cap_v2", "linear", "scaled_linear"]
    betas: Annotated[tuple[Share, Share], Tuple(2, 2)] | None = None  # of the first and of the last timestep
    timesteps: Annotated[int, Field(ge=2, le=100_000)]
    prediction: Literal["epsilon", "v_prediction", "sample"]  # what the model predicts, in diffusers' words
    min_snr_gamma: Positive | None  # the loss is weighted by min(SNR, γ), as an error of x0 (Hang et al. 2023)
    zero_terminal_snr: bool  # the last timestep is noise alone (Lin et al. 2024)

    def conflicts(self):
        if self.zero_terminal_snr and self.prediction == "epsilon":
            yield "objective.zero_terminal_snr = True needs objective.prediction v_prediction or sample, not epsilon"
        cosine, betas = self.schedule == "squaredcos_cap_v2", self.betas
        if cosine != (betas is None) or (betas and betas[0] >= betas[1]):
            rule = "squaredcos_cap_v2 takes null, the others [low, high], as [0.0001, 0.02] or [0.00085, 0.012]"
            yield f"objective.betas = {betas and list(betas)} does not fit objective.schedule = {self.schedule}: {rule}"


class Flow(Objective):
    """Rectified flow: straight paths, whose velocity is predicted (Liu et al. 2023)."""

    kind: Literal["flow"] = "flow"
    times: Literal["logit-normal", "uniform"] = "logit-normal"  # of training
    mean: Location  # of the logit of logit-normal times (Esser et al. 2024, eq. 19)
    std: Positive
    # Factor of the odds t / (1 − t) of times in training and sampling: above 1 there is more noise, as large images need (eq. 23)
    shift: Positive = 1.0

    def conflicts(self):
        if self.times == "uniform" and (self.mean, self.std) != (0, 1):
            yield f"objective.mean = {self.mean:g} and std = {self.std:g} are of logit-normal times: with uniform ones leave 0 and 1"


class EDM(Objective):
    """EDM: noise added to the image as it is, and a preconditioned network (Karras et al. 2022, table 1)."""

    kind: Literal["edm"] = "edm"
    sigma_data: Positive  # standard deviation of the images
    mean: Location  # of the logarithm of the training noise levels, which is normal
    std: Positive
    largest: Positive  # the noise level from which images are drawn


class Train(Section):
    batch: Count
    micro_batch: Count | None  # images per forward; the gradient is that of the whole batch
    lr: Annotated[float, Field(gt=0, le=10)]
    warmup: Annotated[int, Field(ge=0, le=10**12)]  # images over which lr rises from 0; then it stays
    weight_decay: Annotated[float, Field(ge=0, le=10)]
    epochs: Annotated[float, Field(gt=0, le=1e6)]
    # File order: images sorted by class, in files of so many that are seen one after another; None is random order
    file_rows: Count | None = None
    caption_dropout: Annotated[float, Field(ge=0, le=1)]  # share of captions replaced by the null caption
    # Averaged copies of the weights: of a decay, or power:LENGTH (Karras et al. 2024). Of two such, any length can be had afterwards
    ema: Annotated[tuple[Share | Power, ...], Tuple(0)]
    ema_warmup: bool = True  # whether the first updates forget faster; false where training goes on from good weights
    clip_norm: Positive | None
    precision: Literal["auto", "fp32", "bf16"]  # auto becomes bf16 where the device computes in it natively, else fp32
    seed: Annotated[int, Field(ge=0, lt=2**63)]
    checkpoint_every: Positive  # epochs
    keep_checkpoints: Annotated[int, Field(ge=2, le=1000)]
    snapshots: Annotated[int, Field(ge=4, le=4096)] = 64  # kept of the power-function averages, over the training
    processes: Annotated[int, Field(ge=1, le=4096)] = 1  # that share each batch, one a device
    tracker: Literal["tensorboard"] | None = None  # shown there too; the truth is stats.jsonl
    channels_last: bool = False  # memory layout of convolutions
    compile: bool = False  # torch.compile
    # Blocks are computed again in the backward instead of kept: less memory, a third more time (Chen et al. 2016)
    gradient_checkpointing: bool = False

    def conflicts(self):
        if self.batch % self.processes:
            yield f"train.processes = {self.processes} must divide train.batch = {self.batch}"
        lengths = [length_of(entry) for entry in self.ema if isinstance(entry, str)]
        if lengths and (len(set(lengths)) < len(lengths) or not 0 < min(lengths) <= max(lengths) < LONGEST):
            yield f"train.ema = {list(self.ema)}: lengths after power: differ, and lie between 0 and {LONGEST:.4f}"

    @property
    def steps_in_backward(self) -> bool:
        """The case in which a weight is updated, and its gradient freed, as soon as that is there: memory counts and nothing needs them all."""
        whole = (self.micro_batch or self.batch) >= self.batch and self.processes == 1
        return self.gradient_checkpointing and whole and self.clip_norm is None

    @property
    def tracks(self) -> list[str]:
        """Names of the weights that the training keeps."""
        return ["raw", *map(track_name, self.ema)]

    def has(self, weights: str) -> bool:
        """True for weights that are kept, or that can be reconstructed from the snapshots of two power-function averages."""
        several = sum(isinstance(entry, str) for entry in self.ema) > 1
        return weights in (*self.tracks, "init") or (
            several and weights[:6] == "power-" and length_of(weights) < LONGEST
        )


def track_name(entry: float | str) -> str:
    """The weights of an entry of `train.ema`: `ema-0.999`, `power-0.1`."""
    return f"power-{length_of(entry):g}" if isinstance(entry, str) else f"ema-{entry}"


def length_of(name: str) -> float:
    """The length of a power-function average, `power:0.1` or `power-0.1`: its standard deviation over the time of its end."""
    return float(name.removeprefix("power")[1:])
