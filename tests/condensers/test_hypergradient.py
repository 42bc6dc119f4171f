"""The reverse sweep against autograd through the unrolled look-ahead, on the real network in
float64.
"""

from __future__ import annotations

import pytest
import torch
from torch import nn

from evolve.condensers.meta_network.frozen import Features
from evolve.condensers.meta_network.hypergradient import (
    LookAhead,
    Rule,
    reverse_sweep,
    sgd,
    unrolled,
)
from evolve.condensers.meta_network.layout import layout
from evolve.condensers.meta_network.matching import Matcher
from evolve.condensers.meta_network.pseudo import Pseudo
from evolve.networks.vgg import VGG, initialise
from evolve.networks.vgg_plan import integral_layers, vgg16_plan

RULE = Rule(lr=0.05, momentum=0.9, weight_decay=1e-2)


class Case:
    """A narrow pseudo-descendant on random images, with random momentum buffers and alphas."""

    def __init__(self, granularity: str = "stage", size: int = 8) -> None:
        draw = torch.Generator().manual_seed(3)
        plan = vgg16_plan(1 / 32)[:3]
        groups = integral_layers(plan, granularity)
        ancestor, network = VGG(plan, 3).double(), VGG(plan, 3).double()
        initialise(ancestor, 1, "ancestor")
        initialise(network, 2, "pseudo")
        train = torch.randn(6, 3, size, size, generator=draw, dtype=torch.float64)
        meta = torch.randn(5, 3, size, size, generator=draw, dtype=torch.float64)
        train_labels, meta_labels = torch.tensor([0, 1, 2, 0, 1, 2]), torch.tensor([2, 1, 0, 1, 0])
        targets = [f.detach() for f in Features(ancestor, groups)(meta)]
        self.network = network
        self.matcher = Matcher(layout(targets, targets), meta)
        self.frozen = self.matcher.freeze(targets)
        self.pseudo = Pseudo(network, groups, self.matcher, seed=0)
        self.params = tuple(
            p + 0.05 * torch.randn(p.shape, generator=draw, dtype=p.dtype)
            for p in self.pseudo.initial
        )
        self.buffers = tuple(
            0.1 * torch.randn(p.shape, generator=draw, dtype=p.dtype) for p in self.params
        )
        self.alpha = 2 * torch.rand(
            5, len(groups), len(groups), generator=draw, dtype=torch.float64
        )
        self.matching = lambda p, a: self.pseudo.matching(self.frozen, meta, a, p)
        self.train_loss = lambda p: self.pseudo.loss(train, train_labels, p)
        self.outer_loss = lambda p: self.pseudo.loss(meta, meta_labels, p)

    def look(self, steps: int) -> LookAhead:
        return LookAhead(self.matching, self.train_loss, self.outer_loss, steps)


@pytest.fixture(scope="module")
def case() -> Case:
    return Case()


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_sweep_equals_autograd_through_all_steps(case: Case, steps: int) -> None:
    value, gradient = reverse_sweep(case.look(steps), case.alpha, case.params, case.buffers, RULE)
    plain_value, plain = unrolled(case.look(steps), case.alpha, case.params, case.buffers, RULE)
    assert float(plain.abs().max()) > 1e-6
    assert float((gradient - plain).abs().max()) <= 1e-8 * float(plain.abs().max())
    assert abs(float(value - plain_value)) <= 1e-12 * abs(float(plain_value))


def test_sweep_equals_autograd_at_conv_granularity_without_momentum_or_decay() -> None:
    case = Case("conv")
    rule = Rule(lr=0.1, momentum=0.0, weight_decay=0.0)
    plain = unrolled(case.look(2), case.alpha, case.params, case.buffers, rule)[1]
    gradient = reverse_sweep(case.look(2), case.alpha, case.params, case.buffers, rule)[1]
    assert float((gradient - plain).abs().max()) <= 1e-8 * float(plain.abs().max())


def test_gradient_is_that_of_a_real_look_ahead_by_torch_sgd(case: Case) -> None:
    """Central differences of the CE that torch.optim.SGD itself reaches."""

    def outer(alpha: torch.Tensor) -> float:
        params = [nn.Parameter(p.clone()) for p in case.params]
        optimizer = torch.optim.SGD(
            params, lr=RULE.lr, momentum=RULE.momentum, weight_decay=RULE.weight_decay
        )
        for p, b in zip(params, case.buffers, strict=True):
            optimizer.state[p]["momentum_buffer"] = b.clone()
        for step in range(3):
            loss = case.matching(params, alpha) if step < 2 else case.train_loss(params)
            grads = torch.autograd.grad(loss, params, materialize_grads=True)
            for p, g in zip(params, grads, strict=True):
                p.grad = g
            optimizer.step()
        return float(case.outer_loss(params).detach())

    direction = torch.randn(
        case.alpha.shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64
    )
    step = 1e-5
    numeric = (outer(case.alpha + step * direction) - outer(case.alpha - step * direction)) / (
        2 * step
    )
    gradient = reverse_sweep(case.look(2), case.alpha, case.params, case.buffers, RULE)[1]
    assert float((gradient * direction).sum()) == pytest.approx(numeric, rel=1e-4)


def test_look_ahead_leaves_the_real_state_bit_equal(case: Case) -> None:
    def state() -> list[torch.Tensor]:
        model = [*case.network.parameters(), *case.network.buffers()]
        return [
            t.detach().clone()
            for t in (*case.params, *case.buffers, case.alpha, *model, torch.get_rng_state())
        ]

    before = state()
    first = reverse_sweep(case.look(2), case.alpha, case.params, case.buffers, RULE)[1]
    assert all(torch.equal(a, b) for a, b in zip(before, state(), strict=True))
    assert not any(t.requires_grad for t in (*case.params, *case.buffers, case.alpha))
    assert torch.equal(
        first, reverse_sweep(case.look(2), case.alpha, case.params, case.buffers, RULE)[1]
    )


def test_sgd_is_torchs() -> None:
    draw = torch.Generator().manual_seed(0)
    start = torch.randn(4, generator=draw)
    real, ours, buffers = nn.Parameter(start.clone()), (start.clone(),), (torch.zeros(4),)
    optimizer = torch.optim.SGD([real], lr=0.1, momentum=0.9, weight_decay=0.01)
    for _ in range(4):
        grad = torch.randn(4, generator=draw)
        real.grad = grad.clone()
        optimizer.step()
        ours, buffers = sgd(ours, buffers, (grad,), Rule(0.1, 0.9, 0.01))
    assert torch.allclose(real.detach(), ours[0], rtol=1e-6)
