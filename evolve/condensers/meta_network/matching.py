"""psi and L_meta: how well the pseudo-descendant's features match the ancestor's (Eq. 7, 11, 13).

    psi^{l,k} = mean over (C_l, P_k) of ( h_{l,k}(z^k) - resize(Z^l) )^2

per image, with P_k the pixels of z^k. ``psi_reference`` says just that. ``Matcher.loss`` gives
sum(alpha * psi) without ever forming the [sum of C_l, H, W] maps where those are large: with W, b
the weight and bias of h and U the bilinear resize,

    C_l P_k psi = sum_p z^T (W^T W) z - 2 <U (W^T Z), z> + 2 b^T W sum_p z + P_k |b|^2
                  - 2 b^T sum_p UZ + sum (UZ)^2

where W^T Z, summed over the layers of one resolution, is made at the lower of the two resolutions
and only then enlarged, and the last two sums never change, as the ancestor is frozen. Everything is
made of matrix products, so that gradients of gradients are cheap.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
import torch.nn.functional as F
from torch import Tensor

from evolve.condensers.meta_network.layout import (
    Layout,
    Projection,
    Stretch,
    as_flat,
    layout,
    resize,
)


def psi_reference(
    ancestor: Sequence[Tensor], descendant: Sequence[Tensor], h: Sequence[Projection]
) -> Tensor:
    """psi as the formula reads (Eq. 7).

    Args:
        ancestor: maps [B, C_l, S, S].
        descendant: maps [B, c_k, s, s].
        h: the projections.

    Returns:
        [B, L, K].
    """
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
    """All that psi and alpha need of the frozen ancestor, per image.

    Index it with a tensor of rows to get a batch.

    Attributes:
        pooled: [B, sum of C_l], the maps' averages over pixels, the meta-network's input.
        maps: per kind of descendant layer one tensor [B, pixels, channels] a run.
        energy: where psi goes by second moments, mean over (C_l, P_k) of (UZ)^2, [B, L].
        totals: there, too, sum over pixels of UZ, [B, sum of C_l].
    """

    pooled: Tensor
    maps: dict[tuple[int, bool], tuple[Tensor, ...]]
    energy: dict[tuple[int, bool], Tensor]
    totals: dict[tuple[int, bool], Tensor]

    def __getitem__(self, rows: Tensor) -> Frozen:
        taken = {
            id(m): m for runs in self.maps.values() for m in runs
        }  # kinds may share a run's maps
        taken = {place: m.index_select(0, rows) for place, m in taken.items()}
        maps = {kind: tuple(taken[id(m)] for m in runs) for kind, runs in self.maps.items()}
        energy = {kind: e.index_select(0, rows) for kind, e in self.energy.items()}
        totals = {kind: t.index_select(0, rows) for kind, t in self.totals.items()}
        return Frozen(self.pooled.index_select(0, rows), maps, energy, totals)

    @staticmethod
    def join(parts: Iterable[Frozen], number: int) -> Frozen:
        """Several batches as one.

        Each is written to its place as it comes, so that no second copy is held.

        Args:
            parts: the batches.
            number: images in all.
        """
        whole, done = None, 0
        for part in parts:
            whole = part._room(number) if whole is None else whole
            pairs = zip(whole._tensors(), part._tensors(), strict=True)
            for room, own in {id(room): (room, own) for room, own in pairs}.values():
                room[done : done + len(own)] = own
            done += len(part.pooled)
        assert whole is not None and done == number, "parts are not all images"
        return whole

    def _room(self, number: int) -> Frozen:
        """Like this, for ``number`` images, not yet filled; runs that kinds share stay shared."""
        rooms = {id(t): t.new_empty(number, *t.shape[1:]) for t in self._tensors()}
        return Frozen(
            rooms[id(self.pooled)],
            {kind: tuple(rooms[id(m)] for m in runs) for kind, runs in self.maps.items()},
            {kind: rooms[id(e)] for kind, e in self.energy.items()},
            {kind: rooms[id(t)] for kind, t in self.totals.items()},
        )

    def _tensors(self) -> list[Tensor]:
        maps = [m for runs in self.maps.values() for m in runs]
        return [self.pooled, *maps, *self.energy.values(), *self.totals.values()]


class Matcher:
    """L_meta and its frozen side for one layout.

    It holds the resize matrices and the sums over each layer's channels.

    Args:
        shape: the layout.
        like: a tensor of the device and dtype to use.

    Attributes:
        runs: a descendant layer's.
        inverse: [L] a descendant layer, 1 / (C_l P_k).
        scales: [sum of C_l, L] a descendant layer, that where the channel is the layer's.
    """

    def __init__(self, shape: Layout, like: Tensor) -> None:
        self.layout = shape
        self._like = like
        self.runs = [shape.runs(k) for k in range(len(shape.descendant))]
        self._owner = self._ownership()
        sizes = torch.diff(self._long(shape.offsets)).to(like)
        self.inverse = [1 / (s * s * sizes) for _, s in shape.descendant]
        self.scales = [self._owner * inverse for inverse in self.inverse]
        self._matrices: dict[tuple[int, int], Tensor] = {}

    @property
    def pooled_sizes(self) -> tuple[int, ...]:
        return tuple(channels for channels, _ in self.layout.ancestor)

    def raw_numbers(self) -> int:
        return sum(channels * side**2 for channels, side in self.layout.ancestor)

    def numbers_per_image(self) -> int:
        kinds = {self.layout.kind(k): self.runs[k] for k in range(len(self.runs))}
        maps = sum(
            run.side**2 * (run.last - run.first)
            for run in {run for runs in kinds.values() for run in runs}
        )
        moments = sum(by_moments for _, by_moments in kinds)
        return (
            maps
            + self.layout.channels
            + moments * (len(self.layout.ancestor) + self.layout.channels)
        )

    def pool(self, ancestor: Sequence[Tensor]) -> Tensor:
        """Maps averaged over their pixels, side by side.

        Args:
            ancestor: maps [B, C_l, S, S].

        Returns:
            [B, sum of C_l].
        """
        return torch.cat([f.mean((2, 3)) for f in ancestor], 1)

    @torch.no_grad()
    def freeze(self, ancestor: Sequence[Tensor], value: bool = True) -> Frozen:
        """The frozen side of the ancestor's maps.

        Args:
            ancestor: [B, C_l, S, S].
            value: without it there is no energy, which no derivative but alpha's needs.
        """
        pooled, by_stretch = self.pool(ancestor), dict[Stretch, Tensor]()
        maps: dict[tuple[int, bool], tuple[Tensor, ...]] = {}
        energy: dict[tuple[int, bool], Tensor] = {}
        totals: dict[tuple[int, bool], Tensor] = {}
        for k, runs in enumerate(self.runs):
            kind = self.layout.kind(k)
            if kind in maps:
                continue
            for run in runs:
                if run not in by_stretch:
                    by_stretch[run] = torch.cat(
                        [as_flat(resize(ancestor[l], run.side)) for l in run.layers], 2
                    )
            maps[kind] = stretches = tuple(by_stretch[run] for run in runs)
            if not self.layout.moments(k):
                continue
            totals[kind] = torch.cat(
                [
                    self._total(m, run, kind[0], pooled)
                    for m, run in zip(stretches, runs, strict=True)
                ],
                1,
            )
            if value:
                squares = torch.cat(
                    [
                        self._energy(m, run.side, kind[0])
                        for m, run in zip(stretches, runs, strict=True)
                    ],
                    1,
                )
                energy[kind] = squares @ self.scales[k]
        return Frozen(pooled, maps, energy, totals)

    def loss(
        self, frozen: Frozen, alpha: Tensor, descendant: Sequence[Tensor], h: Sequence[Projection]
    ) -> Tensor:
        """L_meta (Eq. 8): sum over pairs of alpha times psi, mean over the images.

        Psi is :func:`psi_reference`. Linear in alpha, so its gradient with respect to alpha is psi
        / B.

        Args:
            frozen: the ancestor's side.
            alpha: [B, L, K].
            descendant: maps [B, c_k, s, s].
            h: the projections.
        """
        total = alpha.new_zeros(())
        for k, z in enumerate(descendant):
            way = self._by_moments if self.layout.moments(k) else self._directly
            total = total + way(k, frozen, alpha[:, :, k], z, h[k])
        return total / len(alpha)

    def _directly(self, k: int, frozen: Frozen, alpha: Tensor, z: Tensor, h: Projection) -> Tensor:
        """Through the maps themselves: cheap where they have few pixels."""
        (target,) = frozen.maps[self.layout.kind(k)]
        psi = (F.linear(as_flat(z), h.weight, h.bias) - target).square().sum(1) @ self.scales[k]
        return (alpha * psi).sum()

    def _by_moments(
        self, k: int, frozen: Frozen, alpha: Tensor, z: Tensor, h: Projection
    ) -> Tensor:
        """By second moments, weighted by alpha [B, L] before anything as large as z is touched."""
        flat, pixels, kind = as_flat(z), z.shape[-1] ** 2, self.layout.kind(k)
        w, bias = h.weight, h.bias
        per_channel = alpha @ self.scales[k].t()
        grams = self.cross(w, w)
        weighted = ((alpha * self.inverse[k]) @ grams).view(-1, w.shape[1], w.shape[1])
        pulled = torch.bmm(flat, weighted)
        for run, target in zip(self.runs[k], frozen.maps[kind], strict=True):
            part = (target * (-2 * per_channel[:, None, run.first : run.last])) @ w[
                run.first : run.last
            ]
            pulled = pulled + _enlarge(part, run.side, z.shape[-1])
        scaled = per_channel * bias
        constant = (scaled * (pixels * bias - 2 * frozen.totals[kind])).sum() + (
            alpha * frozen.energy[kind]
        ).sum()
        return (pulled * flat).sum() + 2 * ((scaled @ w) * flat.sum(1)).sum() + constant

    def cross(self, left: Tensor, right: Tensor) -> Tensor:
        """left_l^T right_l of every ancestor layer.

        Args:
            left, right: weights [sum of C_l, c].

        Returns:
            [L, c * c].
        """
        pairs = zip(self.stretches(left), self.stretches(right), strict=True)
        return torch.cat([torch.bmm(a.transpose(1, 2), b).flatten(1) for a, b in pairs])

    def stretches(self, w: Tensor) -> list[Tensor]:
        """A weight cut into [n, C, c]: n neighbouring layers with C channels each.

        Args:
            w: [sum of C_l, c].
        """
        cut = []
        for channels, layers in groupby(
            enumerate(self.layout.ancestor), key=lambda item: item[1][0]
        ):
            first = [number for number, _ in layers]
            rows = w[self.layout.offsets[first[0]] : self.layout.offsets[first[-1] + 1]]
            cut.append(rows.view(len(first), channels, w.shape[1]))
        return cut

    def _energy(self, maps: Tensor, side: int, target: int) -> Tensor:
        """Sum over pixels of (UZ)^2, per channel: [B, side^2, C] -> [B, C].

        U^T U is applied at the maps' own resolution.
        """
        if side == target:
            return maps.square().sum(1)
        u = self._matrix(side, target)
        return (maps * self._both_axes(maps, side, u.t() @ u)).sum(1)

    def _total(self, maps: Tensor, run: Stretch, target: int, pooled: Tensor) -> Tensor:
        """Sum over pixels of UZ, per channel: [B, side^2, C] -> [B, C]."""
        native = self.layout.ancestor[run.layers[0]][1]
        if all(self.layout.ancestor[l][1] == native for l in run.layers) and target % native == 0:
            return (
                pooled[:, run.first : run.last] * target**2
            )  # enlarging by a whole factor keeps the mean
        line = self._matrix(run.side, target).sum(0)
        return torch.matmul(torch.outer(line, line).flatten(), maps)

    @staticmethod
    def _both_axes(maps: Tensor, side: int, matrix: Tensor) -> Tensor:
        """A one-dimensional linear map [to, side] along both axes.

        [B, side^2, C] -> [B, to^2, C].
        """
        batch, _, channels = maps.shape
        to = matrix.shape[0]
        down = torch.matmul(matrix, maps.reshape(batch, side, side * channels))
        across = torch.matmul(matrix, down.view(batch * to, side, channels))
        return across.view(batch, to * to, channels)

    def enlarged(self, parts: Sequence[tuple[Tensor, int]], target: int) -> Tensor:
        """The sum of several maps enlarged by U: lines one by one, columns all at once.

        Args:
            parts: maps [B, side^2, C] with their sides.
            target: the side after.
        """
        batch, _, channels = parts[0][0].shape
        whole = [maps for maps, side in parts if side == target]
        small = [(maps, side) for maps, side in parts if side != target]
        if small:
            lines = [
                torch.matmul(self._matrix(side, target), maps.reshape(batch, side, side * channels))
                for maps, side in small
            ]
            both = torch.cat(
                [
                    part.view(batch * target, side, channels)
                    for part, (_, side) in zip(lines, small, strict=True)
                ],
                1,
            )
            across = torch.cat([self._matrix(side, target) for _, side in small], 1)
            whole.append(torch.matmul(across, both).view(batch, target * target, channels))
        total = whole[0]
        for more in whole[1:]:
            total = total.add_(more)
        return total

    def shrink(self, maps: Tensor, side: int, target: int) -> Tensor:
        """U's transpose.

        Args:
            maps: [B, target^2, C].
            side, target: sides after and before.

        Returns:
            [B, side^2, C].
        """
        return (
            maps
            if side == target
            else self._both_axes(maps, target, self._matrix(side, target).t())
        )

    def _matrix(self, side: int, target: int) -> Tensor:
        """The bilinear resize along one axis, [target, side]."""
        matrix = self._matrices.get((side, target))
        if matrix is None:
            eye = torch.eye(side, dtype=self._like.dtype, device=self._like.device)[None]
            matrix = (
                F.interpolate(eye, target, mode="linear", align_corners=False)[0].t().contiguous()
            )
            self._matrices[side, target] = matrix
        return matrix

    def _ownership(self) -> Tensor:
        """[sum of C_l, L]: 1 where the channel belongs to the layer."""
        sizes = torch.diff(self._long(self.layout.offsets))
        owner = torch.repeat_interleave(torch.arange(len(sizes), device=sizes.device), sizes)
        return F.one_hot(owner, len(sizes)).to(self._like)

    def _long(self, values: Sequence[int]) -> Tensor:
        return torch.tensor(values, device=self._like.device)


def _enlarge(maps: Tensor, side: int, target: int) -> Tensor:
    """U along the pixels of [B, side^2, C] -> [B, target^2, C]."""
    if side == target:
        return maps
    square = maps.view(len(maps), side, side, -1).permute(0, 3, 1, 2)
    return as_flat(resize(square, target))
