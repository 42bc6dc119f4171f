"""The look-ahead's losses by passes that are written out (:mod:`evolve.networks.hessian`), for a pseudo-descendant on a CPU.

The same as :class:`evolve.condensers.hypergradient.ByAutograd` on the same losses; tests/condensers/test_pieces.py holds them together.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from evolve.condensers.hypergradient import Tensors
from evolve.condensers.matching import Frozen, Matcher, Projection, as_flat
from evolve.condensers.pieces import Parts, piece
from evolve.networks.fused import Weights, passes
from evolve.networks.hessian import Pass
from evolve.networks.kernels import as_maps, laid_out
from evolve.networks.plan import Plan


class Written:
    """L_cls and L_meta of a pseudo-descendant of ``plan``, as functions of one tuple (theta, zeta).

    theta in the order of the module's parameters: conv.weight, conv.bias, bn.weight, bn.bias a unit, then the head's; ``places``: the
    units whose features are matched.
    """

    def __init__(self, plan: Plan, size: int, places: Sequence[int], matcher: Matcher) -> None:
        self.plan, self.size, self.places, self.matcher = plan, size, places, matcher
        self.units = sum(len(block) for block in plan)
        self.theta = 4 * self.units + 2

    def run(self, x: Tensor, params: Sequence[Tensor]) -> Pass:
        return Pass(passes(self.plan, self.size), self.weights(params), x)

    def weights(self, params: Sequence[Tensor]) -> Weights:
        end = 4 * self.units
        conv = [laid_out(weight) for weight in params[0:end:4]]  # as they are, but for a stranger's
        bias, gamma, beta = (params[first:end:4] for first in (1, 2, 3))
        return Weights(conv, bias, gamma, beta, params[end], params[end + 1])

    def flat(self, w: Weights) -> Tensors:
        units = zip(w.conv, w.bias, w.gamma, w.beta, strict=True)
        return (*(part for unit in units for part in unit), w.head, w.head_bias)

    def classification(self, x: Tensor, labels: Tensor, params: Sequence[Tensor]) -> Classification:
        """L_cls on images x [B, 3, S, S] with labels [B]."""
        return Classification(self, x, labels, params)

    def matching(self, frozen: Frozen, x: Tensor, alpha: Tensor, params: Sequence[Tensor]) -> Matching:
        """L_meta on images x with alpha [B, L, K]."""
        return Matching(self, frozen, x, alpha, params)


class Classification:
    """Cross-entropy, mean over the batch: its value, gradient and Hessian products at one point."""

    def __init__(self, written: Written, x: Tensor, labels: Tensor, params: Sequence[Tensor]) -> None:
        self.written, self.run = written, written.run(x, params)
        self.loss = F.cross_entropy(self.run.logits, labels)
        self.scores = torch.softmax(self.run.logits, 1)
        self.g_logits = (self.scores - F.one_hot(labels, self.scores.shape[1])) / len(x)
        self.rest = tuple(torch.zeros_like(p) for p in params[written.theta :])
        self.grads: Tensors = (*written.flat(self.run.backward(self.g_logits)), *self.rest)

    def products(self, beta: Sequence[Tensor], curvature: bool) -> tuple[Tensors, None]:
        """(Hessian times ``beta``, None: alpha has no part in it)."""
        v = self.written.weights(beta)
        t_logits, _ = self.run.push(v)
        t_scores = self.scores * (t_logits - (self.scores * t_logits).sum(1, keepdim=True))
        found = self.run.pull(v, self.g_logits, t_scores / len(t_scores))
        return (*self.written.flat(found), *self.rest), None


class Matching:
    """sum(alpha * psi), mean over the batch: its value, gradient, Hessian products and mixed derivatives at one point."""

    def __init__(self, written: Written, frozen: Frozen, x: Tensor, alpha: Tensor, params: Sequence[Tensor]) -> None:
        self.written, self.run, h = written, written.run(x, params), params[written.theta :]
        self.pieces = [
            piece(written.matcher, k, frozen, alpha[:, :, k] / len(x), self.run.features[place], Projection(h[2 * k], h[2 * k + 1]))
            for k, place in enumerate(written.places)
        ]
        self.loss = torch.stack([one.value for one in self.pieces]).sum()
        self.grads = self._joined(self.run.backward(None, self._placed(gradients := [one.gradient for one in self.pieces])), gradients)

    def products(self, beta: Sequence[Tensor], curvature: bool) -> tuple[Tensors | None, Tensor]:
        """(Hessian times ``beta``, or None without ``curvature``; d<gradient, beta>/d alpha)."""
        v, h = self.written.weights(beta), beta[self.written.theta :]
        _, moved = self.run.push(v)
        along = [Parts(as_flat(moved[place]), h[2 * k], h[2 * k + 1]) for k, place in enumerate(self.written.places)]
        found = [one.products(way, curvature) for one, way in zip(self.pieces, along, strict=True)]
        mixed = torch.stack([psi for _, psi in found], 2) / len(self.run.logits)
        if not curvature:
            return None, mixed
        curved = [parts for parts, _ in found if parts is not None]
        return self._joined(self.run.pull(v, None, None, self._placed(curved)), curved), mixed

    def _joined(self, theta: Weights, parts: Sequence[Parts]) -> Tensors:
        return (*self.written.flat(theta), *(part for one in parts for part in (one.weight, one.bias)))

    def _placed(self, parts: Sequence[Parts]) -> list[Tensor | None]:
        """The features' gradients as maps, one entry a unit, None where nothing is matched."""
        found: list[Tensor | None] = [None] * self.written.units
        for place, one in zip(self.written.places, parts, strict=True):
            batch, channels, side, _ = self.run.features[place].shape
            found[place] = as_maps(one.features.reshape(-1, channels), batch, side)
        return found
