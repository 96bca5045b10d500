"""Files of published weights: where they lie on this machine, and whether they are what was published. Imports no torch."""

import functools
import hashlib
import importlib.util
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from guidebook.config.paths import local_data
from guidebook.config.pretrained import CLIP, folder

if TYPE_CHECKING:
    import torch


class WeightsMissing(RuntimeError):
    """Weights that are not on this machine, or not those that were published. One line: which file, and where to put it."""


@dataclass(frozen=True)
class Weights:
    """One file as its authors published it."""

    file: str
    sha256: str  # hex digits that the hash of the file begins with
    source: str  # its URL, or `package/folder` of an installed package that ships it

    @property
    def id(self) -> str:
        return self.sha256[:8]

    def path(self) -> Path | None:
        """The file: in `$GUIDEBOOK_DATA/weights` or torch.hub's cache, or in the package that ships it."""
        if self.source.startswith("https:"):
            data, caches = local_data(), os.environ.get("XDG_CACHE_HOME", "~/.cache")
            hub = Path(os.environ.get("TORCH_HOME", f"{caches}/torch")).expanduser() / "hub"
            folders = [*([data / "weights"] if data else []), hub / "checkpoints"]
        else:
            package, _, inner = self.source.partition("/")
            spec = importlib.util.find_spec(package)
            folders = [Path(spec.submodule_search_locations[0]) / inner] if spec else []
        return next((folder / self.file for folder in folders if (folder / self.file).is_file()), None)

    def why_absent(self) -> str | None:
        """One line on why it cannot be read, or None."""
        if (path := self.path()) is None:
            return f"{self.file} is not available: put it into $GUIDEBOOK_DATA/weights or torch's cache, hub/checkpoints (from {self.source})"
        if not (sha := _sha256(path, path.stat().st_size, path.stat().st_mtime_ns)).startswith(self.sha256):
            found = f"{path} is not the published file: its sha256 begins with {sha[:8]}, not {self.id}"
            return f"{found}; put that of {self.source} there"
        return None

    def read(self) -> "dict[str, torch.Tensor]":
        """The tensors by name, on the CPU. Raises WeightsMissing."""
        import torch

        if why := self.why_absent():
            raise WeightsMissing(why)
        # These files are published as pickles only; their hash is known, and `weights_only` builds nothing but tensors.
        return torch.load(self.path(), weights_only=True, map_location="cpu")


@functools.lru_cache(maxsize=16)
def _sha256(path: Path, size: int, changed: int) -> str:
    """The hash of a file, computed once while it has this size and this time of change."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


_FID = "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights"
INCEPTION = Weights("pt_inception-2015-12-05-6726825d.pth", "6726825d", f"{_FID}/pt_inception-2015-12-05-6726825d.pth")
_TORCH = "https://download.pytorch.org/models"
ALEXNET = Weights("alexnet-owt-7be5be79.pth", "7be5be79", f"{_TORCH}/alexnet-owt-7be5be79.pth")
LINEAR = Weights("alex.pth", "df73285e35b22355a2df87cdb6b70b34", "torchmetrics/functional/image/lpips_models")
RESNET = Weights("resnet18-f37072fd.pth", "f37072fd", f"{_TORCH}/resnet18-f37072fd.pth")
NEEDED = {"inception": (INCEPTION,), "lpips": (ALEXNET, LINEAR)}


def why_absent(group: str) -> str | None:
    """Why the weights of a group of metrics cannot be read, in one line, or None. Judges are trained where there is none."""
    if group == "clip":
        return None if folder(CLIP) else f"{CLIP} is not in the hub's cache: guidebook fetch EXPERIMENT brings it"
    if group == "published":  # its file may be missing, then the body is random, but not wrong
        return RESNET.why_absent() if RESNET.path() else None
    return next((why for weights in NEEDED.get(group, ()) if (why := weights.why_absent())), None)
