"""Training in latents that are kept, in latents encoded in the step, and in pixels: one network, each way in a process of its own.

The published network and the autoencoder of Stable Diffusion at 256×256, with random weights where the published ones are not on this
machine: the cost of a step does not depend on them.
"""

import math
import statistics
import time

import torch
import yaml

from bench import measuring
from bench.apart import apart
from guidebook.conditioning.condition import Condition
from guidebook.conditioning.encoders import encode
from guidebook.conditioning.grammar import attribute_caption
from guidebook.config import params as P
from guidebook.config import pretrained
from guidebook.config.sampling import Solver
from guidebook.data.images import from_uint8, load
from guidebook.diffusion.guidance import conditional_or_not, linear
from guidebook.diffusion.objective import objective
from guidebook.models import autoencoder as vae
from guidebook.models import build
from guidebook.models.published import cost
from guidebook.models.space import Latents, shape_of
from guidebook.runtime.distributed import world
from guidebook.runtime.precision import native_bf16
from guidebook.runtime.seeds import generator
from guidebook.sampling.sampler import sample
from guidebook.training.step import prepared

KEPT, ENCODED, PIXELS = "latents kept", "latents encoded in the step", "pixels"
SET, STEPS = 32, 50  # images; steps of the sample
TIMED = 3  # steps of a turn, after as many; of pixels on a CPU, where they are long, one each
MANY, FEW = 8, 1  # images of a step on a CPU: of latents alone, and beside pixels. On a GPU both are 32.


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


def latents(params: P.Params, repeats: int = 3) -> dict:
    """Images per second and memory of each way to train; one sample; captions per second; bytes that an image takes."""
    gpu = torch.cuda.is_available()
    many, few = (32, 32) if gpu else (MANY, FEW)
    if params.data.name != "faces":  # drawn faces, in the precision that is fast here
        train = {"epochs": 1e5, "precision": "bf16" if native_bf16() else "fp32"}
        text = {"encoder": pretrained.resolve(params.text.encoder)}
        params = params.replace(data={"name": "faces", "limit": SET, "phrasings": 1}, text=text, train=train)

    def turn(way: str, n: int, watched: bool = False) -> dict:
        return apart(_step, params.replace(train={"batch": n}).yaml(), way, watched=watched)

    often = dict.fromkeys([(KEPT, many), (ENCODED, many), (KEPT, few), *[(PIXELS, few)] * gpu])
    steps = measuring.alternate({way: lambda way=way: turn(*way)["step_s"] for way in often}, repeats)
    held = {way: turn(*way, watched=True) for way in [*steps, (PIXELS, few)]}
    steps.setdefault((PIXELS, few), [held[PIXELS, few]["step_s"]])
    rates = {(way, n): [n / t for t in times] for (way, n), times in steps.items()}
    rows = [
        {
            "name": f"{way}, batch {n}", "speed": measuring.spread(rates[way, n]), "step_s": statistics.median(times),
            "memory_mb": held[way, n]["device_mb"] or held[way, n]["memory_mb"],
            "elements": held[way, n]["elements"], "gflops": held[way, n]["gflops"],
        }
        for (way, n), times in steps.items()
    ]  # fmt: skip
    what = f"{KEPT} / encoded in the step, batch {many}", f"{KEPT} / pixels, batch {few}"
    ratios = [
        measuring.ratio("a step", rates[KEPT, many], rates[ENCODED, many], what[0]),
        measuring.ratio("a step of as wide a network", rates[KEPT, few], rates[PIXELS, few], what[1]),
    ]
    facts = apart(_sample, params.yaml()) | {
        "precision": params.train.precision, "text_encoder": params.text.encoder,
        "bytes_per_image": held[KEPT, many]["bytes"], "captions_per_s": _captions(),
        "weights": "published" if pretrained.available(params.model.vae) else "random",
    }  # fmt: skip
    return measuring.report("latents", params, rows, ratios, **facts)


def _autoencoder(params: P.Params) -> vae.Autoencoder:
    """Stable Diffusion's, with random weights where the published ones are not on this machine."""
    if pretrained.available(params.model.vae):
        return vae.autoencoder(params.model.vae, params.data)
    from diffusers import AutoencoderKL

    network = AutoencoderKL(
        block_out_channels=(128, 256, 512, 512), down_block_types=("DownEncoderBlock2D",) * 4, layers_per_block=2,
        up_block_types=("UpDecoderBlock2D",) * 4, latent_channels=4, norm_num_groups=32, sample_size=256,
    )  # fmt: skip
    network = network.eval().requires_grad_(False).to(world().device, memory_format=torch.channels_last)
    return vae.Autoencoder(network, "random")


def _step(text: str, way: str) -> dict:
    """Seconds of a step, once the first ones are done; how many numbers the model learns of an image, and the bytes that are kept of it."""
    params = P.check(yaml.safe_load(text), "the bench")
    params = params.replace(model={"vae": None}) if way == PIXELS else params
    where = None if way == PIXELS else (Encoding if way == ENCODED else Latents)(params, _autoencoder(params))
    trainer = prepared(params, where=where)
    held, steps = trainer.feed.images[0], 1 if way == PIXELS and not torch.cuda.is_available() else TIMED

    def some() -> None:
        for _ in range(steps):
            trainer.step()
        trainer.flush()

    some()
    spent = measuring.seconds(some) / steps
    facts = {"elements": math.prod(trainer.space.shape), "bytes": held.numel() * held.element_size()}
    return facts | {"step_s": spent, "device_mb": measuring.device_mb(), "gflops": cost(params).gflop}


@torch.no_grad()
def _sample(text: str) -> dict:
    """One image of the published size: 50 steps of DDPM with guidance, then the decoder; and the size of both networks."""
    params = P.check(yaml.safe_load(text), "the bench")
    device, model = world().device, build(params).eval().place(world().device, params.train)
    embeddings = encode(params.text, ["A photo of a young woman", ""]).to(device)
    path, decoder = objective(params.objective, dtype=torch.float64), _autoencoder(params)
    solver = Solver(sampler="ddpm", steps=STEPS, eta=0.0, spacing="leading")
    if bf16 := params.train.precision == "bf16":
        model.halve()

    pair = conditional_or_not(path, model, *(Condition(tokens=row[None]) for row in embeddings))
    denoise, found, states = linear(pair, 2.0), {}, []

    def drawing() -> None:
        states.extend(x for _, x in sample(denoise, path, solver, shape_of(params), [generator(0, "image")], device))

    with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
        x0, _ = denoise(torch.randn(1, *shape_of(params), device=device), torch.tensor(980.0))
        decoder.decode(x0.float())  # warms up
        found["sample_s"] = measuring.seconds(drawing)
    found["decode_s"] = measuring.seconds(lambda: decoder.decode(states[-1].float()))
    sizes = {"parameters": cost(params).parameters, "sample_mb": measuring.device_mb()}
    return found | sizes | {"vae_parameters": sum(p.numel() for p in decoder.network.parameters())}


def _captions(n: int = 50_000) -> float:
    """Captions a second that one core builds, of drawn faces."""
    labels = load(P.load("celeba", "demo").data).train.labels.tolist()
    started = time.perf_counter()
    for i in range(n):
        attribute_caption(labels[i % len(labels)], 0, i, 0)
    return n / (time.perf_counter() - started)
