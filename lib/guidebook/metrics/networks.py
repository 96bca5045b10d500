"""The networks whose features metrics compare, with their published weights: there is no stand-in for them."""

import functools
import hashlib
import itertools

import torch
import torch.nn.functional as F

from guidebook.config.paths import runs
from guidebook.config.pretrained import CLIP, PRETRAINED, located
from guidebook.metrics.weights import ALEXNET, INCEPTION, LINEAR, Weights, WeightsMissing, why_absent
from guidebook.runs.artifact import Parts, arrays, artifact
from guidebook.runtime.distributed import world
from guidebook.runtime.precision import exact
from guidebook.runtime.seeds import generator

LEAST = 64  # pixels: AlexNet has nothing left of smaller images at its last layers
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
PART = 500  # images whose features are kept at a time: a stop is obeyed after each


class Network:
    """A frozen network: a subclass has a name, `gives` and `forward`."""

    name: str  # for the `extractor` field of records; it holds the first digits of the weights' hash
    gives: tuple[tuple[str, tuple[int, ...], str], ...] = ()  # name, shape and dtype of the rows that `features` keeps
    batch = 100
    weights: tuple[Weights, ...] = ()

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

    def features(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """`read`, kept in `runs/features`; several processes read a share each. Raises WeightsMissing and Preempted."""
        pixels = hashlib.sha256(f"{tuple(images.shape)}".encode())
        pixels.update(images.contiguous().numpy())

        def make(first: int, end: int):
            return {name: rows.numpy() for name, rows in self.read(images[first:end]).items()}, []

        parts = Parts([*range(0, len(images), PART), len(images)], {name: row for name, *row in self.gives})
        name, what = self.name.replace("/", "-"), f"images read by {self.name}"
        folder = artifact(runs() / "features", name, [pixels.hexdigest(), self.gives], make, parts, what)
        return {name: torch.from_numpy(rows) for name, rows in arrays(folder).items()}


class RandomConvolutions(Network):
    """Three layers of convolutions that were never trained: `features` (B, 64) know colours and textures, and no classes.

    Means and standard deviations over the places of the last 32 channels. The weights are drawn from a seed, for C channels of images.
    """

    gives, batch = (("features", (64,), "float32"),), 500

    def __init__(self, channels: int):
        rng, widths = generator("random convolutions", channels), (channels, 32, 64, 32)
        pairs = itertools.pairwise(widths)
        self.layers = [torch.randn(b, a, 3, 3, generator=rng) * (2 / (9 * a)) ** 0.5 for a, b in pairs]
        sha = hashlib.sha256(b"".join(w.numpy().tobytes() for w in self.layers)).hexdigest()
        self.name = f"random-convolutions-{sha[:8]}"

    def forward(self, images):
        x = images.float() / 127.5 - 1
        for i, weight in enumerate(self.layers):
            x = F.relu(F.conv2d(x if i == 0 else F.avg_pool2d(x, 2), weight.to(x.device), padding=1))
        return {"features": torch.cat([x.mean((2, 3)), x.std((2, 3))], 1)}


class Inception(Network):
    """Inception-v3 of Szegedy et al. (2016) as the FID of Heusel et al. (2017) uses it: pytorch-fid's weights and layers.

    `features` (B, 2048) are the last average pool; `logits` (B, 1008) have no bias, as in the code of Salimans et al. (2016).
    """

    name, weights = f"inception-{INCEPTION.id}", (INCEPTION,)
    gives = (("features", (2048,), "float32"), ("logits", (1008,), "float32"))

    def forward(self, images):
        x = F.interpolate(rgb(images) / 255, (299, 299), mode="bilinear", align_corners=False)
        features = self._body(2 * x - 1)
        return {"features": features, "logits": features @ self._last.T}

    @functools.cached_property
    def _body(self) -> torch.nn.Module:
        """The network up to the last pool; `_last` are the weights (1008, 2048) of the layer after it."""
        from pytorch_fid import inception as fid
        from torchvision.models import inception_v3

        with torch.device("meta"):
            net = inception_v3(num_classes=1008, aux_logits=False, init_weights=False, transform_input=False)
            net.Mixed_5b = fid.FIDInceptionA(192, pool_features=32)
            net.Mixed_5c = fid.FIDInceptionA(256, pool_features=64)
            net.Mixed_5d = fid.FIDInceptionA(288, pool_features=64)
            for name, channels in (("6b", 128), ("6c", 160), ("6d", 160), ("6e", 192)):
                setattr(net, f"Mixed_{name}", fid.FIDInceptionC(768, channels_7x7=channels))
            net.Mixed_7b = fid.FIDInceptionE_1(1280)
            net.Mixed_7c = fid.FIDInceptionE_2(2048)
        net.load_state_dict(self.weights[0].read(), assign=True)
        self._last, net.fc = net.fc.weight.to(world().device), torch.nn.Identity()
        return net.eval().to(world().device)


class Clip(Network):
    """CLIP ViT-B/32 (Radford et al. 2021): `features` (B, 512) of length 1, in one space with `captions`."""

    name = f"{CLIP}@{PRETRAINED[CLIP].revision[:8]}"
    gives = (("features", (512,), "float32"),)

    def why_absent(self):
        return why_absent("clip")

    def forward(self, images):
        size = self._model.config.vision_config.image_size
        x = F.interpolate(rgb(images), (size, size), mode="bicubic", antialias=True).round().clamp(0, 255) / 255
        mean = x.new_tensor([0.48145466, 0.4578275, 0.40821073])[:, None, None]
        std = x.new_tensor([0.26862954, 0.26130258, 0.27577711])[:, None, None]
        pooled = self._model.vision_model(pixel_values=(x - mean) / std).pooler_output
        return {"features": F.normalize(self._model.visual_projection(pooled), dim=-1)}

    @torch.no_grad()
    @exact()
    def captions(self, captions: list[str]) -> torch.Tensor:
        """Captions as rows (N, 512) of length 1."""
        from transformers import CLIPTokenizerFast

        tokenizer, rows = CLIPTokenizerFast.from_pretrained(located(CLIP), local_files_only=True), []
        for first in range(0, len(captions), self.batch):
            part = captions[first : first + self.batch]
            words = tokenizer(part, padding=True, truncation=True, max_length=77, return_tensors="pt")
            pooled = self._model.text_model(**words.to(world().device)).pooler_output
            rows.append(F.normalize(self._model.text_projection(pooled), dim=-1).cpu())
        return torch.cat(rows)

    @functools.cached_property
    def _model(self) -> torch.nn.Module:
        from transformers import CLIPModel

        model = CLIPModel.from_pretrained(located(CLIP), use_safetensors=True, local_files_only=True)
        return model.eval().to(world().device)


# d(x, x') = Σ_l 1/(H_l W_l) Σ_hw ‖w_l ⊙ (y_hw − y'_hw)‖², y of unit length along the channels   (Zhang et al. 2018, eq. 1)
class Lpips(Network):
    """`features` (B, D) whose squared Euclidean distance is the LPIPS of two images; AlexNet, version 0.1.

    Each layer is scaled by the roots of its weights, so all pairs of a set cost one pass an image. Images are enlarged to 64 pixels.
    """

    name, weights = f"lpips-alexnet-{ALEXNET.id}-{LINEAR.id}", (ALEXNET, LINEAR)

    def forward(self, images):
        x = rgb(images) / 127.5 - 1
        if x.shape[-1] < LEAST:
            x = F.interpolate(x, (LEAST, LEAST), mode="bilinear", align_corners=False)
        x, parts = (x - x.new_tensor(SHIFT)[:, None, None]) / x.new_tensor(SCALE)[:, None, None], []
        for layers, root in self._stages:
            x = layers(x)
            unit = x / (x.square().sum(1, keepdim=True) + 1e-8).sqrt()
            parts.append((unit * root / (x.shape[-2] * x.shape[-1]) ** 0.5).flatten(1))
        return {"features": torch.cat(parts, 1)}

    @functools.cached_property
    def _stages(self) -> list[tuple[torch.nn.Sequential, torch.Tensor]]:
        """AlexNet's five stages up to their ReLU, each with the roots (C, 1, 1) of LPIPS' weights of its channels."""
        from torchvision.models import alexnet

        body, linear = self.weights
        with torch.device("meta"):
            layers = alexnet().features
        known = {k.removeprefix("features."): v for k, v in body.read().items() if k.startswith("features.")}
        layers.load_state_dict(known, assign=True)
        roots = [w[0].clamp(min=0).sqrt().to(world().device) for _, w in sorted(linear.read().items())]
        slices = [layers[a:b].eval().to(world().device) for a, b in itertools.pairwise((0, 2, 5, 8, 10, 12))]
        return list(zip(slices, roots, strict=True))


def rgb(images: torch.Tensor) -> torch.Tensor:
    """(B, 3, H, W) float32 in 0 … 255; a grey channel three times."""
    return images.float().expand(-1, 3, -1, -1)


NETWORKS = {"inception": Inception(), "clip": Clip(), "lpips": Lpips()}
