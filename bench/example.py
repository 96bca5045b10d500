"""The peer of the training bench: a loop with the structure of diffusers' examples, for the study's U-Net.

In structure it is `unconditional_image_generation/train_unconditional.py`: a data loader in this process, images transformed one by
one from PIL, accelerate, AdamW as torch makes it, a loss that is read at every step. What captions and latents need is done as in
`text_to_image/train_text_to_image.py`: the frozen encoders read the captions and the images of every batch. It is kinder than its
models in two things: the images are decoded, and the captions cut into tokens, before it starts.
"""

import copy

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from diffusers import UNet2DConditionModel
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel, compute_snr
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms
from tqdm import tqdm

from bench.measuring import Nowhere
from guidebook.conditioning.captions import NULL, class_captions
from guidebook.conditioning.encoders import parts
from guidebook.config.params import Data, Params
from guidebook.config.schema import Text
from guidebook.data.images import Images, Split
from guidebook.diffusion.solvers import scheduler
from guidebook.models import initial
from guidebook.models.space import space
from guidebook.runtime.distributed import world


def text_model(text: Text, captions: list[str]) -> tuple[torch.nn.Module, Tensor]:
    """The frozen encoder of a run, and its tokens (N, L) of N captions."""
    tokenizer, model = parts(text, captions)
    return model.requires_grad_(False), tokenizer(
        captions, padding="max_length", truncation=True, return_tensors="pt"
    ).input_ids


class Captioned(Dataset):
    """PIL images, transformed when they are read, each with the number of its caption."""

    def __init__(self, split: Split, data: Data):
        arrays = split.images.permute(0, 2, 3, 1).numpy()
        self.images = [Image.fromarray(a.squeeze(-1) if a.shape[-1] == 1 else a) for a in arrays]
        self.labels = split.labels
        low, high = data.range
        ways = [
            transforms.Resize(data.resolution, interpolation=transforms.InterpolationMode.BILINEAR),
            transforms.CenterCrop(data.resolution),
            *([transforms.RandomHorizontalFlip()] if data.flips else []),
            transforms.ToTensor(),
            transforms.Normalize([low / (low - high)], [1 / (high - low)]),
        ]
        self.transform = transforms.Compose(ways)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int) -> dict[str, Tensor]:
        return {"pixels": self.transform(self.images[i]), "caption": self.labels[i]}


class Moments(Dataset):
    """What the autoencoder says of each image (N, F, 2C, h, w), mirrored by chance where F = 2, with the number of its caption."""

    def __init__(self, split: Split):
        self.moments, self.labels = split.images, split.labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int) -> dict[str, Tensor]:
        way = torch.randint(self.moments.shape[1], ()).item()
        return {"pixels": self.moments[i, way].float(), "caption": self.labels[i]}


class Example:
    """The loop, a step at a time. `precision` is accelerate's `mixed_precision`; the example's default is fp32.

    `every_step`: captions and, in latents, images go through their encoders in every step; else they did before.
    """

    def __init__(self, params: Params, data: Images, precision: str, every_step: bool):
        AcceleratorState._reset_state()  # one process holds loops of both precisions here
        self.accelerator = Accelerator(mixed_precision="bf16" if precision == "bf16" else "no")
        t = self.params = params.train
        self.objective, self.noise_scheduler = params.objective, scheduler(params.objective)
        model, ids = text_model(params.text, [*class_captions(params.data.caption, data.classes), NULL])
        dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        self.text = model.to(world().device, dtype)
        self.ids, self.table = ids.to(world().device), None  # (classes + 1, L); the last is the null caption
        if not every_step:
            self.table = self.hidden(torch.arange(len(ids), device=world().device))

        seen: Dataset = Captioned(data.train, params.data)
        self.vae = None
        if params.model.vae:
            known = space(params)
            seen = seen if every_step else Moments(known.learnt(data).train)
            self.vae = copy.deepcopy(known.autoencoder.network).to(dtype=dtype, memory_format=torch.contiguous_format)

        unet = initial(params).stock().train()
        optimizer = torch.optim.AdamW(unet.parameters(), lr=t.lr, weight_decay=t.weight_decay)
        loader = DataLoader(seen, batch_size=t.batch, shuffle=True)
        rate = get_scheduler("constant_with_warmup", optimizer, num_warmup_steps=t.warmup // t.batch)
        self.unet, self.optimizer, self.loader, self.rate = self.accelerator.prepare(unet, optimizer, loader, rate)
        self.ema = [EMAModel(unet.parameters(), d, model_cls=UNet2DConditionModel) for d in t.ema]
        for average in self.ema:
            average.to(self.accelerator.device)
        self.batches, self.bar = iter(self.loader), tqdm(file=Nowhere())

    def step(self) -> int:
        """One step on the next batch; the number of its images."""
        batch = next(self.batches, None)
        if batch is None:  # the next epoch
            self.batches = iter(self.loader)
            batch = next(self.batches)
        x0, caption = self.latents(batch["pixels"]), batch["caption"]
        dropped = torch.rand(len(x0), device=x0.device) < self.params.caption_dropout
        t = torch.randint(0, self.objective.timesteps, (len(x0),), device=x0.device)
        self.learn(x0, torch.randn_like(x0), t, torch.where(dropped, len(self.ids) - 1, caption))
        return len(x0)

    @torch.no_grad()
    def latents(self, pixels: Tensor) -> Tensor:
        """A draw of the latents of images (B, C, H, W), or of what is known of them (B, 2C, h, w); pixels as they are in pixel space."""
        if self.vae is None:
            return pixels
        known = self.table is not None
        given = (
            DiagonalGaussianDistribution(pixels) if known else self.vae.encode(pixels.to(self.vae.dtype)).latent_dist
        )
        return given.sample() * self.vae.config.scaling_factor

    def learn(self, x0: Tensor, eps: Tensor, t: Tensor, caption: Tensor) -> float:
        """One step on these images (B, C, H, W), this noise, these timesteps (B,) and numbers of captions (B,); the loss."""
        with self.accelerator.accumulate(self.unet):
            noisy = self.noise_scheduler.add_noise(x0, eps, t)
            predicted = self.unet(noisy, t, self.hidden(caption), return_dict=False)[0]
            loss = self.loss(predicted.float(), x0, eps, t)
            self.accelerator.backward(loss)
            if self.accelerator.sync_gradients and self.params.clip_norm is not None:
                self.accelerator.clip_grad_norm_(self.unet.parameters(), self.params.clip_norm)
            self.optimizer.step()
            self.rate.step()
            self.optimizer.zero_grad()
        if self.accelerator.sync_gradients:
            for average in self.ema:
                average.step(self.unet.parameters())
            self.bar.update(1)
        logs = {"loss": loss.detach().item(), "lr": self.rate.get_last_lr()[0]}
        self.bar.set_postfix(**logs)
        self.accelerator.log(logs)
        return logs["loss"]

    def loss(self, predicted: Tensor, x0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """The mean squared error of the prediction, weighted as the example does where params weigh it."""
        kind, gamma = self.objective.prediction, self.objective.min_snr_gamma
        target = {"epsilon": eps, "sample": x0}.get(kind)
        if target is None:
            target = self.noise_scheduler.get_velocity(x0, eps, t)
        if gamma is None:
            return F.mse_loss(predicted, target)
        snr = compute_snr(self.noise_scheduler, t)
        weight = snr.clamp(max=gamma) / {"epsilon": snr, "v_prediction": snr + 1, "sample": 1}[kind]
        return (F.mse_loss(predicted, target, reduction="none").mean((1, 2, 3)) * weight).mean()

    @torch.no_grad()
    def hidden(self, caption: Tensor) -> Tensor:
        """Embeddings (B, L, D) of captions (B,): read by the encoder, or looked up where it has read them all before."""
        return self.text(self.ids[caption], return_dict=False)[0] if self.table is None else self.table[caption]
