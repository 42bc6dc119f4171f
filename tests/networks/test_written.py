"""The learners of ResNets and ViTs against module, autograd and torch's optimizers, in float64."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from evolve.networks.architecture import Architecture
from evolve.networks.family import architecture
from evolve.networks.fast import written
from evolve.networks.network import Network
from evolve.networks.vit_plan import ViTPlan

CLASSES = 3
LARGE = 100  # pixels of images for which a ResNet has the stem of 7x7; here it sees smaller ones
NETWORKS = {"resnet18": (1 / 32, (4, 9)), "vit-small4": (1 / 8, (4, 12))}
"""Width and sizes: maps of one pixel and odd ones."""
SETS = {
    "resnet18": ((), ("conv4", "conv5", "conv16", "conv17"), ("conv1", "conv6", "conv7", "conv15")),
    "vit-small4": ((), ("block1", "block7"), tuple(f"block{n}" for n in range(1, 9))),
}


@st.composite
def plans(draw: st.DrawFn) -> tuple[Architecture, int]:
    """An ancestor or a descendant, and its image size."""
    name = draw(st.sampled_from(sorted(NETWORKS)))
    width, sizes = NETWORKS[name]
    size = draw(st.sampled_from(sizes))
    large = name == "resnet18" and draw(st.booleans())
    ancestor = architecture(name, width, LARGE if large else size)
    if isinstance(ancestor, ViTPlan):
        ancestor = replace(ancestor, heads=draw(st.sampled_from([1, 3])))
    chosen = draw(st.sampled_from([None, *SETS[name]]))
    return (ancestor if chosen is None else ancestor.stacked(chosen)), 12 if large else size


def awake(plan: Architecture) -> Network:
    """A network that has learned: no parameter or statistic is as it was at the beginning."""
    model, draw = plan.build(CLASSES).double(), torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, tensor in (*model.named_parameters(), *model.named_buffers()):
            if name.endswith("running_var"):
                tensor.mul_(torch.rand(tensor.shape, generator=draw, dtype=tensor.dtype) + 0.5)
            elif tensor.is_floating_point():
                tensor.add_(torch.randn(tensor.shape, generator=draw, dtype=tensor.dtype) * 0.1)
    return model.train()


def batch(count: int, size: int, seed: int) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    images = torch.randn(count, 3, size, size, generator=draw, dtype=torch.float64)
    labels = torch.randint(0, CLASSES, (count,), generator=draw)
    return images.contiguous(memory_format=torch.channels_last), labels


def assert_close(ours: Tensor, wanted: Tensor, what: str) -> None:
    """BN over a few numbers and AdamW's division magnify what float64 rounds."""
    ours, wanted = ours.double(), wanted.double()
    gap = float((ours - wanted).abs().max())
    assert gap <= 1e-6 * max(1.0, float(wanted.abs().max())), what


@settings(max_examples=12, deadline=None, derandomize=True)
@given(
    network=plans(),
    optimizer=st.sampled_from(["sgd", "adamw"]),
    counts=st.lists(st.integers(3, 5), min_size=3, max_size=3),
    memory=st.sampled_from([0.0, 0.9]),
)
def test_three_steps_are_the_modules_and_torchs(network, optimizer, counts, memory) -> None:
    """Losses, weights, statistics and answers, over batches of unlike sizes and another rate."""
    plan, size = network
    model = awake(plan)
    peer, learner = copy.deepcopy(model), plan.learner(optimizer)
    assert learner is not None
    ours = learner(model, size, optimizer, memory, 0.01)
    theirs: torch.optim.Optimizer = (
        torch.optim.AdamW(peer.parameters(), weight_decay=0.01)
        if optimizer == "adamw"
        else torch.optim.SGD(peer.parameters(), momentum=memory, weight_decay=0.01)
    )
    for number, count in enumerate(counts):
        images, labels = batch(count, size, number)
        theirs.param_groups[0]["lr"] = rate = 0.02 / (1 + number)
        theirs.zero_grad()
        loss = F.cross_entropy(peer(images), labels)
        loss.backward()
        theirs.step()
        assert_close(ours.step(images, labels, rate), loss.detach(), f"loss {number}")
    with torch.no_grad():
        assert_close(ours.logits(images), peer.eval()(images), "logits")
    ours.store()
    for (name, mine), other in zip(
        model.state_dict().items(), peer.state_dict().values(), strict=True
    ):
        assert_close(mine, other, name)


def test_a_diverged_network_shows_it() -> None:
    """What is no number comes through every layer to the loss."""
    for name, (width, sizes) in NETWORKS.items():
        plan = architecture(name, width, sizes[1]).paper_descendant()
        model = awake(plan)
        with torch.no_grad():
            next(model.layers[plan.layer_names[0]].parameters()).fill_(float("nan"))
        ours = plan.learner("sgd")(model, sizes[1], "sgd", 0.9, 0.0)
        assert torch.isnan(ours.step(*batch(4, sizes[1], 0), 0.1)), name


def test_who_learns_by_what() -> None:
    vgg = architecture("vgg16", 1 / 32, 8)
    assert vgg.learner("sgd") is not None and vgg.learner("adamw") is None

    class Another(type(vgg)):  # type: ignore[misc]
        passes = None

    assert Another(vgg).learner("sgd") is None


@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_learners_share_memory_for_maps_and_nothing_else(name: str) -> None:
    """Of two of one model neither feels the other, nor does the model before it is stored."""
    width, sizes = NETWORKS[name]
    plan = architecture(name, width, sizes[1]).paper_descendant()
    model = awake(plan)
    before = copy.deepcopy(model.state_dict())
    first, second = (plan.learner("sgd")(model, sizes[1], "sgd", 0.9, 0.01) for _ in range(2))
    images, labels = batch(4, sizes[1], 0)
    losses = [float(learner.step(images, labels, 0.1)) for learner in (first, first)]
    taken = set(written._SHARED)
    losses.append(float(second.step(images, labels, 0.1)))
    assert losses[2] == losses[0] != losses[1]
    assert taken and set(written._SHARED) == taken
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
