"""What the cache of latents saves: a training step that reads them, one that encodes its images, and one in pixels, of the same network.

The published network and the autoencoder of Stable Diffusion at 256×256, where their weights are not at hand with random ones: what a
step costs does not depend on them. Each way runs in a process of its own.
"""

import math
import time
from collections.abc import Callable
from unittest import mock

import torch

from guidebook import params as P
from guidebook.bench import measuring
from guidebook.bench.apart import apart
from guidebook.captions import attribute_caption
from guidebook.data.images import load
from guidebook.diffusion import scheduler
from guidebook.guidance import classifier_free
from guidebook.models import vae
from guidebook.models.unet import build, gflops, parameters, suit
from guidebook.processes import world
from guidebook.sampler import sample
from guidebook.space import Latents, shape_of
from guidebook.text import encode, resolve
from guidebook.trainer import Trainer

WAYS = ("latents kept", "latents encoded in the step", "pixels")
VAE, SIDE, SET, TIMED = "stabilityai/sd-vae-ft-mse", 256, 64, 3  # steps of a turn after the first
STEPS = 50  # of the sample


class Encoding(Latents):
    """Latents that are not kept: every batch goes through the autoencoder."""

    def learnt(self, data, stop=None):
        return data

    def x0(self, images, mirrored, noise):
        return vae.posterior(self.autoencoder.encode(images).to(noise.device), noise, self.autoencoder.scale)


def latents(say: Callable[[str], None], params: P.Params | None = None, repeats: int = 3) -> dict:
    """Images per second and memory of each way to train; one sample; captions per second; bytes that an image takes."""
    params = _drawn(P.load("celeba", "paper"))
    turns = {way: lambda way=way: apart(_step, params.yaml(), way, watched=False) for way in WAYS[:2]}
    found = measuring.alternate(turns, repeats)
    found["pixels"] = [apart(_step, params.yaml(), "pixels", watched=False)]
    held = {way: apart(_step, params.yaml(), way) for way in WAYS}
    drawn = apart(_sample, params.yaml())
    rows = [
        {
            "name": way, "speed": measuring.spread([params.train.batch / t["step_s"] for t in values]),
            "memory_mb": held[way]["device_mb"] or held[way]["memory_mb"], "elements": held[way]["elements"],
            "gflops": held[way]["gflops"], "ms_by_part": values[0]["ms_by_part"],
        }
        for way, values in found.items()
    ]  # fmt: skip
    kept, encoded = ([1 / t["step_s"] for t in found[way]] for way in WAYS[:2])
    ratios = [measuring.ratio("a step", kept, encoded, "latents kept / encoded in the step")]
    several = [kept[0]], [1 / found["pixels"][0]["step_s"]]
    ratios += [measuring.ratio("a step of as wide a network", *several, "latents kept / pixels")]
    facts = {
        "batch": params.train.batch, "bytes_per_image": held[WAYS[0]]["bytes"], "captions_per_s": _captions(),
        "weights": "published" if vae.at_hand(VAE) else "random", **{k: drawn[k] for k in ("sample_s", "decode_s", "sample_mb")},
        "parameters": drawn["parameters"],
    }  # fmt: skip
    report = measuring.report("latents", params, rows, ratios, **facts)
    measuring.tell(say, report)
    return report


def _drawn(params: P.Params) -> P.Params:
    """The published setting with drawn faces, and a batch that the device takes in all three ways."""
    batch = 32 if torch.cuda.is_available() else 1
    return params.replace(
        data={"name": "faces", "limit": SET, "phrasings": 1}, text={"encoder": resolve(params.text.encoder)},
        train={"batch": batch, "epochs": 1e5, "precision": "bf16" if torch.cuda.is_available() else "fp32"},
    )  # fmt: skip


def _autoencoder(name: str, data) -> vae.Autoencoder:
    """Stable Diffusion's, with random weights where the published ones are not at hand."""
    if vae.at_hand(name):
        return vae.autoencoder(name, data)
    network = vae.AutoencoderKL(
        block_out_channels=(128, 256, 512, 512), down_block_types=("DownEncoderBlock2D",) * 4, layers_per_block=2,
        up_block_types=("UpDecoderBlock2D",) * 4, latent_channels=4, norm_num_groups=32, sample_size=256,
    )  # fmt: skip
    return vae.Autoencoder(
        network.eval().requires_grad_(False).to(world().device, memory_format=torch.channels_last), "random"
    )


def _step(text: str, way: str) -> dict:
    import yaml

    params = P.check(yaml.safe_load(text), "the bench")
    if way == "pixels":
        params = params.replace(model={"vae": None})
    data = load(params.data)
    with mock.patch("guidebook.space.autoencoder", _autoencoder):
        if way == "latents encoded in the step":
            with mock.patch("guidebook.trainer.space", Encoding):
                trainer = Trainer(params, data)
        else:
            trainer = Trainer(params, data)
    held = trainer.feed.images[0]
    facts = {"elements": math.prod(trainer.space.shape), "gflops": gflops(trainer.model.cpu(), params.text.tokens)}
    trainer.model.to(world().device)
    facts |= {"bytes": held.numel() * held.element_size()}
    trainer.step()
    trainer.flush()
    measuring.wait()
    started, steps = time.perf_counter(), TIMED if way != "pixels" or torch.cuda.is_available() else 1
    for _ in range(steps):
        trainer.step()
    line = trainer.flush()
    spent = (time.perf_counter() - started) / steps
    device = torch.cuda.max_memory_allocated() / 2**20 if torch.cuda.is_available() else None
    return facts | {"step_s": spent, "ms_by_part": line["ms_by_part"], "device_mb": device}


@torch.no_grad()
def _sample(text: str) -> dict:
    """One image of the published size: 50 steps of DDPM with guidance, then the decoder."""
    import yaml

    params = P.check(yaml.safe_load(text), "the bench")
    device, model = world().device, suit(build(params).eval(), world().device, params.train)
    told = encode(params.text, ["A photo of a young woman", ""]).to(device)
    steps = scheduler(params.diffusion, "ddpm", "leading", clip=False)
    steps.set_timesteps(STEPS, device=device)
    denoise = classifier_free(lambda x, t, cond: model(x, t, cond, return_dict=False)[0], told[:1], told[1:], 2.0)
    started = time.perf_counter()
    *_, (_, x) = sample(denoise, steps, shape_of(params), [0])
    measuring.wait()
    drawn = time.perf_counter()
    _autoencoder(VAE, params.data).decode(x)
    memory = torch.cuda.max_memory_allocated() / 2**20 if torch.cuda.is_available() else None
    found = {"sample_s": drawn - started, "decode_s": time.perf_counter() - drawn, "sample_mb": memory}
    return found | {"parameters": parameters(model)}


def _captions(n: int = 50_000) -> float:
    """Captions a second that one core builds, of faces as often as CelebA has them."""
    labels = load(P.load("celeba", "demo").data).train.labels.tolist()
    started = time.perf_counter()
    for i in range(n):
        attribute_caption(labels[i % len(labels)], 0, i, 0)
    return n / (time.perf_counter() - started)
