"""How attention attends: where queries and keys grow in training, one key takes all the weight (Esser et al. 2024, section 5.3.2)."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

HEADS = 32  # of each call, those of the first images: what long sequences cost stays small


class AttentionStatistics(TorchFunctionMode):
    """Every softmax(q kᵀ / √d) v that torch's one function for it computes inside, but those with a mask."""

    def __init__(self):
        super().__init__()
        self._largest, self._entropies = [], []

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function is F.scaled_dot_product_attention and not (args[3:] or (kwargs or {}).get("attn_mask") is not None):
            with torch.autocast(args[0].device.type, enabled=False):
                self._watch(*(x.flatten(0, 1)[:HEADS].float() for x in args[:2]))
        return function(*args, **(kwargs or {}))

    # max |q · k| / √d;  H = −Σ p log p / log T of p = softmax(q kᵀ / √d) over T keys
    def _watch(self, queries: Tensor, keys: Tensor) -> None:
        for q, k in zip(queries, keys, strict=True):  # one head of one image at a time: (T, T) is all that is held
            logits = q @ k.mT / math.sqrt(q.shape[-1])
            self._largest.append(logits.abs().amax())
            if len(k) > 1:
                chances = logits.log_softmax(-1)
                self._entropies.append(-(chances.exp() * chances).sum(-1).mean() / math.log(len(k)))

    def facts(self) -> dict:
        """The largest logit, and the mean entropy of the weights as a share of the largest possible; nothing where nothing attended to two keys or more."""
        if not self._entropies:
            return {}
        largest, entropy = torch.stack(self._largest).max(), torch.stack(self._entropies).mean()
        return {"largest_logit": largest.item(), "attention_entropy": entropy.item()}
