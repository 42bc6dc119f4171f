"""Gradient and Hessian product of the written-out network against autograd's double backward, in
float64.
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from awake_networks import awake, weights_of
from torch import Tensor

from evolve.networks.fast.hessian import Pass
from evolve.networks.fast.shape import Fused, Weights
from evolve.networks.vgg_plan import PAPER_SET, Plan, stack_plan, vgg16_plan

CASES = [
    (vgg16_plan(1 / 32)[:3], 8, 5),
    (stack_plan(vgg16_plan(1 / 16), PAPER_SET), 32, 3),
    (
        stack_plan(vgg16_plan(1 / 16), ("conv2", "conv6", "conv7")),
        20,
        4,
    ),  # odd sides, two layers in a block
    (vgg16_plan(1 / 32)[:2], 64, 3),  # pixels left to average over
]


class Case:
    def __init__(self, plan: Plan, size: int, batch: int) -> None:
        draw = torch.Generator().manual_seed(1)

        def random(*shape: int) -> Tensor:
            return torch.randn(shape, generator=draw, dtype=torch.float64)

        self.model = awake(plan, 4, 3)
        self.x = random(batch, 3, size, size).contiguous(memory_format=torch.channels_last)
        self.labels = torch.arange(batch) % 4
        self.weights = weights_of(self.model)
        self.direction = Weights(
            *(
                [random(*p.shape).contiguous(memory_format=memory(p)) for p in part]
                for part in parts(self.weights)[:4]
            ),
            random(*self.weights.head.shape),
            random(*self.weights.head_bias.shape),
        )
        self.targets = [random(*f.shape) for f in self.model.features(self.x)]
        self.passed = Pass(Fused(plan, size), self.weights, self.x)

    def loss(self) -> Tensor:
        """Reads the logits and, quadratically, every feature."""
        features = self.model.features(self.x)
        match = sum(
            (0.01 * (f - t).square().sum() for f, t in zip(features, self.targets, strict=True)),
            torch.zeros(()),
        )
        return F.cross_entropy(self.model(self.x), self.labels) + match


def memory(p: Tensor) -> torch.memory_format:
    return torch.channels_last if p.dim() == 4 else torch.contiguous_format


def parts(w: Weights) -> list[list[Tensor]]:
    return [list(w.conv), list(w.bias), list(w.gamma), list(w.beta), [w.head], [w.head_bias]]


def flat(w: Weights) -> list[Tensor]:
    """In the order of the module's parameters, as they are named there."""
    units = [t for group in zip(w.conv, w.bias, w.gamma, w.beta, strict=True) for t in group]
    return [*units, w.head, w.head_bias]


def assert_close(actual: list[Tensor], expected: list[Tensor]) -> None:
    scale = max(float(w.abs().max()) for w in expected)
    for f, w in zip(actual, expected, strict=True):
        assert float((f - w).abs().max()) <= 1e-11 * max(scale, 1), (f.shape, f, w)


@pytest.fixture(params=CASES, ids=["vgg16", "paper", "odd", "pixels"])
def case(request: pytest.FixtureRequest) -> Case:
    return Case(*request.param)


def gradients(case: Case) -> tuple[Tensor, list[Tensor]]:
    passed = case.passed
    g_logits = (torch.softmax(passed.logits, 1) - F.one_hot(case.labels, 4)) / len(case.labels)
    return g_logits, [0.02 * (f - t) for f, t in zip(passed.features, case.targets, strict=True)]


def test_forward_and_gradient_are_the_modules(case: Case) -> None:
    for ours, theirs in zip(case.passed.features, case.model.features(case.x), strict=True):
        assert torch.allclose(ours, theirs, rtol=0, atol=1e-12)
    assert torch.allclose(case.passed.logits, case.model(case.x), rtol=0, atol=1e-12)
    expected = list(torch.autograd.grad(case.loss(), list(case.model.parameters())))
    assert max(float(w.abs().max()) for w in expected) > 0.01
    assert_close(flat(case.passed.backward(*gradients(case))), expected)


def test_product_is_that_of_double_backward(case: Case) -> None:
    parameters = list(case.model.parameters())
    gradient = torch.autograd.grad(case.loss(), parameters, create_graph=True)
    pairs = zip(gradient, flat(case.direction), strict=True)
    expected = list(
        torch.autograd.grad(sum(((g * v).sum() for g, v in pairs), torch.zeros(())), parameters)
    )
    passed, (g_logits, g_features) = case.passed, gradients(case)
    passed.backward(g_logits, g_features)
    t_logits, t_features = passed.push(case.direction)
    scores = torch.softmax(passed.logits, 1)
    t_scores = scores * (t_logits - (scores * t_logits).sum(1, keepdim=True))
    product = flat(
        passed.pull(
            case.direction, g_logits, t_scores / len(case.labels), [0.02 * t for t in t_features]
        )
    )
    assert_close(product, expected)


def test_push_is_the_difference_of_two_passes(case: Case) -> None:
    _, features = case.passed.push(case.direction)
    step = 1e-6

    def moved(sign: int) -> Pass:
        groups = [
            [p + sign * step * v for p, v in zip(*pair, strict=True)]
            for pair in zip(parts(case.weights), parts(case.direction), strict=True)
        ]
        conv = [p.contiguous(memory_format=torch.channels_last) for p in groups[0]]
        return Pass(
            case.passed.fused, Weights(conv, *groups[1:4], groups[4][0], groups[5][0]), case.x
        )

    up, down = moved(1), moved(-1)
    for t, a, b in zip(features, up.features, down.features, strict=True):
        difference = (a - b) / (2 * step)
        smooth = (a > 0) == (b > 0)
        assert float(((t - difference)[smooth]).abs().max()) <= 1e-5 * float(difference.abs().max())


def test_only_features_or_only_logits_may_count(case: Case) -> None:
    g_logits, g_features = gradients(case)
    both = flat(case.passed.backward(g_logits, g_features))
    by_logits, by_features = (
        flat(case.passed.backward(g_logits)),
        flat(case.passed.backward(None, g_features)),
    )
    assert_close([a + b for a, b in zip(by_logits, by_features, strict=True)], both)
