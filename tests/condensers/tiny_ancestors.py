"""Tiny images, narrow ancestors that are alive on them, and condensation requests.

The tests of the condensers use them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from evolve.condensers.interface import Progress, Request
from evolve.core.settings import CondenseSettings, DescendSettings
from evolve.data.resident import Resident
from evolve.data.sources import ImageSet
from evolve.networks.architecture import Architecture, Groups
from evolve.networks.network import Network
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


def asking(
    networks: tuple[Network, Network],
    groups: tuple[Groups, Groups],
    images: Resident,
    meta: Tensor,
    c: CondenseSettings,
    seed: int,
    reference: bool = False,
) -> Request:
    """What a meta-network reads of a request, for networks that are at hand, in float64 say.

    Args:
        networks: ancestor and pseudo-descendant.
        groups: their layers that are matched.
        images: of both.
        meta: the meta images' indices.
        c: the settings.
        seed: seed of all draws.
        reference: leave every derivative to autograd.
    """
    parts = {
        "ancestor": lambda: networks[0],
        "pseudo": lambda: networks[1],
        "groups": groups[0],
        "pseudo_groups": groups[1],
        "resident": images,
        "split": SimpleNamespace(meta=meta),
    }
    return cast(
        Request, SimpleNamespace(**parts, c=c, seed=seed, reference=reference, wrong_images=None)
    )


def broken(architecture: Architecture = VGG16) -> dict[str, Tensor]:
    """A layer of a diverged ancestor."""
    name = next(
        name
        for name in state(architecture)
        if name.startswith(f"layers.{architecture.layer_names[2]}.") and name.endswith("weight")
    )
    return {name: torch.full_like(state(architecture)[name], float("nan"))}
