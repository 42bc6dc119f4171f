"""When captured training is used: only where it agrees with the plain trainer."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from test_graphs import (
    OTHER,
    assert_equal_models,
    generations,
    make_group,
    make_models,
    make_resident,
    run,
)

from evolve.descendants.trainers import graph_check
from evolve.descendants.trainers.graph_check import checked, shortened
from evolve.descendants.trainers.graph_draws import layout
from evolve.descendants.trainers.graphs import GraphTrainer, TrainStep
from evolve.descendants.trainers.plain import PlainTrainer
from evolve.networks.fast import graph_capture
from evolve.networks.vgg_plan import vgg16_plan


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    graph_check._agreed.clear()
    yield
    graph_check._agreed.clear()


def test_a_checked_trainer_is_the_captured_one_and_the_check_leaves_no_trace(recwarn):
    group = make_group(2, 14)
    models, twins = make_models(group), make_models(group)
    trainer = checked(models, group)
    assert isinstance(trainer, GraphTrainer) and not list(recwarn)
    assert_equal_models(models, twins, 0, 0)
    losses, _ = run(trainer, group.d.epochs)
    np.testing.assert_allclose(
        losses, run(PlainTrainer(twins, group), group.d.epochs)[0], rtol=1e-9
    )


def test_an_architecture_is_checked_once_whatever_its_company(monkeypatch):
    compared: list[list[int]] = []
    monkeypatch.setattr(
        graph_check,
        "_compare",
        lambda models, group, members, capture: compared.append(list(members)),
    )
    for members, images in ((3, 14), (3, 14), (1, 14), (3, 18), (3, 13), (1, 13)):
        group = make_group(members, images)
        checked(make_models(group), group)
    # Another tail is another graph, and as many networks are stacked otherwise; more batches of the same size are not.
    assert compared == [[0, 1, 2] * 2, [0, 0], [0, 1, 2] * 2, [0, 0]]
    mixed = generations(group, 2)
    models = [*make_models(group), *make_models(group, plan=OTHER)]
    for _ in range(2):
        checked(models, mixed)
    assert compared[4:] == [[1, 1]]


def refuse(monkeypatch: pytest.MonkeyPatch, *plans: object) -> None:
    """Let the comparison fail for these architectures."""

    def compare(
        models: Sequence[Any], group: object, members: Sequence[int], capture: bool
    ) -> None:
        if models[members[0]].plan in plans:
            raise ArithmeticError("other losses")

    monkeypatch.setattr(graph_check, "_compare", compare)


@pytest.mark.filterwarnings("ignore:captured training is not used:RuntimeWarning")
def test_a_set_in_which_not_all_agree_comes_apart_and_each_goes_its_own_way(monkeypatch):
    group = make_group(2, 14)
    good, bad = make_models(group), make_models(group, plan=OTHER)
    refuse(monkeypatch, OTHER)
    with pytest.raises(ArithmeticError, match="some of these architectures"):
        checked([*good, *bad], generations(group, 2))
    assert isinstance(checked(good, group), GraphTrainer) and isinstance(
        checked(bad, group), PlainTrainer
    )
    assert isinstance(checked([*bad, *bad], generations(group, 2)), PlainTrainer)


def test_a_set_too_large_to_capture_comes_apart_and_condemns_nobody(monkeypatch, recwarn):
    right = graph_capture.Recorder.record
    room = 2

    def record(self: graph_capture.Recorder, step: Any, state: Any) -> Any:
        if len(step.branches) > room:
            raise torch.cuda.OutOfMemoryError("full")
        return right(self, step, state)

    monkeypatch.setattr(graph_capture.Recorder, "record", record)
    group = make_group(2, 14)
    models, many = make_models(group), generations(group, 3)
    room = 1  # too little even for the comparison
    with pytest.raises(torch.cuda.OutOfMemoryError):
        checked([*models, *make_models(group), *make_models(group)], many)
    room = 2
    with pytest.raises(torch.cuda.OutOfMemoryError):
        checked([*models, *make_models(group), *make_models(group)], many)
    assert isinstance(checked(models, group), GraphTrainer) and not list(recwarn)


@pytest.mark.parametrize(
    "error", [torch.cuda.OutOfMemoryError("full"), RuntimeError("CUBLAS_STATUS_ALLOC_FAILED")]
)
def test_a_generation_that_does_not_fit_is_not_trained_otherwise(monkeypatch, recwarn, error):
    """Its rounding must not hang on free memory, as its key does not."""

    def record(self: graph_capture.Recorder, step: Any, state: Any) -> Any:
        raise error

    group = make_group(2, 14)
    models = make_models(group)
    with monkeypatch.context() as full:
        full.setattr(graph_capture.Recorder, "record", record)
        with pytest.raises(type(error)):  # while it is compared
            checked(models, group)
    assert isinstance(checked(models, group), GraphTrainer)
    with monkeypatch.context() as full:
        full.setattr(graph_capture.Recorder, "record", record)
        with pytest.raises(type(error)):  # and once it is known to agree
            checked(models, group)
    assert not list(recwarn)


def test_a_whole_ancestor_that_makes_much_of_rounding_is_captured_too(recwarn):
    group = make_group(3, 14, make_resident(size=32))
    models = make_models(group, torch.float32, vgg16_plan(1 / 8))
    assert isinstance(checked(models, group), GraphTrainer) and not list(recwarn)


def wrong_crops(monkeypatch: pytest.MonkeyPatch) -> None:
    right = TrainStep.images
    monkeypatch.setattr(TrainStep, "images", lambda self, slot: right(self, slot).flip(3))


def lost_update(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evolve.descendants.trainers.graphs.sgd", lambda *args, **kwargs: None)


def broken_capture(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(self: object, step: object, state: object) -> None:
        raise RuntimeError("operation not permitted\nwhen stream is capturing")

    monkeypatch.setattr(graph_capture.Recorder, "record", failing)


def wrong_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "evolve.descendants.trainers.graphs.Branch.right",
        lambda self, images, labels: labels != labels,
    )


@pytest.mark.parametrize("breakage", [wrong_crops, lost_update, broken_capture, wrong_answers])
def test_what_fails_the_check_trains_plainly_after_one_warning(monkeypatch, breakage):
    group = make_group(2, 14, tests=40)
    models, twins = make_models(group), make_models(group)
    if breakage is wrong_answers:
        with torch.no_grad():
            for model in models:  # all in one class: a third of the answers is right
                model.head.bias[0] += 100
                model.head.weight.zero_()
        twins = copy.deepcopy(models)
    breakage(monkeypatch)
    with pytest.warns(RuntimeWarning) as caught:
        assert isinstance(checked(models, group), PlainTrainer)
    assert len(caught) == 1 and "\n" not in str(caught[0].message)
    assert_equal_models(models, twins, 0, 0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert isinstance(checked(models, group), PlainTrainer)


def test_a_shortened_group_has_the_same_batch_sizes_and_every_class():
    group = make_group(2, 41, epochs=5)
    short = shortened(group, 2, [1, 0, 1])
    shape, whole = layout(short), layout(group)
    assert (shape.body, shape.batch, shape.tail, shape.members) == (2, whole.batch, whole.tail, 3)
    assert short.numbers == [3, 2, 3] and short.d.epochs == 2
    for task in short.tasks:
        assert set(task.train_labels.tolist()) == {0, 1, 2} and len(
            set(task.train.tolist())
        ) == len(task.train)
        assert torch.equal(group.resident.labels[task.train], task.train_labels)
