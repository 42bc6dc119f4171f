"""The CPU's trainer against the plain one in float64: losses, weights, statistics and answers,
alone and together.
"""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from evolve.core.settings import DescendSettings
from evolve.data.resident import Resident
from evolve.data.sources import ImageSet
from evolve.descendants.descendants import choose_trainer, downstream_tasks
from evolve.descendants.trainers.fused import FusedTrainer
from evolve.descendants.trainers.group import Group, Trainer
from evolve.descendants.trainers.plain import PlainTrainer
from evolve.learngene.inheritance import inherit
from evolve.networks.architecture import Architecture
from evolve.networks.family import architecture
from evolve.networks.network import Network
from evolve.networks.vgg import VGG
from evolve.networks.vgg_plan import stack_plan, vgg16_plan

PAPER = stack_plan(vgg16_plan(1 / 16), ("conv1", "conv11", "conv12", "conv13"))
OTHERS = [
    architecture("resnet18", 1 / 32, 16).stacked(["conv6", "conv15"]),
    architecture("vit-small4", 1 / 8, 16).paper_descendant(),
]
D = DescendSettings(
    descendants=3, classes_per_task=3, shots=7, epochs=2, batch=4, lr=0.02, augment=("crop", "flip")
)  # 21 images: a tail of one


@pytest.fixture(scope="module")
def resident() -> Resident:
    draw = np.random.default_rng(0)
    labels = np.repeat(np.arange(8), 14)
    images = draw.integers(0, 160, (len(labels), 3, 16, 16)) + 10 * labels[:, None, None, None]
    is_test = np.tile(np.arange(14) >= 8, 8)
    image_set = ImageSet(
        "toy",
        images.astype(np.uint8),
        labels,
        is_test,
        tuple("abcdefgh"),
        "f",
        (0.4,) * 3,
        (0.25,) * 3,
    )
    return Resident(image_set, torch.device("cpu"))


def descendants(plan: Architecture, count: int) -> list[Network]:
    models = [inherit(plan, None, 3, 5, number).double() for number in range(count)]
    for model in models:
        if isinstance(model, VGG):
            torch.nn.init.constant_(
                model.units[1].conv.bias, 0.3
            )  # BN takes it out, decay and the running mean do not
    return models


def trained(trainer: Trainer, epochs: int) -> tuple[list[list[float]], list[torch.Tensor]]:
    losses = [trainer.epoch(epoch) for epoch in range(epochs)]
    correct = trainer.correct()
    trainer.close()
    return losses, correct


def assert_same(ours: list[Network], theirs: list[Network]) -> None:
    for a, b in zip(ours, theirs, strict=True):
        for (name, mine), (_, other) in zip(
            a.state_dict().items(), b.state_dict().items(), strict=True
        ):
            assert float((mine.double() - other.double()).abs().max()) <= 1e-8 * max(
                1.0, float(other.double().abs().max())
            ), name


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"schedule": "constant", "augment": ()},
        {"shots": 8, "batch": 5, "momentum": 0.0, "weight_decay": 0.0},
    ],
)
def test_it_trains_as_the_plain_trainer_does(resident, changes, count) -> None:
    d = replace(D, **changes)
    ours = descendants(PAPER, count)
    theirs = copy.deepcopy(ours)
    group = Group(downstream_tasks(d, range(8), resident, 5)[:count], range(count), resident, d, 5)
    losses, correct = trained(FusedTrainer(ours, group), d.epochs)
    expected, answers = trained(PlainTrainer(theirs, group), d.epochs)
    assert np.allclose(losses, expected, rtol=1e-9)
    assert all(torch.equal(a, b) for a, b in zip(correct, answers, strict=True))
    assert_same(ours, theirs)


@pytest.mark.parametrize("plan", OTHERS, ids=lambda plan: plan.family)
def test_others_train_as_the_plain_trainer_does(resident, plan) -> None:
    """By AdamW too; the VGGs' passes know none."""
    d = replace(D, optimizer="adamw", lr=0.002, epochs=1)
    ours = descendants(plan, 2)
    theirs = copy.deepcopy(ours)
    group = Group(downstream_tasks(d, range(8), resident, 5)[:2], range(2), resident, d, 5)
    chosen, plain = choose_trainer(ours, group, False), choose_trainer(theirs, group, True)
    assert isinstance(chosen, FusedTrainer) and isinstance(plain, PlainTrainer)
    (losses, correct), (wanted, answers) = trained(chosen, 1), trained(plain, 1)
    assert np.allclose(losses, wanted, rtol=1e-9)
    assert all(torch.equal(a, b) for a, b in zip(correct, answers, strict=True))
    assert_same(ours, theirs)


@pytest.mark.parametrize("plan", [PAPER, *OTHERS], ids=["vgg", "resnet", "vit"])
def test_alone_equals_together(resident, plan) -> None:
    """To the bit: company shares nothing."""
    tasks = downstream_tasks(D, range(8), resident, 5)
    together = [model.float() for model in descendants(plan, 3)]
    alone = copy.deepcopy(together)
    losses, _ = trained(FusedTrainer(together, Group(tasks, range(3), resident, D, 5)), D.epochs)
    for number, model in enumerate(alone):
        own, _ = trained(
            FusedTrainer([model], Group([tasks[number]], [number], resident, D, 5)), D.epochs
        )
        assert [epoch[0] for epoch in own] == [epoch[number] for epoch in losses]
    for a, b in zip(together, alone, strict=True):
        assert all(
            torch.equal(mine, other)
            for mine, other in zip(a.state_dict().values(), b.state_dict().values(), strict=True)
        )


@pytest.mark.parametrize("uneven", [(5, 7, 3), (7, 3, 5)])
def test_every_test_image_of_unequal_tasks_is_measured(resident, uneven) -> None:
    """Sources need not have as many test images of every class; the images lie class by class, so a
    cut loses classes.
    """
    tasks = downstream_tasks(D, range(8), resident, 5)
    tasks = [
        replace(task, test=task.test[-count:], test_labels=task.test_labels[-count:])
        for task, count in zip(tasks, uneven, strict=True)
    ]
    group = Group(tasks, range(3), resident, D, 5)
    ours = descendants(PAPER, 3)
    theirs = copy.deepcopy(ours)
    _, correct = trained(FusedTrainer(ours, group), 1)
    _, expected = trained(PlainTrainer(theirs, group), 1)
    assert [len(right) for right in correct] == list(uneven)
    assert all(torch.equal(a, b) for a, b in zip(correct, expected, strict=True))
