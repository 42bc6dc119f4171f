"""A whole ancestor in one file.

It is a file of ours (:mod:`evolve.learngene.tensor_file`), or a plain state dict of a registered
network.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from evolve.core.durable import from_json, to_json
from evolve.core.errors import UserError
from evolve.core.terminal import printable
from evolve.learngene import tensor_file
from evolve.networks.architecture import Architecture
from evolve.networks.checkpoint_file import HEADS, read_checkpoint, resized_positions
from evolve.networks.family import architecture
from evolve.networks.foreign_names import plain_names
from evolve.networks.vit_plan import ViTPlan

KIND = "ancestor"
HEAD = ("head.weight", "head.bias")
SIZES = (8, 1024)  # pixels
WIDTHS = (1 / 64, 4.0)


@dataclass
class AncestorFile:
    """An ancestor: its network's name, its state dict, and where it comes from.

    ``state`` is named "layers.conv1.conv.weight", "head.weight". ``record`` is what its training
    recorded, which some condensers read; empty for one that was not trained here.
    """

    network: str
    width: float
    size: int
    state: dict[str, Tensor]
    provenance: dict[str, Any] = field(default_factory=dict)
    record: dict[str, Any] = field(default_factory=dict)

    @property
    def architecture(self) -> Architecture:
        """What ``network`` at ``width`` is for images of ``size`` pixels."""
        return architecture(self.network, self.width, self.size)

    def save(self, path: Path) -> None:
        """Write one .safetensors file, complete or not at all.

        Raises:
            UserError: it cannot be written, or the state is another network's.
        """
        plan = self.architecture
        if problem := misfit(plan, self.state):
            raise UserError(
                f"ancestor {path}: {problem}; give the state dict of {self.network} at width "
                f"{self.width:g} for {self.size} pixels"
            )
        about = {
            "network": {"network": self.network, "width": self.width, "size": self.size},
            "plan": plan.to_json(),
            "record": to_json(self.record).decode(),  # its floats may be nan, which JSON lacks
            "provenance": self.provenance,
        }
        tensor_file.write(path, KIND, about, self.state)


def save_ancestor(
    path: Path,
    network: str,
    width: float,
    size: int,
    state: Mapping[str, Tensor],
    provenance: Mapping[str, Any] | None = None,
) -> None:
    """Write an ancestor that was trained elsewhere, for `evolve condense`.

    Args:
        path: the file.
        network: a registered network's name.
        width: multiplier of its layers' channels, within :data:`WIDTHS`.
        size: pixels a side of its images, within :data:`SIZES`.
        state: its state dict, under our names, torchvision's (VGG, ResNet) or timm's (ViT).
        provenance: JSON-able; where it comes from.

    Raises:
        UserError: the state is another network's, the network is not known, or width or size is out
            of bounds.
    """
    if not _allowed(width, size):
        raise UserError(
            f"ancestor {path}: width {width:g}, size {size}: allowed are widths from 1/64 to "
            f"{WIDTHS[1]:g} and sizes from {SIZES[0]} to {SIZES[1]} pixels"
        )
    plan = architecture(network, width, size)
    AncestorFile(network, width, size, renamed(state, plan), dict(provenance or {})).save(path)


def _allowed(width: float, size: int) -> bool:
    return WIDTHS[0] <= width <= WIDTHS[1] and SIZES[0] <= size <= SIZES[1]


def load(path: Path) -> AncestorFile:
    """Read an ancestor file of ours.

    Args:
        path: the file.

    Raises:
        UserError: it is missing, foreign, truncated or altered.
    """
    return read(path, *tensor_file.read(path, KIND))


def read(path: Path, about: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> AncestorFile:
    """The ancestor of a file's description and tensors.

    Args:
        path: the file, for the error.
        about: the description.
        tensors: the state dict.

    Raises:
        UserError: they do not fit each other.
    """
    try:
        plan, named = tensor_file.described(about["plan"]), about["network"]
        network, width, size = named["network"], float(named["width"]), named["size"]
        if not isinstance(network, str) or type(size) is not int or not _allowed(width, size):
            raise ValueError(f"{named} names no network")
        if architecture(network, width, size) != plan:
            raise ValueError(f"{network} at width {width:g} is another network here")
        if problem := misfit(plan, tensors):
            raise ValueError(problem)
        return AncestorFile(
            network,
            width,
            size,
            dict(tensors),
            dict(about["provenance"]),
            dict(from_json(about["record"].encode())),
        )
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError, UserError) as error:
        raise tensor_file.misfit(path, KIND, error) from error


def import_weights(path: Path, network: str, width: float, size: int) -> AncestorFile:
    """Read a plain state dict of a registered network; nothing in the file is executed.

    It is read by the rules of :mod:`evolve.networks.checkpoint_file`, under our names,
    torchvision's (VGG, ResNet) or timm's (ViT, whose positions are resized where they are of other
    images). A head that does not fit is left out: condensing reads none.

    Args:
        path: a .safetensors file, or one of torch.save, which is read with weights_only.
        network: a registered network's name.
        width: multiplier of its layers' channels.
        size: pixels a side of its images.

    Raises:
        UserError: the file is missing, foreign or another network's.
    """
    plan, called = architecture(network, width, size), f"ancestor {path}"
    foreign = read_checkpoint(path, called)
    if isinstance(plan, ViTPlan):
        positions = {n: t for n, t in foreign.items() if n.endswith("pos_embed")}
        foreign |= {name: resized_positions(tensor, plan) for name, tensor in positions.items()}
    state = renamed(foreign, plan)
    problem = misfit(plan, state)
    if problem is None and (more := _without_place(foreign, plan)):
        problem = f"its {more} has no place in the network"
    if problem:
        line = f"{called}: {problem}; give the state dict of {network} at width {width:g} for "
        raise UserError(printable(f"{line}{size} pixels, or another --network"))
    return AncestorFile(network, width, size, state, {"file": Path(path).name})


def _without_place(foreign: Mapping[str, Tensor], plan: Architecture) -> str:
    """The first tensor that the network has not, "" where there is none.

    To leave it out would make another function of the network (LayerScale, register tokens).
    """
    names = {*plain_names(plan).values(), *plan.state_shapes(), *HEAD}
    return next((n for n in foreign if n not in names and not n.startswith(HEADS)), "")


def renamed(foreign: Mapping[str, Tensor], plan: Architecture) -> dict[str, Tensor]:
    """A state dict under our names, whoever's it has.

    Args:
        foreign: the state dict.
        plan: its network.

    Returns:
        Its tensors that the network has, and a head: its own, or zeros for one class where that is
        no head of ours. BatchNorm's counters, which files before PyTorch 0.4.1 lack, are 0.
    """
    plain = {theirs: ours for ours, theirs in plain_names(plan).items()}
    state = {plain.get(name, name): tensor for name, tensor in foreign.items()}
    columns = plan.build(1).head.in_features
    weight, bias = (state.get(name) for name in HEAD)
    shapes = plan.state_shapes()
    counters = {name: torch.tensor(0) for name in shapes if name.endswith(".num_batches_tracked")}
    state = counters | {name: tensor for name, tensor in state.items() if name in shapes}
    if weight is None or bias is None or not fits_head(weight, bias, columns):
        weight, bias = torch.zeros(1, columns), torch.zeros(1)
    return state | dict(zip(HEAD, (weight, bias), strict=True))


def misfit(plan: Architecture, state: Mapping[str, Tensor]) -> str | None:
    """What in a state dict does not fit an architecture.

    Args:
        plan: the architecture.
        state: the state dict, under our names.

    Returns:
        It in words; None if all fits.
    """
    shapes = plan.state_shapes()
    if missing := [name for name in (*shapes, *HEAD) if name not in state]:
        return (
            f"{len(missing)} of its {len(shapes) + len(HEAD)} tensors are missing, "
            f"{missing[0]} among them"
        )
    if other := [name for name in state if name not in shapes and name not in HEAD]:
        return f"{other[0]} is no tensor of it"
    if wrong := [
        name for name, shape in shapes.items() if tuple(state[name].shape) != tuple(shape)
    ]:
        return f"{wrong[0]} has shape {tuple(state[wrong[0]].shape)}, not {shapes[wrong[0]]}"
    weight, bias = (state[name] for name in HEAD)
    # Built only now: whoever holds these tensors has room for the network.
    columns = plan.build(1).head.in_features
    if not fits_head(weight, bias, columns):
        return (
            f"its head has shapes {tuple(weight.shape)} and {tuple(bias.shape)}, not (classes, "
            f"{columns}) and (classes,)"
        )
    return None


def fits_head(weight: Tensor, bias: Tensor, columns: int) -> bool:
    """Whether these are a head's tensors.

    Args:
        weight: should be [classes, columns].
        bias: should be [classes].
        columns: the head's inputs.
    """
    if weight.dim() != 2 or bias.dim() != 1:
        return False
    return tuple(weight.shape) == (len(bias), columns) and len(bias) > 0
