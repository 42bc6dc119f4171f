"""Forward and backward passes of a ViT written out, by torch's operations on rows of tokens.

The head reads the class token after the last block. So that block asks its attention, its FFN and
the last norm for this one token only: what the others would get reaches no loss. Attention is
computed by its formula, whose products are large enough at these sizes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from evolve.networks.fast.written import Written
from evolve.networks.network import Network
from evolve.networks.vit_plan import ViTPlan

EPS = 1e-6  # timm's LayerNorms'


@dataclass
class Normed:
    """A LayerNorm's input and output, [rows, D], and its statistics."""

    name: str
    x: Tensor
    out: Tensor
    mean: Tensor
    invstd: Tensor


@dataclass
class Kept:
    """What a forward pass keeps of one block.

    Attributes:
        name: the block's.
        asked: tokens of an image that go on, from the first.
        first, second: the norms; the second sees only what goes on.
        q, k, v: queries of the tokens that go on, keys and values of all, [B * heads, tokens, D /
            heads].
        shares: each query's, over all tokens.
        mixed: the values in these shares, [rows, D].
        hidden, active: the FFN's hidden layer before and after its GELU.
    """

    name: str
    asked: int
    first: Normed
    q: Tensor
    k: Tensor
    v: Tensor
    shares: Tensor
    mixed: Tensor
    second: Normed
    hidden: Tensor
    active: Tensor


class WrittenViT(Written):
    """A :class:`evolve.networks.fast.written.Written` for ViTs."""

    def __init__(
        self, network: Network, size: int, optimizer: str, momentum: float, decay: float
    ) -> None:
        super().__init__(network, size, optimizer, momentum, decay)
        plan = network.architecture
        assert isinstance(plan, ViTPlan)
        self.plan, self.tokens = plan, plan.tokens(size)
        self.scale = (plan.dim // plan.heads) ** -0.5
        self.kept: list[Kept] = []

    def forward(self, images: Tensor) -> Tensor:
        """See :class:`evolve.networks.fast.written.Written`."""
        self.images, self.kept = len(images), []
        x = self._embed(images)
        for name in self.plan.layer_names:
            x = self._block(name, x, 1 if name == self.plan.layer_names[-1] else self.tokens)
        self.last = self._norm("norm", x)
        return self.last.out

    def judged(self, images: Tensor) -> Tensor:
        """See :class:`evolve.networks.fast.written.Written`."""
        return self.forward(images)

    def _embed(self, images: Tensor) -> Tensor:
        """The tokens, [rows, D]."""
        plan, side = self.plan, self.size // self.plan.patch
        pixels = images.permute(0, 2, 3, 1).reshape(-1, side, plan.patch, side, plan.patch, 3)
        self.patches = pixels.transpose(2, 3).reshape(len(images) * side**2, -1)
        weight, bias = _patches(self.w["layers.embed.patch_embed.proj.weight"]), "patch_embed.proj"
        x = images.new_empty(len(images), self.tokens, plan.dim)
        x[:, :1] = self.w["layers.embed.cls_token"]
        x[:, 1:] = torch.addmm(self.w[f"layers.embed.{bias}.bias"], self.patches, weight.t()).view(
            len(images), -1, plan.dim
        )
        x += self.w["layers.embed.pos_embed"]
        return x.view(-1, plan.dim)

    def _norm(self, name: str, x: Tensor) -> Normed:
        name = f"layers.{name}"
        weight, bias = self.w[f"{name}.weight"], self.w[f"{name}.bias"]
        return Normed(name, x, *torch.native_layer_norm(x, [self.plan.dim], weight, bias, EPS))

    def _block(self, name: str, x: Tensor, asked: int) -> Tensor:
        first = self._norm(f"{name}.norm1", x)
        q, k, v = self._attended(name, first.out, asked)
        shares = torch.softmax(self._scaled(q, k.transpose(1, 2)), 2)
        mixed = self._rows(torch.bmm(shares, v)[None])
        x = self._linear(f"{name}.attn.proj", mixed).add_(self._first(x, asked))
        second = self._norm(f"{name}.norm2", x)
        hidden = self._linear(f"{name}.mlp.fc1", second.out)
        active = F.gelu(hidden)
        self.kept.append(Kept(name, asked, first, q, k, v, shares, mixed, second, hidden, active))
        return self._linear(f"{name}.mlp.fc2", active).add_(x)

    def _attended(self, name: str, x: Tensor, asked: int) -> tuple[Tensor, Tensor, Tensor]:
        """Queries of the tokens that go on, keys and values of all."""
        weight, bias = (self.w[f"layers.{name}.attn.qkv.{part}"] for part in ("weight", "bias"))
        heads: list[Tensor] = []
        for part, rows in self._parts(x, asked):
            heads += self._heads(torch.addmm(bias[part], rows, weight[part].t()))
        return heads[0], heads[1], heads[2]

    def _parts(self, x: Tensor, asked: int) -> list[tuple[slice, Tensor]]:
        """Which outputs of a block's projection, queries before keys and values, take which rows."""
        d = self.plan.dim
        if asked == self.tokens:
            return [(slice(0, 3 * d), x)]
        return [(slice(0, d), self._first(x, asked)), (slice(d, 3 * d), x)]

    def _scaled(self, a: Tensor, b: Tensor) -> Tensor:
        """The batched product, times the attention's scale."""
        out = a.new_empty(len(a), a.shape[1], b.shape[2])
        return torch.baddbmm(out, a, b, beta=0, alpha=self.scale, out=out)

    def _linear(self, name: str, x: Tensor) -> Tensor:
        name = f"layers.{name}"
        return torch.addmm(self.w[f"{name}.bias"], x, self.w[f"{name}.weight"].t())

    def _first(self, rows: Tensor, asked: int) -> Tensor:
        """The rows of each image's first tokens."""
        if asked == self.tokens:
            return rows
        return rows.view(self.images, self.tokens, -1)[:, :asked].reshape(-1, rows.shape[1])

    def _heads(self, rows: Tensor) -> Tensor:
        """Rows [B * tokens, n * D] as [n, B * heads, tokens, D / heads]."""
        plan = self.plan
        n, size = rows.shape[1] // plan.dim, plan.dim // plan.heads
        parts = rows.view(self.images, -1, n, plan.heads, size).permute(2, 0, 3, 1, 4)
        return parts.reshape(n, self.images * plan.heads, -1, size)

    def _rows(self, heads: Tensor) -> Tensor:
        """The inverse of :meth:`_heads`."""
        n, _, tokens, size = heads.shape
        parts = heads.view(n, self.images, self.plan.heads, tokens, size).permute(1, 3, 0, 2, 4)
        return parts.reshape(self.images * tokens, n * self.plan.dim)

    def backward(self, g: Tensor) -> None:
        """See :class:`evolve.networks.fast.written.Written`."""
        g = self._norm_backward(self.last, g)
        for kept in self.kept[::-1]:
            g = self._block_backward(kept, g)
        tokens = g.view(self.images, self.tokens, -1)
        each = tokens.sum(0)
        self.g["layers.embed.pos_embed"][0].copy_(each)
        self.g["layers.embed.cls_token"][0, 0].copy_(each[0])
        rows, weight = tokens[:, 1:].reshape(-1, self.plan.dim), "layers.embed.patch_embed.proj"
        torch.mm(rows.t(), self.patches, out=_patches(self.g[f"{weight}.weight"]))
        torch.sum(each[1:], 0, out=self.g[f"{weight}.bias"])

    def _block_backward(self, kept: Kept, g: Tensor) -> Tensor:
        """From the gradient of a block's output to that of its input."""
        name = kept.name
        g_active = self._linear_backward(f"{name}.mlp.fc2", g, kept.active)
        g_hidden = torch.ops.aten.gelu_backward(g_active, kept.hidden)
        g_normed = self._linear_backward(f"{name}.mlp.fc1", g_hidden, kept.second.out)
        g = self._norm_backward(kept.second, g_normed).add_(g)
        g_mixed = self._linear_backward(f"{name}.attn.proj", g, kept.mixed)
        g_heads = self._attention_backward(kept, self._heads(g_mixed)[0])
        g_normed = self._norm_backward(kept.first, self._attended_backward(kept, g_heads))
        self._first_of(g_normed, kept.asked).add_(g.view(self.images, kept.asked, -1))
        return g_normed

    def _attention_backward(self, kept: Kept, g: Tensor) -> list[Tensor]:
        """Gradients of queries, keys and values, from that of the mixed values."""
        g_shares = torch.bmm(g, kept.v.transpose(1, 2))
        g_scores = torch.ops.aten._softmax_backward_data(g_shares, kept.shares, 2, g.dtype)
        g_q, g_k = self._scaled(g_scores, kept.k), self._scaled(g_scores.transpose(1, 2), kept.q)
        return [g_q, g_k, torch.bmm(kept.shares.transpose(1, 2), g)]

    def _attended_backward(self, kept: Kept, g_heads: list[Tensor]) -> Tensor:
        name, d = f"layers.{kept.name}.attn.qkv", self.plan.dim
        weight, g_weight = self.w[f"{name}.weight"], self.g[f"{name}.weight"]
        parts: list[Tensor] = []
        for part, x in self._parts(kept.first.out, kept.asked):
            g = self._rows(torch.stack(g_heads[part.start // d : part.stop // d]))
            torch.mm(g.t(), x, out=g_weight[part])
            torch.sum(g, 0, out=self.g[f"{name}.bias"][part])
            parts.append(torch.mm(g, weight[part]))
        if len(parts) > 1:
            self._first_of(parts[1], kept.asked).add_(parts[0].view(self.images, kept.asked, -1))
        return parts[-1]

    def _first_of(self, rows: Tensor, asked: int) -> Tensor:
        """A view of each image's first tokens, [B, asked, D]."""
        return rows.view(self.images, self.tokens, -1)[:, :asked]

    def _linear_backward(self, name: str, g: Tensor, x: Tensor) -> Tensor:
        """The gradient of x; a linear layer's own are written, as this step adds no others."""
        name = f"layers.{name}"
        torch.mm(g.t(), x, out=self.g[f"{name}.weight"])
        torch.sum(g, 0, out=self.g[f"{name}.bias"])
        return torch.mm(g, self.w[f"{name}.weight"])

    def _norm_backward(self, kept: Normed, g: Tensor) -> Tensor:
        weight, bias = f"{kept.name}.weight", f"{kept.name}.bias"
        g_x, g_weight, g_bias = torch.ops.aten.native_layer_norm_backward(
            g,
            kept.x,
            [self.plan.dim],
            kept.mean,
            kept.invstd,
            self.w[weight],
            self.w[bias],
            [True] * 3,
        )
        self.g[weight].copy_(g_weight)
        self.g[bias].copy_(g_bias)
        return g_x


def _patches(weight: Tensor) -> Tensor:
    """The patch projection [D, 3, p, p] as a view [D, p * p * 3]."""
    return weight.permute(0, 2, 3, 1).view(len(weight), -1)
