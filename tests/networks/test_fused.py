"""The written-out passes against the module under autograd, in float64, over plans, sizes and
batches.
"""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from awake_networks import awake, statistics_of, weights_of
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from evolve.networks.fast import held as passes_room
from evolve.networks.fast.fused import Training
from evolve.networks.fast.shape import Fused, Weights, zeros_like
from evolve.networks.vgg import VGG
from evolve.networks.vgg_plan import PAPER_SET, Plan, stack_plan, vgg16_plan

PLANS = (
    stack_plan(vgg16_plan(1 / 16), PAPER_SET),
    vgg16_plan(1 / 32),
    stack_plan(vgg16_plan(1 / 32), ("conv2", "conv6", "conv7")),
    vgg16_plan(1 / 32)[:2],
)


def images(batch: int, size: int) -> Tensor:
    draw = torch.Generator().manual_seed(7)
    return torch.randn(batch, 3, size, size, generator=draw, dtype=torch.float64).contiguous(
        memory_format=torch.channels_last
    )


def close(actual: Tensor, expected: Tensor) -> None:
    assert float((actual - expected).abs().max()) <= 1e-10 * max(1.0, float(expected.abs().max()))


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.sampled_from(PLANS), st.sampled_from([8, 12, 20, 21, 32, 37, 64]), st.integers(3, 6))
def test_passes_are_the_modules(plan: Plan, size: int, batch: int) -> None:
    """Logits, gradients, running statistics and eval logits."""
    model, x, labels = awake(plan, 4, 1), images(batch, size), torch.arange(batch) % 4
    fused, w, statistics = Fused(plan, size), weights_of(model), statistics_of(model)
    training = Training(fused, w, statistics, batch)
    training.forward(x * 2)  # what an earlier pass left must not matter
    for kept, unit in zip(
        zip(statistics.mean, statistics.var, strict=True), model.units, strict=True
    ):
        kept[0].copy_(unit.bn.running_mean), kept[1].copy_(unit.bn.running_var)
    logits, into = training.forward(x), zeros_like(w)
    training.backward((torch.softmax(logits, 1) - F.one_hot(labels, 4)) / batch, into)
    eval_forward = fused.evaluate(w, statistics, x)
    expected = model(x)
    F.cross_entropy(expected, labels).backward()
    close(logits, expected.detach())
    for layer, unit in enumerate(model.units):
        parts = (into.conv, into.gamma, into.beta, statistics.mean, statistics.var)
        truths = (
            unit.conv.weight.grad,
            unit.bn.weight.grad,
            unit.bn.bias.grad,
            unit.bn.running_mean,
            unit.bn.running_var,
        )
        for part, truth in zip(parts, truths, strict=True):
            close(part[layer], truth)
        assert float(unit.conv.bias.grad.abs().max()) < 1e-10, (
            "BN takes a convolution's bias out again"
        )
    close(into.head, model.head.weight.grad)
    close(into.head_bias, model.head.bias.grad)
    close(eval_forward, model.eval()(x).detach())


def test_a_gradient_is_added_to_what_is_there() -> None:
    model, x = awake(PLANS[0], 4, 1), images(3, 12)
    w, g = weights_of(model), torch.ones(3, 4, dtype=torch.float64) * torch.arange(4)
    training, once, twice = Training(Fused(PLANS[0], 12), w, None, 3), zeros_like(w), zeros_like(w)
    for into, times in ((once, 1), (twice, 2)):
        for _ in range(times):
            training.forward(x)
            training.backward(g, into)
    for name in ("conv", "gamma", "beta"):
        for single, double in zip(getattr(once, name), getattr(twice, name), strict=True):
            close(double, 2 * single)


def test_weights_in_another_memory_order_are_refused() -> None:
    model = awake(PLANS[0], 4, 1)
    w = weights_of(model)
    strange = Weights(
        [conv.contiguous() for conv in w.conv], w.bias, w.gamma, w.beta, w.head, w.head_bias
    )
    with pytest.raises(ValueError, match="channels_last"):
        Training(Fused(PLANS[0], 12), strange, None, 3)


def fused_and_plain(plan: Plan) -> tuple[VGG, VGG]:
    plain = awake(plan, 4, 1)
    quick = copy.deepcopy(plain)
    quick.fused = True
    return quick, plain


def test_the_fused_module_is_the_plain_one_to_whoever_looks_on() -> None:
    """A penalty on the parameters joins the loss, as plugins do; statistics and their counter move;
    copies and eval work.
    """
    x, labels = images(5, 12), torch.arange(5) % 4
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
    quick.eval(), plain.eval()
    close(quick(x).detach(), plain(x).detach())
    with torch.no_grad():
        close(quick(x), plain(x))


def test_gradients_may_be_asked_for_without_backward() -> None:
    """torch.autograd.grad, as gradient-projection plugins use it, gives what backward would."""
    x, labels = images(5, 12), torch.arange(5) % 4
    quick, plain = fused_and_plain(PLANS[0])
    gradients = torch.autograd.grad(F.cross_entropy(quick(x), labels), list(quick.parameters()))
    for f, w in zip(
        gradients,
        torch.autograd.grad(F.cross_entropy(plain(x), labels), list(plain.parameters())),
        strict=True,
    ):
        close(f, w)


def test_passes_of_one_module_do_not_disturb_each_other() -> None:
    """Two graphs alive at once, as a strategy has that compares batches; the first one's gradient
    after the second one's pass, and twice.
    """
    quick, plain = fused_and_plain(PLANS[0])
    first, second, labels = images(5, 12), images(5, 12) + 1, torch.arange(5) % 4
    gradients = []
    for model in (quick, plain):
        loss, other = (F.cross_entropy(model(x), labels) for x in (first, second))
        twice = [
            torch.autograd.grad(loss, list(model.parameters()), retain_graph=True) for _ in range(2)
        ]
        gradients.append(
            [*twice[0], *twice[1], *torch.autograd.grad(other, list(model.parameters()))]
        )
    for f, w in zip(*gradients, strict=True):
        close(f, w)


def test_idle_passes_are_few_and_used_again() -> None:
    quick, _ = fused_and_plain(PLANS[0])
    for batch in range(2, 9):
        quick(images(batch, 12)).sum().backward()
    assert 0 < len(passes_room._idle) <= passes_room.IDLE
    newest = list(passes_room._idle.values())[-1]
    held = quick(images(8, 12))
    assert newest not in passes_room._idle.values()
    del held
    assert list(passes_room._idle.values())[-1] is newest


def test_parameters_that_moved_are_followed() -> None:
    """A plugin may give a parameter another tensor."""
    quick, plain = fused_and_plain(PLANS[0])
    x = images(5, 12)
    quick(x)
    plain(x)
    for model in (quick, plain):
        for unit in model.units:
            unit.conv.weight.data = unit.conv.weight.data * 0.5
    close(quick(x).detach(), plain(x).detach())
