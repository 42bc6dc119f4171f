"""The ancestor's graphed trunk is transparent: same outputs, same gradients, same statistics, an
unchanged model.

(On a GPU: test_graphs_on_gpu.)
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from evolve.ancestor.model import Ancestor
from evolve.core.randomness import generator
from evolve.networks.fast.graphed import Embed, Graphed
from evolve.networks.vgg import VGG
from evolve.networks.vgg_plan import stack_plan, vgg16_plan

PLAN = stack_plan(vgg16_plan(1 / 16), ("conv1", "conv11", "conv13"))


class Heads(nn.Module):
    """Like the multi-head ancestor: a head for each of two labels."""

    def __init__(self, trunk: VGG) -> None:
        super().__init__()
        self.trunk, self.other = trunk, nn.Linear(trunk.head.in_features, 3)

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        return (self.other if int(labels[0]) else self.trunk.head)(self.trunk.embed(x))


class Rehearsal:
    """In a capture's stead: disturbs the statistics as a warm-up does, and counts the runs of what
    it made.
    """

    def __init__(self) -> None:
        self.shapes: list[tuple[int, ...]] = []
        self.runs = 0

    def __call__(self, embed: Embed, images: Tensor, parameters: Sequence[Tensor]) -> Embed:
        self.shapes.append(tuple(images.shape))
        for _ in range(3):
            embed(images, *parameters)

        def run(images: Tensor, *given: Tensor) -> Tensor:
            self.runs += 1
            return embed(images, *given)

        return run


def draw(count: int, seed: int = 0) -> Tensor:
    return torch.randn(count, 3, 8, 8, generator=generator(seed, "images"))


def train(model: nn.Module, forward, steps: int = 8, extra: tuple[Tensor, ...] = ()) -> list[float]:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    model.train()
    losses = []
    for step in range(steps):
        optimizer.zero_grad()
        loss = forward(draw(3 if step % 4 == 3 else 6, step), *extra).square().mean()
        loss += 0.1 * sum(
            parameter.square().sum() for parameter in model.parameters()
        )  # as a plugin does
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("kind", [Ancestor, Heads, lambda trunk: trunk])
def test_training_through_it_is_training(kind):
    model = kind(VGG(PLAN, 3))
    twin, rehearsal = copy.deepcopy(model), Rehearsal()
    graphed = Graphed(model, rehearsal, often=2)
    extra = (torch.ones(6, dtype=torch.int64),) if isinstance(model, Heads) else ()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert train(model, graphed.forward, extra=extra) == pytest.approx(
            train(twin, twin, extra=extra), rel=1e-6
        )
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, twin.state_dict()[name], rtol=1e-5, atol=1e-6)
    assert [shape[0] for shape in rehearsal.shapes] == [6, 3]
    assert (
        rehearsal.runs == 2 + 5 + 1
    )  # each compared once; every full batch but the first, every tail but the first


def test_the_model_is_left_as_it_is():
    model = Ancestor(VGG(PLAN, 3))
    keys, attributes = list(model.state_dict()), set(vars(model.trunk))
    graphed = Graphed(model, Rehearsal(), often=1)
    train(model, graphed.forward, 2)
    assert list(model.state_dict()) == keys and set(vars(model.trunk)) == attributes
    twin = copy.deepcopy(model)
    before = twin.trunk.head.weight.clone()
    train(model, graphed.forward, 2)
    assert torch.equal(twin.trunk.head.weight, before) and not torch.equal(
        model.trunk.head.weight, before
    )


def test_on_a_cpu_it_is_the_model():
    model = Ancestor(VGG(PLAN, 3)).train()
    twin = copy.deepcopy(model)
    graphed = Graphed(model, often=1)
    for _ in range(3):
        assert torch.equal(graphed.forward(draw(4)), twin(draw(4)))
    assert not graphed.enabled and not graphed._graphs


def test_where_a_graph_may_not_run_the_model_does():
    model, rehearsal = Ancestor(VGG(PLAN, 3)), Rehearsal()
    graphed = Graphed(model, rehearsal, often=1)
    model.eval()
    graphed.forward(draw(4))
    model.train()
    with torch.no_grad():
        graphed.forward(draw(4))
    graphed.forward(draw(4).requires_grad_())
    graphed.model.trunk.layers["conv1"].conv.weight.grad = torch.zeros(
        4, 3, 3, 3
    )  # a step that does not clear its gradients
    graphed.forward(draw(4))
    assert rehearsal.shapes == [] and rehearsal.runs == 0


def test_more_sizes_than_two_are_not_captured():
    model, rehearsal = Ancestor(VGG(PLAN, 3)).train(), Rehearsal()
    graphed = Graphed(model, rehearsal, often=1)
    for count in (4, 5, 6, 7):
        graphed.forward(draw(count))
    assert len(rehearsal.shapes) == 2


def test_statistics_in_new_memory_are_noticed():
    model, rehearsal = Ancestor(VGG(PLAN, 3)).train(), Rehearsal()
    graphed = Graphed(model, rehearsal, often=1)
    graphed.forward(draw(4))
    bn = model.trunk.layers["conv1"].bn
    bn.running_mean = bn.running_mean.clone()
    graphed.forward(draw(4))
    assert len(rehearsal.shapes) == 2


def failing(embed: Embed, images: Tensor, parameters: Sequence[Tensor]) -> Embed:
    embed(images, *parameters)
    raise RuntimeError("no capture today\nnor tomorrow")


def full(embed: Embed, images: Tensor, parameters: Sequence[Tensor]) -> Embed:
    raise torch.cuda.OutOfMemoryError("full")


def test_a_full_gpu_is_no_reason_to_go_another_way(recwarn):
    model = Ancestor(VGG(PLAN, 3))
    with pytest.raises(torch.cuda.OutOfMemoryError):
        train(model, Graphed(model, full, often=2).forward)
    assert not list(recwarn)


def wrong(embed: Embed, images: Tensor, parameters: Sequence[Tensor]) -> Embed:
    return lambda images, *given: embed(images, *given) * 1.01


@pytest.mark.parametrize("capture", [failing, wrong])
def test_what_cannot_be_captured_or_comes_out_wrong_runs_plainly_after_one_warning(capture):
    model = Ancestor(VGG(PLAN, 3))
    twin = copy.deepcopy(model)
    with pytest.warns(RuntimeWarning) as caught:
        losses = train(model, Graphed(model, capture, often=2).forward)
    assert len(caught) == 1 and "\n" not in str(caught[0].message)
    assert losses == train(twin, twin)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, twin.state_dict()[name]), name
