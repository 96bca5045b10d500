"""What the cache of latents saves: a training step that reads them, one that encodes its images, and one in pixels, of the same network.

The published network and the autoencoder of Stable Diffusion at 256×256, where their weights are not at hand with random ones: what a
step costs does not depend on them. Each way runs in a process of its own.
"""

import math
import statistics
import time
from collections.abc import Callable

import torch
import yaml

from bench import measuring
from bench.apart import apart
from guidebook.conditioning.condition import Condition
from guidebook.conditioning.encoders import encode
from guidebook.conditioning.grammar import attribute_caption
from guidebook.config import params as P
from guidebook.config import pretrained
from guidebook.config.schema import Solver
from guidebook.data.images import from_uint8, load
from guidebook.diffusion.guidance import conditional_or_not, linear
from guidebook.diffusion.objective import objective
from guidebook.models import autoencoder as vae
from guidebook.models import build
from guidebook.models.cost import cost
from guidebook.models.space import Latents, shape_of
from guidebook.runtime.distributed import world
from guidebook.runtime.precision import native_bf16
from guidebook.runtime.rng import generator
from guidebook.sampling.sampler import sample
from guidebook.training.step import prepared

WAYS = KEPT, ENCODED, PIXELS = ("latents kept", "latents encoded in the step", "pixels")
SET, STEPS = 32, 50  # images; steps of the sample
WARM, TIMED = 3, 3  # steps of a turn; of pixels on a CPU one each
# Images of a step on a CPU: of latents alone, and beside pixels, whose steps are long. On a GPU both are 32.
MANY, FEW = 8, 1


class Encoding(Latents):
    """Latents that are not kept: every batch goes through the autoencoder, on the device and in the precision of the training."""

    def __init__(self, params: P.Params, autoencoder: vae.Autoencoder):
        super().__init__(params, autoencoder)
        self.bf16 = params.train.precision == "bf16"

    def learnt(self, data):
        return data

    @torch.no_grad()
    def x0(self, images, mirrored, noise):
        with torch.autocast(noise.device.type, torch.bfloat16, enabled=self.bf16):
            given = self.autoencoder.network.encode(from_uint8(images, -1.0, 1.0)).latent_dist
        return vae.posterior(given.parameters.float(), noise, self.autoencoder.scale)


def latents(say: Callable[[str], None], params: P.Params | None = None, repeats: int = 3) -> dict:
    """Images per second and memory of each way to train; one sample; captions per second; bytes that an image takes."""
    params, gpu = params or _drawn(P.load("celeba", "paper")), torch.cuda.is_available()
    many, few = (32, 32) if gpu else (MANY, FEW)

    def turn(way: str, batch: int, watched: bool = False) -> dict:
        return apart(_step, params.replace(train={"batch": batch}).yaml(), way, watched=watched)

    often = dict.fromkeys([(KEPT, many), (ENCODED, many), (KEPT, few), *([(PIXELS, few)] if gpu else [])])
    found = measuring.alternate({way: lambda way=way: turn(*way) for way in often}, repeats)
    if not gpu:  # a step in pixels takes a CPU minutes
        found[PIXELS, few] = [turn(PIXELS, few)]
    held = {way: turn(*way, watched=True) for way in found}
    drawn = apart(_sample, params.yaml())
    rows = [
        {
            "name": f"{way}, batch {batch}", "speed": measuring.spread([batch / t["step_s"] for t in values]),
            "step_s": statistics.median(t["step_s"] for t in values),
            "memory_mb": held[way, batch]["device_mb"] or held[way, batch]["memory_mb"],
            "elements": held[way, batch]["elements"], "gflops": held[way, batch]["gflops"], "ms_by_part": values[0]["ms_by_part"],
        }
        for (way, batch), values in found.items()
    ]  # fmt: skip
    rates = {way: [1 / t["step_s"] for t in values] for way, values in found.items()}
    pixels = rates[PIXELS, few]
    ratios = [
        measuring.ratio(
            "a step", rates[KEPT, many], rates[ENCODED, many], f"latents kept / encoded in the step, batch {many}"
        ),
        measuring.ratio(
            "a step of as wide a network",
            rates[KEPT, few],
            pixels,
            f"latents kept / pixels, batch {few}",
        ),
    ]
    facts = drawn | {
        "precision": params.train.precision, "text_encoder": params.text.encoder,
        "bytes_per_image": held[KEPT, many]["bytes"], "captions_per_s": _captions(),
        "weights": "published" if pretrained.available(params.model.vae) else "random",
    }  # fmt: skip
    report = measuring.report("latents", params, rows, ratios, **facts)
    measuring.tell(say, report)
    return report


def _drawn(params: P.Params) -> P.Params:
    """The published setting with drawn faces, in the precision that is fast here."""
    bf16 = native_bf16()
    return params.replace(
        data={"name": "faces", "limit": SET, "phrasings": 1}, text={"encoder": pretrained.resolve(params.text.encoder)},
        train={"epochs": 1e5, "precision": "bf16" if bf16 else "fp32"},
    )  # fmt: skip


def _autoencoder(params: P.Params) -> vae.Autoencoder:
    """Stable Diffusion's, with random weights where the published ones are not at hand."""
    if pretrained.available(params.model.vae):
        return vae.autoencoder(params.model.vae, params.data)
    network = vae.AutoencoderKL(
        block_out_channels=(128, 256, 512, 512), down_block_types=("DownEncoderBlock2D",) * 4, layers_per_block=2,
        up_block_types=("UpDecoderBlock2D",) * 4, latent_channels=4, norm_num_groups=32, sample_size=256,
    )  # fmt: skip
    return vae.Autoencoder(
        network.eval().requires_grad_(False).to(world().device, memory_format=torch.channels_last), "random"
    )


def _step(text: str, way: str) -> dict:
    """Seconds of a step, once the first ones are done; how many numbers the model learns of an image, and the bytes that are kept of it."""
    params = P.check(yaml.safe_load(text), "the bench")
    if way == PIXELS:
        params, where = params.replace(model={"vae": None}), None
    else:
        where = (Encoding if way == ENCODED else Latents)(params, _autoencoder(params))
    trainer = prepared(params, where=where)
    held = trainer.feed.images[0]
    facts = {"elements": math.prod(trainer.space.shape), "bytes": held.numel() * held.element_size()}
    briefly = way == PIXELS and not torch.cuda.is_available()
    for _ in range(1 if briefly else WARM):
        trainer.step()
    trainer.flush()
    measuring.wait()
    started, steps = time.perf_counter(), 1 if briefly else TIMED
    for _ in range(steps):
        trainer.step()
    line = trainer.flush()
    spent = (time.perf_counter() - started) / steps
    facts |= {"step_s": spent, "ms_by_part": line["ms_by_part"], "device_mb": _device_mb()}
    return facts | {"gflops": cost(params).gflop}


@torch.no_grad()
def _sample(text: str) -> dict:
    """One image of the published size: 50 steps of DDPM with guidance, then the decoder; and the size of both networks."""
    params = P.check(yaml.safe_load(text), "the bench")
    device, model = world().device, build(params).eval().place(world().device, params.train)
    told = encode(params.text, ["A photo of a young woman", ""]).to(device)
    path, decoder = objective(params.objective, dtype=torch.float64), _autoencoder(params)
    solver = Solver(sampler="ddpm", steps=STEPS, eta=0.0, spacing="leading")
    if params.train.precision == "bf16":
        model.halve()
    pair = conditional_or_not(path, model, Condition(tokens=told[:1]), Condition(tokens=told[1:]))
    denoise, rngs = linear(pair, 2.0), [generator(0, "image")]
    with torch.autocast(device.type, torch.bfloat16, enabled=params.train.precision == "bf16"):
        x0, _ = denoise(torch.randn(1, *shape_of(params), device=device), torch.tensor(980.0))
        decoder.decode(x0.float())  # warms up
        measuring.wait()
        started = time.perf_counter()
        *_, (_, x) = sample(denoise, path, solver, shape_of(params), rngs, device)
    measuring.wait()
    drawn = time.perf_counter()
    decoder.decode(x.float())
    found = {"sample_s": drawn - started, "decode_s": time.perf_counter() - drawn, "sample_mb": _device_mb()}
    return found | {
        "parameters": cost(params).parameters,
        "vae_parameters": sum(p.numel() for p in decoder.network.parameters()),
    }


def _device_mb() -> float | None:
    """The most of a GPU's memory that was taken so far; None without one."""
    return torch.cuda.max_memory_allocated() / 2**20 if torch.cuda.is_available() else None


def _captions(n: int = 50_000) -> float:
    """Captions a second that one core builds, of drawn faces."""
    labels = load(P.load("celeba", "demo").data).train.labels.tolist()
    started = time.perf_counter()
    for i in range(n):
        attribute_caption(labels[i % len(labels)], 0, i, 0)
    return n / (time.perf_counter() - started)
