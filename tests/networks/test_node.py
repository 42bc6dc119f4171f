"""A fused ResNet's and ViT's embedding against the module under autograd, in float64."""

from __future__ import annotations

import copy
from dataclasses import fields

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from test_written import NETWORKS, assert_close, awake, batch, plans

from evolve.networks.family import architecture
from evolve.networks.fast import held, node
from evolve.networks.network import Network


def pair(name: str) -> tuple[Network, Network, int]:
    """An ancestor, the same that is fused, and the size of their images."""
    width, (_, size) = NETWORKS[name]
    plain = awake(architecture(name, width, size))
    return plain, fused(plain), size


def fused(plain: Network) -> Network:
    quick = copy.deepcopy(plain)
    quick.fused = True
    return quick


@settings(max_examples=12, deadline=None, derandomize=True)
@given(network=plans(), count=st.integers(3, 5), tests=st.sampled_from([1, 17]))
def test_the_fused_module_is_the_plain_one_to_whoever_looks_on(network, count, tests) -> None:
    """A penalty joins the loss, as plugins do; statistics and their counter move; tests agree."""
    plan, size = network
    plain = awake(plan)
    quick = fused(plain)
    images, labels = batch(count, size, 0)
    for model in (quick, plain):
        model(images * 2)  # what an earlier pass left must not matter
        penalty = sum((0.1 * p.square().sum() for p in model.parameters()), torch.zeros(()))
        (F.cross_entropy(model(images), labels) + penalty).backward()
    for (name, p), q in zip(quick.named_parameters(), plain.parameters(), strict=True):
        assert_close(p.grad, q.grad, name)
        strides = zip(p.shape, p.grad.stride(), p.stride(), strict=True)
        assert all(own == other for count, own, other in strides if count > 1), name
    for (name, b), c in zip(quick.named_buffers(), plain.buffers(), strict=True):
        assert_close(b, c, name)
    images, _ = batch(tests, size, 1)
    quick.eval(), plain.eval()
    with torch.no_grad():
        assert_close(quick(images), plain(images), "tests")
    assert_close(quick(images).detach(), plain(images).detach(), "tests that ask for gradients")


@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_passes_of_one_module_do_not_disturb_each_other(name: str) -> None:
    """Two graphs alive at once, as a strategy has that compares batches; the first one's gradient
    after the second one's pass, and twice.
    """
    plain, quick, size = pair(name)
    given = []
    for model in (quick, plain):
        parameters = list(model.parameters())
        losses = [F.cross_entropy(model(x), y) for x, y in (batch(4, size, n) for n in range(2))]
        given.append(
            [
                *torch.autograd.grad(losses[0], parameters, retain_graph=True),
                *torch.autograd.grad(losses[0], parameters),
                *torch.autograd.grad(losses[1], parameters),
            ]
        )
    for ours, theirs in zip(*given, strict=True):
        assert_close(ours, theirs, name)


@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_idle_passes_are_few_and_used_again(name: str) -> None:
    _, quick, size = pair(name)
    for count in range(2, 9):
        quick(batch(count, size, 0)[0]).sum().backward()
    assert 0 < len(held._idle) <= held.IDLE
    newest = list(held._idle.values())[-1]
    output = quick(batch(8, size, 0)[0])
    assert newest not in held._idle.values()
    del output
    assert list(held._idle.values())[-1] is newest


@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_copies_and_parameters_that_moved_are_followed(name: str) -> None:
    """A plugin may copy the model, or give a parameter another tensor."""
    plain, quick, size = pair(name)
    images, _ = batch(4, size, 0)
    twin = copy.deepcopy(quick)
    assert torch.equal(twin(images), quick(images)) and plain(images) is not None
    for model in (quick, plain):
        for parameter in model.parameters():
            parameter.data = parameter.data * 0.5
    assert_close(quick(images).detach(), plain(images).detach(), name)
    for model in (quick.eval(), plain.eval()):
        for parameter in model.parameters():
            parameter.data = parameter.data * 0.5
    with torch.no_grad():
        assert_close(quick(images), plain(images), name)


@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_what_passes_do_not_give_is_the_modules(monkeypatch, name: str) -> None:
    """The images' gradient, large batches, and a network that is not its family's."""
    plain, quick, size = pair(name)
    gradients = []
    for model in (quick, plain):
        images = batch(4, size, 0)[0].requires_grad_()
        gradients += torch.autograd.grad(model(images).square().sum(), images)
    assert_close(*gradients, name)

    before = list(held._idle)
    monkeypatch.setattr(node, "PIXELS", 4 * size**2 - 1)
    quick(batch(4, size, 0)[0])
    monkeypatch.undo()

    class Another(type(plain.architecture)):  # type: ignore[misc]
        learners = {}

    plan = quick.architecture
    quick.architecture = Another(**{f.name: getattr(plan, f.name) for f in fields(plan)})
    quick(batch(4, size, 0)[0])
    assert list(held._idle) == before
