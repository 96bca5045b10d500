"""DiT: a transformer on the patches of an image, in four ways of conditioning on the timestep and the text (Peebles & Xie 2023)."""

import math

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from guidebook.conditioning.condition import Condition
from guidebook.config.networks import Model
from guidebook.models.backbone import Backbone

WAVES = 256  # numbers in the sinusoidal embedding of a timestep
PAIRS = 256**2  # of a query and a key, up to which a CPU attends by plain products in bf16


# (sin, cos)(v ω_k), ω_k = 10000^(−2k/n), k = 0 … n/2 − 1   (Vaswani et al. 2017, section 3.5)
def sinusoids(values: Tensor, n: int) -> Tensor:
    """Sinusoidal embeddings (…, n) of timesteps or positions (…), which need not be whole numbers."""
    k = torch.arange(n // 2, device=values.device)
    angles = values[..., None] * torch.exp(-math.log(10_000) * k / (n // 2))
    return torch.cat([angles.sin(), angles.cos()], -1)


def positions(places: Tensor, hidden: int) -> Tensor:
    """Fixed embeddings (side², hidden) of the points of a square, row by row: one half says the column, the other the row, which
    both have the `places` (side,)."""
    column, row = places.repeat(len(places)), places.repeat_interleave(len(places))
    return torch.cat([sinusoids(column, hidden // 2), sinusoids(row, hidden // 2)], -1)


def embedder(width: int, hidden: int) -> nn.Sequential:
    """The two layers that embed a timestep's sinusoids or a pooled text: (B, width) → (B, hidden)."""
    return nn.Sequential(nn.Linear(width, hidden), nn.SiLU(), nn.Linear(hidden, hidden))


def mlp(hidden: int) -> nn.Sequential:
    """The two layers of a block that are each token's own."""
    return nn.Sequential(nn.Linear(hidden, 4 * hidden), nn.GELU(approximate="tanh"), nn.Linear(4 * hidden, hidden))


# g x / √(mean x² + ε)   (Zhang & Sennrich 2019)
class RMSNorm(nn.RMSNorm):
    """RMS norm in the precision of x, for which torch has one kernel; autocast leaves the gain in another."""

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.normalized_shape, self.weight.to(x.dtype), self.eps)


# softmax(q kᵀ / √d) v   (Vaswani et al. 2017, equation 1)
def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Scaled dot-product attention (B, heads, T, d) of queries (B, heads, T, d) to keys and values (B, heads, S, d).

    On a CPU in bf16 the backward of torch's fused attention is slow: plain products, which round the logits to bf16, are three to five times
    as fast where there are few pairs. Elsewhere the fused one serves, which keeps no number for every pair.
    """
    if q.device.type == "cpu" and q.dtype == torch.bfloat16 and q.shape[-2] * k.shape[-2] <= PAIRS:
        return (q / math.sqrt(q.shape[-1]) @ k.mT).softmax(-1) @ v
    return F.scaled_dot_product_attention(q, k, v)


# q = W_q x, (k, v) = W_kv context
class Attention(nn.Module):
    """Multi-head attention of x (B, T, d) to a context (B, S, d), or to itself."""

    def __init__(self, hidden: int, num_heads: int):
        super().__init__()
        self.num_heads = num_heads
        self.q, self.kv, self.out = (nn.Linear(hidden, n * hidden) for n in (1, 2, 1))

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        context = x if context is None else context
        q, k, v = (
            part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)  # (B, num_heads, T or S, d / num_heads)
            for part in (self.q(x), *self.kv(context).chunk(2, -1))
        )
        return self.out(attend(q, k, v).transpose(1, 2).flatten(2))


# (1 + γ) LN(x) + β, and α;  (β, γ, α) = W SiLU(c) + b   (Peebles & Xie 2023, section 3.2)
class Norm(nn.Module):
    """Adaptive layer norm of x (B, T, d) by an embedding c (B, d). Of the three outputs of c there are `parts`:

    0: an ordinary layer norm, with a scale and shift of its own; 2: shift and scale; 3: the gate α of what follows too, else 1.
    """

    def __init__(self, hidden: int, parts: int):
        super().__init__()
        self.norm = nn.LayerNorm(hidden, eps=1e-6, elementwise_affine=not parts)
        self.modulation = nn.Linear(hidden, parts * hidden) if parts else None
        self.parts = parts

    def forward(self, x: Tensor, c: Tensor) -> tuple[Tensor, Tensor | float]:
        x = self.norm(x)
        if self.modulation is None:
            return x, 1.0
        shift, scale, *gate = self.modulation(F.silu(c))[:, None].chunk(self.parts, -1)  # (B, 1, d) each
        return x * (1 + scale) + shift, gate[0] if gate else 1.0


# x ← x + α₁ MHSA(AdaLN₁(x, c)), x ← x + MHA(LN(x), context), x ← x + α₂ MLP(AdaLN₂(x, c))
class Block(nn.Module):
    """A transformer block on tokens x (B, T, d): `mixer`, self-attention in DiT, joins them; `attn2`, where there is one, attends to the
    context (B, S, d). It returns both, as a block does that changes the context too."""

    def __init__(self, hidden: int, num_heads: int, parts: int, mixer: nn.Module, reads: bool = True):
        super().__init__()
        self.norm1, self.attn1 = Norm(hidden, parts), mixer
        self.norm2 = self.attn2 = None
        if reads:
            self.norm2, self.attn2 = nn.LayerNorm(hidden, eps=1e-6), Attention(hidden, num_heads)
        self.norm3 = Norm(hidden, parts)
        self.mlp = mlp(hidden)

    def forward(self, x: Tensor, c: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        h, gate = self.norm1(x, c)
        x = x + gate * self.attn1(h)
        if self.attn2 is not None:
            x = x + self.attn2(self.norm2(x), context)
        h, gate = self.norm3(x, c)
        return x + gate * self.mlp(h), context


class DiT(Backbone):
    """A transformer on patches, which takes the timestep t, the text's tokens and its pooled vector y (their mean where the
    condition has none) by its `conditioning`:

    - `in-context`: embeddings of t, y and every token stand behind those of the patches, in one sequence
    - `cross-attention`: every block attends to them
    - `adaln`: t + y sets scale and shift of every layer norm; every block attends to the tokens
    - `adaln-zero`: so does it, and the gates of the residual branches; all begin at 0, so that every block begins as the identity

    The paper has classes, which are one vector: its `adaln` and `adaln-zero` attend to nothing. Whatever the conditioning, the last
    layer begins at 0, and with it the output.
    """

    _supports_gradient_checkpointing = True
    in_context = False

    @register_to_config
    def __init__(
        self,
        channels: int,
        side: int,
        patch: int,
        hidden: int,
        layers: int,
        num_heads: int,
        conditioning: str,
        width: int,
    ):
        super().__init__()
        self.in_context, parts = conditioning == "in-context", {"adaln": 2, "adaln-zero": 3}.get(conditioning, 0)
        blocks = [
            Block(hidden, num_heads, parts, Attention(hidden, num_heads), not self.in_context) for _ in range(layers)
        ]
        self._assemble(channels, torch.arange(side // patch), patch, hidden, width, blocks, parts)

    @classmethod
    def of(cls, model: Model, shape: tuple[int, int, int], width: int) -> "DiT":
        channels, side, _ = shape
        return cls(channels, side, model.patch, model.hidden, model.layers, model.num_heads, model.conditioning, width)

    def _assemble(
        self,
        channels: int,
        places: Tensor,
        patch: int,
        hidden: int,
        width: int,
        blocks: list[nn.Module],
        parts: int = 3,
        pooled_width: int | None = None,
    ) -> None:
        """All but the blocks, which map (x, c, context) to (x, context), and the weights that a training begins with."""
        self.gradient_checkpointing, self.parts = False, parts
        self.patches = nn.Conv2d(channels, hidden, patch, patch)
        self.register_buffer("positions", positions(places, hidden), persistent=False)
        self.time, self.pooled, self.tokens = (
            embedder(WAVES, hidden),
            embedder(pooled_width or width, hidden),
            nn.Linear(width, hidden),
        )
        self.blocks = nn.ModuleList(blocks)
        self.norm, self.last = Norm(hidden, min(parts, 2)), nn.Linear(hidden, patch**2 * channels)
        self._initialise()

    def _initialise(self) -> None:
        """Xavier weights and biases of 0, as in a ViT; N(0, 0.02²) in the embedders of t and y; then the layers that begin at 0."""
        embedding = {*self.time.modules(), *self.pooled.modules()}
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
                if module in embedding:
                    nn.init.normal_(module.weight, std=0.02)
                else:
                    nn.init.xavier_uniform_(module.weight.flatten(1))
        zero = [self.last]
        if self.parts == 3:
            zero += [m.modulation for m in self.modules() if isinstance(m, Norm)]
            zero += [m.out for name, m in self.named_modules() if name.endswith("attn2")]
        for module in zero:
            nn.init.zeros_(module.weight)

    def forward(self, x: Tensor, t: Tensor, cond: Condition) -> Tensor:
        time = self.time(sinusoids(t.to(x.device).float().expand(len(x)), WAVES).to(x.dtype))  # (B, d)
        pooled = self.pooled(cond.tokens.mean(1) if cond.pooled is None else cond.pooled)  # (B, d)
        context = self.tokens(cond.tokens)  # (B, L, d)
        if not self.parts:
            context = torch.cat([torch.stack([time, pooled], 1), context], 1)  # (B, 2 + L, d)
        x = self.patches(x).flatten(2).transpose(1, 2) + self.positions  # (B, T, d), T = (side / patch)²
        if self.in_context:
            x = torch.cat([x, context], 1)
        for block in self.blocks:
            if self.gradient_checkpointing and torch.is_grad_enabled():
                x, context = self._gradient_checkpointing_func(block, x, time + pooled, context)
            else:
                x, context = block(x, time + pooled, context)
        x, _ = self.norm(x[:, : len(self.positions)], time + pooled)
        across = self.config.side // self.config.patch
        x = self.last(x).transpose(1, 2).unflatten(2, (across, across))  # (B, patch² C, side / patch, side / patch)
        return F.pixel_shuffle(x, self.config.patch)
