"""A whole ancestor in one file: ours (:mod:`evolve.learngene.tensor_file`), or a plain state dict
of a registered network.
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
from evolve.learngene import tensor_file
from evolve.networks.architecture import Architecture
from evolve.networks.family import architecture
from evolve.networks.foreign_names import plain_names

KIND = "ancestor"
HEAD = ("head.weight", "head.bias")
SIZES = (8, 1024)  # pixels
WIDTHS = (1 / 64, 4.0)


@dataclass
class AncestorFile:
    """An ancestor with the name of its network, its state dict ("layers.conv1.conv.weight",
    "head.weight") and where it comes from.

    ``record``: what its training recorded, which some condensers read; empty for one that was not
    trained here.
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

        UserError where that is impossible, or the state is another network's.
        """
        made = self.architecture
        if problem := misfit(made, self.state):
            raise UserError(
                f"ancestor {path}: {problem}; give the state dict of {self.network} at width "
                f"{self.width:g} for {self.size} pixels"
            )
        about = {
            "network": {"network": self.network, "width": self.width, "size": self.size},
            "plan": made.to_json(),
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
    """Write an ancestor trained elsewhere, for `evolve condense`: the state dict of a registered
    ``network``, under our names, torchvision's (VGG, ResNet) or timm's (ViT).

    UserError for another network's, an unknown network, or a width or size beyond :data:`WIDTHS`,
    :data:`SIZES`.
    """
    if not _allowed(width, size):
        raise UserError(
            f"ancestor {path}: width {width:g}, size {size}: allowed are widths from 1/64 to "
            f"{WIDTHS[1]:g} and sizes from {SIZES[0]} to {SIZES[1]} pixels"
        )
    made = architecture(network, width, size)
    AncestorFile(network, width, size, renamed(state, made), dict(provenance or {})).save(path)


def _allowed(width: float, size: int) -> bool:
    return WIDTHS[0] <= width <= WIDTHS[1] and SIZES[0] <= size <= SIZES[1]


def load(path: Path) -> AncestorFile:
    """Read an ancestor file of ours.

    UserError, one line, for one that is missing, foreign, truncated or altered.
    """
    return read(path, *tensor_file.read(path, KIND))


def read(path: Path, about: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> AncestorFile:
    """The ancestor of a file's description and tensors.

    UserError where they do not fit each other.
    """
    try:
        made, named = tensor_file.described(about["plan"]), about["network"]
        network, width, size = named["network"], float(named["width"]), named["size"]
        if not isinstance(network, str) or type(size) is not int or not _allowed(width, size):
            raise ValueError(f"{named} names no network")
        if architecture(network, width, size) != made:
            raise ValueError(f"{network} at width {width:g} is another network here")
        if problem := misfit(made, tensors):
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
    """A plain state dict (.safetensors, or torch.save's, read with weights_only: nothing is
    executed) of a registered network.

    Its names may be ours, torchvision's (VGG) or timm's (ViT), below "state_dict" or "model" and
    behind "module." too. A head that does not fit is left out: condensing reads none. UserError for
    a file that is missing, foreign or another network's.
    """
    made = architecture(network, width, size)
    state = renamed(_tensors(path), made)
    if problem := misfit(made, state):
        raise UserError(
            f"ancestor {path}: {problem}; give the state dict of {network} at width {width:g} for "
            f"{size} pixels, or another --network"
        )
    return AncestorFile(network, width, size, state, {"file": Path(path).name})


def renamed(found: Mapping[str, Tensor], made: Architecture) -> dict[str, Tensor]:
    """A state dict under our names, whoever's it has, with a head: its own, or zeros for one class
    where that is no head of ours.
    """
    plain = {theirs: ours for ours, theirs in plain_names(made).items()}
    state = {plain.get(name, name): tensor for name, tensor in found.items()}
    known = made.state_shapes()
    columns = made.build(1).head.in_features
    weight, bias = (state.get(name) for name in HEAD)
    state = {name: tensor for name, tensor in state.items() if name in known}
    if weight is None or bias is None or not fits_head(weight, bias, columns):
        weight, bias = torch.zeros(1, columns), torch.zeros(1)
    return state | dict(zip(HEAD, (weight, bias), strict=True))


def misfit(made: Architecture, state: Mapping[str, Tensor]) -> str | None:
    """What in a state dict does not fit the architecture, in words; None if all does."""
    wanted = made.state_shapes()
    if missing := [name for name in (*wanted, *HEAD) if name not in state]:
        return (
            f"{len(missing)} of its {len(wanted) + len(HEAD)} tensors are missing, "
            f"{missing[0]} among them"
        )
    if other := [name for name in state if name not in wanted and name not in HEAD]:
        return f"{other[0]} is no tensor of it"
    if wrong := [
        name for name, shape in wanted.items() if tuple(state[name].shape) != tuple(shape)
    ]:
        return f"{wrong[0]} has shape {tuple(state[wrong[0]].shape)}, not {wanted[wrong[0]]}"
    weight, bias = (state[name] for name in HEAD)
    columns = made.build(
        1
    ).head.in_features  # only now: a file that holds its tensors has room for them
    if not fits_head(weight, bias, columns):
        return (
            f"its head has shapes {tuple(weight.shape)} and {tuple(bias.shape)}, not (classes, "
            f"{columns}) and (classes,)"
        )
    return None


def fits_head(weight: Tensor, bias: Tensor, columns: int) -> bool:
    """Whether these are a head's tensors [classes, columns] and [classes]."""
    return (
        weight.dim() == 2
        and bias.dim() == 1
        and tuple(weight.shape) == (len(bias), columns)
        and len(bias) > 0
    )


def _tensors(path: Path) -> dict[str, Tensor]:
    from safetensors.torch import load as parse

    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise UserError(
            f"ancestor {path}: cannot be read ({error.strerror or error}); give a .safetensors or "
            ".pth file"
        ) from None
    try:
        found = (
            parse(data)
            if Path(path).suffix == ".safetensors"
            else torch.load(path, map_location="cpu", weights_only=True)
        )
        for below in ("state_dict", "model"):
            found = found[below] if isinstance(found.get(below), Mapping) else found
        named = {
            str(name).removeprefix("module."): tensor
            for name, tensor in found.items()
            if isinstance(tensor, Tensor)
        }
    except (
        Exception
    ) as error:  # whatever a foreign file makes the parsers raise; nothing of it was executed
        raise UserError(
            f"ancestor {path}: not a state dict of tensors alone; save one with "
            "torch.save(model.state_dict(), FILE)"
        ) from error
    return named
