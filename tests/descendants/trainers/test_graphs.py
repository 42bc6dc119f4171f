"""Captured training: the same draws, batches, updates and answers as the plain trainer's.

The capture itself: test_graphs_on_gpu.py.
"""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DynamicOutputShapeException, FakeTensorMode

from evolve.core.randomness import generator
from evolve.core.settings import DescendSettings
from evolve.data.resident import Resident
from evolve.data.sources import ImageSet
from evolve.descendants.trainers.graph_draws import CROP, FIELDS, FLIP, INDEX, LABEL, layout, pack
from evolve.descendants.trainers.graphs import (
    TEST_BATCH,
    Branch,
    Exam,
    GraphTrainer,
    TrainStep,
)
from evolve.descendants.trainers.group import DownstreamTask, Group, Trainer
from evolve.descendants.trainers.plain import PlainTrainer
from evolve.networks.fast import graph_capture
from evolve.networks.vgg import VGG, initialise
from evolve.networks.vgg_plan import stack_plan, vgg16_plan

PLAN = stack_plan(vgg16_plan(1 / 16), ("conv1", "conv11", "conv13"))
OTHER = stack_plan(vgg16_plan(1 / 16), ("conv2", "conv4", "conv5", "conv6", "conv12"))
SETTINGS = DescendSettings(epochs=3, batch=4, lr=0.05, weight_decay=0.01, augment=("crop", "flip"))
CPU = torch.device("cpu")


def make_resident(device: torch.device = CPU, count: int = 60, size: int = 16) -> Resident:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (count, 3, size, size), dtype=np.uint8)
    labels = np.arange(count, dtype=np.int64) % 3
    names = ("a", "b", "c")
    return Resident(
        ImageSet(
            "toy",
            images,
            labels,
            np.zeros(count, bool),
            names,
            "f",
            (0.4, 0.5, 0.6),
            (0.25, 0.2, 0.3),
        ),
        device,
    )


def make_group(
    members: int, images: int, resident: Resident | None = None, tests: int = 9, **changes: object
) -> Group:
    """Members with different images, and unequal numbers of test images."""
    resident = resident or make_resident()
    tasks = []
    for member in range(members):
        chosen = torch.randperm(len(resident.labels), generator=generator(member, "test"))
        train, test = chosen[:images].sort().values, chosen[-tests - member :]
        labels = resident.labels.cpu()
        tasks.append(DownstreamTask((0, 1, 2), train, test, labels[train], labels[test]))
    return Group(
        tasks, [member + 2 for member in range(members)], resident, replace(SETTINGS, **changes), 7
    )


def generations(group: Group, count: int) -> Group:
    """As many generations of the group's members: the same tasks and numbers over and over."""
    return replace(group, tasks=[*group.tasks] * count, numbers=[*group.numbers] * count)


def make_models(group: Group, dtype: torch.dtype = torch.float64, plan: object = PLAN) -> list[VGG]:
    models = []
    for member in range(group.size):
        model = VGG(plan, 3)  # type: ignore[arg-type]
        initialise(model, member, "test")
        models.append(model.to(device=group.resident.device, dtype=dtype))
    return models


def run(trainer: Trainer, epochs: int) -> tuple[list[list[float]], list[list[bool]]]:
    """Every epoch's losses, and the last answers."""
    losses = [trainer.epoch(epoch) for epoch in range(epochs)]
    answers = [right.tolist() for right in trainer.correct()]
    trainer.close()
    return losses, answers


def assert_equal_models(ours: list[VGG], theirs: list[VGG], rtol: float, atol: float) -> None:
    for mine, other in zip(ours, theirs, strict=True):
        for name, tensor in mine.state_dict().items():
            torch.testing.assert_close(
                tensor,
                other.state_dict()[name],
                rtol=rtol,
                atol=atol,
                msg=lambda text, name=name: f"{name}: {text}",
            )


# --- draws and batches


@settings(max_examples=40, deadline=None)
@given(
    size=st.sampled_from([6, 8, 9, 16, 21]),
    images=st.integers(2, 25),
    batch=st.integers(2, 9),
    members=st.integers(1, 3),
    repeats=st.integers(1, 2),
    augment=st.sampled_from([(), ("crop",), ("flip",), ("flip", "crop")]),
    epoch=st.integers(0, 3),
)
def test_packed_draws_give_the_plain_batches_bit_for_bit(
    size, images, batch, members, repeats, augment, epoch
):
    group = generations(
        make_group(members, images, make_resident(size=size), batch=batch, augment=augment), repeats
    )
    slots = [slot for part in layout(group).parts(pack(group, epoch)) for slot in part]
    step = TrainStep(
        [],
        group.resident,
        augment,
        torch.zeros(1, FIELDS, group.size, batch, dtype=torch.int64),
        torch.zeros(1),
    )
    assert len(slots) == group.steps
    for member, task in enumerate(group.tasks):
        draw = group.augmentation(member, epoch)
        for places, slot in zip(group.batches(member, epoch), slots, strict=True):
            expected = group.resident.batch(task.train[places], augment, draw)
            actual = step.images(slot).split(slot.shape[-1])[member]
            assert torch.equal(actual, expected) and actual.stride() == expected.stride()
            assert torch.equal(slot[INDEX, member], task.train[places]) and torch.equal(
                slot[LABEL, member], task.train_labels[places]
            )


def test_draws_are_not_shared_by_members_that_have_only_their_number_in_common():
    group = make_group(2, 10)
    alike = replace(group, numbers=[2, 2])
    (part, _) = layout(alike).parts(pack(alike, 0))
    second = replace(group, tasks=group.tasks[1:], numbers=[2])
    assert torch.equal(part[:, :, 1], layout(second).parts(pack(second, 0))[0][:, :, 0])
    assert not torch.equal(part[:, INDEX, 0], part[:, INDEX, 1])


def test_without_augmentation_nothing_is_shifted_or_mirrored():
    group = make_group(2, 10, augment=())
    for part in layout(group).parts(pack(group, 0)):
        assert not part[:, CROP].any() and not part[:, FLIP].any()


# --- training


@pytest.mark.parametrize(
    "images", [12, 14, 13, 3], ids=["full batches", "tail", "merged last batch", "one small batch"]
)
@pytest.mark.parametrize("schedule", ["cosine", "constant"])
@pytest.mark.parametrize("capture", [False, True], ids=["eager", "rehearsed"])
def test_it_trains_as_the_plain_trainer_does(images, schedule, capture):
    group = make_group(2, images, schedule=schedule)
    ours, theirs = make_models(group), make_models(group)
    losses, answers = run(GraphTrainer(ours, group, capture), group.d.epochs)
    expected, right = run(PlainTrainer(theirs, group), group.d.epochs)
    np.testing.assert_allclose(losses, expected, rtol=1e-9)
    assert answers == right
    assert_equal_models(ours, theirs, 1e-5, 1e-7)


@pytest.mark.parametrize(
    "changes",
    [
        {"momentum": 0.0},
        {"weight_decay": 0.0},
        {"augment": ()},
        {"augment": ("flip",)},
        {"batch": 13},
    ],
)
def test_it_trains_as_the_plain_trainer_does_with_other_settings(changes):
    group = make_group(1, 13, **changes)
    ours, theirs = make_models(group), make_models(group)
    losses, answers = run(GraphTrainer(ours, group, True), group.d.epochs)
    expected, right = run(PlainTrainer(theirs, group), group.d.epochs)
    np.testing.assert_allclose(losses, expected, rtol=1e-9)
    assert answers == right
    assert_equal_models(ours, theirs, 1e-7, 1e-9)


def test_single_precision_agrees_to_rounding():
    group = make_group(3, 14, lr=0.01, epochs=2)
    ours, theirs = make_models(group, torch.float32), make_models(group, torch.float32)
    losses, answers = run(GraphTrainer(ours, group, False), group.d.epochs)
    expected, _ = run(PlainTrainer(theirs, group), group.d.epochs)
    np.testing.assert_allclose(losses, expected, rtol=1e-4)
    assert_equal_models(ours, theirs, 1e-2, 1e-4)
    assert [len(right) for right in answers] == [9, 10, 11]


def test_a_member_learns_the_same_alone_as_stacked():
    group = make_group(3, 14)
    models = make_models(group)
    alone = copy.deepcopy(models)
    losses, answers = run(GraphTrainer(models, group, True), group.d.epochs)
    for member in range(group.size):
        single = replace(group, tasks=[group.tasks[member]], numbers=[group.numbers[member]])
        own, right = run(GraphTrainer([alone[member]], single, False), group.d.epochs)
        np.testing.assert_allclose(
            [epoch[member] for epoch in losses], [epoch[0] for epoch in own], rtol=1e-9
        )
        assert answers[member] == right[0]
    assert_equal_models(models, alone, 1e-5, 1e-7)


def test_generations_of_several_architectures_learn_in_a_set_as_alone():
    group = make_group(2, 14)
    single = [make_models(group, torch.float32, plan) for plan in (PLAN, OTHER, PLAN)]
    models = copy.deepcopy([model for generation in single for model in generation])
    losses, answers = run(GraphTrainer(models, generations(group, 3), True), group.d.epochs)
    for number, generation in enumerate(single):
        part = slice(2 * number, 2 * number + 2)
        own, right = run(GraphTrainer(generation, group, True), group.d.epochs)
        assert [epoch[part] for epoch in losses] == own and answers[part] == right
        assert_equal_models(models[part], generation, 0, 0)


def test_epochs_may_be_asked_for_in_any_order_and_training_may_outrun_the_settings():
    group = make_group(1, 9, schedule="constant", epochs=2)
    ours, theirs = make_models(group), make_models(group)
    graphed, plain = GraphTrainer(ours, group, False), PlainTrainer(theirs, group)
    for epoch in (1, 0, 4):
        assert graphed.epoch(epoch) == pytest.approx(plain.epoch(epoch), rel=1e-9)


def test_many_test_images_are_judged_in_chunks(monkeypatch):
    monkeypatch.setattr("evolve.descendants.trainers.graphs.TEST_BATCH", 4)
    group = make_group(2, 8, tests=9)
    models = make_models(group)
    actual, expected = (
        GraphTrainer(models, group, False).correct(),
        PlainTrainer(models, group).correct(),
    )
    assert all(
        torch.equal(mine, other) and mine.dtype == torch.bool
        for mine, other in zip(actual, expected, strict=True)
    )
    assert TEST_BATCH >= 64


def test_a_diverged_member_has_a_loss_that_is_not_finite_and_the_others_go_on():
    group = make_group(2, 12)
    models = make_models(group)
    with torch.no_grad():
        models[0].head.weight.fill_(float("nan"))
    losses, _ = run(GraphTrainer(models, group, False), 1)
    assert not np.isfinite(losses[0][0]) and np.isfinite(losses[0][1])


# --- recording


def test_a_rehearsed_capture_leaves_everything_as_it_was():
    group = make_group(2, 10)
    models = make_models(group)
    before = copy.deepcopy(models)
    trainer = GraphTrainer(models, group, True)
    assert_equal_models(models, before, 0, 0)
    assert not any(momentum.any() for branch in trainer.branches for momentum in branch.momentum)


def test_a_failed_capture_leaves_the_models_as_they_were(monkeypatch):
    group = make_group(1, 10)
    models = make_models(group)
    before = copy.deepcopy(models)

    def failing(self: Exam) -> None:
        raise RuntimeError("no capture today")

    monkeypatch.setattr(Exam, "__call__", failing)
    with pytest.raises(RuntimeError, match="no capture today"):
        GraphTrainer(models, group, True)
    assert_equal_models(models, before, 0, 0)


def test_kept_restores_the_same_memory_even_after_an_error():
    tensor = torch.arange(3.0, requires_grad=True)
    place = tensor.data_ptr()
    with pytest.raises(KeyError), graph_capture.kept([tensor]), torch.no_grad():
        tensor.mul_(5)
        raise KeyError
    assert tensor.tolist() == [0, 1, 2] and tensor.data_ptr() == place


def fake(tensor: Tensor, device: str) -> Tensor:
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=device)


def unless_faking_asks_for_a_driver() -> None:
    """torch 2.6's fake tensors on "cuda" ask the driver, which a machine without a GPU has not."""
    with FakeTensorMode():
        try:
            torch.zeros(3, device="cuda")[0]
        except RuntimeError as error:
            pytest.skip(str(error).splitlines()[0])


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_step_needs_no_value_on_the_host_and_mixes_no_devices(monkeypatch, device):
    """What a capture cannot hold, found without a GPU: torch's fake tensors know device and shape
    but no value.

    Autograd will not run on a fake GPU and the fused update has no fake; on a fake CPU the backward
    does run.
    """
    updates: list[set[torch.device]] = []
    monkeypatch.setattr(
        "evolve.descendants.trainers.graphs.sgd",
        lambda p, g, m, lr, **rest: updates.append({tensor.device for tensor in (*p, *g, *m, lr)}),
    )
    monkeypatch.setattr(
        "evolve.networks.fast.graph_capture.Recorder.side_by_side",
        lambda jobs, device: [job() for job in jobs],
    )
    if device == "cuda":
        unless_faking_asks_for_a_driver()
        monkeypatch.setattr(
            torch.autograd,
            "grad",
            lambda loss, leaves, allow_unused: [torch.empty_like(leaf) for leaf in leaves],
        )
    group = make_group(2, 14)
    models, resident = make_models(group, torch.float32), copy.copy(group.resident)
    resident.device = torch.device(device)
    with FakeTensorMode():
        vars(resident).update(
            {
                name: fake(held, device)
                for name, held in vars(resident).items()
                if isinstance(held, Tensor)
            }
        )
        for module in [module for model in models for module in model.modules()]:
            module._parameters = {
                name: held if held is None else nn.Parameter(fake(held, device))
                for name, held in module._parameters.items()
            }
            module._buffers = {
                name: held if held is None else fake(held, device)
                for name, held in module._buffers.items()
            }
        members = [Branch([model], group.d) for model in models]
        slots = torch.zeros(3, FIELDS, 2, 4, dtype=torch.int64, device=device)
        TrainStep(members, resident, ("crop", "flip"), slots, torch.zeros(3, device=device))()
        tests = torch.zeros(2, 2, TEST_BATCH, dtype=torch.int64, device=device)
        Exam(members, resident, tests, tests)()
        with pytest.raises(DynamicOutputShapeException):  # it does find what waits for the device
            torch.nonzero(slots[0, 0, 0] > 0)
    assert [{place.type for place in used} for used in updates] == [{device}, {device}]
