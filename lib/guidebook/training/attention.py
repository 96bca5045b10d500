"""How attention attends: where queries and keys grow in training, one key takes all the weight (Esser et al. 2024, section 5.3.2)."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

HEADS = 32  # of each call, those of the first images: what long sequences cost stays small


class AttentionStatistics(TorchFunctionMode):
    """Every softmax(q kᵀ / √d) v that torch computes inside, by its one function for it, where that has no mask, or by the method
    `softmax` of logits (…, T, S)."""

    def __init__(self):
        super().__init__()
        self._largest, self._entropies = [], []

    def __torch_function__(self, function, types, args=(), kwargs=None):
        given = kwargs or {}
        if function is F.scaled_dot_product_attention and not (args[3:] or given.get("attn_mask") is not None):
            with torch.autocast(args[0].device.type, enabled=False):
                queries, keys = (x.flatten(0, 1)[:HEADS].float() for x in args[:2])
                # One head of one image at a time: (T, S) is all that is held
                for q, k in zip(queries, keys, strict=True):
                    self._watch(q @ k.mT / math.sqrt(q.shape[-1]))
        elif function is torch.Tensor.softmax and args[0].ndim > 2:
            for logits in args[0].flatten(0, -3)[:HEADS]:
                self._watch(logits.float())
        return function(*args, **given)

    # max |q · k| / √d;  H = −Σ p log p / log S of p = softmax(q kᵀ / √d) over S keys
    def _watch(self, logits: Tensor) -> None:
        """Logits (T, S) of a head of an image."""
        self._largest.append(logits.abs().amax())
        if (keys := logits.shape[-1]) > 1:
            chances = logits.log_softmax(-1)
            self._entropies.append(-(chances.exp() * chances).sum(-1).mean() / math.log(keys))

    def facts(self) -> dict:
        """The largest logit, and the mean entropy of the weights as a share of the largest possible; nothing where nothing attended to two keys or more."""
        if not self._entropies:
            return {}
        largest, entropy = torch.stack(self._largest).max(), torch.stack(self._entropies).mean()
        return {"largest_logit": largest.item(), "attention_entropy": entropy.item()}
