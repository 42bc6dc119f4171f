"""What only a GPU can show: that a capture computes what the plain trainer does, whatever the
company, and faster.
"""

from __future__ import annotations

import copy
import time
import warnings
from collections.abc import Callable

import numpy as np
import pytest
import torch
from test_graphs import (
    OTHER,
    PLAN,
    assert_equal_models,
    generations,
    make_group,
    make_models,
    make_resident,
    run,
)
from torch import Tensor

from evolve.data.resident import Resident
from evolve.descendants.trainers.graph_check import checked
from evolve.descendants.trainers.graphs import GraphTrainer
from evolve.descendants.trainers.plain import PlainTrainer
from evolve.engine.devices import repeatable
from evolve.networks.fast.graphed import Graphed
from evolve.networks.vgg import VGG
from evolve.networks.vgg_plan import PAPER_SET, stack_plan, vgg16_plan

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@pytest.fixture
def cuda() -> torch.device:
    return repeatable(torch.device("cuda"))


@pytest.mark.parametrize("images", [12, 14, 13])
@pytest.mark.parametrize("members", [1, 3])
def test_captured_training_agrees_with_the_plain_one(cuda, images, members):
    group = make_group(members, images, make_resident(cuda))
    ours, theirs = make_models(group), make_models(group)
    losses, answers = run(GraphTrainer(ours, group, True), group.d.epochs)
    expected, right = run(PlainTrainer(theirs, group), group.d.epochs)
    np.testing.assert_allclose(losses, expected, rtol=1e-5)  # the rate is a float32 there
    assert answers == right
    assert_equal_models(ours, theirs, 1e-3, 1e-5)


def test_captured_generations_are_bit_equal_to_uncaptured_ones(cuda):
    group = generations(make_group(2, 14, make_resident(cuda)), 3)
    captured, eager = make_models(group, torch.float32), make_models(group, torch.float32)
    assert run(GraphTrainer(captured, group, True), 3) == run(GraphTrainer(eager, group, False), 3)
    assert_equal_models(captured, eager, 0, 0)


def test_a_captured_set_of_several_architectures_is_bit_equal_to_each_generation_alone(cuda):
    group = make_group(2, 14, make_resident(cuda))
    single = [make_models(group, torch.float32, plan) for plan in (PLAN, OTHER, PLAN)]
    models = copy.deepcopy([model for generation in single for model in generation])
    together = run(GraphTrainer(models, generations(group, 3), True), 3)
    alone = [run(GraphTrainer(generation, group, True), 3) for generation in single]
    assert together[0] == [
        sum(parts, []) for parts in zip(*(losses for losses, _ in alone), strict=True)
    ]
    assert together[1] == sum((answers for _, answers in alone), [])
    assert_equal_models(models, [model for generation in single for model in generation], 0, 0)


def test_the_checked_trainer_on_a_gpu_is_the_captured_one(cuda, recwarn):
    group = make_group(3, 14, make_resident(cuda))
    models = make_models(group, torch.float32)
    assert isinstance(checked(models, group), GraphTrainer), [
        str(warning.message) for warning in recwarn
    ]


def test_captured_training_is_faster_than_the_plain_one(cuda):
    plan = stack_plan(vgg16_plan(1 / 4), PAPER_SET)
    group = make_group(
        5, 1600, make_resident(cuda, 2000, 32), batch=16, epochs=3, augment=("crop",)
    )
    times = []
    for make in (lambda models: checked(models, group), lambda models: PlainTrainer(models, group)):
        trainer = make(make_models(group, torch.float32, plan))
        trainer.epoch(0)
        started = time.perf_counter()
        trainer.epoch(1)
        times.append(time.perf_counter() - started)
        print(f"{type(trainer).__name__}: {5 * 1600 / times[-1]:.0f} images/s")
    assert times[0] < times[1] / 8


@pytest.mark.parametrize(
    "tolerance", [1e-2, 0.0], ids=["close", "bit-equal, on which a resume relies"]
)
def test_a_graphed_trunk_learns_as_a_plain_one(cuda, tolerance):
    resident = make_resident(cuda)
    group = make_group(1, 48, resident)
    (model,) = make_models(group, torch.float32)
    twin, graphed = copy.deepcopy(model), Graphed(model, often=2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ours, theirs = (
            learn(net, forward, resident)
            for net, forward in ((model, graphed.forward), (twin, twin))
        )
    assert len(graphed._graphs) == 2 and graphed.enabled
    torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance / 10)
    assert_equal_models([model], [twin], tolerance, tolerance / 10)
    assert model.layers["conv1"].bn.num_batches_tracked == 12


def learn(model: VGG, forward: Callable[[Tensor], Tensor], resident: Resident) -> Tensor:
    """Twelve steps, every third on a smaller batch; the losses.

    The last output stays alive, as Avalanche's does.
    """
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    model.train()
    losses, output = [], None
    for step in range(12):
        index = torch.arange(8 if step % 3 == 2 else 16) + step
        optimizer.zero_grad()
        output = forward(resident.batch(index))
        loss = torch.nn.functional.cross_entropy(output, resident.labels[index.to(resident.device)])
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    assert output is not None
    return torch.stack(losses)
