"""The pseudo-descendant's losses by passes that are written out, on a CPU.

The passes are :class:`evolve.networks.fast.Point`. The look-ahead's steps are the same as
:class:`evolve.condensers.meta_network.hypergradient.ByAutograd` on the same losses;
tests/condensers/test_pieces.py holds them together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from evolve.condensers.meta_network.hypergradient import Local, Rule, Tensors, sweep
from evolve.condensers.meta_network.losses import Objective
from evolve.condensers.meta_network.matching import Frozen, Matcher, Projection, as_flat
from evolve.condensers.meta_network.pieces import Parts, Piece, piece, psi
from evolve.networks.fast import Point

if TYPE_CHECKING:
    from evolve.networks.fast.shape import Fused


class Written:
    """L_cls and L_meta of a pseudo-descendant, as functions of one tuple (theta, zeta).

    They are :class:`evolve.condensers.meta_network.losses.Losses`. theta: the network's parameters
    in the module's order, as :class:`evolve.networks.fast.Point` takes them.

    Args:
        fused: the pseudo-descendant's fast passes.
        places: the units whose features are matched.
        matcher: what compares them.
    """

    value = False

    def __init__(self, fused: Fused, places: Sequence[int], matcher: Matcher) -> None:
        self.fused, self.places, self.matcher = fused, places, matcher
        self.theta = 4 * len(fused.layers) + 2

    def run(self, x: Tensor, params: Sequence[Tensor]) -> Point:
        return Point(self.fused, params, x)

    def classification(self, x: Tensor, labels: Tensor, params: Sequence[Tensor]) -> Classification:
        """L_cls on images x [B, 3, S, S] with labels [B]."""
        return Classification(self, x, labels, params)

    @torch.no_grad()
    def total(
        self, objective: Objective, weight: float, params: Sequence[Tensor]
    ) -> tuple[Tensor, Tensor, Tensors]:
        """See :class:`evolve.condensers.meta_network.losses.Losses`."""
        o = objective
        if o.matched is o.images and weight > 0:
            both = Total(self, o.frozen, o.images, o.labels, o.alpha, weight, params)
            return both.classification, both.classification.new_zeros(()), both.grads
        classification = self.classification(o.images, o.labels, params)
        matching = self.matching(o.frozen, o.matched, o.alpha, params)
        grads = torch._foreach_add(classification.grads, matching.grads, alpha=weight)
        return classification.loss, matching.loss, tuple(grads)

    @torch.no_grad()
    def hypergradient(
        self,
        objective: Objective,
        outer: tuple[Tensor, Tensor],
        steps: int,
        params: Sequence[Tensor],
        buffers: Sequence[Tensor],
        rule: Rule,
    ) -> Tensor:
        """See :class:`evolve.condensers.meta_network.losses.Losses`."""
        o = objective

        def matching(now: Tensors) -> Local:
            return self.matching(o.frozen, o.matched, o.alpha, now)

        def reached(now: Tensors) -> tuple[Tensor, Tensors]:
            after = self.classification(*outer, now)
            return after.loss, after.grads

        course: list[Callable[[Tensors], Local]] = [matching] * steps
        course.append(lambda now: self.classification(o.images, o.labels, now))
        return sweep(course, reached, params, buffers, rule)[1]

    @torch.no_grad()
    def psi(self, frozen: Frozen, x: Tensor, params: Sequence[Tensor]) -> Tensor:
        """psi [B, L, K] on images x: a forward pass, no derivative."""
        features, h = self.run(x, params).features, params[self.theta :]
        columns = [
            psi(self.matcher, k, frozen, features[place], Projection(h[2 * k], h[2 * k + 1]))
            for k, place in enumerate(self.places)
        ]
        return torch.stack(columns, 2)

    def pieces(
        self, frozen: Frozen, run: Point, alpha: Tensor, params: Sequence[Tensor]
    ) -> list[Piece]:
        """The parts of sum(alpha * psi), one a matched layer, at the features of ``run``."""
        h = params[self.theta :]
        return [
            piece(
                self.matcher,
                k,
                frozen,
                alpha[:, :, k],
                run.features[place],
                Projection(h[2 * k], h[2 * k + 1]),
            )
            for k, place in enumerate(self.places)
        ]

    def joined(self, theta: Tensors, parts: Sequence[Parts]) -> Tensors:
        """A direction of (theta, zeta), zeta's part out of the pieces'."""
        return (*theta, *(tensor for part in parts for tensor in (part.weight, part.bias)))

    def placed(self, parts: Sequence[Parts]) -> dict[int, Tensor]:
        """The features' gradients by unit."""
        return {place: part.features for place, part in zip(self.places, parts, strict=True)}

    def matching(
        self, frozen: Frozen, x: Tensor, alpha: Tensor, params: Sequence[Tensor]
    ) -> Matching:
        """L_meta on images x with alpha [B, L, K]."""
        return Matching(self, frozen, x, alpha, params)


class Classification:
    """Cross-entropy, mean over the batch: its value, gradient and Hessian products at one point."""

    def __init__(
        self, written: Written, x: Tensor, labels: Tensor, params: Sequence[Tensor]
    ) -> None:
        self.written, self.run = written, written.run(x, params)
        self.loss = F.cross_entropy(self.run.logits, labels)
        self.scores = torch.softmax(self.run.logits, 1)
        self.g_logits = (self.scores - F.one_hot(labels, self.scores.shape[1])) / len(x)
        self.rest = tuple(torch.zeros_like(p) for p in params[written.theta :])
        self.grads: Tensors = (*self.run.backward(self.g_logits), *self.rest)

    def products(self, beta: Sequence[Tensor], curvature: bool) -> tuple[Tensors, None]:
        """(Hessian times ``beta``, None: alpha has no part in it)."""
        t_logits, _ = self.run.push(beta)
        t_scores = self.scores * (t_logits - (self.scores * t_logits).sum(1, keepdim=True))
        return (*self.run.pull(self.g_logits, t_scores / len(t_scores)), *self.rest), None


class Total:
    """L_total = L_cls + lambda L_meta where both see the same images: one pass through the network
    does for the two.

    ``classification``: L_cls; ``grads``: the total's gradient. ``frozen`` may lack its energy.
    """

    def __init__(
        self,
        written: Written,
        frozen: Frozen,
        x: Tensor,
        labels: Tensor,
        alpha: Tensor,
        weight: float,
        params: Sequence[Tensor],
    ) -> None:
        run = written.run(x, params)
        pieces = written.pieces(frozen, run, alpha * (weight / len(x)), params)
        self.classification = F.cross_entropy(run.logits, labels)
        g_logits = (torch.softmax(run.logits, 1) - F.one_hot(labels, run.logits.shape[1])) / len(x)
        gradients = [part.gradient for part in pieces]
        self.grads: Tensors = written.joined(
            run.backward(g_logits, written.placed(gradients)), gradients
        )


class Matching:
    """sum(alpha * psi), mean over the batch: its value, gradient, Hessian products and mixed
    derivatives at one point.
    """

    def __init__(
        self, written: Written, frozen: Frozen, x: Tensor, alpha: Tensor, params: Sequence[Tensor]
    ) -> None:
        self.written, self.run = written, written.run(x, params)
        self.pieces = written.pieces(frozen, self.run, alpha / len(x), params)
        self.loss = torch.stack([part.value for part in self.pieces]).sum()
        gradients = [part.gradient for part in self.pieces]
        self.grads = written.joined(self.run.backward(None, written.placed(gradients)), gradients)

    def products(self, beta: Sequence[Tensor], curvature: bool) -> tuple[Tensors | None, Tensor]:
        """(Hessian times ``beta``, or None without ``curvature``; d<gradient, beta>/d alpha)."""
        h = beta[self.written.theta :]
        _, moved = self.run.push(beta)
        along = [
            Parts(as_flat(moved[place]), h[2 * k], h[2 * k + 1])
            for k, place in enumerate(self.written.places)
        ]
        products = [
            part.products(way, curvature) for part, way in zip(self.pieces, along, strict=True)
        ]
        mixed = torch.stack([psi for _, psi in products], 2) / len(self.run.logits)
        if not curvature:
            return None, mixed
        curved = [parts for parts, _ in products if parts is not None]
        return self.written.joined(
            self.run.pull(None, None, self.written.placed(curved)), curved
        ), mixed
