"""The networks whose features metrics compare, with their published weights: images in, rows of numbers out.

Where the weights are not on this machine `why_absent` says so, and nothing is read: there is no stand-in, so that no number stands
under a wrong name.
"""

import functools
from pathlib import Path

import torch
import torch.nn.functional as F

from guidebook.config.pretrained import CLIP, PRETRAINED, folder, located
from guidebook.metrics.weights import Weights, WeightsMissing
from guidebook.runtime.distributed import world
from guidebook.runtime.precision import exact

INCEPTION = Weights(
    "pt_inception-2015-12-05-6726825d.pth",
    "6726825d",
    url="https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/pt_inception-2015-12-05-6726825d.pth",
)


class Network:
    """A frozen network: a subclass gives it a name, what it gives, and `forward`. Networks of one name are equal."""

    name: str  # for the `extractor` field of records; it holds the first digits of the weights' hash
    gives: tuple[tuple[str, tuple[int, ...], str], ...] = ()  # of what `features` keeps: name, shape and dtype of rows
    batch = 100
    weights: tuple[Weights, ...] = ()

    def __eq__(self, other):
        return isinstance(other, Network) and self.name == other.name

    def __hash__(self):
        return hash(self.name)

    def why_absent(self) -> str | None:
        """One line on which file is missing and where to put it, or None."""
        return next((why for w in self.weights if (why := w.why_absent())), None)

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """Rows of numbers by name, each (B, …), of images (B, C, H, W) uint8 on the device."""
        raise NotImplementedError

    @torch.no_grad()
    @exact()
    def read(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """The same of any number of images, on the CPU. Raises WeightsMissing."""
        if why := self.why_absent():
            raise WeightsMissing(why)
        parts = [self.forward(part.to(world().device)) for part in images.split(self.batch)]
        return {name: torch.cat([p[name] for p in parts]).cpu() for name in parts[0]}


class Inception(Network):
    """Inception-v3 of Szegedy et al. (2016) as the FID of Heusel et al. (2017) uses it: pytorch-fid's weights and layers.

    Gives `features` (B, 2048), the last average pool, and `logits` (B, 1008) of the same forward pass. The logits have no bias, as
    in the code of the Inception Score (Salimans et al. 2016).
    """

    gives = (("features", (2048,), "float32"), ("logits", (1008,), "float32"))
    weights = (INCEPTION,)

    @property
    def name(self) -> str:
        return f"inception-{INCEPTION.id()}"

    def forward(self, images):
        body, last = _inception(INCEPTION.id(), world().device)
        x = F.interpolate(rgb(images) / 255, (299, 299), mode="bilinear", align_corners=False)
        features = body(2 * x - 1)
        return {"features": features, "logits": features @ last.T}


class Clip(Network):
    """CLIP ViT-B/32 (Radford et al. 2021): `features` (B, 512) of length 1, in one space with `captions`."""

    gives = (("features", (512,), "float32"),)

    @property
    def name(self) -> str:
        return f"{CLIP}@{PRETRAINED[CLIP].revision[:8]}"

    def why_absent(self):
        return None if folder(CLIP) else f"{CLIP} is not in the hub's cache: guidebook fetch EXPERIMENT brings it"

    def forward(self, images):
        model, _ = _clip(located(CLIP), world().device)
        size = model.config.vision_config.image_size
        x = F.interpolate(rgb(images), (size, size), mode="bicubic", antialias=True).round().clamp(0, 255) / 255
        mean = x.new_tensor([0.48145466, 0.4578275, 0.40821073])[:, None, None]
        std = x.new_tensor([0.26862954, 0.26130258, 0.27577711])[:, None, None]
        pooled = model.vision_model(pixel_values=(x - mean) / std).pooler_output
        return {"features": F.normalize(model.visual_projection(pooled), dim=-1)}

    @torch.no_grad()
    @exact()
    def captions(self, captions: list[str]) -> torch.Tensor:
        """Captions as rows (N, 512) of length 1."""
        model, tokenizer = _clip(located(CLIP), world().device)
        found = []
        for first in range(0, len(captions), self.batch):
            part = captions[first : first + self.batch]
            words = tokenizer(part, padding=True, truncation=True, max_length=77, return_tensors="pt")
            pooled = model.text_model(**words.to(world().device)).pooler_output
            found.append(F.normalize(model.text_projection(pooled), dim=-1).cpu())
        return torch.cat(found)


def rgb(images: torch.Tensor) -> torch.Tensor:
    """(B, 3, H, W) float32 in 0 … 255; a grey image three times."""
    return images.float().expand(-1, 3, -1, -1)


@functools.lru_cache(maxsize=1)
def _inception(id: str, device: torch.device) -> tuple[torch.nn.Module, torch.Tensor]:
    """The network up to the last pool, and the weights (1008, 2048) of its last layer."""
    from pytorch_fid import inception as fid
    from torchvision.models import inception_v3

    with torch.device("meta"):
        net = inception_v3(num_classes=1008, aux_logits=False, weights=None, init_weights=False, transform_input=False)
        net.Mixed_5b = fid.FIDInceptionA(192, pool_features=32)
        net.Mixed_5c = fid.FIDInceptionA(256, pool_features=64)
        net.Mixed_5d = fid.FIDInceptionA(288, pool_features=64)
        for name, channels in (("6b", 128), ("6c", 160), ("6d", 160), ("6e", 192)):
            setattr(net, f"Mixed_{name}", fid.FIDInceptionC(768, channels_7x7=channels))
        net.Mixed_7b = fid.FIDInceptionE_1(1280)
        net.Mixed_7c = fid.FIDInceptionE_2(2048)
    net.load_state_dict(INCEPTION.read(), assign=True)
    last, net.fc = net.fc.weight.to(device), torch.nn.Identity()
    return net.eval().to(device), last


@functools.lru_cache(maxsize=1)
def _clip(folder: Path, device: torch.device):
    from transformers import CLIPModel, CLIPTokenizerFast

    model = CLIPModel.from_pretrained(folder, use_safetensors=True, local_files_only=True)
    return model.eval().to(device), CLIPTokenizerFast.from_pretrained(folder, local_files_only=True)
