"""The protocol of a backbone: a network net(x, t, condition) → F, where F is what the objective makes of (x0, ε).

A new one is a file here, a row of `models.backbones` and a subclass of `Model` in `config.networks`; `tests/backbones.py` has the least.
"""

from abc import abstractmethod
from typing import Self

import torch
from diffusers import ConfigMixin, ModelMixin
from torch import Tensor

from guidebook.conditioning.condition import Condition
from guidebook.config.networks import Model
from guidebook.config.schema import Train


class Backbone(ModelMixin, ConfigMixin):
    """A subclass is one file; `@register_to_config` at its `__init__` keeps what it was made of. It is a row of `backbones()` in
    `guidebook.models` and a class in `guidebook.config.networks`; `tests/test_backbone.py` adds one."""

    config_name = "config.json"

    @classmethod
    @abstractmethod
    def of(cls, model: Model, shape: tuple[int, int, int], width: int) -> Self:
        """The network of a section of the params, for x of `shape` (C, H, W) and tokens of `width`; weights from torch's seed."""

    @abstractmethod
    def forward(self, x: Tensor, t: Tensor, cond: Condition) -> Tensor:
        """The prediction F (B, C, H, W), of noisy images x (B, C, H, W) at times t, (B,) or one for all.

        x and t come as the objective gives them to networks: scaled by its `scale`, and through its `embed`.
        """

    def place(self, device: torch.device, train: Train) -> Self:
        """This network on a device, in the memory layout and with the kernels that are fastest there.

        Raises ValueError for gradient checkpointing where the class does without diffusers' `_supports_gradient_checkpointing`.
        """
        if train.gradient_checkpointing:
            self.enable_gradient_checkpointing()
        return self.to(device, memory_format=torch.channels_last if train.channels_last else torch.preserve_format)

    def after_step(self) -> None:
        """Runs after every optimiser step, as for weights that are kept at norm 1 (Karras et al. 2024, EDM2)."""

    def halve(self) -> None:
        """Weights of products in bf16, so that autocast need not convert them at every step: the same numbers."""
        for module in self.modules():
            if isinstance(module, torch.nn.Conv2d | torch.nn.Linear):
                module.to(torch.bfloat16)

    def stock(self) -> ModelMixin:
        """The same network as a class of diffusers, for its own pipelines. Raises ValueError where diffusers has none."""
        name = type(self).__name__
        raise ValueError(f"diffusers' pipelines have no {name}: export it in pixel space, model.vae = null")
