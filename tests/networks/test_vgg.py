"""The network of a plan, against torchvision's."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torchvision.models import vgg16_bn
from vgg_units import PAPER, PARTS

from evolve.core.randomness import isolated_rng
from evolve.networks.vgg import VGG, initialise
from evolve.networks.vgg_plan import ConvSpec, layer_names, stack_plan, vgg16_plan


def count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


@pytest.fixture(scope="module")
def peer() -> nn.Sequential:
    with isolated_rng(5):
        features = vgg16_bn(weights=None).features
        for module in features:
            if isinstance(module, nn.BatchNorm2d):
                for tensor in (module.weight, module.bias, module.running_mean):
                    nn.init.normal_(tensor)
                nn.init.uniform_(module.running_var, 0.5, 2)
    return features


def copied(peer: nn.Sequential) -> VGG:
    """Our VGG16 with torchvision's weights, carried over by position."""
    model = VGG(vgg16_plan(1.0), 10)
    convs, norms = (
        [m for m in peer if isinstance(m, nn.Conv2d)],
        [m for m in peer if isinstance(m, nn.BatchNorm2d)],
    )
    for unit, conv, bn in zip(model.layers.values(), convs, norms, strict=True):
        unit.conv.load_state_dict(conv.state_dict())
        unit.bn.load_state_dict(bn.state_dict())
    return model


def test_same_features_as_torchvision(peer):
    model, images = (
        copied(peer).double().eval(),
        torch.randn(2, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(1)),
    )
    twin = copy.deepcopy(peer).double().eval()
    features, x, expected = model.features(images), images, []
    for module in twin:
        x = module(x)
        if isinstance(module, nn.ReLU):
            expected.append(x.clone())
    assert len(features) == 13
    for ours, theirs in zip(features, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(model.embed(images), x.mean((2, 3)), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(model(images), model.head(x.mean((2, 3))), rtol=1e-10, atol=1e-10)


def test_training_mode_agrees_with_torchvision_too(peer):
    model, twin = copied(peer).double().train(), copy.deepcopy(peer).double().train()
    images = torch.randn(
        4, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(1)
    )
    torch.testing.assert_close(model.embed(images), twin(images).mean((2, 3)), rtol=1e-8, atol=1e-8)
    bn = [m for m in twin if isinstance(m, nn.BatchNorm2d)][-1]
    torch.testing.assert_close(model.layers["conv13"].bn.running_var, bn.running_var)


def test_parameter_counts(peer):
    assert count(VGG(vgg16_plan(1.0), 10)) == count(peer) + 512 * 10 + 10
    channels = [(3, 64), (64, 128), (128, 256), (256, 512), (512, 512), (512, 512), (512, 512)]
    expected = sum(a * b * 9 + b + 2 * b for a, b in channels) + 512 * 5 + 5
    assert count(VGG(stack_plan(vgg16_plan(1.0), PAPER), 5)) == expected == 8_637_957


def test_initialisation_follows_torchvisions_distribution(peer):
    model = VGG(vgg16_plan(1.0), 100)
    initialise(model, 3, "somewhere")
    with isolated_rng(0):
        fresh = [m for m in vgg16_bn(weights=None).features if isinstance(m, nn.Conv2d)]
    for unit, conv in zip(model.layers.values(), fresh, strict=True):
        assert unit.conv.weight.std().item() == pytest.approx(conv.weight.std().item(), rel=0.06)
        assert (
            abs(unit.conv.weight.mean().item())
            < 5 * unit.conv.weight.std().item() / unit.conv.weight.numel() ** 0.5
        )
        assert not unit.conv.bias.any() and not unit.bn.bias.any() and (unit.bn.weight == 1).all()
        assert (
            not unit.bn.running_mean.any()
            and (unit.bn.running_var == 1).all()
            and unit.bn.num_batches_tracked == 0
        )
    assert (
        model.head.weight.std().item() == pytest.approx(0.01, rel=0.03)
        and not model.head.bias.any()
    )


def test_a_layers_draw_depends_on_nothing_but_its_own_name_and_shape():
    ancestor = vgg16_plan(1 / 16)
    small, large = VGG(stack_plan(ancestor, PAPER), 5), VGG(ancestor, 5)
    for model in (small, large):
        initialise(model, 7, "descendant", 2)
    for name in PAPER:
        assert torch.equal(small.layers[name].conv.weight, large.layers[name].conv.weight)
    assert torch.equal(small.head.weight, large.head.weight)
    weights = [
        unit.conv.weight.flatten()
        for name, unit in large.layers.items()
        if name in ("conv9", "conv10", "conv11")
    ]
    assert not torch.equal(weights[0], weights[1]) and not torch.equal(weights[1], weights[2])
    other = VGG(ancestor, 5)
    for purpose in (("descendant", 1), ("descendant", 20), ("ancestor", 2)):
        initialise(other, 7, *purpose)
        assert not torch.equal(other.layers["conv1"].conv.weight, large.layers["conv1"].conv.weight)


def test_initialise_undoes_training_and_agrees_across_dtypes():
    plan = vgg16_plan(1 / 32)
    model, double = VGG(plan, 3), VGG(plan, 3).double()
    model(torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))).sum().backward()
    for m in (model, double):
        initialise(m, 1, "x")
    fresh = VGG(plan, 3)
    initialise(fresh, 1, "x")
    for name, tensor in fresh.state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name])
        assert torch.equal(tensor.double(), double.state_dict()[name].double())


def test_global_random_state_is_neither_read_nor_left_changed():
    torch.manual_seed(11)
    before = torch.get_rng_state()
    first = VGG(vgg16_plan(1 / 32), 4)
    initialise(first, 3)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(12)
    second = VGG(vgg16_plan(1 / 32), 4)
    initialise(second, 3)
    assert all(
        torch.equal(a, b)
        for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    )


@pytest.mark.parametrize("size", [8, 9, 16, 32, 64])
def test_every_allowed_image_size_runs(size):
    plan = stack_plan(vgg16_plan(1 / 32), PAPER)
    model = VGG(plan, 5)
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    features = model.features(images)
    assert [f.shape[1] for f in features] == [s.c_out for block in plan for s in block]
    assert [f.shape[-1] for f in features] == [
        max(1, size >> depth) for depth in (0, 1, 2, 3, 4, 4, 4)
    ]
    assert model.embed(images).shape == (2, plan[-1][-1].c_out) and model(images).shape == (2, 5)


def test_state_dict_names_and_layout():
    model = VGG(vgg16_plan(1 / 8), 5)
    expected = {f"layers.{name}.{part}" for name in layer_names(model.plan) for part in PARTS} | {
        "head.weight",
        "head.bias",
    }
    assert set(model.state_dict()) == expected
    assert model.layers["conv5"].conv.weight.is_contiguous(memory_format=torch.channels_last)
    images = torch.randn(2, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    assert all(f.is_contiguous(memory_format=torch.channels_last) for f in model.features(images))


def test_second_derivatives_agree_with_finite_differences():
    """The condenser differentiates through training steps, so the network must be twice
    differentiable.
    """
    plan = ((ConvSpec("a", 2, 3),), (ConvSpec("b", 3, 2),))
    model = VGG(plan, 2).double().train()
    images = torch.randn(
        3, 2, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(2)
    )
    names, values = zip(
        *((n, p.detach().clone().requires_grad_()) for n, p in model.named_parameters()),
        strict=True,
    )
    start = {n: b.clone() for n, b in model.named_buffers()}

    def loss(*parameters):
        # functional_call would update the running statistics in place; fresh copies keep the
        # function pure.
        state = dict(zip(names, parameters, strict=True)) | {n: b.clone() for n, b in start.items()}
        return torch.func.functional_call(model, state, (images,)).square().sum()

    assert torch.autograd.gradgradcheck(loss, values, atol=1e-5, fast_mode=True)
