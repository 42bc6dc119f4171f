"""A stream of three tiny tasks, and what the tests of strategies do with it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from evolve.ancestor.accumulate import Accumulated, AccumulateRequest, accumulate
from evolve.core.settings import AncestorSettings, StreamSettings
from evolve.data.resident import Resident
from evolve.data.sources import ImageSet

CLASSES = (0, 2, 3, 5, 6, 7)
S = StreamSettings(tasks=3, classes_per_task=3)
A = AncestorSettings(
    width=1 / 32, epochs=2, batch=12, lr=0.05, milestones=(0.5,), augment=("crop", "flip")
)
HEADS = ("shared", "per-task", "single")
SEED = 3
MEMORY = {"mem_size": 20, "batch_size_mem": 6}
ARGUMENTS: dict[str, dict[str, Any]] = {
    "ewc": {"ewc_lambda": 50.0},
    "si": {"si_lambda": 5000.0},
    "mas": {"lambda_reg": 50.0},
    "rwalk": {"ewc_lambda": 10.0, "delta_t": 3},
    "lwf": {"alpha": 2.0},
    "lfl": {"lambda_e": 50.0},
    "feature-distillation": {"alpha": 10.0},
    "replay": {"mem_size": 20},
    "gdumb": {"mem_size": 20},
    "gem": {"patterns_per_experience": 6},
    "agem": {"patterns_per_experience": 6, "sample_size": 6},
    "mir": {"mem_size": 20, "batch_size_mem": 4, "subsample": 8},
    "der": MEMORY,
    "er-ace": MEMORY,
    "er-aml": MEMORY,
    "scr": {"mem_size": 20},
    "cope": {"mem_size": 20},
    "feature-replay": MEMORY,
    "la-maml": {"n_inner_updates": 2, "max_buffer_size": 20},
}


def settings(strategy: str, head: str, **more: Any) -> AncestorSettings:
    """The ancestor's settings for a strategy and a head, ``more`` of them replaced."""
    return dataclasses.replace(
        A,
        **{"strategy": strategy, "head": head, "strategy_args": ARGUMENTS.get(strategy, {})} | more,
    )


def stripes(train: int = 8) -> Resident:
    """Classes told apart by colour and a stripe: ``train`` training images (one more in one class)
    and 4 test images each.
    """
    draw = np.random.default_rng(0)
    labels = np.repeat(np.arange(8), train + 4)
    hue = draw.uniform(0, 1, (8, 3, 1, 1))
    stripe = np.linspace(0, 3, 8)[None, None, None, :] * np.arange(1, 9)[:, None, None, None]
    clean = hue[labels] * 120 + 60 * np.sin(stripe)[labels]
    pixels = (clean + draw.normal(0, 40, (len(labels), 3, 8, 8))).clip(0, 255).astype(np.uint8)
    is_test = np.tile(np.arange(train + 4) >= train, 8)
    is_test[train] = False
    return Resident(
        ImageSet(
            "stripes", pixels, labels, is_test, tuple("abcdefgh"), "00", (0.5,) * 3, (0.25,) * 3
        ),
        torch.device("cpu"),
    )


class Memory:
    """A checkpoint in memory that keeps every version, and can cut the run after one."""

    def __init__(self, cut_after: int | None = None) -> None:
        self.saved: list[tuple[dict[str, Tensor], dict[str, Any]]] = []
        self.cut_after = cut_after

    def load(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """The newest version."""
        return self.saved[-1] if self.saved else None

    def save(self, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
        """Keep a version; cut the run where asked to."""
        self.saved.append(
            (
                {name: tensor.clone() for name, tensor in tensors.items()},
                json.loads(json.dumps(meta)),
            )
        )
        if self.cut_after == len(self.saved):
            raise KeyboardInterrupt


def quiet(fraction: float, text: str) -> None:
    """A progress that is told fractions only."""
    assert 0 <= fraction <= 1


def through_a_file(done: Accumulated, folder: Path) -> Accumulated:
    """What another process reads of a result."""
    save_file(done.tensors, folder / "state.safetensors")
    return Accumulated(load_file(folder / "state.safetensors"), json.loads(json.dumps(done.record)))


def in_stages(
    a: AncestorSettings, resident: Resident, folder: Path, tasks: int = 3, reference: bool = False
) -> list[Accumulated]:
    """Accumulate with one call a task, the state going through a file.

    Args:
        a: the ancestor's settings.
        resident: the images.
        folder: where the file lies.
        tasks: how many tasks.
        reference: leave every derivative to autograd.

    Returns:
        The result before the first task and after each.
    """
    done: list[Accumulated] = []
    history: list[list[float]] = []
    for task in range(tasks + 1):
        previous = through_a_file(done[-1], folder) if done else None
        done.append(
            accumulate(
                AccumulateRequest(
                    a,
                    S,
                    CLASSES,
                    resident,
                    SEED,
                    task,
                    Memory(),
                    quiet,
                    previous=previous,
                    history=history,
                    reference=reference,
                )
            )
        )
        history = history + [done[-1].record["row"]] if task else []
    return done


def model_of(done: Accumulated) -> dict[str, Tensor]:
    """The model's tensors of a result."""
    return {
        name.removeprefix("model."): tensor
        for name, tensor in done.tensors.items()
        if name.startswith("model.")
    }


def assert_same(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """The same names, and the same bits."""
    assert tensors.keys() == expected.keys()
    assert [name for name in tensors if not torch.equal(tensors[name], expected[name])] == []
