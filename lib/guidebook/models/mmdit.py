"""MM-DiT: a transformer in which the tokens of image and text have weights of their own and one attention (Esser et al. 2024)."""

import torch
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from guidebook.config.networks import TABLE, Model
from guidebook.models.backbone import Backbone
from guidebook.models.dit import DiT, Norm, RMSNorm, attend, mlp

HEAD = 64  # numbers of a head


class Stream(nn.Module):
    """A block's layers for one kind of tokens x (B, T, d). With `ends`, for those that nothing reads after the attention."""

    def __init__(self, hidden: int, qk_norm: bool, ends: bool = False):
        super().__init__()
        self.norm1, self.qkv = Norm(hidden, 2 if ends else 3), nn.Linear(hidden, 3 * hidden)
        self.norm_q, self.norm_k = (RMSNorm(HEAD, eps=1e-6) if qk_norm else nn.Identity() for _ in range(2))
        self.out, self.norm2, self.mlp = (None,) * 3
        if not ends:
            self.out, self.norm2, self.mlp = nn.Linear(hidden, hidden), Norm(hidden, 3), mlp(hidden)

    # q ← g_q q / √(mean q² + ε), k ← g_k k / √(mean k² + ε) in each head   (Esser et al. 2024, section 5.3.2)
    def before(self, x: Tensor, c: Tensor) -> tuple[tuple[Tensor, Tensor, Tensor], Tensor | float]:
        """Queries, keys and values (B, T, num_heads, HEAD), and the gate of what they attend to."""
        x, gate = self.norm1(x, c)
        q, k, v = self.qkv(x).unflatten(-1, (3, -1, HEAD)).unbind(2)
        return (self.norm_q(q), self.norm_k(k), v), gate

    def after(self, x: Tensor, attended: Tensor, gate: Tensor | float, c: Tensor) -> Tensor | None:
        """The tokens after the block; None where nothing reads them."""
        if self.out is None:
            return None
        x = x + gate * self.out(attended)
        h, gate = self.norm2(x, c)
        return x + gate * self.mlp(h)


# softmax([q_x; q_y] [k_x; k_y]ᵀ / √64) [v_x; v_y] in each head   (Esser et al. 2024, figure 2)
class Block(nn.Module):
    """Attention over image and text, joined to one sequence."""

    def __init__(self, hidden: int, qk_norm: bool, last: bool):
        super().__init__()
        self.image, self.text = Stream(hidden, qk_norm), Stream(hidden, qk_norm, ends=last)

    def forward(self, x: Tensor, c: Tensor, context: Tensor) -> tuple[Tensor, Tensor | None]:
        (image, gate), (text, gate_of_text) = self.image.before(x, c), self.text.before(context, c)
        q, k, v = (torch.cat(both, 1).transpose(1, 2) for both in zip(image, text, strict=True))
        attended = attend(q, k, v).transpose(1, 2).flatten(2)  # (B, T + L, d)
        attended, of_text = attended[:, : x.shape[1]], attended[:, x.shape[1] :]
        return self.image.after(x, attended, gate, c), self.text.after(context, of_text, gate_of_text, c)


class MMDiT(DiT):
    """The pooled text, added to the embedding of the timestep, modulates both streams. Positions are those of a table of so many places
    across, at a `position_step` that is a third as published, cropped at its centre.
    Where an image has few patches, a third hardly tells neighbours apart, and 1 is better.
    """

    @register_to_config
    def __init__(
        self,
        channels: int,
        side: int,
        patch: int,
        hidden: int,
        layers: int,
        qk_norm: bool,
        width: int,
        pooled_width: int,
        table: int,
        position_step: float = 1 / 3,
    ):
        Backbone.__init__(self)
        places = ((table - side // patch) // 2 + torch.arange(side // patch)) * position_step
        blocks = [Block(hidden, qk_norm, last=i == layers - 1) for i in range(layers)]
        self._assemble(channels, places, patch, hidden, width, blocks, pooled_width=pooled_width)

    @classmethod
    def of(cls, model: Model, shape: tuple[int, int, int], width: int) -> "MMDiT":
        channels, side, _ = shape
        sizes = (model.patch, model.hidden, model.layers)
        return cls(channels, side, *sizes, model.qk_norm, width, width, TABLE, model.position_step)
