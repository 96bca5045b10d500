"""Files of published weights, found on this machine.

A file as its authors published it is read only when its bytes are the published ones. Of the same weights converted to safetensors
no published hash is known: they are taken as they are, and `id` names them for their own bytes.
"""

import functools
import hashlib
import importlib.util
import os
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file


class WeightsMissing(RuntimeError):
    """Weights that are not on this machine, or not those that were published. One line: which file, and where to put it."""


@dataclass(frozen=True)
class Weights:
    """One file as its authors published it."""

    file: str
    sha256: str  # hex digits that the hash of the file begins with
    inside: str | None = None  # the folder of an installed package that ships it, as `package/folder`
    url: str | None = None

    def path(self) -> Path | None:
        """The file, or the same weights as safetensors: in `$GUIDEBOOK_DATA/weights`, torch.hub's cache, the package that ships it."""
        folders = [Path(torch.hub.get_dir()) / "checkpoints"]
        if root := os.environ.get("GUIDEBOOK_DATA"):
            folders.insert(0, Path(root) / "weights")
        if self.inside:
            package, _, inner = self.inside.partition("/")
            spec = importlib.util.find_spec(package)
            folders = [Path(spec.submodule_search_locations[0]) / inner] if spec else []
        names = (self.file, f"{Path(self.file).stem}.safetensors")
        return next((path for folder in folders for name in names if (path := folder / name).is_file()), None)

    def why_absent(self) -> str | None:
        """One line on why it cannot be read, or None."""
        path, package = self.path(), self.inside and self.inside.partition("/")[0]
        if path is None and package:
            return f"{self.file} is missing: it comes with {package}, which is not installed"
        if path is None:
            return f"{self.file} is not available: put it into $GUIDEBOOK_DATA/weights or torch's cache, hub/checkpoints (from {self.url})"
        if not self._published(path):
            remedy = f"install {package} anew" if package else f"put that of {self.url} there"
            return (
                f"{path} is not the published file: its sha256 begins with {_sha256(path)[:8]}, not {self.sha256[:8]}; "
                f"delete it or {remedy}"
            )
        return None

    def id(self) -> str:
        """Eight hex digits of the bytes that are read; of a converted file its own, so that no number hides where it is from."""
        path = self._checked()
        return f"{'safetensors-' if path.suffix == '.safetensors' else ''}{_sha256(path)[:8]}"

    def read(self) -> dict[str, torch.Tensor]:
        """The tensors by name, on the CPU. Raises WeightsMissing."""
        path = self._checked()
        if path.suffix == ".safetensors":
            return load_file(path)
        # The one exception to "no weights by pickle": these files are published in no other form. Their bytes are known before
        # they are opened, and `weights_only` builds nothing but tensors.
        with open(path, "rb") as file:
            return torch.load(file, weights_only=True, map_location="cpu")

    def _checked(self) -> Path:
        if why := self.why_absent():
            raise WeightsMissing(why)
        return self.path()

    def _published(self, path: Path) -> bool:
        """Whether the bytes are the published ones, so far as that can be told."""
        return path.suffix == ".safetensors" or _sha256(path).startswith(self.sha256)


def _sha256(path: Path) -> str:
    facts = path.stat()
    return _hash_of(path, facts.st_size, facts.st_mtime_ns)


@functools.lru_cache(maxsize=16)
def _hash_of(path: Path, size: int, changed: int) -> str:
    """The hash of a file, computed once while it has this size and this time of change."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
