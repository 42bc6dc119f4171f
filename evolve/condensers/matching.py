"""psi: how well the pseudo-descendant's features, projected, match the ancestor's (Eq. 7, 11, 13).

    psi^{l,k} = mean over (C_l, P_k) of ( h_{l,k}(z^k) - resize(Z^l) )^2          per image; P_k = pixels of z^k

``psi_reference`` says just that. ``psi`` gives the same numbers without ever forming the [sum of C_l, H, W] maps where those are
large: with z augmented by a row of ones, W = [weight, bias] of h and U the bilinear resize,

    C_l P_k psi = <W^T W, sum_p z z^T> - 2 <W, sum_p (UZ) z^T> + sum (UZ)^2,        sum_p (UZ) z^T = Z (U^T z)^T

where the second product runs at the lower of the two resolutions and the third term never changes, as the ancestor is frozen.
Everything is made of matrix products, so that gradients of gradients are cheap.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Projection:
    """h_{l,k} of all ancestor layers l for one descendant layer k: pointwise convolutions, stacked along their outputs.

    ``weight`` [sum of C_l, c_k], ``bias`` [sum of C_l].
    """

    weight: Tensor
    bias: Tensor

    @property
    def augmented(self) -> Tensor:
        """[sum of C_l, c_k + 1]: the bias as the weight of a constant 1."""
        return torch.cat((self.weight, self.bias[:, None]), 1)


@dataclass(frozen=True)
class Run:
    """Neighbouring ancestor layers compared at one resolution: their channels ``first:last`` and their side."""

    first: int
    last: int
    layers: tuple[int, ...]
    side: int


@dataclass(frozen=True)
class Layout:
    """Channels and sides (pixels) of the ancestor's L and the descendant's K feature maps; all maps are square."""

    ancestor: tuple[tuple[int, int], ...]
    descendant: tuple[tuple[int, int], ...]

    @cached_property
    def channels(self) -> int:
        return sum(c for c, _ in self.ancestor)

    @cached_property
    def offsets(self) -> tuple[int, ...]:
        """First stacked channel of each ancestor layer, and the end."""
        ends = [0]
        for c, _ in self.ancestor:
            ends.append(ends[-1] + c)
        return tuple(ends)

    def moments(self, k: int) -> bool:
        """Whether psi^{.,k} goes by second moments: where the map has more pixels than z has channels."""
        channels, side = self.descendant[k]
        return side * side > channels + 1

    def kind(self, k: int) -> tuple[int, bool]:
        """Descendant layers of one kind share the ancestor's prepared maps."""
        return self.descendant[k][1], self.moments(k)

    def runs(self, k: int) -> tuple[Run, ...]:
        """The ancestor's layers cut into runs of equal side, for kind(k): natively small maps stay small if by moments."""
        side_k, moments = self.kind(k)
        sides = [min(side, side_k) if moments else side_k for _, side in self.ancestor]
        cuts = [i for i in range(len(sides)) if i == 0 or sides[i] != sides[i - 1]] + [len(sides)]
        return tuple(
            Run(self.offsets[a], self.offsets[b], tuple(range(a, b)), sides[a]) for a, b in pairwise(cuts)
        )


def layout(ancestor: Sequence[Tensor], descendant: Sequence[Tensor]) -> Layout:
    """The layout of two lists of feature maps [B, C, S, S]. ValueError for a map that is not square."""
    for maps in (*ancestor, *descendant):
        if maps.shape[-1] != maps.shape[-2]:
            raise ValueError(f"feature maps must be square, got {tuple(maps.shape)}")
    return Layout(tuple((f.shape[1], f.shape[-1]) for f in ancestor), tuple((f.shape[1], f.shape[-1]) for f in descendant))


def resize(maps: Tensor, side: int) -> Tensor:
    """[B, C, S, S] -> [B, C, side, side], bilinear with align_corners=False."""
    return maps if maps.shape[-1] == side else F.interpolate(maps, (side, side), mode="bilinear", align_corners=False)


def psi_reference(ancestor: Sequence[Tensor], descendant: Sequence[Tensor], h: Sequence[Projection]) -> Tensor:
    """psi [B, L, K] of maps [B, C_l, S, S] and [B, c_k, s, s], as the formula reads."""
    offsets = layout(ancestor, descendant).offsets
    columns = []
    for z, projection in zip(descendant, h, strict=True):
        rows = []
        for l, target in enumerate(ancestor):
            part = slice(offsets[l], offsets[l + 1])
            projected = F.conv2d(z, projection.weight[part, :, None, None], projection.bias[part])
            rows.append((projected - resize(target, z.shape[-1])).square().mean((1, 2, 3)))
        columns.append(torch.stack(rows, 1))
    return torch.stack(columns, 2)


@dataclass(frozen=True)
class Frozen:
    """All that psi and alpha need of the frozen ancestor, per image: index it with a tensor of rows to get a batch.

    ``pooled`` [B, sum of C_l]: the maps' averages over pixels (the meta-network's input). Per kind of descendant layer:
    ``maps`` one tensor [B, pixels, channels] a run, ``energy`` [B, L]: mean over (C_l, P_k) of (UZ)^2.
    """

    pooled: Tensor
    maps: dict[tuple[int, bool], tuple[Tensor, ...]]
    energy: dict[tuple[int, bool], Tensor]

    def __getitem__(self, rows: Tensor) -> Frozen:
        maps = {kind: tuple(m.index_select(0, rows) for m in runs) for kind, runs in self.maps.items()}
        energy = {kind: e.index_select(0, rows) for kind, e in self.energy.items()}
        return Frozen(self.pooled.index_select(0, rows), maps, energy)

    @staticmethod
    def join(parts: Sequence[Frozen]) -> Frozen:
        """Several batches as one."""
        first = parts[0]
        maps = {kind: tuple(torch.cat(runs) for runs in zip(*(p.maps[kind] for p in parts), strict=True)) for kind in first.maps}
        energy = {kind: torch.cat([p.energy[kind] for p in parts]) for kind in first.energy}
        return Frozen(torch.cat([p.pooled for p in parts]), maps, energy)


class Matcher:
    """psi and its frozen side for one layout; holds the resize matrices and the sums over each layer's channels."""

    def __init__(self, shape: Layout, like: Tensor) -> None:
        self.layout = shape
        self._like = like
        self._runs = [shape.runs(k) for k in range(len(shape.descendant))]
        self._owner = self._ownership()
        self._scales = [self._owner / (s * s * torch.diff(self._long(shape.offsets)).to(like)) for _, s in shape.descendant]
        self._matrices: dict[tuple[int, int], Tensor] = {}

    def numbers_per_image(self) -> int:
        """How many floating-point numbers :meth:`freeze` holds for one image."""
        kinds = {self.layout.kind(k): self._runs[k] for k in range(len(self._runs))}
        maps = sum(run.side**2 * (run.last - run.first) for runs in kinds.values() for run in runs)
        return maps + self.layout.channels + len(kinds) * len(self.layout.ancestor)

    @torch.no_grad()
    def freeze(self, ancestor: Sequence[Tensor]) -> Frozen:
        """The frozen side of the ancestor's maps [B, C_l, S, S]."""
        pooled = torch.cat([f.mean((2, 3)) for f in ancestor], 1)
        maps: dict[tuple[int, bool], tuple[Tensor, ...]] = {}
        energy: dict[tuple[int, bool], Tensor] = {}
        for k, runs in enumerate(self._runs):
            kind = self.layout.kind(k)
            if kind in maps:
                continue
            found = [torch.cat([_flat(resize(ancestor[l], run.side)) for l in run.layers], 2) for run in runs]
            squares = torch.cat([self._energy(m, run.side, kind[0]) for m, run in zip(found, runs, strict=True)], 1)
            maps[kind], energy[kind] = tuple(found), squares @ self._scales[k]
        return Frozen(pooled, maps, energy)

    def psi(self, frozen: Frozen, descendant: Sequence[Tensor], h: Sequence[Projection]) -> Tensor:
        """psi [B, L, K]; equals :func:`psi_reference` of the maps that ``frozen`` was made from."""
        columns = [
            self._by_moments(k, frozen, z, h[k]) if self.layout.moments(k) else self._directly(k, frozen, z, h[k])
            for k, z in enumerate(descendant)
        ]
        return torch.stack(columns, 2)

    def _directly(self, k: int, frozen: Frozen, z: Tensor, h: Projection) -> Tensor:
        """[B, L] through the maps themselves: cheap where they have few pixels."""
        (target,) = frozen.maps[self.layout.kind(k)]
        return (F.linear(_flat(z), h.weight, h.bias) - target).square().sum(1) @ self._scales[k]

    def _by_moments(self, k: int, frozen: Frozen, z: Tensor, h: Projection) -> Tensor:
        """[B, L] by second moments."""
        side = z.shape[-1]
        flat = _flat(z)
        ones = flat.new_ones(()).expand(*flat.shape[:2], 1)
        z1 = torch.cat((flat, ones), 2)
        w = h.augmented
        batch, width = z1.shape[0], z1.shape[2]
        scale = self._scales[k]
        # quadratic: W^T W per layer (scaled), against the batch's moments, symmetric [c+1, c+1]
        moments = torch.bmm(z1.transpose(1, 2), z1).view(batch, width * width)
        grams = torch.stack(
            [w[a:b].t() @ w[a:b] / ((b - a) * side * side) for a, b in pairwise(self.layout.offsets)]
        )
        quadratic = moments @ grams.view(-1, width * width).t()
        cross = []
        for run, target in zip(self._runs[k], frozen.maps[self.layout.kind(k)], strict=True):
            small = self._adjoint(z1, side, run.side)
            cross.append((torch.bmm(target.transpose(1, 2), small) * w[run.first : run.last]).sum(2))
        return quadratic - 2 * (torch.cat(cross, 1) @ scale) + frozen.energy[self.layout.kind(k)]

    def _adjoint(self, z: Tensor, side: int, small: int) -> Tensor:
        """U^T z: [B, side^2, c] -> [B, small^2, c], the adjoint of the resize from ``small`` to ``side``."""
        if small == side:
            return z
        return self._both_axes(z, side, self._matrix(small, side).t())

    def _energy(self, maps: Tensor, side: int, target: int) -> Tensor:
        """Sum over pixels of (UZ)^2, per channel: [B, side^2, C] -> [B, C], with U^T U applied at the maps' own resolution."""
        u = self._matrix(side, target)
        return (maps * self._both_axes(maps, side, u.t() @ u)).sum(1)

    @staticmethod
    def _both_axes(maps: Tensor, side: int, matrix: Tensor) -> Tensor:
        """A one-dimensional linear map [to, side] along both axes of [B, side^2, C] -> [B, to^2, C]."""
        batch, _, channels = maps.shape
        to = matrix.shape[0]
        down = torch.matmul(matrix, maps.reshape(batch, side, side * channels))
        across = torch.matmul(matrix, down.view(batch * to, side, channels))
        return across.view(batch, to * to, channels)

    def _matrix(self, side: int, target: int) -> Tensor:
        """The bilinear resize along one axis, [target, side]."""
        found = self._matrices.get((side, target))
        if found is None:
            eye = torch.eye(side, dtype=self._like.dtype, device=self._like.device)[None]
            found = F.interpolate(eye, target, mode="linear", align_corners=False)[0].t().contiguous()
            self._matrices[side, target] = found
        return found

    def _ownership(self) -> Tensor:
        """[sum of C_l, L]: 1 where the channel belongs to the layer."""
        sizes = torch.diff(self._long(self.layout.offsets))
        owner = torch.repeat_interleave(torch.arange(len(sizes), device=sizes.device), sizes)
        return F.one_hot(owner, len(sizes)).to(self._like)

    def _long(self, values: Sequence[int]) -> Tensor:
        return torch.tensor(values, device=self._like.device)


def _flat(maps: Tensor) -> Tensor:
    """[B, C, S, S] -> [B, S^2, C]; no copy for channels_last maps."""
    return maps.permute(0, 2, 3, 1).flatten(1, 2)
