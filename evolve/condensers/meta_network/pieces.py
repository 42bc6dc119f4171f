"""The matching of one descendant layer with all ancestor layers: value, gradient and curvature written out.

A piece is what descendant layer k adds to L_meta (:meth:`evolve.condensers.meta_network.matching.Matcher.loss`), sum over images b and ancestor layers l of
alpha_bl psi^{l,k}_b, in one of the two ways named there. It is a polynomial of the features F (rows of z), of h's weight W and bias, so its
derivatives are sums of the same matrix products; autograd finds them too, at two to three times the cost. tests/condensers/test_pieces.py holds
them to autograd in float64.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from evolve.condensers.meta_network.matching import Frozen, Matcher, Projection, as_flat


class Parts(NamedTuple):
    """One tensor for each of a piece's arguments: features [B, P, c], h's weight [sum of C_l, c], h's bias [sum of C_l]."""

    features: Tensor
    weight: Tensor
    bias: Tensor


class Piece(Protocol):
    """``value`` and ``gradient`` at the point where it was made. Of a side that was frozen without energy the value is not psi's."""

    value: Tensor
    gradient: Parts

    def products(self, v: Parts, curvature: bool) -> tuple[Parts | None, Tensor]:
        """(the Hessian times the direction ``v``, None if not asked for; how psi [B, L] changes along ``v``)."""
        ...


def piece(
    matcher: Matcher, k: int, frozen: Frozen, alpha: Tensor, z: Tensor, h: Projection
) -> Piece:
    """Descendant layer ``k`` with features z [B, c, S, S] under alpha [B, L]."""
    kind = Moments if matcher.layout.moments(k) else Direct
    return kind(matcher, k, frozen, alpha, as_flat(z), h)


def psi(matcher: Matcher, k: int, frozen: Frozen, z: Tensor, h: Projection) -> Tensor:
    """psi^{.,k} alone, [B, L], of features z [B, c, S, S]: what alpha's gradient is made of under Eq. 16."""
    features, kind = as_flat(z), matcher.layout.kind(k)
    if not matcher.layout.moments(k):
        residual = torch.nn.functional.linear(features, h.weight, h.bias).sub_(frozen.maps[kind][0])
        return residual.square_().sum(1) @ matcher.scales[k]
    pixels, sums, side = features.shape[1], features.sum(1), z.shape[-1]
    moments, grams = (
        torch.bmm(features.transpose(1, 2), features),
        matcher.cross(h.weight, h.weight),
    )
    shrunk = {run.side: matcher.shrink(features, run.side, side) for run in matcher.runs[k]}
    crossed = [
        (target * (shrunk[run.side] @ h.weight[run.first : run.last].t())).sum(1)
        for target, run in zip(frozen.maps[kind], matcher.runs[k], strict=True)
    ]
    channel = h.bias * (sums @ h.weight.t() - frozen.totals[kind]) - torch.cat(crossed, 1)
    squares = (moments.flatten(1) @ grams.t()) * matcher.inverse[k]
    return (
        squares + (2 * channel + pixels * h.bias.square()) @ matcher.scales[k] + frozen.energy[kind]
    )


class Direct:
    """Through the residual r = F W^T + bias - Z [B, P, sum of C_l]: for maps of few pixels."""

    def __init__(
        self,
        matcher: Matcher,
        k: int,
        frozen: Frozen,
        alpha: Tensor,
        features: Tensor,
        h: Projection,
    ) -> None:
        (target,) = frozen.maps[matcher.layout.kind(k)]
        self.features, self.h, self.scales = features, h, matcher.scales[k]
        self.weights = (alpha @ self.scales.t()).unsqueeze(1)
        self.residual = torch.nn.functional.linear(features, h.weight, h.bias).sub_(target)
        self.pushed = self.residual * (2 * self.weights)
        self.value = torch.dot(self.pushed.flatten(), self.residual.flatten()) / 2
        rows = self.pushed.flatten(0, 1)
        self.gradient = Parts(
            self.pushed @ h.weight, rows.t() @ features.flatten(0, 1), rows.sum(0)
        )

    def products(self, v: Parts, curvature: bool) -> tuple[Parts | None, Tensor]:
        moved = torch.nn.functional.linear(v.features, self.h.weight, v.bias)
        moved += self.features @ v.weight.t()
        psi = 2 * (moved * self.residual).sum(1) @ self.scales
        if not curvature:
            return None, psi
        pushed = moved.mul_(2 * self.weights)
        rows, before = pushed.flatten(0, 1), self.pushed.flatten(0, 1)
        weight = torch.addmm(
            rows.t() @ self.features.flatten(0, 1), before.t(), v.features.flatten(0, 1)
        )
        return Parts(pushed @ self.h.weight + self.pushed @ v.weight, weight, rows.sum(0)), psi


class Moments:
    """By second moments: F^T F of the features and W^T W of h; the ancestor's maps stay at the lower of the two resolutions."""

    def __init__(
        self,
        matcher: Matcher,
        k: int,
        frozen: Frozen,
        alpha: Tensor,
        features: Tensor,
        h: Projection,
    ) -> None:
        kind = matcher.layout.kind(k)
        self.matcher, self.k, self.features, self.h = matcher, k, features, h
        self.pixels, self.channels = features.shape[1], features.shape[2]
        self.maps, self.totals = frozen.maps[kind], frozen.totals[kind]
        self.per_layer = alpha * matcher.inverse[k]
        self.per_channel = alpha @ matcher.scales[k].t()
        self.weighted = [
            t * self.per_channel[:, None, run.first : run.last]
            for t, run in zip(self.maps, matcher.runs[k], strict=True)
        ]
        self.sums, self.moments = features.sum(1), torch.bmm(features.transpose(1, 2), features)
        self.grams = self.matcher.cross(h.weight, h.weight)
        self.mixed = self._square(self.per_layer @ self.grams)
        self.shrunk = self._shrink(features)
        self._first(frozen.energy.get(kind), alpha)

    def _first(self, energy: Tensor | None, alpha: Tensor) -> None:
        a, w, bias = self.per_channel, self.h.weight, self.h.bias
        scaled = a * bias
        drawn, pulled, matched = self._enlarged(-2 * w), scaled @ w, self._matched(self.shrunk)
        products = (self.moments * self.mixed).sum() + 2 * (
            (pulled * self.sums).sum() - (matched * w).sum()
        )
        self.value = products + (scaled * (self.pixels * bias - 2 * self.totals)).sum()
        if energy is not None:
            self.value += (alpha * energy).sum()
        weight = self._through(w, self.moments) - matched + scaled.t() @ self.sums
        over = (a * (self.sums @ w.t() - self.totals)).sum(0) + self.pixels * scaled.sum(0)
        self.gradient = Parts(
            drawn.add_(2 * pulled.unsqueeze(1)).baddbmm_(self.features, 2 * self.mixed),
            2 * weight,
            2 * over,
        )

    def products(self, v: Parts, curvature: bool) -> tuple[Parts | None, Tensor]:
        half = torch.bmm(v.features.transpose(1, 2), self.features)
        moments, sums, shrunk = (
            half + half.transpose(1, 2),
            v.features.sum(1),
            self._shrink(v.features),
        )
        grams = self.matcher.cross(v.weight, self.h.weight)
        grams = (self._square(grams) + self._square(grams).transpose(1, 2)).flatten(1)
        psi = self._psi(v, grams, moments, sums, shrunk)
        return (self._curved(v, grams, moments, sums, shrunk) if curvature else None), psi

    def _psi(
        self, v: Parts, grams: Tensor, moments: Tensor, sums: Tensor, shrunk: list[Tensor]
    ) -> Tensor:
        """How every psi [B, L] changes along ``v``."""
        w, bias = self.h.weight, self.h.bias
        change = (
            self.moments.flatten(1) @ grams.t() + moments.flatten(1) @ self.grams.t()
        ) * self.matcher.inverse[self.k]
        crossed = []
        for t, run, features, moved in zip(
            self.maps, self.matcher.runs[self.k], self.shrunk, shrunk, strict=True
        ):
            part = slice(run.first, run.last)
            crossed.append((t * (features @ v.weight[part].t() + moved @ w[part].t())).sum(1))
        channel = (self.sums @ w.t()) * v.bias + (self.sums @ v.weight.t() + sums @ w.t()) * bias
        channel = channel + v.bias * (self.pixels * bias - self.totals) - torch.cat(crossed, 1)
        return change + 2 * channel @ self.matcher.scales[self.k]

    def _curved(
        self, v: Parts, grams: Tensor, moments: Tensor, sums: Tensor, shrunk: list[Tensor]
    ) -> Parts:
        a, w = self.per_channel, self.h.weight
        scaled, moved = a * self.h.bias, a * v.bias
        features = torch.baddbmm(
            torch.bmm(v.features, self.mixed), self.features, self._square(self.per_layer @ grams)
        )
        features = (
            features - self._enlarged(v.weight) + (moved @ w + scaled @ v.weight).unsqueeze(1)
        )
        weight = (
            self._through(v.weight, self.moments)
            + self._through(w, moments)
            - self._matched(shrunk)
        )
        weight = weight + moved.t() @ self.sums + scaled.t() @ sums
        over = (a * (sums @ w.t() + self.sums @ v.weight.t())).sum(0) + self.pixels * moved.sum(0)
        return Parts(2 * features, 2 * weight, 2 * over)

    def _square(self, rows: Tensor) -> Tensor:
        """[n, c * c] -> [n, c, c]."""
        return rows.view(-1, self.channels, self.channels)

    def _through(self, w: Tensor, moments: Tensor) -> Tensor:
        """w_l times the moments [B, c, c] weighted for layer l and summed over the images, [sum of C_l, c]."""
        by_layer = self._square(self.per_layer.t() @ moments.flatten(1))
        parts, done = [], 0
        for stretch in self.matcher.stretches(w):
            parts.append(torch.bmm(stretch, by_layer[done : done + len(stretch)]).flatten(0, 1))
            done += len(stretch)
        return torch.cat(parts)

    def _enlarged(self, w: Tensor) -> Tensor:
        """U (weighted Z) w, summed over the runs: [B, P, c]."""
        pairs = zip(self.weighted, self.matcher.runs[self.k], strict=True)
        parts = [(t @ w[run.first : run.last], run.side) for t, run in pairs]
        return self.matcher.enlarged(parts, self.matcher.layout.descendant[self.k][1])

    def _shrink(self, features: Tensor) -> list[Tensor]:
        """U^T F for the side of every run, [B, side^2, c] each."""
        side = self.matcher.layout.descendant[self.k][1]
        shrunk: dict[int, Tensor] = {}
        return [
            shrunk.setdefault(run.side, self.matcher.shrink(features, run.side, side))
            for run in self.matcher.runs[self.k]
        ]

    def _matched(self, shrunk: list[Tensor]) -> Tensor:
        """(weighted Z)^T U^T F, [sum of C_l, c]."""
        return torch.cat(
            [
                t.flatten(0, 1).t() @ f.flatten(0, 1)
                for t, f in zip(self.weighted, shrunk, strict=True)
            ]
        )
