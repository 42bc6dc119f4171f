"""Tiny images, narrow ancestors that are alive on them, and condensation requests.

The tests of the condensers use them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from evolve.condensers.interface import Progress, Request
from evolve.core.settings import CondenseSettings, DescendSettings
from evolve.data.resident import Resident
from evolve.data.sources import ImageSet
from evolve.networks.architecture import Architecture
from evolve.networks.vgg_plan import vgg16_plan
from evolve.networks.vit_plan import BlockSpec, ViTPlan

VGG16 = vgg16_plan(1 / 32)
VIT = ViTPlan(4, 16, 16, 2, tuple(BlockSpec(f"block{n}") for n in range(1, 5)))
CLASSES = (0, 1, 3)
DESCEND = DescendSettings(classes_per_task=2, shots=4, epochs=1, batch=4, lr=0.02)


@cache
def resident() -> Resident:
    """Four classes of 16-pixel noise told apart by their brightness.

    Each has 9 training images and one test image, the last.
    """
    draw = np.random.default_rng(0)
    labels = np.repeat(np.arange(4), 10)
    images = (
        draw.integers(0, 120, (40, 3, 16, 16), dtype=np.uint8)
        + (labels * 30).astype(np.uint8)[:, None, None, None]
    )
    is_test = np.tile(np.arange(10) == 9, 4)
    image_set = ImageSet(
        "noise", images, labels, is_test, tuple("abcd"), "f", (0.4, 0.4, 0.4), (0.2, 0.2, 0.2)
    )
    return Resident(image_set, torch.device("cpu"))


@cache
def state(architecture: Architecture = VGG16) -> Mapping[str, Tensor]:
    """An ancestor's state whose running statistics fit the images.

    So its features are alive in eval mode.
    """
    model = architecture.build(5).train()
    with torch.no_grad():
        for _ in range(20):
            model(resident().batch(torch.arange(40)))
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def quiet(fraction: float, text: str) -> None:
    """A progress that is told fractions only."""
    assert 0 <= fraction <= 1


def request(
    method: str,
    architecture: Architecture = VGG16,
    gradients: Sequence[Sequence[float]] = (),
    seed: int = 0,
    progress: Progress = quiet,
    reference: bool = False,
    weights: Mapping[str, Tensor] | None = None,
    **more: Any,
) -> Request:
    """A condensation request; trial descendants learn as DESCEND says.

    Args:
        method: the condenser.
        architecture: the ancestor's.
        gradients: what its record holds of them.
        seed: seed of all draws.
        progress: told how far the work is.
        reference: leave every derivative to autograd.
        weights: these replace some of the ancestor's.
        more: condense settings.
    """
    quick = {
        "trial_tasks": 2,
        "epochs": 1,
        "batch": 6,
        "meta_batch": 6,
        "meta_fraction": 0.34,
        "lr": 0.05,
    }
    c = CondenseSettings(method=method, **(quick | more))
    record = {"gradients": [list(row) for row in gradients]}
    held = dict(state(architecture)) | dict(weights or {})
    return Request(
        architecture,
        held,
        record,
        CLASSES,
        resident(),
        c,
        seed,
        progress,
        reference,
        descend=DESCEND,
    )


def broken(architecture: Architecture = VGG16) -> dict[str, Tensor]:
    """A layer of a diverged ancestor."""
    name = next(
        name
        for name in state(architecture)
        if name.startswith(f"layers.{architecture.layer_names[2]}.") and name.endswith("weight")
    )
    return {name: torch.full_like(state(architecture)[name], float("nan"))}
