"""The networks of ResNet plans: against torchvision's ResNet18, a hand-made ResNet12, and what the
rooms ask of any network.
"""

from __future__ import annotations

import copy
import itertools
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torchvision.models import resnet18 as torchvision_resnet18

from evolve.core.randomness import isolated_rng
from evolve.learngene.inheritance import inherit
from evolve.learngene.inheritors import linear, repeat
from evolve.learngene.learngene import extract
from evolve.networks.architecture import Architecture
from evolve.networks.network import initialise
from evolve.networks.resnet import ResNet
from evolve.networks.resnet_plan import resnet18

NARROW = resnet18(1 / 16, 16)
SETS = st.sets(st.sampled_from(NARROW.layer_names))
CLOSE = {"rtol": 1e-9, "atol": 1e-9}


def count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def images(size: int, number: int = 2, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(
        number, 3, size, size, dtype=dtype, generator=torch.Generator().manual_seed(1)
    )


def awake(model: nn.Module) -> nn.Module:
    """BN away from its rest, so that leaving a part of it out is seen."""
    draw = torch.Generator().manual_seed(3)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight, module.bias, module.running_mean, module.running_var):
                assert tensor is not None
                tensor.data.copy_(torch.rand(tensor.shape, generator=draw) + 0.5)
    return model


@pytest.fixture(scope="module")
def peers() -> dict[int, nn.Module]:
    """torchvision's ResNet18 by image size; for small images with the stem of He et al.'s CIFAR
    networks.
    """
    with isolated_rng(5):
        large = awake(torchvision_resnet18(weights=None, num_classes=7)).double()
    small = copy.deepcopy(large)
    with isolated_rng(6):
        small.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False).double()
    small.maxpool = nn.Identity()
    return {224: large, 32: small}


def theirs(peer: nn.Module) -> dict[str, tuple[nn.Module, nn.Module]]:
    """Our layer name -> torchvision's (conv, bn)."""
    layers: dict[str, tuple[nn.Module, nn.Module]] = {"conv1": (peer.conv1, peer.bn1)}
    numbers = itertools.count(2)
    for stage in range(1, 5):
        for block in getattr(peer, f"layer{stage}"):
            layers[f"conv{next(numbers)}"] = (block.conv1, block.bn1)
            layers[f"conv{next(numbers)}"] = (block.conv2, block.bn2)
            if block.downsample is not None:
                layers[f"shortcut{stage}"] = tuple(block.downsample)
    return layers


def copied(peer: nn.Module, size: int) -> ResNet:
    model = resnet18(1.0, size).build(7).double()
    for name, (conv, bn) in theirs(peer).items():
        model.layers[name].conv.load_state_dict(conv.state_dict())
        model.layers[name].bn.load_state_dict(bn.state_dict())
    model.head.load_state_dict(peer.fc.state_dict())
    return model


@pytest.mark.parametrize("size", [32, 224])
def test_outputs_features_and_parameters_are_torchvisions(
    peers: dict[int, nn.Module], size: int
) -> None:
    peer = copy.deepcopy(peers[size]).eval()
    model, x = copied(peer, size).eval(), images(size, 1)
    assert count(model) == count(peer) and set(theirs(peer)) == set(model.layers)
    relus: list[Tensor] = []
    for module in peer.modules():
        if isinstance(module, nn.ReLU):
            module.register_forward_hook(lambda m, a, output: relus.append(output.clone()))
    with torch.no_grad():
        torch.testing.assert_close(model(x), peer(x), **CLOSE)
        features = model.features(x)
    assert len(features) == len(relus) == 17
    for ours, other in zip(features, relus, strict=True):
        torch.testing.assert_close(ours, other, **CLOSE)


def test_gradients_and_running_statistics_are_torchvisions(peers: dict[int, nn.Module]) -> None:
    peer = copy.deepcopy(peers[32]).train()
    model, x = copied(peer, 32).train(), images(32, 3)
    for net in (model, peer):
        F.cross_entropy(net(x), torch.tensor([0, 3, 6])).backward()
    for name, (conv, bn) in theirs(peer).items():
        own = model.layers[name]
        torch.testing.assert_close(own.conv.weight.grad, conv.weight.grad, rtol=1e-6, atol=1e-9)
        torch.testing.assert_close(own.bn.weight.grad, bn.weight.grad, rtol=1e-6, atol=1e-9)
        torch.testing.assert_close(own.bn.running_var, bn.running_var)


def test_published_parameter_count() -> None:
    assert count(resnet18(1.0, 224).build(1000)) == 11_689_512  # torchvision's documentation


class Twelve(nn.Module):
    """ResNet12 as few-shot learning has it (Lee et al., arXiv 1904.03758), with ReLU and widths 64
    to 512; written from its definition.
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.bodies, self.sides, c = nn.ModuleList(), nn.ModuleList(), 3
        for width in (64, 128, 256, 512):
            three = [
                (nn.Conv2d(a, width, 3, padding=1, bias=False), nn.BatchNorm2d(width))
                for a in (c, width, width)
            ]
            self.bodies.append(nn.Sequential(*three[0], nn.ReLU(), *three[1], nn.ReLU(), *three[2]))
            self.sides.append(
                nn.Sequential(nn.Conv2d(c, width, 1, bias=False), nn.BatchNorm2d(width))
            )
            c = width
        self.fc = nn.Linear(c, classes)

    def forward(self, x: Tensor) -> Tensor:
        for body, side in zip(self.bodies, self.sides, strict=True):
            x = nn.functional.max_pool2d(torch.relu(body(x) + side(x)), 2)
        logits: Tensor = self.fc(x.mean((2, 3)))
        return logits


def test_the_papers_descendant_is_resnet12() -> None:
    with isolated_rng(4):
        peer = awake(Twelve(5)).double().eval()
    model = resnet18(1.0, 32).paper_descendant().build(5).double().eval()
    convs = [m for body in peer.bodies for m in body if isinstance(m, nn.Conv2d)] + [
        side[0] for side in peer.sides
    ]
    norms = [m for body in peer.bodies for m in body if isinstance(m, nn.BatchNorm2d)] + [
        side[1] for side in peer.sides
    ]
    for layer, conv, bn in zip(model.layers.values(), convs, norms, strict=True):
        layer.conv.load_state_dict(conv.state_dict())
        layer.bn.load_state_dict(bn.state_dict())
    model.head.load_state_dict(peer.fc.state_dict())
    assert count(model) == count(peer)
    with torch.no_grad():
        torch.testing.assert_close(model(images(32)), peer(images(32)), **CLOSE)


def test_draws_have_torchvisions_distribution_and_leave_the_global_state_alone() -> None:
    before = torch.get_rng_state()
    model = awake(resnet18(1.0, 32).build(100))
    initialise(model, 3, "somewhere")
    assert torch.equal(torch.get_rng_state(), before)
    with isolated_rng(0):
        peer = torchvision_resnet18(weights=None)
    for name, (conv, bn) in theirs(peer).items():
        if name == "conv1":
            continue  # its kernel is another
        own = model.layers[name]
        weight, other = own.conv.weight.detach(), conv.weight.detach()
        assert float(weight.std()) == pytest.approx(
            float(other.std()), rel=6 / weight.numel() ** 0.5
        ), name
        assert all(
            torch.equal(tensor, bn.state_dict()[part])
            for part, tensor in own.bn.state_dict().items()
        ), name
    assert float(model.head.weight.detach().std()) == pytest.approx(0.01, rel=0.05)
    drawn = [layer.conv.weight for layer in model.layers.values()]
    assert not any(
        a.shape == b.shape and torch.equal(a, b) for a, b in itertools.combinations(drawn, 2)
    ), "every layer has its own draw"


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    chosen=SETS,
    width=st.sampled_from([1 / 64, 1 / 32, 3 / 64, 1 / 8]),
    size=st.sampled_from([8, 15, 16, 21, 104]),
)
def test_any_set_builds_and_learns(chosen: set[str], width: float, size: int) -> None:
    ancestor = resnet18(width, size)
    for plan in (ancestor.stacked(chosen), ancestor.whole()):
        model = plan.build(3).train()
        for layer in (*plan.layer_names, *plan.extras):
            assert plan.shapes(layer) == {
                part: tuple(t.shape) for part, t in model.layers[layer].state_dict().items()
            }
        assert set(model.layers) == {*plan.layer_names, *plan.extras}
        assert {name.split(".")[0] for name, _ in model.named_parameters()} == {"layers", "head"}
        x = images(size, 6, torch.float32).to(memory_format=torch.channels_last)
        before = [p.detach().clone() for p in model.parameters()]
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        F.cross_entropy(model(x), torch.tensor([0, 1, 2, 0, 1, 2])).backward()
        optimizer.step()
        assert all(p.grad is not None and torch.isfinite(p).all() for p in model.parameters())
        assert (
            sum(not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
            > len(before) / 2
        )


@settings(max_examples=25, deadline=None, derandomize=True)
@given(chosen=SETS, size=st.sampled_from([8, 15, 21, 32, 84, 104]))
def test_inherited_layers_stand_at_the_resolution_they_had(chosen: set[str], size: int) -> None:
    ancestor = resnet18(1 / 64, size)
    with torch.no_grad():
        had = dict(
            zip(
                ancestor.layer_names,
                ancestor.build(2).eval().features(images(size, 1, torch.float32)),
                strict=True,
            )
        )
        plan = ancestor.stacked(chosen)
        have = dict(
            zip(
                plan.layer_names,
                plan.build(2).eval().features(images(size, 1, torch.float32)),
                strict=True,
            )
        )
    assert all(have[name].shape == had[name].shape for name in chosen)
    for network, maps in ((ancestor, had), (plan, have)):
        assert all(m.shape[-1] == m.shape[-2] for m in maps.values())
        assert (network.macs(size), network.numbers_out(size)) == pytest.approx(
            _counted(network, size)
        )


def _counted(plan: Architecture, size: int) -> tuple[float, float]:
    """Multiply-adds in billions, and numbers that convolutions put out, counted while an image
    passes.
    """
    counts, model = [], plan.build(2).eval()
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(
                lambda m, arguments, output: counts.append(
                    (output.numel() * m.weight[0].numel() / 1e9, output.numel())
                )
            )
    model(images(size, 1, torch.float32))
    macs, numbers = zip(*counts, strict=True)
    return sum(macs), float(sum(numbers))


@settings(max_examples=10, deadline=None, derandomize=True)
@given(chosen=SETS, size=st.sampled_from([16, 104]))
def test_inheritance_copies_what_the_plan_says_and_draws_the_rest_by_place(
    chosen: set[str], size: int
) -> None:
    plan = resnet18(1 / 32, size)
    ancestor = awake(plan.build(4)).eval()
    heir = inherit(plan.stacked(chosen), extract(ancestor.state_dict(), plan, chosen), 3, 0, 1)
    scratch = inherit(plan.stacked(chosen).anonymous(), None, 3, 0, 1)
    for name, place in plan.stacked(chosen).places().items():
        for part, tensor in heir.layers[name].state_dict().items():
            expected = ancestor.layers[name] if name in chosen else scratch.layers[place]
            assert torch.equal(tensor, expected.state_dict()[part]), name
    with torch.no_grad():  # training the descendant leaves the ancestor alone
        before = {name: t.clone() for name, t in ancestor.state_dict().items()}
        for p in heir.parameters():
            p.add_(1)
    assert all(torch.equal(before[name], t) for name, t in ancestor.state_dict().items())


@pytest.mark.parametrize("size", [16, 32, 84, 104])
def test_the_whole_ancestor_as_its_own_descendant(size: int) -> None:
    plan = resnet18(1 / 16, size)
    ancestor = awake(plan.build(4)).eval()
    layers = [*plan.layer_names, *plan.extras]
    heir = inherit(plan.whole(), extract(ancestor.state_dict(), plan, layers), 3, 0, 0).eval()
    assert isinstance(ancestor, ResNet)
    with torch.no_grad():
        x = images(size, 2, torch.float32)
        assert torch.equal(heir.embed(x), ancestor.embed(x))
        assert all(
            torch.equal(a, b) for a, b in zip(heir.features(x), ancestor.features(x), strict=True)
        )


def test_embed_is_what_features_end_in() -> None:
    for plan in (NARROW, NARROW.paper_descendant(), resnet18(1 / 16, 104)):
        model, x = awake(plan.build(2)).eval(), images(104, 2, torch.float32)
        assert isinstance(model, ResNet)
        heard: dict[str, Tensor] = {}
        for name in plan.layer_names:
            model.layers[name].register_forward_hook(partial(_hear, heard, name))
        with torch.no_grad():
            last = model.features(x)
            end = F.max_pool2d(last[-1], 2, ceil_mode=True) if plan.blocks[-1].pool else last[-1]
            assert torch.equal(model.embed(x), end.mean((2, 3)))
        assert all(
            torch.equal(heard[name], own) for name, own in zip(plan.layer_names, last, strict=True)
        ), "hints hear what features show"


def _hear(
    heard: dict[str, Tensor], name: str, module: nn.Module, arguments: object, output: Tensor
) -> None:
    heard[name] = output


@pytest.mark.parametrize("way", [repeat, linear])
def test_the_other_inheritors_take_a_resnet(way: object) -> None:
    ancestor = awake(NARROW.build(4))
    chosen = ["conv3", "conv5", "conv8"]
    plan = way(NARROW, chosen)
    assert plan.layer_names == NARROW.layer_names and set(plan.inherits()) >= {
        "conv2",
        "conv3",
        "conv4",
        "conv5",
        "conv7",
        "conv8",
        "conv9",
    }
    heir = inherit(plan, extract(ancestor.state_dict(), NARROW, chosen), 3, 0, 0).eval()
    assert torch.isfinite(heir(images(16, 2, torch.float32))).all()


def test_second_derivatives() -> None:
    """The meta-network differentiates twice through the pseudo-descendant; finite differences of
    the gradient are the oracle.
    """
    model = awake(NARROW.paper_descendant().build(3)).double().train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.track_running_stats = False
    names, leaves = zip(
        *[(n, p.detach().clone().requires_grad_()) for n, p in model.named_parameters()],
        strict=True,
    )
    x, labels, draw = images(16, 4), torch.tensor([0, 1, 2, 0]), torch.Generator().manual_seed(2)

    def gradient(params: tuple[Tensor, ...], graph: bool = False) -> tuple[Tensor, ...]:
        loss = F.cross_entropy(
            torch.func.functional_call(model, dict(zip(names, params, strict=True)), (x,)), labels
        )
        return torch.autograd.grad(loss, params, create_graph=graph)

    way = [torch.randn(p.shape, dtype=p.dtype, generator=draw) for p in leaves]
    product = torch.autograd.grad(gradient(leaves, True), leaves, way)
    h = 1e-7
    ahead, behind = (
        gradient(
            tuple(
                (p + s * h * v).detach().requires_grad_() for p, v in zip(leaves, way, strict=True)
            )
        )
        for s in (1, -1)
    )
    expected = [(a - b) / (2 * h) for a, b in zip(ahead, behind, strict=True)]
    ours, other = (torch.cat([t.flatten() for t in part]) for part in (product, expected))
    assert float((ours - other).norm() / other.norm()) < 1e-4
