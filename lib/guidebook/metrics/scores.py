"""Scores of single images, read by a network: Inception Score and CLIP score."""

import math

import torch

from guidebook.metrics.intervals import Interval, Z, mean


# IS = exp(E_x KL(p(y|x) ‖ p(y)))   (Salimans et al. 2016)
def inception_score(logits: torch.Tensor) -> Interval:
    """Inception Score of logits (n, K), over all n at once: the mean over ten parts, as others report it, is lower.

    Interval: the influence of an image on log IS is its own divergence, so the standard error is that of their mean.
    """
    log = logits.double().log_softmax(1)
    divergence = (log.exp() * (log - log.exp().mean(0).clamp(min=1e-300).log())).sum(1)
    value, error = float(divergence.mean()), Z * float(divergence.std()) / len(divergence) ** 0.5
    return math.exp(value), math.exp(value - error), math.exp(value + error)


# CLIPScore = 100 max(cos(image, caption), 0)   (Hessel et al. 2021, eq. 1, with 100 for their 2.5, as is usual since)
def clip_score(images: torch.Tensor, captions: torch.Tensor) -> Interval:
    """CLIP score of images (n, D) and their captions (n, D), both of length 1."""
    return mean(100 * (images * captions).sum(1).clamp(min=0).double().numpy())
