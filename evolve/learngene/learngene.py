"""The learngene: some of the ancestor's integral layers, in one file that a stranger can open.

The file (:mod:`evolve.learngene.tensor_file`, docs/learngene.md) is a plain .safetensors with
tensors named "conv11/bn.weight". "evolve.learngene" in its header is JSON text that holds the
ancestor's architecture, the layers and their provenance.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from evolve.core.randomness import generator
from evolve.learngene import tensor_file
from evolve.networks.architecture import Architecture, check_names

KIND = "learngene"


@dataclass
class Learngene:
    """Copies of integral layers (paper, 4.1), never the head.

    An integral layer is a VGG's conv and BN with its running statistics, or a ViT's encoder block.
    ``layers``: layer name -> part ("conv.weight") -> tensor. ``ancestor_plan``: the network they
    were taken from. ``provenance``: JSON-able; lineage length, seed, scenario, keys, versions.
    """

    layers: dict[str, dict[str, Tensor]]
    ancestor_plan: Architecture
    provenance: dict[str, Any] = field(default_factory=dict)

    def save(self, path: Path) -> None:
        """Write one .safetensors file, complete or not at all.

        Raises:
            UserError: it cannot be written (full disk).
        """
        about = {
            "plan": self.ancestor_plan.to_json(),
            "layers": list(self.layers),
            "provenance": self.provenance,
        }
        tensor_file.write(path, KIND, about, flatten(self))


def extract(
    model_state: Mapping[str, Tensor], plan: Architecture, selected: Iterable[str]
) -> Learngene:
    """Copy layers out of a network's state dict.

    Args:
        model_state: the state dict, "layers.conv1.conv.weight".
        plan: the network's architecture.
        selected: names of its layers, in any order.

    Returns:
        The learngene, its layers in the plan's order.

    Raises:
        ValueError: ``plan`` has no such layer.
        KeyError: the state dict is another network's.
    """
    wanted = check_names(plan, set(selected).difference(plan.extras)) | set(selected)
    layers = {
        name: {
            part: model_state[f"layers.{name}.{part}"].detach().to("cpu", copy=True)
            for part in plan.shapes(name)
        }
        for name in plan.all_layers
        if name in wanted
    }
    return Learngene(layers, plan)


def flatten(learngene: Learngene) -> dict[str, Tensor]:
    """Layer -> tensors as one level of names, "conv11/bn.weight".

    Args:
        learngene: whose layers they are.
    """
    return {
        f"{layer}/{name}": tensor
        for layer, tensors in learngene.layers.items()
        for name, tensor in tensors.items()
    }


def unflatten(
    tensors: Mapping[str, Tensor], plan: Architecture, origin: Mapping[str, Any] | None = None
) -> Learngene:
    """The inverse of :func:`flatten`; the layers stand in the network's order.

    Args:
        tensors: "conv11/bn.weight" -> tensor.
        plan: the network they were taken from.
        origin: the provenance.
    """
    held: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        layer, _, part = name.partition("/")
        held.setdefault(layer, {})[part] = tensor
    nested = {name: held[name] for name in plan.all_layers if name in held}
    return Learngene(nested, plan, dict(origin or {}))


def shuffled(learngene: Learngene, seed: int, *purpose: str | int) -> Learngene:
    """The shuffled control: every tensor's entries permuted within the tensor.

    Each tensor keeps its distribution of values (so a running variance stays positive) and loses
    its structure.

    Args:
        learngene: stays as it is.
        seed: the lineage's.
        purpose: names the draw; every tensor has a generator of its own.
    """

    def permuted(tensor: Tensor, layer: str, part: str) -> Tensor:
        order = torch.randperm(tensor.numel(), generator=generator(seed, *purpose, layer, part))
        return tensor.reshape(-1)[order.to(tensor.device)].reshape(tensor.shape)

    layers = {
        name: {part: permuted(tensor, name, part) for part, tensor in parts.items()}
        for name, parts in learngene.layers.items()
    }
    return Learngene(
        layers, learngene.ancestor_plan, {**learngene.provenance, "shuffled": [seed, *purpose]}
    )


def load(path: Path) -> Learngene:
    """Read a learngene file. It reads tensors and JSON only: nothing in the file is ever executed.

    Args:
        path: the file.

    Raises:
        UserError: it is missing, foreign, truncated or altered.
    """
    return read(path, *tensor_file.read(path, KIND))


def read(path: Path, about: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Learngene:
    """The learngene of a file's description and tensors.

    Args:
        path: the file, for the error.
        about: the description.
        tensors: "conv11/bn.weight" -> tensor.

    Raises:
        UserError: they do not fit each other.
    """
    try:
        plan = tensor_file.described(about["plan"])
        return Learngene(_nested(tensors, plan, about["layers"]), plan, dict(about["provenance"]))
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise tensor_file.misfit(path, KIND, error) from error


def _nested(
    tensors: Mapping[str, Tensor], plan: Architecture, layers: list[str]
) -> dict[str, dict[str, Tensor]]:
    """Tensors by layer.

    Raises:
        KeyError, ValueError: they are not exactly the plan's layers, in shape and number.
    """
    shapes = {name: plan.shapes(name) for name in layers}
    if len(tensors) != sum(map(len, shapes.values())):
        raise ValueError("other tensors than its layers'")
    nested = {
        name: {part: tensors[f"{name}/{part}"] for part in parts} for name, parts in shapes.items()
    }
    for name, parts in nested.items():
        for part, tensor in parts.items():
            if not (tensor.is_floating_point() or tensor.dtype == torch.int64):
                raise ValueError(f"{name}/{part} holds {tensor.dtype}")
            if tuple(tensor.shape) != shapes[name][part]:
                raise ValueError(
                    f"{name}/{part} has shape {tuple(tensor.shape)}, not {shapes[name][part]}"
                )
    return nested
