"""Downstream tasks and the training that measures a descendant."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from alone import train_descendant
from hypothesis import given, settings
from hypothesis import strategies as st

from evolve.core.errors import UserError
from evolve.core.randomness import generator
from evolve.core.settings import DescendSettings
from evolve.data.batches import batch_count, batches
from evolve.data.resident import Resident
from evolve.data.sources import ImageSet
from evolve.descendants.descendants import (
    DownstreamTask,
    choose_trainer,
    downstream_tasks,
    epochs_tested,
    evaluate,
    learning_rate,
    newborn_accuracy,
    train_together,
)
from evolve.descendants.trainers.fused import FusedTrainer
from evolve.descendants.trainers.group import Group
from evolve.descendants.trainers.plain import PlainTrainer
from evolve.learngene.inheritance import inherit
from evolve.learngene.learngene import extract
from evolve.networks.vgg import VGG, initialise
from evolve.networks.vgg_plan import stack_plan, vgg16_plan

ANCESTOR = vgg16_plan(1 / 16)
PLAN = stack_plan(ANCESTOR, ("conv1", "conv11", "conv12", "conv13"))
SETTINGS = DescendSettings(
    descendants=3, classes_per_task=3, shots=7, epochs=3, batch=4, lr=0.05, augment=("crop", "flip")
)


def quiet(fraction: float, text: str) -> None:
    pass


def make_resident(train: int = 10, test: int = 6, classes: int = 8, size: int = 12) -> Resident:
    """Classes that differ by a coloured quadrant under noise; class 7 has one training image
    fewer.
    """
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(classes), train + test)
    is_test = np.tile(np.arange(train + test) >= train, classes)
    images = rng.integers(0, 160, (len(labels), 3, size, size))
    half = size // 2
    for image, label in zip(images, labels, strict=True):
        y, x = label % 2 * half, label // 2 % 2 * half
        image[label // 4, y : y + half, x : x + half] += 90
    keep = np.ones(len(labels), dtype=bool)
    keep[7 * (train + test)] = False
    names = tuple(f"class{c}" for c in range(classes))
    images = np.ascontiguousarray(images[keep].astype(np.uint8))
    image_set = ImageSet(
        "toy", images, labels[keep], is_test[keep], names, "f", (0.4,) * 3, (0.25,) * 3
    )
    return Resident(image_set, torch.device("cpu"))


@pytest.fixture(scope="module")
def resident() -> Resident:
    return make_resident()


def tasks_of(resident: Resident, seed: int = 0, **changes) -> list[DownstreamTask]:
    return downstream_tasks(replace(SETTINGS, **changes), range(8), resident, seed)


def test_tasks_hold_what_they_promise(resident):
    for task in tasks_of(resident, descendants=6):
        assert len(set(task.classes)) == 3
        for index, labels, per_class, is_test in (
            (task.train, task.train_labels, 7, False),
            (task.test, task.test_labels, 6, True),
        ):
            assert len(index) == len(set(index.tolist())) == 3 * per_class
            for label, class_id in enumerate(task.classes):
                mine = index[labels == label]
                assert len(mine) == per_class
                assert set(mine.tolist()) <= set(resident.indices(class_id, test=is_test).tolist())
                assert (resident.labels[mine] == class_id).all()


def test_a_task_depends_only_on_seed_and_its_number(resident):
    whole = tasks_of(resident, descendants=5)
    for task, other in zip(tasks_of(resident, descendants=2), whole, strict=False):
        assert (
            task.classes == other.classes
            and torch.equal(task.train, other.train)
            and torch.equal(task.test, other.test)
        )
    assert len({task.classes for task in whole}) > 1
    assert [t.classes for t in tasks_of(resident, seed=1, descendants=5)] != [
        t.classes for t in whole
    ]
    mixed = downstream_tasks(SETTINGS, [3, 1, 0, 7, 2, 6, 5, 4], resident, 0)
    assert [t.classes for t in mixed] == [t.classes for t in tasks_of(resident)]
    for few, many in zip(
        tasks_of(resident, shots=3, test_per_class=2), tasks_of(resident, shots=8), strict=True
    ):
        assert few.classes == many.classes and set(few.train.tolist()) < set(many.train.tolist())
        assert len(few.test) == 6 and set(few.test.tolist()) < set(many.test.tolist())


def test_every_class_gets_its_turn(resident):
    seen = {c for seed in range(20) for task in tasks_of(resident, seed=seed) for c in task.classes}
    assert seen == set(range(8))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (
            {"classes_per_task": 9},
            "descend.classes_per_task = 9: there are 8 descend classes; give at most 8",
        ),
        (
            {"shots": 10},
            "descend.shots = 10: descend class 7 (class7) has 9 training images; give at most 9",
        ),
        (
            {"test_per_class": 7},
            "descend.test_per_class = 7: descend class 0 (class0) has 6 test images; give at most 6",
        ),
    ],
)
def test_what_the_images_do_not_allow_is_refused_by_name(resident, changes, says):
    with pytest.raises(UserError) as caught:
        tasks_of(resident, **changes)
    assert str(caught.value) == says


@given(st.integers(1, 60), st.integers(2, 17))
def test_batches_use_every_image_once_and_none_alone(count, size):
    order = torch.randperm(count, generator=generator(0, "order"))
    parts = batches(order, size)
    assert torch.equal(torch.cat(parts), order) and len(parts) == batch_count(count, size)
    assert all(len(part) == size for part in parts[:-1]) or len(parts[-1]) == size + 1
    assert count == 1 or min(map(len, parts)) > 1


def plain_training(
    model: VGG, task: DownstreamTask, resident: Resident, d: DescendSettings, seed: int, number: int
):
    """The same training written out step by step with a hand-made optimizer: an oracle."""
    velocity = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    steps, done, losses = math.ceil(len(task.train) / d.batch), 0, []
    for epoch in range(d.epochs):
        order = torch.randperm(len(task.train), generator=generator(seed, "batches", number, epoch))
        draw, total = generator(seed, "augment", number, epoch), 0.0
        model.train()
        for start in range(0, len(order), d.batch):
            part = order[start : start + d.batch]
            lr = (
                d.lr * 0.5 * (1 + math.cos(math.pi * done / (steps * d.epochs)))
                if d.schedule == "cosine"
                else d.lr
            )
            loss = F.cross_entropy(
                model(resident.batch(task.train[part], d.augment, draw).double()),
                task.train_labels[part],
            )
            for (name, p), g in zip(
                model.named_parameters(),
                torch.autograd.grad(loss, list(model.parameters())),
                strict=True,
            ):
                velocity[name] = d.momentum * velocity[name] + g + d.weight_decay * p.detach()
                p.data.sub_(lr * velocity[name])
            total, done = total + loss.item() * len(part), done + 1
        losses.append(total / len(order))
    model.eval()
    with torch.no_grad():
        right = model(resident.batch(task.test).double()).argmax(1) == task.test_labels
    return losses, right.int().tolist()


@pytest.mark.parametrize("schedule", ["cosine", "constant"])
def test_training_agrees_with_a_plain_loop(resident, schedule):
    d = replace(SETTINGS, schedule=schedule, weight_decay=0.01, batch=6)
    task = tasks_of(resident)[1]
    model, twin = inherit(PLAN, None, 3, 5, 1).double(), inherit(PLAN, None, 3, 5, 1).double()
    trained = train_descendant(model, task, resident, d, 5, 1, quiet)
    losses, correct = plain_training(twin, task, resident, d, 5, 1)
    assert trained.train_loss == pytest.approx(losses, rel=1e-7)
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, twin.state_dict()[name], rtol=1e-4, atol=1e-6)
    assert trained.correct == correct


def test_training_is_bit_reproducible_and_leaves_global_random_state(resident):
    task = tasks_of(resident)[0]
    runs = []
    for global_seed in (1, 2):
        torch.manual_seed(global_seed)
        state = torch.get_rng_state()
        model = inherit(PLAN, None, 3, 5, 0)
        runs.append(
            (train_descendant(model, task, resident, SETTINGS, 5, 0, quiet), model.state_dict())
        )
        assert torch.equal(torch.get_rng_state(), state)
    assert runs[0][0] == runs[1][0]
    assert all(torch.equal(runs[0][1][name], runs[1][1][name]) for name in runs[0][1])


class Spy(Resident):
    """Remembers every training batch it serves, whether it draws itself or gathers what was
    drawn.
    """

    def batch(self, index, augment=(), generator=None):
        images = super().batch(index, augment, generator)
        if generator is not None:
            self.served.append((index.clone(), images.clone()))
        return images

    def batches(self, indices, augment=(), generator=None):
        for index, images in zip(
            indices, super().batches(indices, augment, generator), strict=True
        ):
            self.served.append((index.clone(), images.clone()))
            yield images

    def gather(self, index, shift=None, flip=None):
        images = super().gather(index, shift, flip)
        self.served.append((index.clone(), images.clone()))
        return images


@pytest.mark.parametrize("reference", [False, True])
def test_every_method_sees_bit_equal_batches(reference):
    spy = make_resident()
    spy.__class__ = Spy
    task = tasks_of(spy)[2]
    gene = extract(VGG(ANCESTOR, 3).state_dict(), ANCESTOR, ("conv1", "conv11", "conv12", "conv13"))
    other = stack_plan(ANCESTOR, ("conv2",))
    served = []
    for model in (
        inherit(PLAN, None, 3, 5, 2),
        inherit(PLAN, gene, 3, 5, 2),
        inherit(other, None, 3, 5, 2),
    ):
        spy.served = []
        train_descendant(model, task, spy, SETTINGS, 5, 2, quiet, reference)
        served.append(spy.served)
    assert (
        len(served[0]) == 3 * 5
    )  # 21 images in fours: the single last image joins the batch before it
    for method in served[1:]:
        for (index, images), (index_, images_) in zip(served[0], method, strict=True):
            assert torch.equal(index, index_) and torch.equal(images, images_)
    epochs = [torch.cat([index for index, _ in served[0][e * 5 : e * 5 + 5]]) for e in range(3)]
    assert all(torch.equal(e.sort().values, task.train.sort().values) for e in epochs)
    assert not torch.equal(epochs[0], epochs[1])


def test_what_trained_reports(resident):
    d = replace(SETTINGS, epochs=20, shots=9, batch=9, augment=())
    task = tasks_of(resident, shots=9)[0]
    model, seen = inherit(PLAN, None, 3, 5, 0), []
    trained = train_descendant(
        model, task, resident, d, 5, 0, lambda fraction, text: seen.append((fraction, text))
    )
    assert len(trained.test_accuracy) == len(trained.train_loss) == 20
    assert (
        trained.last
        == trained.test_accuracy[-1]
        == pytest.approx(sum(trained.correct) / len(trained.correct))
    )
    assert trained.best == max(trained.test_accuracy)
    assert set(trained.correct) <= {0, 1} and len(trained.correct) == 18
    assert all(type(value) is float for value in (*trained.train_loss, *trained.test_accuracy))
    assert (
        trained.train_loss[-1] < 0.8 * trained.train_loss[0] and trained.last > 0.6
    )  # it does learn
    assert [fraction for fraction, _ in seen] == [(e + 1) / 20 for e in range(20)] and seen[0][
        1
    ] == "epoch 1 of 20"


def test_evaluation_is_deterministic_and_changes_nothing(resident):
    task = tasks_of(resident)[0]
    model = inherit(PLAN, None, 3, 5, 0)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    first = evaluate(model, task.test, task.test_labels, resident)
    order = torch.randperm(len(task.test), generator=generator(0, "o"))
    shuffled = evaluate(model, task.test[order], task.test_labels[order], resident)
    assert first.dtype == torch.bool and torch.equal(first[order], shuffled)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_a_diverged_training_is_reported_not_hidden(resident):
    trained = train_descendant(
        inherit(PLAN, None, 3, 5, 0),
        tasks_of(resident)[0],
        resident,
        replace(SETTINGS, lr=1e30),
        5,
        0,
        quiet,
    )
    assert not all(math.isfinite(loss) for loss in trained.train_loss) and 0 <= trained.last <= 1


def test_schedule():
    d = replace(SETTINGS, lr=0.2)
    assert (
        learning_rate(d, 0) == 0.2
        and learning_rate(d, 1) == pytest.approx(0)
        and learning_rate(d, 0.5) == pytest.approx(0.1)
    )
    assert learning_rate(replace(d, schedule="constant"), 0.9) == 0.2


@settings(max_examples=5, deadline=None)
@given(st.integers(2, 6), st.integers(1, 3))
def test_odd_batch_sizes_train(batch, shots):
    d = replace(SETTINGS, batch=batch, shots=shots, epochs=1)
    resident = make_resident()
    trained = train_descendant(
        inherit(PLAN, None, 3, 0, 0), tasks_of(resident, shots=shots)[0], resident, d, 0, 0, quiet
    )
    assert math.isfinite(trained.train_loss[0])


def test_double_precision_runs(resident):
    model = inherit(PLAN, None, 3, 5, 0).double()
    single = train_descendant(
        inherit(PLAN, None, 3, 5, 0),
        tasks_of(resident)[0],
        resident,
        replace(SETTINGS, epochs=1),
        5,
        0,
        quiet,
    )
    double = train_descendant(
        model, tasks_of(resident)[0], resident, replace(SETTINGS, epochs=1), 5, 0, quiet
    )
    assert double.train_loss == pytest.approx(single.train_loss, rel=1e-4)


def inherited_model(number: int = 0) -> VGG:
    """A descendant whose learngene is of an ancestor of its own."""
    ancestor = VGG(ANCESTOR, 5)
    initialise(ancestor, 1, "ancestor")
    return inherit(
        PLAN,
        extract(ancestor.state_dict(), ANCESTOR, ("conv1", "conv11", "conv12", "conv13")),
        3,
        5,
        number,
    )


def of_learngene(name: str) -> bool:
    return name.split(".")[1] in ("conv1", "conv11", "conv12", "conv13")


@pytest.mark.parametrize(("optimizer", "scale"), [("sgd", 0.1), ("sgd", 3.0), ("adamw", 0.1)])
def test_inherited_layers_learn_at_a_rate_of_their_own_as_torchs_parameter_groups_do(
    resident, optimizer, scale
):
    d = replace(SETTINGS, optimizer=optimizer, lr=0.01, weight_decay=0.02)
    task, model, twin = (
        tasks_of(resident)[1],
        inherited_model(1).double(),
        inherited_model(1).double(),
    )
    result = train_together([model], Group([task], [1], resident, d, 5, scale), quiet)[0]
    named = list(twin.named_parameters())
    parts = [
        {"params": [p for name, p in named if not of_learngene(name)]},
        {"params": [p for name, p in named if of_learngene(name)]},
    ]
    torchs = (
        torch.optim.SGD(parts, d.lr, d.momentum, weight_decay=0.02)
        if optimizer == "sgd"
        else torch.optim.AdamW(parts, d.lr, weight_decay=0.02)
    )
    steps, losses = batch_count(len(task.train), d.batch), []
    for epoch in range(d.epochs):
        order = torch.randperm(len(task.train), generator=generator(5, "batches", 1, epoch))
        draw = generator(5, "augment", 1, epoch)
        for step, part in enumerate(batches(order, d.batch)):
            rate = learning_rate(d, (epoch * steps + step) / (d.epochs * steps))
            torchs.param_groups[0]["lr"], torchs.param_groups[1]["lr"] = rate, scale * rate
            torchs.zero_grad()
            loss = F.cross_entropy(
                twin.train()(resident.batch(task.train[part], d.augment, draw).double()),
                task.train_labels[part],
            )
            loss.backward()
            torchs.step()
            losses.append(loss.item() * len(part))
    assert result.train_loss == pytest.approx(
        [sum(losses[e * steps : (e + 1) * steps]) / len(task.train) for e in range(d.epochs)],
        rel=1e-9,
    )
    for (name, ours), (_, theirs) in zip(
        model.named_parameters(), twin.named_parameters(), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=1e-10, msg=name)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_frozen_layers_keep_their_bits_while_their_statistics_and_the_rest_move(
    resident, optimizer
):
    d = replace(SETTINGS, optimizer=optimizer)
    model, start = inherited_model(), inherited_model().state_dict()
    train_together([model], Group(tasks_of(resident)[:1], [0], resident, d, 5, 0.0), quiet)
    for name, tensor in model.state_dict().items():
        still = of_learngene(name) and name in dict(model.named_parameters())
        assert torch.equal(tensor, start[name]) == still, name


def test_a_rate_of_one_is_no_rate_of_its_own_and_from_scratch_knows_none(resident):
    """1.0 is the fast path to the bit; a network that inherits nothing trains alike whatever the
    factor is.
    """
    task = tasks_of(resident)[:1]
    given, plain = inherited_model(), inherited_model()
    assert train_together(
        [given], Group(task, [0], resident, SETTINGS, 5, 1.0), quiet
    ) == train_together([plain], Group(task, [0], resident, SETTINGS, 5), quiet)
    assert all(
        torch.equal(a, b)
        for a, b in zip(given.state_dict().values(), plain.state_dict().values(), strict=True)
    )
    scratch = [inherit(PLAN.anonymous(), None, 3, 5, 0) for _ in range(2)]
    slow = train_together(scratch[:1], Group(task, [0], resident, SETTINGS, 5, 0.1), quiet)
    assert slow == train_together(
        scratch[1:], Group(task, [0], resident, SETTINGS, 5), quiet, reference=True
    )


def test_the_fast_trainers_are_left_out_where_they_do_not_know_the_rate(resident):
    group = Group(tasks_of(resident)[:1], [0], resident, SETTINGS, 5)
    assert isinstance(choose_trainer([inherited_model()], group, False), FusedTrainer)
    assert isinstance(
        choose_trainer([inherited_model()], replace(group, lr_scale=0.5), False), PlainTrainer
    )


@pytest.mark.parametrize(
    ("epochs", "every", "expected"),
    [(5, 1, [1, 2, 3, 4, 5]), (5, 2, [2, 4, 5]), (6, 3, [3, 6]), (5, 0, [5]), (5, 9, [5])],
)
def test_the_last_epoch_is_always_tested(epochs: int, every: int, expected: list[int]) -> None:
    assert epochs_tested(replace(SETTINGS, epochs=epochs, test_every=every)) == expected


@pytest.mark.parametrize("reference", [False, True])
def test_testing_less_often_changes_nothing_but_what_is_looked_at(resident, reference):
    """Accuracies are those of the same epochs, losses and the last predictions the same bits."""

    def trained(every: int):
        d = replace(SETTINGS, epochs=4, test_every=every)
        models = [inherit(PLAN, None, 3, 0, n) for n in range(2)]
        return train_together(
            models,
            Group(tasks_of(resident)[:2], range(2), resident, d, 0),
            quiet,
            reference=reference,
        )

    for often, seldom in zip(trained(1), trained(3), strict=True):
        assert seldom.tested == [3, 4] and len(often.test_accuracy) == 4
        assert seldom.test_accuracy == [often.test_accuracy[epoch - 1] for epoch in seldom.tested]
        assert (seldom.train_loss, seldom.correct, seldom.last) == (
            often.train_loss,
            often.correct,
            often.last,
        )
        assert seldom.newborn == often.newborn


def test_the_newborns_accuracy_is_the_nearest_class_mean_as_scikit_learn_has_it(resident):
    from sklearn.neighbors import NearestCentroid

    model = inherit(PLAN, None, 3, 0, 1)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for task in tasks_of(resident):
        model.eval()
        with torch.no_grad():
            train, test = (
                model.embed(resident.batch(index)).numpy() for index in (task.train, task.test)
            )
        oracle = (
            NearestCentroid()
            .fit(train, task.train_labels.numpy())
            .score(test, task.test_labels.numpy())
        )
        model.train()
        for fused in (True, False):
            assert newborn_accuracy(model, task, resident, fused) == pytest.approx(
                oracle, abs=1.01 / len(task.test)
            )
        assert model.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
