"""When captured training is used: as wide as it pays, and only where it agrees with the plain trainer."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from test_graphs import assert_equal_models, make_group, make_models, run

from evolve.training import graph_capture, graph_check
from evolve.training.graph_check import branches, checked, shortened
from evolve.training.graph_draws import layout
from evolve.training.graphs import GraphTrainer, TrainStep
from evolve.training.plain import PlainTrainer


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    graph_check._widths.clear()
    yield
    graph_check._widths.clear()


def test_branches_are_added_while_they_pay():
    def machine(units: int) -> Callable[[int], float]:
        return lambda count: 1.0 + max(0, count - units)  # seconds: free up to ``units`` branches, then each costs as much as alone

    assert branches(5, machine(5)) == 5 and branches(7, machine(100)) == 7
    assert branches(40, machine(1)) == 1 and branches(40, machine(10)) == 10
    assert branches(3, lambda count: 1 / count) == 3


def test_branches_stop_where_memory_ends():
    def measure(count: int) -> float:
        if count > 5:
            raise torch.cuda.OutOfMemoryError("full")
        return 1.0

    assert branches(30, measure) == 5


def test_a_checked_trainer_is_the_captured_one_and_the_check_leaves_no_trace(recwarn):
    group = make_group(2, 14)
    models, twins = make_models(group), make_models(group)
    trainer = checked(models, group)
    assert isinstance(trainer, GraphTrainer) and not list(recwarn)
    assert_equal_models(models, twins, 0, 0)
    losses, _ = run(trainer, group.d.epochs)
    np.testing.assert_allclose(losses, run(PlainTrainer(twins, group), group.d.epochs)[0], rtol=1e-9)


def test_the_check_is_made_once_for_each_kind(monkeypatch):
    asked: list[int] = []
    monkeypatch.setattr(graph_check, "_judged", lambda models, group, capture: asked.append(group.size) or 1)
    for members, images in ((2, 14), (2, 14), (1, 14), (2, 18), (2, 13)):
        group = make_group(members, images)
        checked(make_models(group), group)
    assert asked == [2, 1, 2]  # another tail is another graph; more batches of the same size are not


def wrong_crops(monkeypatch: pytest.MonkeyPatch) -> None:
    right = TrainStep.images
    monkeypatch.setattr(TrainStep, "images", lambda self, slot: right(self, slot).flip(3))


def lost_update(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evolve.training.graphs.sgd", lambda *args, **kwargs: None)


def broken_capture(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(self: object, step: object, state: object) -> None:
        raise RuntimeError("operation not permitted\nwhen stream is capturing")

    monkeypatch.setattr(graph_capture.Recorder, "record", failing)


def wrong_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evolve.training.graphs.Branch.right", lambda self, images, labels: labels != labels)


@pytest.mark.parametrize("breakage", [wrong_crops, lost_update, broken_capture, wrong_answers])
def test_what_fails_the_check_trains_plainly_after_one_warning(monkeypatch, breakage):
    monkeypatch.setattr(graph_check, "seconds", lambda *args: 1.0)
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
        assert set(task.train_labels.tolist()) == {0, 1, 2} and len(set(task.train.tolist())) == len(task.train)
        assert torch.equal(group.resident.labels[task.train], task.train_labels)
