"""Every learner, whole: it learns, it repeats, and no task, query or order changes what it predicts
of another.
"""

import dataclasses
import itertools
import math
from contextlib import suppress
from dataclasses import replace
from functools import cache

import pytest
import torch
from colours import ANCESTOR, QUICK, WAYS, course, measure, network, resident, task

from evolve.core.randomness import generator
from evolve.core.registry import find, names
from evolve.descendants.fewshot.episodes import Episodes
from evolve.descendants.fewshot.measure import make_learner
from evolve.descendants.fewshot.methods import LEARNERS
from evolve.engine.store import Store
from evolve.networks.family import architecture

TASKS = (0, 1, 2, 3)


def silent(done, text):
    pass


@cache
def trained(name, settings=QUICK):
    learner = make_learner(name, network(), settings, WAYS, 0)
    return learner, learner.meta_train(
        Episodes(resident(), ANCESTOR, WAYS, settings, 0), silent, course()
    )


def predict(learner, number, queries=None):
    t = task(number)
    parts = [resident().batch(t.test)] if queries is None else queries
    return learner.predict(
        resident().batch(t.train),
        t.train_labels,
        parts,
        generator(0, "fewshot", "adapt", number),
    )


def test_names_agree():
    assert set(names("learners")) == set(LEARNERS)
    assert all(callable(find("learners", name)) for name in LEARNERS)


@pytest.mark.parametrize("name", LEARNERS)
def test_learns_new_colours(name):
    """Chance is 0.25."""
    learner, _ = trained(name)
    right = [
        (predict(learner, number) == task(number).test_labels).float().mean().item()
        for number in TASKS
    ]
    assert min(right) > 0.5 and sum(right) / len(right) > 0.85


LONG = replace(QUICK, episodes=120)
"""Losses of single episodes are noise, and rounding, so the processor, decides which noise: a
quarter of these is an average.
"""


@pytest.mark.parametrize("name", [name for name in LEARNERS if name != "reptile"])
def test_meta_training_lowers_the_loss(name):
    _, losses = trained(name, QUICK if name == "baseline++" else LONG)
    part = 3 if name == "baseline++" else len(losses) // 4
    assert sum(losses[-part:]) < 0.95 * sum(losses[:part])


@pytest.mark.slow
def test_reptiles_start_becomes_one_with_less_loss_on_the_way():
    """Its losses are those on the way, from ever the same start: a better start shows as less loss
    on tasks.
    """
    longer, barely = (
        trained("reptile", LONG)[0],
        trained("reptile", replace(LONG, reptile_step=0.0))[0],
    )

    def loss(learner):
        tasks = [task(number) for number in TASKS]
        return sum(
            learner.trained(resident().batch(t.train), t.train_labels, 4, generator(0, "t"))[1]
            for t in tasks
        )

    assert loss(longer) < 0.95 * loss(barely)


@pytest.mark.parametrize("name", LEARNERS)
def test_a_task_is_measured_alike_in_any_order_and_company(name):
    """One run gives tasks 0..3, another the first two only, from equal initial networks."""
    short = replace(QUICK, episodes=6, pretrain_epochs=1)
    state, before = network(), torch.random.get_rng_state()
    kept = {key: tensor.clone() for key, tensor in state.state_dict().items()}
    whole = measure(name, state, ANCESTOR, [task(n) for n in TASKS], short)
    part = measure(name, network(), ANCESTOR, [task(n) for n in TASKS[:2]], short)
    assert part.losses == whole.losses
    assert all(torch.equal(a, b) for a, b in zip(part.correct, whole.correct, strict=False))
    assert all(torch.equal(kept[key], tensor) for key, tensor in state.state_dict().items())
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize("name", LEARNERS)
def test_a_task_leaves_no_trace(name):
    learner, _ = trained(name)
    forward = {number: predict(learner, number) for number in TASKS}
    before = state_of(learner)
    assert all(torch.equal(predict(learner, number), forward[number]) for number in reversed(TASKS))
    after = state_of(learner)
    assert len(before) > 10 and all(torch.equal(before[key], after[key]) for key in before)


def state_of(learner):
    """Copies of all tensors that a learner holds."""
    copies = {}
    for name, value in vars(learner).items():
        tensors = (
            value.state_dict()
            if isinstance(value, torch.nn.Module)
            else value
            if isinstance(value, dict)
            else {}
        )
        copies |= {(name, key): tensor.detach().clone() for key, tensor in tensors.items()}
    return copies


@pytest.mark.parametrize("name", LEARNERS)
def test_a_query_does_not_see_the_others(name):
    """Alone, in parts, or beside images that would turn batch statistics upside down."""
    learner, _ = trained(name)
    images = resident().batch(task(1).test)
    strange = torch.cat([images, torch.full((200, 3, 16, 16), 40.0)])
    expected = predict(learner, 1)
    assert torch.equal(predict(learner, 1, list(images.split(7))), expected)
    assert torch.equal(predict(learner, 1, [strange])[: len(images)], expected)


class Recorder:
    """Settings that remember what is read of them."""

    def __init__(self, settings):
        self.settings, self.read = settings, set()

    def __getattr__(self, name):
        self.read.add(name)
        return getattr(self.settings, name)


@pytest.mark.parametrize("name", LEARNERS)
def test_reads_the_settings_that_its_key_holds(name):
    recorder = Recorder(replace(QUICK, episodes=2, pretrain_epochs=1, emd_steps=1))
    measure(name, network(), ANCESTOR, [task(0)], recorder)
    fields = {f.name for f in dataclasses.fields(QUICK)}
    assert recorder.read & fields == LEARNERS[name].reads


@pytest.mark.parametrize("family, width", [("resnet18", 1 / 32), ("vit-small4", 1 / 4)])
@pytest.mark.parametrize("name", ["protonet", "maml", "mtl", "deepemd"])
def test_other_backbones_learn_too(name, family, width):
    """Shortcuts with BN of their own, attention (which needs a second derivative) and tokens in the
    place of maps.
    """
    backbone = architecture(family, width, 16).paper_descendant().build(WAYS)
    short = replace(QUICK, episodes=4, pretrain_epochs=1, emd_steps=1)
    result = measure(name, backbone, ANCESTOR, [task(0)], short)
    assert result.correct[0].float().mean() > 0.5 and math.isfinite(result.losses[-1])


def test_other_seeds_other_numbers():
    seeds = (0, 1)
    losses = [
        measure("protonet", network(), ANCESTOR, [task(0)], replace(QUICK, episodes=2), seed).losses
        for seed in seeds
    ]
    assert all(a != b for a, b in itertools.combinations(losses, 2))


class Interrupted(Exception):
    pass


@pytest.mark.parametrize("name", LEARNERS)
def test_an_interrupted_meta_training_goes_on_to_the_bit(name, tmp_path):
    """Cut off twice, for learners with two phases once in each: fractions of the whole
    meta-training are 0.8 of the progress shown.
    """
    short, tasks = replace(QUICK, episodes=8, pretrain_epochs=4), [task(0)]
    whole = measure(name, network(), ANCESTOR, tasks, short)
    checkpoint, starts = Store(tmp_path).checkpoint("ab"), []
    for limit in (0.3, 0.55, 2.0):
        fractions = []

        def progress(done, text, limit=limit, fractions=fractions):
            fractions.append(done)
            if done > limit:
                raise Interrupted

        with suppress(Interrupted):
            result = measure(
                name, network(), ANCESTOR, tasks, short, progress=progress, checkpoint=checkpoint
            )
        starts.append(fractions[0])
    assert starts[0] < starts[1] < starts[2]  # each went on, none began anew
    assert result.losses == whole.losses and torch.equal(result.correct[0], whole.correct[0])
    assert math.isfinite(whole.losses[-1]) and result.undecided == whole.undecided == 0


def test_a_learner_that_diverged_decides_nothing():
    result = measure(
        "protonet",
        network(),
        ANCESTOR,
        [task(0), task(1)],
        replace(QUICK, lr=float("inf"), episodes=3),
    )
    assert not math.isfinite(result.losses[-1]) and not sum(map(torch.sum, result.correct))
    assert result.undecided == len(task(0).test) + len(task(1).test)
