"""What is in a file of ours, as `evolve inspect` prints it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table
from torch import Tensor

from evolve.core.console import Console
from evolve.core.terminal import tell
from evolve.learngene import ancestor_file, model_file, tensor_file
from evolve.learngene import learngene as gene_file
from evolve.networks.architecture import Architecture
from evolve.networks.foreign_names import build_lines


def print_file(path: Path, as_json: bool) -> None:
    """Print a file's layers, tensors, sizes and provenance.

    Args:
        path: a learngene's, an ancestor's or a model's file.
        as_json: print it for a program.

    Raises:
        UserError: the file is not evolve's.
    """
    held = facts(path)
    if as_json:
        tell(*json.dumps(held, indent=1).split("\n"))
        return
    console = Console(highlight=False)
    size = f"{held['parameters']:,} weights, {held['bytes']:,} bytes"
    share = (
        ""
        if held["share"] is None
        else f", {held['share']:.1%} of the ancestor's {held['ancestor_parameters']:,} weights"
    )
    console.print(f"{held['kind']} {path}: whole, its checksum is right; {size}{share}")
    console.print(f"network: {held['network']}")
    console.print(_tensor_table(held["tensors"]))
    for name, value in held["provenance"].items():
        console.print(
            f"{name}: {value if isinstance(value, str) else json.dumps(value)}",
            soft_wrap=True,
        )
    if held["build"]:
        tell("", "without evolve:", "", *held["build"].split("\n"))


def _tensor_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """A row a tensor; a layer's name stands at its first one."""
    table = Table(box=None, pad_edge=False)
    for title in ("layer", "tensor", "shape", "type", "bytes"):
        table.add_column(title, justify="right" if title == "bytes" else "left", no_wrap=True)
    last = ""
    for row in rows:
        shown = "" if row["layer"] == last else row["layer"]
        table.add_row(
            shown,
            row["part"],
            "x".join(map(str, row["shape"])) or "one",
            row["dtype"],
            f"{row['bytes']:,}",
        )
        last = row["layer"]
    return table


def facts(path: Path) -> dict[str, Any]:
    """What :func:`print_file` prints, JSON-able.

    Args:
        path: a learngene's, an ancestor's or a model's file.

    Raises:
        UserError: the file is not evolve's.
    """
    kind, about, tensors = tensor_file.read_any(path)
    plan, parts, build = _parts(path, kind, about, tensors)
    share = _weights(tensors) / _weights_of(plan) if kind == "learngene" else None
    rows = [
        {"layer": layer, "part": part, **_row(tensors[name])}
        for name, (layer, part) in parts.items()
    ]
    return {
        "kind": kind,
        "checksum": "right",
        "network": plan.describe(),
        "ancestor_parameters": _weights_of(plan) if share is not None else None,
        "parameters": _weights(tensors),
        "bytes": sum(row["bytes"] for row in rows),
        "share": share,
        "tensors": rows,
        "provenance": about["provenance"],
        "build": build,
    }


def _parts(
    path: Path, kind: str, about: Mapping[str, Any], tensors: Mapping[str, Tensor]
) -> tuple[Architecture, dict[str, tuple[str, str]], str]:
    """The file's network, its tensors' names -> (layer, part), and the lines that build it."""
    if kind == "learngene":
        gene = gene_file.read(path, about, tensors)
        parts = {
            f"{layer}/{part}": (layer, part) for layer, own in gene.layers.items() for part in own
        }
        return gene.ancestor_plan, parts, ""
    if kind == "ancestor":
        plan = ancestor_file.read(path, about, tensors).architecture
        return plan, _split_names(plan), ""
    plan, state = model_file.read(path, about, tensors)
    if about["form"] != "plain":
        return plan, _split_names(plan), ""
    plain = model_file.sequential_names(plan)
    parts = {plain.get(name, name): split for name, split in _split_names(plan).items()}
    return plan, parts, build_lines(plan, len(state["head.bias"]), path.name)


def _split_names(plan: Architecture) -> dict[str, tuple[str, str]]:
    """A state dict's names -> (layer, part)."""
    layers = {
        f"layers.{layer}.{part}": (layer, part)
        for layer in plan.all_layers
        for part in plan.shapes(layer)
    }
    heads = {name: ("head", name.partition(".")[2]) for name in ancestor_file.HEAD}
    return layers | heads


def _row(tensor: Tensor) -> dict[str, Any]:
    size = tensor.numel() * tensor.element_size()
    return {
        "shape": list(tensor.shape),
        "dtype": str(tensor.dtype).removeprefix("torch."),
        "bytes": size,
    }


def _weights(tensors: Mapping[str, Tensor]) -> int:
    return sum(tensor.numel() for tensor in tensors.values())


def _weights_of(plan: Architecture) -> int:
    return int(plan.parameters)
