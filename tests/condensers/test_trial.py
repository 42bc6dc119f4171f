"""Condenser "trial": that its sets are measured side by side as descendants are,
and which of them wins.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from alone import train_descendant
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_ancestors import VGG16, VIT, broken, quiet, request
from torch import Tensor

from evolve.condensers import trial
from evolve.condensers.candidates import WHOLE
from evolve.condensers.condense import condense_ancestor
from evolve.condensers.interface import Condensed, Request, Trial
from evolve.condensers.trial import chosen, concluded, layer_gains, pooled
from evolve.core.errors import UserError
from evolve.core.randomness import derive_seed
from evolve.core.settings import CondenseSettings, DescendSettings, InheritSettings
from evolve.data.resident import Resident
from evolve.data.sources import ImageSet
from evolve.descendants.descendants import Group, downstream_tasks, train_together
from evolve.learngene.inheritance import inherit
from evolve.learngene.learngene import extract
from evolve.networks.architecture import Architecture
from evolve.networks.vgg_plan import vgg16_plan

PLAN = vgg16_plan(1 / 16)
CONDENSING = (1, 3, 4, 6)
LEARN = DescendSettings(classes_per_task=3, shots=6, epochs=4, batch=6, lr=0.05)
LONGER = replace(LEARN, epochs=10, augment=())  # from scratch it learns the toys


@cache
def toy() -> Resident:
    """Eight classes that differ by a coloured quadrant under noise, 8 training and 12 test images
    each.
    """
    draw = np.random.default_rng(0)
    labels = np.repeat(np.arange(8), 20)
    images = draw.integers(0, 160, (160, 3, 12, 12))
    for image, label in zip(images, labels, strict=True):
        y, x = label % 2 * 6, label // 2 % 2 * 6
        image[label // 4, y : y + 6, x : x + 6] += 90
    image_set = ImageSet(
        "toy",
        images.astype(np.uint8),
        labels,
        np.tile(np.arange(20) >= 8, 8),
        tuple("abcdefgh"),
        "f",
        (0.4,) * 3,
        (0.25,) * 3,
    )
    return Resident(image_set, torch.device("cpu"))


def weights(dead: Sequence[str] = ()) -> dict[str, Tensor]:
    """An untrained ancestor's; ``dead`` layers put out nothing and pass no gradient on."""
    state = dict(PLAN.build(5).state_dict())
    return state | {
        f"layers.{name}.bn.{part}": torch.zeros_like(state[f"layers.{name}.bn.{part}"])
        for name in dead
        for part in ("weight", "bias")
    }


def asked(
    state: Mapping[str, Tensor] | None = None,
    rivals: Mapping[str, tuple[int, ...]] | None = None,
    seed: int = 0,
    **more: Any,
) -> Request:
    c = CondenseSettings(method="trial", **({"trial_tasks": 2, "granularity": "stage"} | more))
    return Request(
        PLAN,
        state or weights(),
        {},
        CONDENSING,
        toy(),
        c,
        seed,
        quiet,
        descend=LEARN,
        rivals=rivals or {},
    )


def tries(done: Condensed) -> dict[str, Trial]:
    return {origin: tried for tried in done.trials for origin in tried.origins}


GAINS = st.lists(st.integers(-20, 20), min_size=3, max_size=3)
TRIALS = st.lists(st.tuples(st.floats(0.01, 0.99), GAINS), min_size=1, max_size=8)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(rows=TRIALS, budget=st.floats(0.01, 1.0))
def test_the_best_gain_within_the_budget_wins_and_the_smaller_of_equals(
    rows: list[tuple[float, list[int]]], budget: float
) -> None:
    tried = [
        Trial((n,), (f"{n}",), share, share <= budget, tuple(g / 60 for g in gains))
        for n, (share, gains) in enumerate(rows)
    ]
    if not any(t.within for t in tried):
        with pytest.raises(ValueError):
            chosen(tried)
        return
    best = chosen(tried)
    counts = {n: sum(gains) for n, (_, gains) in enumerate(rows)}  # exact
    assert best.share <= budget
    for other in tried:
        if other.within:
            mine, its = counts[best.layers[0]], counts[other.layers[0]]
            assert mine > its or (mine == its and best.share <= other.share)


def planted(*trials: tuple[tuple[int, ...], float, bool, float]) -> list[Trial]:
    return [
        Trial(layers, (f"set {n}",), share, within, (gain - 0.1, gain + 0.1))
        for n, (layers, share, within, gain) in enumerate(trials)
    ]


def test_what_is_concluded_of_planted_gains() -> None:
    tried = planted(
        ((0,), 0.1, True, 0.02),
        ((0, 1), 0.2, True, 0.15),
        ((0, 4), 0.3, True, 0.04),
        ((0, 1, 2), 0.6, False, 0.5),
    )
    done = concluded(asked(), tried)
    assert (done.selected, done.status) == ((0, 1), "selected") and done.margin == pytest.approx(
        0.11
    )
    assert (
        done.selected_by == "trial: set 1, +15.0 points on condensing classes, 20 % of the weights"
    )
    assert done.alpha[:, 0].tolist() == pytest.approx([0.15, 0.15, 0, 0, 0.04]) and torch.equal(
        done.scores, done.alpha[:, 0]
    )
    assert (
        float(done.weights.sum()) == pytest.approx(1)
        and done.weights.argsort(stable=True).tolist() == done.scores.argsort(stable=True).tolist()
    )
    assert done.trials[1].error == pytest.approx(0.1) and done.trials[1].to_json()[
        "gain"
    ] == pytest.approx(0.15)
    alone = concluded(asked(), planted(((0,), 0.1, True, -0.02)))
    assert alone.margin == pytest.approx(-0.02) and not alone.weights.sub(0.2).abs().lt(1e-9).all()
    assert layer_gains(planted(((1,), 0.1, True, -0.5)), 2).tolist() == pytest.approx([0, -0.5])


def test_repeats_are_one_condensation_on_all_their_tasks() -> None:
    first, second = (
        planted(((0,), 0.1, True, 0.3), ((1,), 0.2, True, 0.2)),
        planted(((0,), 0.1, True, 0.0), ((1,), 0.2, True, 0.2)),
    )
    done = pooled(asked(), [concluded(asked(), tried) for tried in (first, second)])
    assert (
        done.selected == (1,)
        and done.trials[0].gain == pytest.approx(0.15)
        and len(done.trials[0].gains) == 4
    )
    assert done.selected_by.endswith("20 % of the weights, 2 condensations")


def test_trial_descendants_are_descendants() -> None:
    """Each trial's numbers are what the rooms that measure a lineage give for it alone: inherited
    less from scratch, task by task.
    """
    seed = derive_seed(7, "trial")
    d = replace(LEARN, descendants=2)
    tasks = downstream_tasks(d, CONDENSING, toy(), seed)

    def alone(plan: Architecture, state: Mapping[str, Tensor] | None, number: int) -> float:
        gene = extract(state, PLAN, PLAN.layer_names) if state else None
        model = inherit(plan, gene, 3, seed, number)
        return train_together([model], Group([tasks[number]], [number], toy(), d, seed), quiet)[
            0
        ].last

    state = {
        name: tensor * 1.3 if name.endswith("conv.weight") and "conv2." in name else tensor
        for name, tensor in weights().items()
    }
    done = condense_ancestor(asked(state, seed=7))
    for name, layers in (
        ("front 4", PLAN.layer_names[:4]),
        ("paper's set", ("conv1", "conv2", "conv11", "conv12", "conv13")),
    ):
        plan = PLAN.stacked(layers)
        expected = [alone(plan, state, n) - alone(plan.anonymous(), None, n) for n in (0, 1)]
        assert tries(done)[name].gains == pytest.approx(expected, abs=1e-12)


def test_the_same_request_finds_the_same_and_another_seed_learns_other_tasks() -> None:
    state = weights()
    first, again, other = (condense_ancestor(asked(state, seed=seed)) for seed in (0, 0, 1))
    trial._SCRATCH.clear()  # nor does it matter what this process has trained before
    afresh = condense_ancestor(asked(state))
    assert (
        first.trials == again.trials == afresh.trials
        and first.selected == again.selected == afresh.selected
    )
    assert [t.gains for t in first.trials] != [t.gains for t in other.trials]
    assert [t.layers for t in first.trials] == [t.layers for t in other.trials]


def test_tasks_are_of_condensing_classes_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[int] = []

    def look(models: Any, group: Group, *more: Any, **named: Any) -> Any:
        tasks, d = group.tasks, group.d
        shown.extend(
            toy()
            .labels[torch.cat([part for task in tasks for part in (task.train, task.test)])]
            .tolist()
        )
        assert len(tasks) == d.descendants == 3 and all(len(task.train) == 18 for task in tasks)
        return train_together(models, replace(group, d=replace(d, epochs=1)), *more, **named)

    monkeypatch.setattr(trial, "train_together", look)
    trial._SCRATCH.clear()
    condense_ancestor(asked(trial_tasks=3))
    assert shown and set(shown) <= set(CONDENSING)


def test_how_they_learn_and_inherit_is_handed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[bool, float, bool]] = []

    def look(models: Any, group: Group, progress: Any, reference: bool, **named: Any) -> Any:
        calls.append((reference, group.lr_scale, bool(models[0].architecture.inherits())))
        short = replace(group, d=replace(group.d, epochs=1), lr_scale=1.0)
        return train_together(models, short, progress, reference)

    monkeypatch.setattr(trial, "train_together", look)
    trial._SCRATCH.clear()
    done = condense_ancestor(
        replace(asked(), reference=True, inherit=InheritSettings(method="repeat", lr_scale=0.5))
    )
    assert set(calls) == {(True, 1.0, False), (True, 0.5, True)}
    assert (
        len(calls) == len(done.trials) + 1
    )  # all as deep as the ancestor: they share one from-scratch reference


def test_what_an_ancestor_has_learned_pays_and_the_budget_decides_how_much_of_it_is_taken() -> None:
    d = replace(LEARN, classes_per_task=4, descendants=1, shots=8, epochs=40)
    ancestor = inherit(PLAN, None, 4, 0, 0)
    learned = train_descendant(
        ancestor, downstream_tasks(d, (0, 2, 5, 7), toy(), 0)[0], toy(), d, 0, 0, quiet
    )
    assert learned.last > 0.9
    brief = replace(LEARN, epochs=2, augment=())
    free, bound, naive = (
        condense_ancestor(replace(asked(state, budget=budget, trial_tasks=4), descend=brief))
        for state, budget in (
            (ancestor.state_dict(), 1.0),
            (ancestor.state_dict(), 0.0),
            (weights(), 1.0),
        )
    )
    gains = [tries(free)[name].gain for name in ("front 2", "front 7", "front 13")]
    assert free.selected == (0, 1, 2, 3, 4) and gains == sorted(gains) and gains[-1] > 0.4
    assert bound.selected == (0, 1, 2) and bound.trials == tuple(
        replace(t, within=t.share < 0.49) for t in free.trials
    )
    assert max(t.gain for t in naive.trials) < 0.2  # an untrained one has nothing to give


def test_a_set_that_cannot_learn_loses() -> None:
    """conv10 is dead: whatever holds it stays at chance. Only what leaves it out can be chosen,
    whatever the budget.
    """
    done = condense_ancestor(
        replace(asked(weights(dead=["conv10"]), budget=1.0, trial_tasks=3), descend=LONGER)
    )
    assert all((t.gain < -0.2) == (3 in t.layers) for t in done.trials), [
        (t.origins, t.gain) for t in done.trials
    ]
    assert 3 not in done.selected and tries(done)[WHOLE].within


def test_a_rivals_choice_can_win_and_is_named() -> None:
    """conv1 is dead, and every set of ours holds it."""
    done = condense_ancestor(
        replace(asked(weights(dead=["conv1"]), {"cka": (1, 2)}, trial_tasks=3), descend=LONGER)
    )
    assert done.selected == (1, 2) and done.selected_by.startswith("trial: cka, ")
    assert done.margin > 0.1 and done.alpha[0, 0] < 0


def test_repeats_learn_other_tasks_and_say_how_many_agreed() -> None:
    done = condense_ancestor(
        replace(asked(weights(dead=["conv1"]), {"cka": (1, 2)}, repeats=2), descend=LONGER)
    )
    assert done.repeats == ((1, 2), (1, 2)) and done.agreement == 1.0
    assert all(len(t.gains) == 4 for t in done.trials) and done.selected_by.endswith(
        ", 2 condensations"
    )


@pytest.mark.parametrize("ancestor", [VGG16, VIT], ids=["vgg", "vit"])
def test_an_ancestor_that_diverged_is_a_user_error(ancestor: Architecture) -> None:
    with pytest.raises(UserError, match=r"ancestor\.lr: .*features .*not finite"):
        condense_ancestor(request("trial", ancestor, weights=broken(ancestor)))


def test_a_vit_is_tried_too() -> None:
    done = condense_ancestor(request("trial", VIT))
    assert (
        done.status == "selected"
        and WHOLE in tries(done)
        and tries(done)["front 1"].share == pytest.approx(VIT.share(["block1"]))
    )


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (
            {"shots": 9},
            r"descend\.shots = 9: condensing class \d \(.\) has 8 training images; give at most 8",
        ),
        (
            {"classes_per_task": 5},
            r"descend\.classes_per_task = 5: there are 4 condensing classes; give at most 4",
        ),
    ],
)
def test_more_than_the_condensing_classes_hold_is_refused(
    change: dict[str, Any], text: str
) -> None:
    with pytest.raises(UserError, match=text):
        condense_ancestor(replace(asked(), descend=replace(LEARN, **change)))
