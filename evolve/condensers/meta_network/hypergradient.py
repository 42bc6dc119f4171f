"""The bilevel objective's gradient: that of CE after a look-ahead, with respect to alpha.

The look-ahead is T steps on sum(alpha * psi) and one on CE, by the same SGD rule and from the same
momentum buffers as the real training. Everything is functional: parameters go in as tensors and new
tensors come out, so the real state cannot be touched. ``unrolled`` is the plain truth; ``sweep`` is
the same number without a graph over all steps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

Tensors = tuple[Tensor, ...]
Loss = Callable[[Sequence[Tensor]], Tensor]


@dataclass(frozen=True)
class Rule:
    """SGD with momentum and weight decay, as torch.optim.SGD.

    b' = m b + g + w x; x' = x - lr b'.
    """

    lr: float
    momentum: float
    weight_decay: float


@dataclass(frozen=True)
class LookAhead:
    """What is differentiated. Each callable takes all parameters (theta and zeta).

    It may leave some unused.

    Attributes:
        matching: (parameters, alpha [B, L, K]) -> L_meta on the meta batch, linear in alpha.
        train_loss: CE of the look-ahead's last step.
        outer_loss: CE at the look-ahead point, whose gradient is wanted.
        steps: T >= 1.
    """

    matching: Callable[[Sequence[Tensor], Tensor], Tensor]
    train_loss: Loss
    outer_loss: Loss
    steps: int


def sgd(
    params: Sequence[Tensor], buffers: Sequence[Tensor], grads: Sequence[Tensor], rule: Rule
) -> tuple[Tensors, Tensors]:
    """One step; new tensors, differentiable.

    A parameter without gradient has gradient 0: it still decays and coasts.

    Args:
        params, buffers, grads: of equal shapes.
        rule: of the step.

    Returns:
        (parameters, buffers) after it.
    """
    decayed = torch._foreach_add(list(grads), list(params), alpha=rule.weight_decay)
    moved = torch._foreach_add(decayed, list(buffers), alpha=rule.momentum)
    return tuple(torch._foreach_add(list(params), moved, alpha=-rule.lr)), tuple(moved)


def unrolled(
    look: LookAhead, alpha: Tensor, params: Sequence[Tensor], buffers: Sequence[Tensor], rule: Rule
) -> tuple[Tensor, Tensor]:
    """Reference: the hypergradient by autograd through all T + 1 steps.

    Args:
        look: what is differentiated.
        alpha: [B, L, K].
        params, buffers: where the look-ahead starts.
        rule: its SGD.

    Returns:
        (outer loss, its gradient with respect to alpha).
    """
    weights = alpha.detach().requires_grad_()
    now: Sequence[Tensor] = [p.detach().requires_grad_() for p in params]
    momenta: Sequence[Tensor] = [b.detach() for b in buffers]
    for step in range(look.steps + 1):
        loss = look.matching(now, weights) if step < look.steps else look.train_loss(now)
        grads = torch.autograd.grad(loss, now, create_graph=True, materialize_grads=True)
        now, momenta = sgd(now, momenta, grads, rule)
    outer = look.outer_loss(now)
    (gradient,) = torch.autograd.grad(outer, weights)
    return outer.detach(), gradient


class Local(Protocol):
    """One step of the look-ahead at the point where it starts."""

    grads: Tensors

    def products(
        self, beta: Sequence[Tensor], curvature: bool
    ) -> tuple[Tensors | None, Tensor | None]:
        """Products with a direction of the parameters.

        Args:
            beta: the direction.
            curvature: whether the first is asked for.

        Returns:
            (the Hessian of the step's loss times ``beta``, None if not asked for; d<grads, beta>/d
            alpha, None if alpha has no part in it).
        """


class ByAutograd:
    """A :class:`Local` of any loss, by double backward.

    Args:
        loss: of the parameters and, if it is given, alpha.
        params: where it is taken.
        alpha: [B, L, K]; None: the loss does not depend on it.
    """

    def __init__(
        self,
        loss: Callable[[Sequence[Tensor], Tensor], Tensor] | Loss,
        params: Sequence[Tensor],
        alpha: Tensor | None,
    ) -> None:
        self.leaves = tuple(p.detach().requires_grad_() for p in params)
        self.alpha = alpha.detach().requires_grad_() if alpha is not None else None
        arguments = (self.leaves,) if self.alpha is None else (self.leaves, self.alpha)
        value = loss(*arguments)  # type: ignore[call-arg, arg-type]
        self.grads = torch.autograd.grad(
            value, self.leaves, create_graph=True, materialize_grads=True
        )

    def products(
        self, beta: Sequence[Tensor], curvature: bool
    ) -> tuple[Tensors | None, Tensor | None]:
        """See :class:`Local`."""
        inputs = (
            *(self.leaves if curvature else ()),
            *([self.alpha] if self.alpha is not None else []),
        )
        products = _products(self.grads, beta, inputs)
        return tuple(products[: len(self.leaves)]) if curvature else None, products[
            -1
        ] if self.alpha is not None else None


def reverse_sweep(
    look: LookAhead, alpha: Tensor, params: Sequence[Tensor], buffers: Sequence[Tensor], rule: Rule
) -> tuple[Tensor, Tensor]:
    """The same as :func:`unrolled`, by :func:`sweep` with autograd for each step.

    Args:
        look, alpha, params, buffers, rule: as :func:`unrolled`'s.

    Returns:
        (outer loss, its gradient with respect to alpha).
    """
    steps: list[Callable[[Tensors], Local]] = [
        lambda now: ByAutograd(look.matching, now, alpha)
    ] * look.steps
    steps.append(lambda now: ByAutograd(look.train_loss, now, None))

    def outer(now: Tensors) -> tuple[Tensor, Tensors]:
        leaves = tuple(p.detach().requires_grad_() for p in now)
        value = look.outer_loss(leaves)
        return value.detach(), torch.autograd.grad(value, leaves, materialize_grads=True)

    return sweep(steps, outer, params, buffers, rule)


def sweep(
    steps: Sequence[Callable[[Tensors], Local]],
    outer: Callable[[Tensors], tuple[Tensor, Tensors]],
    params: Sequence[Tensor],
    buffers: Sequence[Tensor],
    rule: Rule,
) -> tuple[Tensor, Tensor]:
    """The hypergradient by the adjoint recursion, without a graph over all steps.

    With x_i = x_{i-1} - lr b_i and b_i = m b_{i-1} + g_i(x_{i-1}, alpha) + w x_{i-1}, and lambda,
    mu the outer loss's gradients with respect to x and b:  beta = mu_i - lr lambda_i;  lambda_{i-1}
    = lambda_i + w beta + H_i beta;  mu_{i-1} = m beta;  and alpha gathers beta^T dg_i/dalpha. alpha
    enters g_i linearly, so the first step needs no Hessian, only <grad psi, beta>.

    Args:
        steps: each gives the :class:`Local` at a point.
        outer: the outer loss at a point, and its gradient.
        params, buffers: where the look-ahead starts.
        rule: its SGD.

    Returns:
        (outer loss after ``steps``, its gradient with respect to alpha).
    """
    tape: list[Local] = []
    now: Tensors = tuple(p.detach() for p in params)
    momenta: Tensors = tuple(b.detach() for b in buffers)
    for step in steps:
        tape.append(step(now))
        with torch.no_grad():
            now, momenta = sgd(now, momenta, tape[-1].grads, rule)
    value, adjoint = outer(now)
    return value, _sweep(tape, adjoint, rule)


@torch.no_grad()
def _sweep(tape: list[Local], adjoint: Tensors, rule: Rule) -> Tensor:
    """The recursion of :func:`sweep`, last step first; each step's graph is freed as soon as it is
    used.
    """
    gathered: Tensor | None = None
    beta = torch._foreach_mul(list(adjoint), -rule.lr)
    while tape:
        step = tape.pop()
        curved, mixed = step.products(beta, curvature=bool(tape))
        if mixed is not None:
            gathered = mixed if gathered is None else gathered + mixed
        if curved is not None:
            curved = tuple(torch._foreach_add(curved, beta, alpha=rule.weight_decay))
            adjoint = tuple(torch._foreach_add(list(adjoint), curved))
            following = torch._foreach_mul(list(adjoint), -rule.lr)
            beta = torch._foreach_add(following, beta, alpha=rule.momentum)
    assert gathered is not None, "no step depends on alpha"
    return gathered


def _products(
    grads: Sequence[Tensor], beta: Sequence[Tensor], inputs: Sequence[Tensor]
) -> list[Tensor]:
    """d<grads, beta>/d inputs.

    Gradients that depend on nothing (unused parameters) are left out.
    """
    alive = [i for i, g in enumerate(grads) if g.requires_grad]
    products = torch.autograd.grad(
        [grads[i] for i in alive], inputs, [beta[i] for i in alive], materialize_grads=True
    )
    return list(products)
