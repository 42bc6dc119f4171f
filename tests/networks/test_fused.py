"""The written-out passes against the module under autograd, in float64, over plans, sizes, batches and networks side by side."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from awake_networks import awake, statistics_of, weights_of
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from evolve.networks import kernels
from evolve.networks.fused import Fused, zeros_like
from evolve.networks.plan import PAPER_SET, Plan, stack_plan, vgg16_plan
from evolve.networks.vgg import VGG

PLANS = (
    stack_plan(vgg16_plan(1 / 16), PAPER_SET),
    vgg16_plan(1 / 32),
    stack_plan(vgg16_plan(1 / 32), ("conv2", "conv6", "conv7")),
    vgg16_plan(1 / 32)[:2],
)


def images(groups: int, batch: int, size: int) -> list[Tensor]:
    draw = torch.Generator().manual_seed(7)
    made = [torch.randn(batch, 3, size, size, generator=draw, dtype=torch.float64) for _ in range(groups)]
    return [one.contiguous(memory_format=torch.channels_last) for one in made]


def side_by_side(x: list[Tensor]) -> Tensor:
    return torch.stack([one.permute(0, 2, 3, 1) for one in x], 3).flatten(3).permute(0, 3, 1, 2)


def close(found: Tensor, wanted: Tensor) -> None:
    assert float((found - wanted).abs().max()) <= 1e-10 * max(1.0, float(wanted.abs().max()))


def check(plan: Plan, size: int, batch: int, groups: int) -> None:
    """Logits, gradients, running statistics and eval logits of every network."""
    models = [awake(plan, 4, seed) for seed in range(groups)]
    x, labels = images(groups, batch, size), torch.arange(groups * batch).view(groups, batch) % 4
    fused, w, statistics = Fused(plan, size, batch, groups), weights_of(models), statistics_of(models)
    logits, trace = fused.forward(w, statistics, side_by_side(x))
    into = zeros_like(w)
    fused.backward(w, trace, (torch.softmax(logits, 2) - F.one_hot(labels, 4)) / batch, into)
    judged = fused.evaluate(w, statistics, side_by_side(x))
    for number, model in enumerate(models):
        wanted = model(x[number])
        F.cross_entropy(wanted, labels[number]).backward()
        close(logits[number], wanted.detach())
        for layer, unit in enumerate(model.units):
            parts = (into.conv, into.gamma, into.beta, statistics.mean, statistics.var)
            truths = (unit.conv.weight.grad, unit.bn.weight.grad, unit.bn.bias.grad, unit.bn.running_mean, unit.bn.running_var)
            for part, truth in zip(parts, truths, strict=True):
                close(part[layer].chunk(groups)[number], truth)
            assert float(unit.conv.bias.grad.abs().max()) < 1e-10, "BN takes a convolution's bias out again"
        close(into.head[number], model.head.weight.grad)
        close(into.head_bias[number], model.head.bias.grad)
        close(judged[number], model.eval()(x[number]).detach())


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.sampled_from(PLANS), st.sampled_from([8, 12, 20, 32, 64]), st.integers(3, 6), st.integers(1, 3))
def test_passes_are_the_modules(plan: Plan, size: int, batch: int, groups: int) -> None:
    check(plan, size, batch, groups)


@pytest.mark.parametrize("size", [16, 32, 48, 64])
def test_wide_blocks_in_place_order(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "WIDE", 1)
    plan = stack_plan(vgg16_plan(1 / 16), ("conv1", "conv8", "conv11", "conv12"))
    assert kernels.PLACE in [block.order for block in Fused(plan, size, 3).blocks]
    check(plan, size, 3, 1)


def fused_and_plain(plan: Plan) -> tuple[VGG, VGG]:
    plain = awake(plan, 4, 1)
    quick = copy.deepcopy(plain)
    quick.fused = True
    return quick, plain


def test_the_fused_module_is_the_plain_one_to_whoever_looks_on() -> None:
    """A penalty on the parameters joins the loss, as plugins do; statistics and their counter move; copies and eval work."""
    (x,), labels = images(1, 5, 12), torch.arange(5) % 4
    quick, plain = fused_and_plain(PLANS[0])
    for model in (quick, plain):
        penalty = sum((0.1 * p.square().sum() for p in model.parameters()), torch.zeros(()))
        (F.cross_entropy(model(x), labels) + penalty).backward()
    for (name, p), (_, q) in zip(quick.named_parameters(), plain.named_parameters(), strict=True):
        close(p.grad, q.grad)
        assert p.grad.stride() == p.stride(), name
    for b, c in zip(quick.buffers(), plain.buffers(), strict=True):
        close(b.double(), c.double())
    assert int(quick.units[0].bn.num_batches_tracked) == 1
    twin = copy.deepcopy(quick)
    assert twin.fused and torch.equal(twin(x), quick(x)) and plain(x) is not None
    with torch.no_grad():
        close(quick(x), plain(x))
    close(quick.eval()(x).detach(), plain.eval()(x).detach())


def test_gradients_may_be_asked_for_without_backward() -> None:
    """torch.autograd.grad, as gradient-projection plugins use it, gives what backward would."""
    (x,), labels = images(1, 5, 12), torch.arange(5) % 4
    quick, plain = fused_and_plain(PLANS[0])
    found = torch.autograd.grad(F.cross_entropy(quick(x), labels), list(quick.parameters()))
    for f, w in zip(found, torch.autograd.grad(F.cross_entropy(plain(x), labels), list(plain.parameters())), strict=True):
        close(f, w)
