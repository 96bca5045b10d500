"""Memory that the activations of a training step take, counted on torch's meta device, which computes nothing."""

import functools
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map

from guidebook.config.params import Params
from guidebook.models import IMAGES, build, inputs

# What CUDA's autocast computes in bf16, and what in fp32 whatever it is given
HALF = {torch.conv1d, torch.conv2d, F.linear, torch.matmul, torch.bmm, F.scaled_dot_product_attention}
FULL = {F.group_norm, F.layer_norm}


class Kept(NamedTuple):
    """Bytes for each image of a batch."""

    saved: int  # from the forward to the backward
    again: int  # of the largest part that gradient checkpointing computes again; 0 without


def kept(params: Params) -> Kept:
    """Activations of a step of a run's backbone on a GPU, in fp32 or autocast's bf16, with gradient checkpointing or without."""
    with torch.device("meta"):
        net, given = build(params).train(), inputs(params)
    weights, parts = {w.untyped_storage() for w in net.parameters()}, [0]
    saved = Saved()

    def checkpoint(part: Callable, *inputs: Any) -> Any:
        with (inner := Saved()):
            out = part(*inputs)
        saved.add(*(x for x in inputs if isinstance(x, Tensor)))
        parts.append(inner.total(besides=weights | saved.storages))
        return out

    if params.train.gradient_checkpointing:
        net.enable_gradient_checkpointing(checkpoint)
    with OnGPU(params.train.precision != "fp32", weights), saved:
        net(**given)
    return Kept(saved.total(besides=weights) // IMAGES, max(parts) // IMAGES)


class Saved(saved_tensors_hooks):
    """The memory that operations keep for the backward while this context is open, every piece once."""

    def __init__(self):
        self.storages = set()
        super().__init__(self.add, lambda x: x)

    def add(self, *tensors: Tensor) -> Tensor:
        self.storages |= {x.untyped_storage() for x in tensors}
        return tensors[0]

    def total(self, besides: Iterable[torch.UntypedStorage]) -> int:
        """Its bytes, without those of other storages."""
        return sum(storage.nbytes() for storage in self.storages.difference(besides))


class OnGPU(TorchFunctionMode):
    """The precisions of autocast, and attention that keeps no matrix of its weights, as on a GPU. Copies of weights join `weights`."""

    def __init__(self, half: bool, weights: set[torch.UntypedStorage]):
        super().__init__()
        self._half, self._weights = half, weights

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kind = torch.bfloat16 if function in HALF else torch.float32 if function in FULL else None
        if kind and self._half:
            args, kwargs = tree_map(functools.partial(self._cast, kind=kind), (args, kwargs))
        if function is F.scaled_dot_product_attention:
            return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(*args[:3])[0]
        return function(*args, **(kwargs or {}))

    def _cast(self, x: Any, kind: torch.dtype) -> Any:
        if not isinstance(x, Tensor) or not x.is_floating_point():
            return x
        cast = x.to(kind)
        if x.untyped_storage() in self._weights:
            self._weights.add(cast.untyped_storage())
        return cast
