"""The batch `strategies` holds the ancestor's passes equal: counted here, image by image, as its
strategies learn.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from strategy_runs import CLASSES, SEED, Memory, quiet, stripes
from torch import Tensor

from evolve.ancestor.accumulate import Accumulated, AccumulateRequest, accumulate
from evolve.ancestor.model import Ancestor
from evolve.core.settings import AncestorSettings, StreamSettings
from evolve.runs.batch import file

S = StreamSettings(tasks=3, classes_per_task=3, images_per_class=32)
IMAGES = 96  # of a task
UNCOUNTED = {"der": 1 / 3}  # of N: its logits of a task's images, once a task
FIRST = {
    "replay": 2.0,
    "der": 2.0,
    "lwf": 3.0,
}  # epochs of the first task, with nothing to remember or distil yet


@cache
def cases() -> dict[str, AncestorSettings]:
    """The quick profile's, at the least width."""
    chosen = file.load("strategies", "quick", seeds=[2]).cases
    return {case.name: replace(case.scenario.settings.ancestor, width=1 / 32) for case in chosen}


@pytest.mark.parametrize("name", ["naive", "ewc", "si", "lwf", "replay", "der", "joint"])
def test_every_strategy_passes_as_many_images_a_task(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, plain, passed = cases()[name], Ancestor.forward, [0.0]

    def counted(self: Ancestor, x: Tensor) -> Any:
        passed[0] += len(x) * (1 if torch.is_grad_enabled() else 1 / 3)
        return plain(self, x)

    monkeypatch.setattr(Ancestor, "forward", counted)
    monkeypatch.setattr(
        "evolve.ancestor.accumulate.accuracies", lambda model, tasks, *_: [0.0] * len(tasks)
    )  # testing is no training
    previous: Accumulated | None = None
    for task in (1, 2, 3):
        passed[0] = 0.0
        previous = accumulate(
            AccumulateRequest(
                a,
                S,
                CLASSES,
                stripes(32),
                SEED,
                task,
                Memory(),
                quiet,
                previous=None if name == "joint" else previous,
            )
        )
        expected = FIRST.get(name, 4.0) if task == 1 else 4.0 * (task if name == "joint" else 1)
        assert passed[0] == pytest.approx((expected + UNCOUNTED.get(name, 0)) * IMAGES)


def test_no_more_images_pass_in_a_step_than_naives() -> None:
    extra = {
        "replay": cases()["replay"].batch,
        "der": cases()["der"].strategy_args["batch_size_mem"],
    }
    assert {a.batch + extra.get(name, 0) for name, a in cases().items()} == {32}
    assert cases()["replay"].strategy_args["mem_size"] == cases()["der"].strategy_args["mem_size"]
