"""benchmarks/ablations/granularity.py: that it counts agreement as it says, pairs the gains and
reads condensing classes only.
"""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from tiny_ancestors import CLASSES, request

from evolve.condensers.condense import condense_ancestor
from evolve.condensers.trial import Course
from evolve.core.randomness import derive_seed
from evolve.learngene.inheritors import descendant

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "ablations" / "granularity.py"
ASKED = {"epochs": 2, "meta_lr": 0.03}


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("granularity", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = sys.modules["granularity"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("granularity", ["conv", "stage"])
def test_a_row_is_what_the_draws_chose_and_what_that_gains(
    tool: ModuleType, granularity: str
) -> None:
    asked = request("meta-network", granularity=granularity, **ASKED)
    row = tool.row("a", asked, 3)
    runs = [
        condense_ancestor(
            replace(asked, seed=derive_seed(asked.seed, "null", n), split_seed=asked.seed)
        )
        for n in range(3)
    ]
    layers = [tuple(name for place in run.selected for name in asked.groups[place]) for run in runs]
    assert list(row.sets) == layers and row.decided == sum(run.status == "selected" for run in runs)
    assert row.same == max(
        (
            layers.count(names)
            for names, run in zip(layers, runs, strict=True)
            if run.status == "selected"
        ),
        default=0,
    )
    course, plans = (
        Course(asked),
        [descendant(asked.architecture, names, asked.inherit) for names in layers],
    )
    each = [
        np.subtract(
            course.accuracies(plan, lambda *_: None),
            course.accuracies(plan.anonymous(), lambda *_: None),
        )
        for plan in plans
    ]
    assert (
        row.gains == pytest.approx(np.mean(each, axis=0)) and len(row.gains) == asked.c.trial_tasks
    )
    assert all(set(task.classes) <= set(CLASSES) for task in course.tasks)


def test_both_granularities_learn_the_same_tasks(tool: ModuleType) -> None:
    conv, stage = (
        Course(request("meta-network", granularity=granularity)).tasks
        for granularity in tool.GRANULARITIES
    )
    assert all(
        torch.equal(task.train, other.train) and torch.equal(task.test, other.test)
        for task, other in zip(conv, stage, strict=True)
    )


def test_agreement_is_the_mean_overlap_of_two_draws(tool: ModuleType) -> None:
    assert tool.agreement([("conv1",), ("conv1",), ("conv1", "conv2")]) == pytest.approx(
        (1 + 0.5 + 0.5) / 3
    )
    assert np.isnan(tool.agreement([("conv1",)]))


def rows(
    tool: ModuleType,
    conv: list[float],
    stage: list[float],
    overlaps: tuple[float, float] = (0.9, 0.5),
    **more: Any,
) -> list[Any]:
    shared = {
        "ancestor": "a",
        "seed": 0,
        "sets": (("conv1",),) * 2,
        "decided": 2,
        "margins": (0.01, 0.03),
        "modal": ("conv1",),
        "same": 2,
        "share": 0.1,
    } | more
    gains = {"conv": conv, "stage": stage}
    return [
        tool.Row(granularity=name, overlap=overlaps[n], gains=tuple(gains[name]), **shared)
        for n, name in enumerate(gains)
    ]


def test_what_transfers_better_wins_and_agreement_decides_where_that_does_not(
    tool: ModuleType,
) -> None:
    near, far = [0.10, 0.12, 0.11, 0.09], [0.01, 0.02, 0.03, 0.02]
    assert "conv, which transfers" in tool.verdict(rows(tool, near, far, (0.1, 0.9)))
    assert "stage, which transfers" in tool.verdict(rows(tool, far, near))
    assert "conv, whose draws agree more" in tool.verdict(rows(tool, near, near[::-1]))
    assert "stage, whose draws agree more" in tool.verdict(rows(tool, near, near[::-1], (0.5, 0.9)))
    assert tool.verdict(rows(tool, near, near, (0.7, 0.7))).endswith("undecided")


def test_ancestors_of_one_seed_share_tasks_and_are_averaged_first(tool: ModuleType) -> None:
    first, other = (
        rows(tool, [0.3, 0.1], [0.1, 0.1]),
        rows(tool, [0.1, 0.1], [0.1, 0.3], ancestor="b"),
    )
    assert tool.differences([*first, *other]) == pytest.approx([10.0, -10.0])
    assert tool.differences(
        [*first, *rows(tool, [0.1, 0.1], [0.1, 0.3], ancestor="b", seed=1)]
    ) == pytest.approx([20, 0, 0, -20])


def test_the_table_has_a_row_each_with_the_numbers_beside_their_spread(tool: ModuleType) -> None:
    lines = tool.markdown(rows(tool, [0.1, 0.3], [0.0, 0.0])).splitlines()
    assert len(lines) == 4 and len({line.count("|") for line in lines}) == 1
    assert (
        lines[2] == "| a | conv | 2 of 2 | 2 of 2 | 0.90 | 2.00, 1.00 | 1 | 10.0 | +20.0 ± 10.0 |"
    )
