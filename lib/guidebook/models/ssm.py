"""State space backbone: DiT with Mamba-2's selective state space, in four scans of the image, for self-attention (Dao & Gu 2024)."""

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from guidebook.config.networks import Model
from guidebook.models.backbone import Backbone
from guidebook.models.dit import Block, DiT, RMSNorm

SCANS = 4  # along rows and columns, and both backwards
KERNEL = 4  # tokens that the convolution before a scan reads
CHUNK = 64  # tokens that are joined by one product of matrices


# h_t = exp(l_t) h_{t−1} + b_t x_tᵀ,  y_t = c_tᵀ h_t   (Dao & Gu 2024, section 2.1, with one number a head as A)
def recurrent(x: Tensor, l: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """The outputs (N, T, H, P) of the state space of each head, of inputs x (N, T, H, P): l (N, T, H) ≤ 0 is the logarithm of what is
    kept of its state h (S, P), b and c (N, T, S) are what an input writes there and what an output reads. One token after the other."""
    state, out = 0, []
    for t in range(x.shape[1]):
        state = l[:, t, :, None, None].exp() * state + b[:, t, None, :, None] * x[:, t, :, None]
        out.append((c[:, t, None, None] @ state).squeeze(2))
    return torch.stack(out, 1)


# y = (L ∘ C Bᵀ) x within a chunk, L_ij = exp(l_{j+1} + … + l_i) for j ≤ i, and of what was before it exp(l_1 + … + l_i) c_iᵀ h
#   (Dao & Gu 2024, section 6)
def chunked(x: Tensor, l: Tensor, b: Tensor, c: Tensor, chunk: int = CHUNK) -> Tensor:
    """The same, by products of matrices: of time and memory that are linear in T. One chunk is the matrix form."""
    tokens, size = x.shape[1], min(chunk, x.shape[1])
    pad = -tokens % size
    x, l, b, c = (F.pad(v, (*(0, 0) * (v.ndim - 2), 0, pad)).unflatten(1, (-1, size)) for v in (x, l, b, c))
    x, total = x.transpose(2, 3), l.cumsum(2).transpose(2, 3)  # (N, K, H, Q, P) and (N, K, H, Q), K chunks of Q tokens
    later = torch.ones(size, size, dtype=torch.bool, device=x.device).triu(1)
    kept = (total[..., None] - total[..., None, :]).masked_fill(later, -torch.inf).exp()
    y = torch.matmul(kept * torch.matmul(c, b.mT)[:, :, None], x)
    if x.shape[1] > 1:
        kept, ends = (total[..., -1:] - total).exp(), total[..., -1, None, None].exp()
        added = torch.matmul(b.mT[:, :, None] * kept[..., None, :], x)  # (N, K, H, S, P)
        states = [torch.zeros_like(added[:, 0])]
        for k in range(x.shape[1] - 1):
            states.append(ends[:, k] * states[-1] + added[:, k])
        y = y + total[..., None].exp() * torch.matmul(c[:, :, None], torch.stack(states, 1))
    return y.transpose(2, 3).flatten(1, 2)[:, :tokens]


def scans(x: Tensor, side: int) -> Tensor:
    """The tokens (B, T, …) of a square in the orders (B, SCANS, T, …) of the scans."""
    both = torch.stack([x, turned(x, side)], 1)
    return torch.cat([both, both.flip(2)], 1)


def joined(y: Tensor, side: int) -> Tensor:
    """The sum (B, T, …) of the scans (B, SCANS, T, …), where each token belongs."""
    rows, columns = (y[:, :2] + y[:, 2:].flip(2)).unbind(1)
    return rows + turned(columns, side)


def turned(x: Tensor, side: int) -> Tensor:
    """Rows as columns."""
    return x.unflatten(1, (side, side)).transpose(1, 2).flatten(1, 2)


# z, x, b, c, Δ = W_in u;  x, b, c ← SiLU(conv(x, b, c));  Δ ← softplus(Δ + bias);  l = −Δ exp(log A)
# y = W_out RMSNorm(SiLU(z) Σ_scans (scan(Δ x, l, b, c) + D x))   (Dao & Gu 2024, section 7)
class Mixer(nn.Module):
    """The state spaces of a block. Projections are shared by the scans; each has a convolution, steps Δ, A and D of its own."""

    def __init__(self, hidden: int, num_heads: int, state: int, side: int):
        super().__init__()
        self.side, self.num_heads, self.inner, self.state = side, num_heads, 2 * hidden, state
        read = SCANS * (self.inner + 2 * state)
        self.into = nn.Linear(hidden, 2 * self.inner + 2 * state + num_heads, bias=False)
        self.conv = nn.Conv1d(read, read, KERNEL, groups=read)
        steps = 10 ** (torch.rand(SCANS, 1, num_heads) * 2 - 3)  # of Δ, from 0.001 to 0.1 where its input is 0
        self.bias = nn.Parameter(steps.expm1().log())
        self.log_a = nn.Parameter(torch.arange(1.0, num_heads + 1).log().repeat(SCANS, 1, 1))
        self.d = nn.Parameter(torch.ones(SCANS, 1, num_heads, 1))
        self.norm, self.out = RMSNorm(self.inner, eps=1e-5), nn.Linear(self.inner, hidden, bias=False)

    def forward(self, u: Tensor) -> Tensor:
        z, read, delta = self.into(u).split([self.inner, self.inner + 2 * self.state, self.num_heads], -1)
        read = scans(read, self.side).transpose(2, 3).flatten(1, 2)  # (B, SCANS · …, T)
        read = F.silu(self.conv(F.pad(read, (KERNEL - 1, 0)))).unflatten(1, (SCANS, -1)).transpose(2, 3)
        x, b, c = read.split([self.inner, self.state, self.state], -1)  # (B, SCANS, T, …)
        x = x.unflatten(-1, (self.num_heads, -1))
        delta = F.softplus(scans(delta.float(), self.side) + self.bias)
        given = (x * delta[..., None], -delta * self.log_a.exp(), b, c)
        y = chunked(*(v.flatten(0, 1) for v in given)).unflatten(0, (-1, SCANS)) + self.d * x
        return self.out(self.norm(joined(y.flatten(3), self.side) * F.silu(z)))


class SSM(DiT):
    """A DiT, `adaln-zero`, whose tokens of the image are joined by state spaces."""

    @register_to_config
    def __init__(
        self, channels: int, side: int, patch: int, hidden: int, layers: int, num_heads: int, state: int, width: int
    ):
        Backbone.__init__(self)
        across = side // patch
        blocks = [Block(hidden, num_heads, 3, Mixer(hidden, num_heads, state, across)) for _ in range(layers)]
        self._assemble(channels, torch.arange(across), patch, hidden, width, blocks)

    @classmethod
    def of(cls, model: Model, shape: tuple[int, int, int], width: int) -> "SSM":
        channels, side, _ = shape
        return cls(channels, side, model.patch, model.hidden, model.layers, model.num_heads, model.state, width)
