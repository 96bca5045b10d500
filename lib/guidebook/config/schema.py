"""The sections of a params file: what each parameter may be. Nothing here imports torch."""

from typing import Annotated, Literal

from pydantic import Field

from guidebook.config.datasets import CATALOG, Entry
from guidebook.config.section import Kinds, Section, Tuple
from guidebook.config.subset import Subset

WORD = r"^[a-z0-9][a-z0-9-]{0,39}$"  # what may become the name of a folder
Word = Annotated[str, Field(pattern=WORD)]
Count = Annotated[int, Field(ge=1, le=10**12)]
Positive = Annotated[float, Field(gt=0, le=1e12)]
Scale = Annotated[float, Field(ge=0, le=1000)]
Sigma = Annotated[float, Field(ge=0, le=1e4)]
Pixel = Annotated[float, Field(ge=-1e6, le=1e6)]
Share = Annotated[float, Field(gt=0, lt=1)]
Location = Annotated[float, Field(ge=-100, le=100)]
Line = Annotated[str, Field(min_length=1, max_length=300, pattern=r"^[^\p{Cc}]+$")]
Weights = Annotated[str, Field(pattern=r"^(raw|ema-0\.\d{1,9})$")]

# Autoencoders: channels of a latent, and pixels that one of its points stands for, across and down
VAES = {"embedded": (4, 2), "stabilityai/sd-vae-ft-mse": (4, 8)}


class Data(Section):
    name: Literal[tuple(CATALOG)]
    resolution: Annotated[int, Field(ge=4, le=1024)]
    range: Annotated[tuple[Pixel, Pixel], Tuple(2, 2)]  # what pixel 0 and pixel 255 become
    # `{label}` stands for the class name, of a face `{gender}` for man or woman; None where captions are built from attributes. One
    # line: pages show it as markdown
    caption: Annotated[str, Field(min_length=1, max_length=300, pattern=r"^[^\p{Cc}\p{Zl}\p{Zp}]+$")] | None
    phrasings: Count | None = None  # of an image of attributes, one an epoch in turn; None is a new one each epoch
    limit: Count | None  # use only the first images of each split
    flips: bool  # every image is seen as it is or mirrored, by chance
    subset: Subset | None = None  # what there is of the set; None is all of it, as published

    @property
    def entry(self) -> Entry:
        """What the files hold: the set of the catalog, or the part of it that is declared."""
        return self.subset.entry(self.name) if self.subset else CATALOG[self.name]

    def conflicts(self):
        if self.range[0] >= self.range[1]:
            yield f"data.range = {list(self.range)} must be [low, high] with low < high"
        if self.subset:
            yield from self.subset.misfits(self.name)


class Text(Section):
    encoder: Literal["embedded", "openai/clip-vit-base-patch32"]
    tokens: Annotated[int, Field(ge=3, le=77)]  # captions are padded or cut to this length


class Model(Kinds):
    """The network. A new kind is one class here, a file in `guidebook.models` and a row of its `backbones()`."""

    vae: Literal["embedded", "stabilityai/sd-vae-ft-mse"] | None = None  # whose latents are learnt; None is the pixels


class UNet(Model):
    """diffusers' UNet2DConditionModel."""

    kind: Literal["unet"] = "unet"
    channels: Annotated[tuple[Annotated[int, Field(ge=32, le=4096, multiple_of=32)], ...], Tuple(2, 8)]  # by level
    layers_per_block: Annotated[int, Field(ge=1, le=8)]
    num_heads: Annotated[int, Field(ge=1, le=256)]  # what diffusers calls attention_head_dim
    modulation: Literal["shift", "scale-shift"] = "shift"  # what the time does to the features of residual blocks


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
    mean: Location  # of the logit of the training times, which is normal (Esser et al. 2024, eq. 19)
    std: Positive


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
    ema: Annotated[tuple[Share, ...], Tuple(0)]  # one averaged copy of the weights per decay
    ema_warmup: bool = True  # whether the first updates forget faster; false where training goes on from good weights
    clip_norm: Positive | None
    precision: Literal["auto", "fp32", "bf16"]  # auto becomes bf16 where the device computes in it natively, else fp32
    seed: Annotated[int, Field(ge=0, lt=2**63)]
    checkpoint_every: Positive  # epochs
    keep_checkpoints: Annotated[int, Field(ge=2, le=1000)]
    processes: Annotated[int, Field(ge=1, le=4096)] = 1  # that share each batch, one a device
    tracker: Literal["tensorboard"] | None = None  # shown there too; the truth is stats.jsonl
    channels_last: bool = False  # memory layout of convolutions
    compile: bool = False  # torch.compile

    def conflicts(self):
        if self.batch % self.processes:
            yield f"train.processes = {self.processes} must divide train.batch = {self.batch}"


# The names of the ways to guide, and the settings of each with their bounds; see diffusion/guidance.py. A setting is a field of Guiding.
SETTINGS = {
    "linear": {}, "rescaled": {"phi": (0, 1)}, "cfg-plus-plus": {},
    "projected": {"eta": (0, 1), "norm": (1e-6, 1e6), "momentum": (-0.99, 0.99)}, "classifier": {},
}  # fmt: skip


class Guide(Section):
    """The worse network of autoguidance: an earlier one of this run, or a variant's that trained for a share of the epochs."""

    run: Word | None = None  # name of the variant; None is this run
    share: Annotated[float, Field(gt=0, le=1)] | None = None  # of train.epochs
    weights: Weights | None = None  # None is those that are guided
    at: Count | None = None  # images seen; None is the end of the training

    def conflicts(self):
        if (self.run is None) != (self.share is None) or not (self.run or self.weights or self.at):
            yield "against: give run and share, or weights or at of this run, which make another network"


class Guiding(Section):
    """A way to guide without its scale."""

    combine: Literal[tuple(SETTINGS)] = "linear"
    between: Annotated[tuple[Sigma, Sigma], Tuple(2, 2)] | None = None  # noise levels σ; None is all of them
    against: Guide | None = None  # None is the same network without a condition
    phi: float | None = None
    eta: float | None = None
    norm: float | None = None
    momentum: float | None = None

    def settings(self) -> dict[str, float]:
        return {key: getattr(self, key) for key in SETTINGS[self.combine]}

    def conflicts(self):
        for key in dict.fromkeys(key for settings in SETTINGS.values() for key in settings):
            low, high = SETTINGS[self.combine].get(key, (None, None))
            value = getattr(self, key)
            if (value is None) != (low is None) or (value is not None and not low <= value <= high):
                rule = "is not taken" if low is None else f"must be from {low:g} to {high:g}"
                yield f"guidance: {self.combine}.{key} = {value} {rule}"
        if self.between and self.between[0] >= self.between[1]:
            yield f"guidance: between = {list(self.between)} must be [low, high] with low < high"
        if self.combine == "classifier" and self.against:
            yield "guidance: classifier takes no against: its gradient is added to the unconditional answer"


class Guidance(Guiding):
    """One way to guide at one scale."""

    w: Scale


class Method(Guiding):
    """A named way to guide, with the scales it is tried at."""

    name: Word
    w: Annotated[tuple[Scale, ...], Tuple(1)]

    def each(self) -> list[Guidance]:
        way = {key: getattr(self, key) for key in Guiding.model_fields}
        return [Guidance(**way, w=w) for w in self.w]


class Solver(Section):
    """How the path from noise to image is solved."""

    sampler: Literal["ddpm", "ddim", "dpmpp-2m", "unipc", "heun"]
    steps: Annotated[int, Field(ge=1, le=100_000)]
    eta: Annotated[float, Field(ge=0, le=1)]  # of ddim: 0 adds no noise on the way, 1 as much as ddpm
    spacing: Literal["leading", "linspace", "trailing", "karras"]  # of the timesteps that are visited
    v: Annotated[float, Field(ge=0, le=1)] = 0.0  # of ddpm: its variance from the lower bound, 0, to the upper, 1

    @property
    def starts_late(self) -> bool:
        """Whether the noisiest timestep is not visited, so that diffusers' `steps_offset` is read, and would move the others."""
        return self.spacing == "leading"

    def misses_noise_level(self, timesteps: int) -> bool:
        """Whether diffusers' DDIM steps to another noise level than that of the next timestep: where they are not evenly spaced."""
        uneven = self.spacing == "linspace" or (self.spacing == "trailing" and timesteps % self.steps > 0)
        return self.sampler == "ddim" and uneven

    def conflicts(self):
        if self.eta and self.sampler != "ddim":
            yield f"eta = {self.eta:g} is for sampler = ddim, not {self.sampler}"
        if self.v and self.sampler != "ddpm":
            yield f"v = {self.v:g} is for sampler = ddpm, not {self.sampler}"


class Sample(Solver):
    guidance: Annotated[tuple[Scale, ...], Tuple(1)]  # of plain classifier-free guidance
    methods: Annotated[tuple[Method, ...], Tuple(0)] = ()
    solvers: Annotated[tuple[Solver, ...], Tuple(0)] = ()  # others to compare with
    seed: Annotated[int, Field(ge=0, lt=2**63)]
    batch: Count
    weights: Weights

    @property
    def solver(self) -> Solver:
        """The run's own, as one of those that are compared."""
        return Solver(**{key: getattr(self, key) for key in Solver.model_fields})

    def conflicts(self):
        yield from super().conflicts()
        names = [method.name for method in self.methods]
        if len(set(names)) < len(names):
            yield f"sample.methods = {names[:9]} must name every method once: put all its scales into one entry's w"


class Evaluate(Section):
    samples: Annotated[int, Field(ge=30, le=1_000_000)]  # per guidance scale
    trainings: Annotated[int, Field(ge=1, le=100)] = (
        1  # of each kind, for claims about training: seeds train.seed, + 1, …
    )
