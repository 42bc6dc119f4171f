"""Condense a network of one's own with images of one's own, outside any lineage."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from evolve.condensers.condense import condense_ancestor
from evolve.condensers.interface import Condensed, Request
from evolve.condensers.plugin_check import checked
from evolve.core.errors import DataError, UserError
from evolve.core.settings import Settings
from evolve.core.toml import override, toml_value
from evolve.data.resident import Resident
from evolve.data.sources import ImageSet
from evolve.learngene.ancestor_file import misfit, renamed
from evolve.learngene.learngene import Learngene, extract
from evolve.networks.architecture import Architecture
from evolve.networks.family import NETWORKS, architecture

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # torchvision's and timm's default
Images = Dataset[Any] | tuple[Any, Any]
Method = Callable[[Request], Condensed]


def condense(
    model: nn.Module | Mapping[str, Tensor],
    data: Images,
    *,
    network: str | None = None,
    width: float = 1.0,
    method: str | Method = "meta-network",
    seed: int = 0,
    settings: Mapping[str, Any] | None = None,
    normalised_by: tuple[Sequence[float], Sequence[float]] = IMAGENET,
) -> Learngene:
    """The learngene of a network that was trained anywhere (paper, 4.2).

    Args:
        model: the network or its state dict, under our names, torchvision's or timm's.
        data: condensing images: (uint8 [N, 3, H, W], int labels [N]), or a dataset whose items are
            (PIL image or uint8 tensor [3, H, W], label).
        network: a registered network's name; None: the one whose tensors these are.
        width: multiplier of its layers' channels.
        method: a condenser's name, or a function of one's own.
        seed: draws everything random.
        settings: others of [condense], such as {"epochs": 10}.
        normalised_by: mean and std of the channels, in [0, 1] units, that the network learned with.

    Returns:
        The learngene; ``save`` writes it, `evolve.inherit` reads it.

    Raises:
        UserError: names what does not fit.
    """
    images, labels = _arrays(data)
    state = model.state_dict() if isinstance(model, nn.Module) else model
    plan, named = _architecture(state, network, width, images.shape[-1])
    own = renamed({name: tensor.detach().cpu() for name, tensor in state.items()}, plan)
    named_method = method if isinstance(method, str) else "fixed"
    chosen = Settings()
    for key, value in {"method": named_method, **(settings or {})}.items():
        chosen = override(chosen, f"condense.{key}={toml_value(value)}")
    resident = Resident(_image_set(images, labels, normalised_by), torch.device("cpu"))
    classes = range(int(labels.max()) + 1)
    request = Request(
        plan, own, {}, classes, resident, chosen.condense, seed, lambda part, text: None
    )
    condensed = (
        condense_ancestor(request) if isinstance(method, str) else checked(method(request), request)
    )
    layers = [name for index in condensed.selected for name in request.groups[index]]
    gene = extract(own, plan, [*layers, *plan.carried])
    gene.provenance.update(
        network=named,
        width=width,
        method=method if isinstance(method, str) else getattr(method, "__name__", "own"),
        seed=seed,
        selected_by=condensed.selected_by,
    )
    return gene


def _architecture(
    state: Mapping[str, Tensor], network: str | None, width: float, size: int
) -> tuple[Architecture, str]:
    """The registered network whose tensors these are.

    Raises:
        UserError: there is none.
    """
    names = list(NETWORKS) if network is None else [network]
    problem: str | None = None
    for name in names:
        plan = architecture(name, width, size)
        problem = misfit(plan, renamed(state, plan))
        if problem is None:
            return plan, name
    if network is None:
        raise UserError(
            f"the network's tensors are none of a registered network's at width {width:g} for "
            f"{size} pixels; name it with network=, one of {', '.join(names)}"
        )
    raise UserError(f"{problem}; give the tensors of {network} at width {width:g}")


def _arrays(data: Images) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 [N, 3, S, S] and labels int64 [N], 0..C-1 with every class there."""
    pair = data if isinstance(data, tuple) else _items(data)
    images, labels = np.asarray(pair[0]), np.asarray(pair[1], dtype=np.int64)
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1] != 3:
        raise DataError(
            f"condensing images are {images.dtype} {list(images.shape)}: expected uint8 "
            "[N, 3, H, W], not normalised; leave out ToTensor and Normalize"
        )
    if images.shape[2] != images.shape[3]:
        raise DataError(f"condensing images are {images.shape[2:]} pixels: expected square ones")
    present = np.unique(labels)
    if len(labels) != len(images) or not np.array_equal(present, np.arange(len(present))):
        raise DataError("labels: expected one an image, numbered 0, 1, ... with none left out")
    return images, labels


def _items(data: Dataset[Any]) -> tuple[np.ndarray, list[int]]:
    """A dataset's items as arrays."""
    images, labels = [], []
    for number in range(len(data)):  # type: ignore[arg-type]
        image, label = data[number][:2]
        if isinstance(image, Tensor):
            images.append(image.numpy())
        else:  # PIL
            images.append(np.asarray(image.convert("RGB")).transpose(2, 0, 1))
        labels.append(int(label))
    if len({image.shape for image in images}) != 1:
        raise DataError("condensing images: expected one size for all; add a Resize, CenterCrop")
    return np.stack(images), labels


def _image_set(
    images: np.ndarray, labels: np.ndarray, normalised_by: tuple[Sequence[float], Sequence[float]]
) -> ImageSet:
    content = hashlib.sha256(images.tobytes() + labels.tobytes()).hexdigest()
    mean, std = ((float(a), float(b), float(c)) for a, b, c in normalised_by)
    names = tuple(str(number) for number in range(int(labels.max()) + 1))
    is_test = np.zeros(len(labels), dtype=bool)
    return ImageSet("own", images, labels, is_test, names, content, mean, std)
