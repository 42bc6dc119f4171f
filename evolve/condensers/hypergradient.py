"""The bilevel objective's gradient: CE after a look-ahead, differentiated with respect to the pairs' weights alpha.

The look-ahead (SPEC 4, step 2) is T steps on sum(alpha * psi) and one on CE, by the same SGD rule and from the same momentum
buffers as the real training. Everything is functional: parameters go in as tensors and new tensors come out, so the real
state cannot be touched. ``unrolled`` is the plain truth; ``reverse_sweep`` is the same number without a graph over all steps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Tensors = tuple[Tensor, ...]
Loss = Callable[[Sequence[Tensor]], Tensor]


@dataclass(frozen=True)
class Rule:
    """SGD with momentum and weight decay, as torch.optim.SGD: b' = m b + g + w x; x' = x - lr b'."""

    lr: float
    momentum: float
    weight_decay: float


@dataclass(frozen=True)
class LookAhead:
    """What is differentiated. Each callable takes all parameters (theta and zeta) and may leave some unused.

    ``matching``: (parameters, alpha [B, L, K]) -> L_meta on the meta batch, linear in alpha; ``train_loss``: CE of the look-ahead's last step;
    ``outer_loss``: CE at the look-ahead point, whose gradient is wanted; ``steps``: T >= 1.
    """

    matching: Callable[[Sequence[Tensor], Tensor], Tensor]
    train_loss: Loss
    outer_loss: Loss
    steps: int


def sgd(params: Sequence[Tensor], buffers: Sequence[Tensor], grads: Sequence[Tensor], rule: Rule) -> tuple[Tensors, Tensors]:
    """One step; new tensors, differentiable. A parameter without gradient has gradient 0: it still decays and coasts."""
    decayed = torch._foreach_add(list(grads), list(params), alpha=rule.weight_decay)
    moved = torch._foreach_add(decayed, list(buffers), alpha=rule.momentum)
    return tuple(torch._foreach_add(list(params), moved, alpha=-rule.lr)), tuple(moved)


def unrolled(look: LookAhead, alpha: Tensor, params: Sequence[Tensor], buffers: Sequence[Tensor], rule: Rule) -> tuple[Tensor, Tensor]:
    """Reference: (outer loss, its gradient with respect to alpha [B, L, K]) by autograd through all T + 1 steps."""
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


def reverse_sweep(look: LookAhead, alpha: Tensor, params: Sequence[Tensor], buffers: Sequence[Tensor], rule: Rule) -> tuple[Tensor, Tensor]:
    """The same as :func:`unrolled`, by the adjoint recursion over steps with one local graph each.

    With x_i = x_{i-1} - lr b_i and b_i = m b_{i-1} + g_i(x_{i-1}, alpha) + w x_{i-1}, and lambda, mu the outer loss's gradients
    with respect to x and b:  beta = mu_i - lr lambda_i;  lambda_{i-1} = lambda_i + w beta + H_i beta;  mu_{i-1} = m beta;  and
    alpha gathers beta^T dg_i/dalpha. alpha enters g_i linearly, so the first step needs no Hessian, only <grad psi, beta>.
    """
    tape: list[tuple[Tensors, Tensors, Tensor | None]] = []
    now: Tensors = tuple(p.detach() for p in params)
    momenta: Tensors = tuple(b.detach() for b in buffers)
    for step in range(look.steps + 1):
        matching = step < look.steps
        leaves = tuple(p.requires_grad_() for p in now)
        weights = alpha.detach().requires_grad_() if matching else None
        loss = look.train_loss(leaves) if weights is None else look.matching(leaves, weights)
        grads = torch.autograd.grad(loss, leaves, create_graph=True, materialize_grads=True)
        tape.append((leaves, grads, weights))
        with torch.no_grad():
            now, momenta = sgd(leaves, momenta, grads, rule)
    leaves = tuple(p.requires_grad_() for p in now)
    outer = look.outer_loss(leaves)
    adjoint = torch.autograd.grad(outer, leaves, materialize_grads=True)
    return outer.detach(), _sweep(tape, alpha, adjoint, rule)


@torch.no_grad()
def _sweep(tape: list[tuple[Tensors, Tensors, Tensor | None]], alpha: Tensor, adjoint: Tensors, rule: Rule) -> Tensor:
    """The recursion of :func:`reverse_sweep`, last step first; each local graph is freed as soon as it is used."""
    gathered = torch.zeros_like(alpha)
    beta = torch._foreach_mul(list(adjoint), -rule.lr)
    while tape:
        leaves, grads, weights = tape.pop()
        inputs = leaves if tape else ()
        products = _products(grads, beta, (*inputs, weights) if weights is not None else inputs)
        if weights is not None:
            gathered += products[-1]
        if tape:
            curved = torch._foreach_add(products[: len(leaves)], beta, alpha=rule.weight_decay)
            adjoint = tuple(torch._foreach_add(list(adjoint), curved))
            following = torch._foreach_mul(list(adjoint), -rule.lr)
            beta = torch._foreach_add(following, beta, alpha=rule.momentum)
    return gathered


def _products(grads: Sequence[Tensor], beta: Sequence[Tensor], inputs: Sequence[Tensor]) -> list[Tensor]:
    """d<grads, beta>/d inputs. Gradients that depend on nothing (unused parameters) are left out."""
    alive = [i for i, g in enumerate(grads) if g.requires_grad]
    found = torch.autograd.grad([grads[i] for i in alive], inputs, [beta[i] for i in alive], materialize_grads=True)
    return list(found)
