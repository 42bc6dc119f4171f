"""The learngene: some of the ancestor's integral layers with where they come from, in one file a stranger can open.

The file is a plain .safetensors with tensors named "conv11/bn.weight"; its header's "evolve.learngene" is JSON text that
holds the ancestor's architecture, the layers and their provenance.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from evolve.durable import write_whole
from evolve.errors import UserError
from evolve.networks.architecture import Architecture, check_names
from evolve.networks.family import from_json
from evolve.randomness import generator

FORMAT = 1
HEADER = "evolve.learngene"


@dataclass
class Learngene:
    """Copies of integral layers (SPEC 3: a VGG's conv and BN with its running statistics, a ViT's encoder block; never the head).

    ``layers``: layer name -> part ("conv.weight") -> tensor. ``ancestor_plan``: the network they were taken from.
    ``provenance``: JSON-able; lineage length, seed, scenario, keys, versions.
    """

    layers: dict[str, dict[str, Tensor]]
    ancestor_plan: Architecture
    provenance: dict[str, Any] = field(default_factory=dict)

    def save(self, path: Path) -> None:
        """Write one .safetensors file, complete or not at all. Raises UserError where that is impossible (full disk)."""
        from safetensors.torch import save

        tensors = {f"{layer}/{part}": _plain(tensor) for layer, parts in self.layers.items() for part, tensor in parts.items()}
        about = {
            "format": FORMAT,
            "plan": self.ancestor_plan.to_json(),
            "layers": list(self.layers),
            "provenance": self.provenance,
        }
        about["sha256"] = _digest(about, tensors)
        write_whole(Path(path), save(tensors, metadata={HEADER: _canonical(about)}), "learngene")


def extract(model_state: Mapping[str, Tensor], plan: Architecture, selected: Iterable[str]) -> Learngene:
    """Copies of the layers ``selected``, in the plan's order, out of its network's state dict.

    Raises ValueError for a layer that ``plan`` does not have, KeyError for a state dict of another network.
    """
    wanted = check_names(plan, set(selected).difference(plan.extras)) | set(selected)
    layers = {
        name: {part: model_state[f"layers.{name}.{part}"].detach().to("cpu", copy=True) for part in plan.shapes(name)}
        for name in (*plan.layer_names, *plan.extras)
        if name in wanted
    }
    return Learngene(layers, plan)


def shuffled(learngene: Learngene, seed: int, *purpose: str | int) -> Learngene:
    """The control of SPEC 8: every tensor's entries permuted within the tensor, each by its own generator.

    Each tensor keeps its distribution of values (so a running variance stays positive) and loses its structure.
    """

    def permuted(tensor: Tensor, layer: str, part: str) -> Tensor:
        order = torch.randperm(tensor.numel(), generator=generator(seed, *purpose, layer, part))
        return tensor.reshape(-1)[order.to(tensor.device)].reshape(tensor.shape)

    layers = {name: {part: permuted(tensor, name, part) for part, tensor in parts.items()} for name, parts in learngene.layers.items()}
    return Learngene(layers, learngene.ancestor_plan, {**learngene.provenance, "shuffled": [seed, *purpose]})


def load(path: Path) -> Learngene:
    """Read a learngene file. Raises UserError, one line, for a file that is missing, foreign, truncated or altered.

    Reads tensors and JSON only: nothing in the file is ever executed.
    """
    from safetensors.torch import load as parse

    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"learngene {path}: cannot be read ({_reason(error)}); give a .safetensors file that evolve wrote") from error
    try:
        tensors = parse(data)
        about = json.loads(_metadata(data)[HEADER])
    except Exception as error:
        raise UserError(f"learngene {path}: not a whole learngene file; give a .safetensors file that evolve wrote") from error
    if not isinstance(about, dict) or about.get("format") != FORMAT:
        found = about.get("format") if isinstance(about, dict) else None
        raise UserError(f"learngene {path}: has format {found}, this version of evolve reads {FORMAT}; write it again with this version")
    if about.pop("sha256", None) != _digest(about, tensors):
        raise UserError(f"learngene {path}: its content does not match its checksum, so it was altered or damaged; get it again")
    try:
        plan = from_json(about["plan"])
        return Learngene(_nested(tensors, plan, about["layers"]), plan, about["provenance"])
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"learngene {path}: its tensors do not fit its plan ({error}); give a file that evolve wrote") from error


def _nested(tensors: Mapping[str, Tensor], plan: Architecture, layers: list[str]) -> dict[str, dict[str, Tensor]]:
    """Tensors by layer; raises KeyError or ValueError unless they are exactly the plan's layers, in shape and number."""
    shapes = {name: plan.shapes(name) for name in layers}
    if len(tensors) != sum(map(len, shapes.values())):
        raise ValueError("other tensors than its layers'")
    nested = {name: {part: tensors[f"{name}/{part}"] for part in parts} for name, parts in shapes.items()}
    for name, parts in nested.items():
        for part, tensor in parts.items():
            if tuple(tensor.shape) != shapes[name][part]:
                raise ValueError(f"{name}/{part} has shape {tuple(tensor.shape)}, not {shapes[name][part]}")
    return nested


def _plain(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)


def _digest(about: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    """sha256 over the description and every tensor's name, dtype, shape and bytes."""
    found = hashlib.sha256(_canonical({key: value for key, value in about.items() if key != "sha256"}).encode())
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        found.update(f"\n{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        found.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def _metadata(data: bytes) -> dict[str, str]:
    """The free-form part of a safetensors header: 8 bytes of length (little endian), then JSON."""
    length = int.from_bytes(data[:8], "little")
    found: dict[str, str] = json.loads(data[8 : 8 + length])["__metadata__"]
    return found


def _reason(error: OSError) -> str:
    return error.strerror or str(error)
