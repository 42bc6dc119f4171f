"""Passes of a ViT for one batch size, as lists of torch's operations on rows that stay in place.

The head reads the class token after the last block. So that block asks its attention, its FFN and
the last norm for this one token only: what the others would get reaches no loss. Attention is
computed by its formula, whose products are large enough at these sizes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from evolve.networks.fast.compiled import gelu, layer_norm
from evolve.networks.fast.written import Workspace
from evolve.networks.vit_plan import MLP, ViTPlan

Call = Callable[[], object]
Tensors = dict[str, Tensor]
softmax_backward = torch.ops.aten._softmax_backward_data.out


@dataclass
class Norm:
    """A LayerNorm of rows x [rows, D]: its output, and its rows' mean and invstd, [2, rows]."""

    name: str
    x: Tensor
    out: Tensor
    statistics: Tensor


@dataclass
class Attention:
    """What the way back needs of one block's attention.

    Attributes:
        parts: which of the projection's outputs (queries before keys and values) come of which
            rows.
        q, k, v: queries of the tokens that go on, keys and values of all, [B * heads, tokens, D /
            heads].
        shares: each query's, over all tokens.
    """

    parts: list[tuple[slice, Tensor]]
    q: Tensor
    k: Tensor
    v: Tensor
    shares: Tensor


class Passes:
    """Forward and backward passes. A pass overwrites what the last one kept.

    Args:
        plan: the network's.
        batch: images of a batch.
        w: its parameters by name.
        g: where the gradients go.
        shared: whether maps lie where those of other networks do.
    """

    def __init__(self, plan: ViTPlan, batch: int, w: Tensors, g: Tensors, shared: bool) -> None:
        self.plan, self.batch, self.tokens = plan, batch, plan.tokens(plan.size)
        self.w, self.g = w, g
        self.dtype = next(iter(w.values())).dtype
        self.scale = (plan.dim // plan.heads) ** -0.5
        self._space = Workspace(self.dtype, shared)
        self._scratches: dict[tuple[str, tuple[int, ...]], Tensor] = {}
        self._forward: list[Call] = []
        self._backward: list[list[Call]] = []  # a part's; the last one's come first
        self._stream = self._rows(self.tokens)  # the gradient of what goes from block to block
        x = self._embed()
        for name in plan.layer_names:
            x = self._block(name, x, 1 if name == plan.layer_names[-1] else self.tokens)
        last = self._norm("norm", x)
        self.out, self.g_out = last.out, self._rows(1)
        asked = self._asked(1)
        self._backward.append([asked.zero_, self._norm_backward(last, self.g_out, asked)])

    def forward(self, images: Tensor) -> Tensor:
        """Embed images [batch, 3, size, size]; the head's input [batch, D]."""
        self.pixels.copy_(images.view(self.pixels.shape))
        for call in self._forward:
            call()
        return self.out

    def backward(self, g: Tensor) -> None:
        """Write the gradients, given that of the last :meth:`forward`'s output."""
        self.g_out.copy_(g)
        for calls in self._backward[::-1]:
            for call in calls:
                call()

    def _rows(self, tokens: int) -> Tensor:
        return self._space.take(self.batch * tokens, self.plan.dim)

    def _asked(self, asked: int) -> Tensor:
        """The gradient of what goes on from a block, [rows, D]."""
        if asked == self.tokens:
            return self._stream
        return self._scratch("asked", self.batch * asked, self.plan.dim)

    def _scratch(self, name: str, *shape: int) -> Tensor:
        """Room that several blocks use, one after the other."""
        key = name, shape
        if key not in self._scratches:
            self._scratches[key] = self._space.take(*shape)
        return self._scratches[key]

    def _first(self, rows: Tensor, asked: int) -> Tensor:
        """A view of each image's first tokens, [B, asked, D]."""
        return rows.view(self.batch, -1, rows.shape[1])[:, :asked]

    # Each part adds its calls of both ways.

    def _embed(self) -> Tensor:
        """The tokens, [rows, D], of the patches [B * patches, pixels]."""
        plan, count = self.plan, self.tokens - 1
        side = plan.size // plan.patch
        patches = self._space.take(self.batch * count, 3 * plan.patch**2)
        shape = self.batch, side, side, 3, plan.patch, plan.patch
        self.pixels = patches.view(shape).permute(0, 3, 1, 4, 2, 5)
        rows, x = self._scratch("patches", len(patches), plan.dim), self._rows(self.tokens)
        tokens, maps = x.view(self.batch, -1, plan.dim), rows.view(self.batch, count, -1)
        token, position, weight, bias = self._embedding(self.w)
        first = self._space.take(*token.shape)
        self._forward += [
            partial(torch.addmm, bias, patches, weight.t(), out=rows),
            partial(torch.add, maps, position[:, 1:], out=tokens[:, 1:]),
            partial(torch.add, token, position[:, :1], out=first),
            partial(tokens[:, :1].copy_, first),
        ]
        g_token, g_position, g_weight, g_bias = self._embedding(self.g)
        g_tokens = self._stream.view_as(tokens)
        self._backward.append(
            [
                partial(torch.sum, g_tokens, 0, out=g_position[0]),
                partial(g_token.copy_, g_position[:, :1]),
                partial(maps.copy_, g_tokens[:, 1:]),
                partial(torch.mm, rows.t(), patches, out=g_weight),
                partial(torch.sum, g_position[0, 1:], 0, out=g_bias),
            ]
        )
        return x

    def _embedding(self, tensors: Tensors) -> tuple[Tensor, ...]:
        """Class token, positions, and the projection's weight, as [D, 3 * p * p], and bias."""
        name = "layers.embed"
        weight = tensors[f"{name}.patch_embed.proj.weight"]
        return (
            tensors[f"{name}.cls_token"],
            tensors[f"{name}.pos_embed"],
            weight.view(len(weight), -1),
            tensors[f"{name}.patch_embed.proj.bias"],
        )

    def _block(self, name: str, x: Tensor, asked: int) -> Tensor:
        """A block, from which each image's first ``asked`` tokens go on."""
        calls, before = self._forward, self._first(x, asked)
        first = self._norm(f"{name}.norm1", x)
        attention, mixed = self._attention(name, first.out, asked)
        between = self._linear(f"{name}.attn.proj", mixed, self.plan.dim)
        calls.append(partial(between.view_as(before).add_, before))
        second = self._norm(f"{name}.norm2", between)
        hidden = self._linear(f"{name}.mlp.fc1", second.out, MLP * self.plan.dim)
        active = self._space.take(*hidden.shape)
        calls.append(_call(gelu.gelu(self.dtype), active, hidden, hidden.numel()))
        out = self._linear(f"{name}.mlp.fc2", active, self.plan.dim)
        calls.append(partial(out.add_, between))

        back: list[Call] = []
        g = self._asked(asked)
        g_hidden = self._linear_backward(f"{name}.mlp.fc2", g, active, back)
        back.append(partial(g_hidden.mul_, hidden))  # the kernel left the slope there
        g_normed = self._linear_backward(f"{name}.mlp.fc1", g_hidden, second.out, back)
        back.append(self._norm_backward(second, g_normed, g))
        g_mixed = self._linear_backward(f"{name}.attn.proj", g, mixed, back)
        g_normed = self._attention_backward(name, attention, g_mixed, back)
        if g is not self._stream:  # what did not go on has no gradient yet
            there = self._first(self._stream, asked)
            back += [self._stream.zero_, partial(there.copy_, g.view_as(there))]
        back.append(self._norm_backward(first, g_normed, self._stream))
        self._backward.append(back)
        return out

    def _norm(self, name: str, x: Tensor) -> Norm:
        take, name = self._space.take, f"layers.{name}"
        norm = Norm(name, x, take(*x.shape), take(2, len(x)))
        affine = self.w[f"{name}.weight"], self.w[f"{name}.bias"]
        run = layer_norm.normalised(self.plan.dim, self.dtype)
        self._forward.append(_call(run, norm.out, x, *affine, *norm.statistics, len(x)))
        return norm

    def _norm_backward(self, norm: Norm, g: Tensor, g_x: Tensor) -> Call:
        """It adds the gradient of a norm's input to ``g_x``."""
        weight, bias = f"{norm.name}.weight", f"{norm.name}.bias"
        run = layer_norm.normalised_gradient(self.plan.dim, self.dtype)
        given = (g_x, g, norm.x, self.w[weight], *norm.statistics, self.g[weight], self.g[bias])
        return _call(run, *given, len(norm.x))

    def _linear(self, name: str, x: Tensor, outputs: int) -> Tensor:
        out = self._space.take(len(x), outputs)
        weight, bias = self.w[f"layers.{name}.weight"], self.w[f"layers.{name}.bias"]
        self._forward.append(partial(torch.addmm, bias, x, weight.t(), out=out))
        return out

    def _linear_backward(self, name: str, g: Tensor, x: Tensor, calls: list[Call]) -> Tensor:
        """Gradients of a linear layer; room with that of x, which the next such call may take."""
        weight, bias = f"layers.{name}.weight", f"layers.{name}.bias"
        g_x = self._scratch("gradient", *x.shape)
        calls += [
            partial(torch.mm, g.t(), x, out=self.g[weight]),
            partial(torch.sum, g, 0, out=self.g[bias]),
            partial(torch.mm, g, self.w[weight], out=g_x),
        ]
        return g_x

    def _attention(self, name: str, x: Tensor, asked: int) -> tuple[Attention, Tensor]:
        """A block's attention over rows x, and the values in its shares, as rows."""
        d, calls = self.plan.dim, self._forward
        parts = [(slice(0, 3 * d), x)]
        if asked < self.tokens:
            own, there = self._rows(asked), self._first(x, asked)
            calls.append(partial(own.view_as(there).copy_, there))
            parts = [(slice(0, d), own), (slice(d, 3 * d), x)]
        weight, bias = (self.w[f"layers.{name}.attn.qkv.{part}"] for part in ("weight", "bias"))
        heads: list[Tensor] = []
        for part, rows in parts:
            out = self._space.take(len(rows), part.stop - part.start)
            calls.append(partial(torch.addmm, bias[part], rows, weight[part].t(), out=out))
            heads += self._heads(out, calls)
        q, k, v = heads
        scores = self._scratch("scores", len(q), asked, self.tokens)
        shares, mixed = self._space.take(*scores.shape), self._rows(asked)
        calls.append(self._scaled(q, k.transpose(1, 2), scores))
        calls.append(partial(torch.softmax, scores, 2, out=shares))
        out = self._mixed(mixed)
        calls.append(partial(torch.bmm, shares, v, out=out))
        self._put(out[None], mixed, calls)
        return Attention(parts, q, k, v, shares), mixed

    def _attention_backward(
        self, name: str, kept: Attention, g_mixed: Tensor, calls: list[Call]
    ) -> Tensor:
        """Gradients of the projection; room with that of the rows that it takes."""
        (g,) = self._heads(g_mixed, calls)
        g_shares = self._scratch("g_shares", *kept.shares.shape)
        g_scores = self._scratch("scores", *kept.shares.shape)
        g_parts = [
            self._scratch(f"heads{part.start}", (part.stop - part.start) // self.plan.dim, *like)
            for (part, _), like in zip(kept.parts, (kept.q.shape, kept.k.shape), strict=False)
        ]
        g_q, g_k, g_v = (head for heads in g_parts for head in heads)
        calls += [
            partial(torch.bmm, g, kept.v.transpose(1, 2), out=g_shares),
            partial(softmax_backward, g_shares, kept.shares, 2, self.dtype, grad_input=g_scores),
            self._scaled(g_scores, kept.k, g_q),
            self._scaled(g_scores.transpose(1, 2), kept.q, g_k),
            partial(torch.bmm, kept.shares.transpose(1, 2), g, out=g_v),
        ]
        return self._parts_backward(f"layers.{name}.attn.qkv", kept, g_parts, calls)

    def _parts_backward(
        self, name: str, kept: Attention, g_parts: list[Tensor], calls: list[Call]
    ) -> Tensor:
        weight, g_weight, g_bias = (
            self.w[f"{name}.weight"],
            self.g[f"{name}.weight"],
            self.g[f"{name}.bias"],
        )
        gradients = []
        for (part, x), heads in zip(kept.parts, g_parts, strict=True):
            g = self._scratch("projected", len(x), part.stop - part.start)
            gradients.append(self._scratch("gradient", *x.shape))
            self._put(heads, g, calls)
            calls += [
                partial(torch.mm, g.t(), x, out=g_weight[part]),
                partial(torch.sum, g, 0, out=g_bias[part]),
                partial(torch.mm, g, weight[part], out=gradients[-1]),
            ]
        if len(gradients) > 1:
            there = self._first(gradients[1], len(gradients[0]) // self.batch)
            calls.append(partial(there.add_, gradients[0].view_as(there)))
        return gradients[-1]

    def _scaled(self, a: Tensor, b: Tensor, out: Tensor) -> Call:
        """The batched product, times the attention's scale."""
        return partial(torch.baddbmm, out, a, b, beta=0, alpha=self.scale, out=out)

    def _split(self, rows: Tensor) -> Tensor:
        """A view of rows [B * tokens, n * D] as [n, B, heads, tokens, D / heads]."""
        d, heads = self.plan.dim, self.plan.heads
        parts = rows.view(self.batch, -1, rows.shape[1] // d, heads, d // heads)
        return parts.permute(2, 0, 3, 1, 4)

    def _heads(self, rows: Tensor, calls: list[Call]) -> Tensor:
        """The same as [n, B * heads, tokens, D / heads]; a copy where there are several heads."""
        parts = self._split(rows)
        if self.plan.heads > 1:
            own = self._space.take(*parts.shape)
            calls.append(partial(own.copy_, parts))
            parts = own
        return parts.flatten(1, 2)

    def _mixed(self, rows: Tensor) -> Tensor:
        """Where the heads of ``rows`` are computed: there, or in room of their own."""
        parts = self._split(rows)[0]
        if self.plan.heads > 1:
            parts = self._scratch("mixed", *parts.shape)
        return parts.flatten(0, 1)

    def _put(self, heads: Tensor, rows: Tensor, calls: list[Call]) -> None:
        """Copy heads [n, B * heads, tokens, D / heads] to rows, where they are not there."""
        parts = self._split(rows)
        if heads.data_ptr() != rows.data_ptr():
            calls.append(partial(parts.copy_, heads.view(parts.shape)))


def _call(run: Callable[..., None], *given: Tensor | int) -> Call:
    """A kernel's call; whoever asks keeps the tensors alive."""
    return partial(run, *(part if isinstance(part, int) else part.data_ptr() for part in given))
