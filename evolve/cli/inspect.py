"""`evolve inspect` and `evolve plugins`: what is in a file of ours, and what may be named in a scenario."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table
from torch import Tensor

from evolve.core import registry
from evolve.core.errors import UserError, printable
from evolve.core.version import __version__
from evolve.learngene import ancestor_file, model_file, tensor_file
from evolve.learngene import learngene as gene_file
from evolve.networks.architecture import Architecture
from evolve.networks.foreign_names import build_lines


def inspect(path: Path, as_json: bool) -> None:
    """Print a file's layers, tensors, sizes and provenance. Raises UserError, one line, for a file that is not evolve's."""
    found = facts(path)
    if as_json:
        click.echo(json.dumps(found, indent=1))
        return
    console = Console(markup=False, emoji=False, highlight=False)
    size = f"{found['parameters']:,} weights, {found['bytes']:,} bytes"
    share = (
        ""
        if found["share"] is None
        else f", {found['share']:.1%} of the ancestor's {found['ancestor_parameters']:,} weights"
    )
    console.print(printable(f"{found['kind']} {path}: whole, its checksum is right; {size}{share}"))
    console.print(printable(f"network: {found['network']}"))
    table = Table(box=None, pad_edge=False)
    for title in ("layer", "tensor", "shape", "type", "bytes"):
        table.add_column(title, justify="right" if title == "bytes" else "left", no_wrap=True)
    last = ""
    for row in found["tensors"]:
        shown = "" if row["layer"] == last else row["layer"]
        table.add_row(
            printable(shown),
            printable(row["part"]),
            "x".join(map(str, row["shape"])) or "one",
            row["dtype"],
            f"{row['bytes']:,}",
        )
        last = row["layer"]
    console.print(table)
    for name, value in found["provenance"].items():
        console.print(
            printable(f"{name}: {value if isinstance(value, str) else json.dumps(value)}"),
            soft_wrap=True,
        )
    if found["build"]:
        click.echo(f"\nwithout evolve:\n\n{found['build']}")


def facts(path: Path) -> dict[str, Any]:
    """What :func:`inspect` prints, JSON-able."""
    kind, about, tensors = tensor_file.read_any(path)
    build, share = "", None
    if kind == "learngene":
        gene = gene_file.read(path, about, tensors)
        made, named = (
            gene.ancestor_plan,
            {
                f"{layer}/{part}": (layer, part)
                for layer, parts in gene.layers.items()
                for part in parts
            },
        )
        share = _weights(tensors) / _weights_of(made)
    elif kind == "ancestor":
        made = ancestor_file.read(path, about, tensors).architecture
        named = _split_names(made)
    else:
        made, state = model_file.read(path, about, tensors)
        plain = model_file.sequential_names(made) if about["form"] == "plain" else {}
        named = {plain.get(name, name): split for name, split in _split_names(made).items()}
        build = (
            build_lines(made, len(state["head.bias"]), path.name)
            if about["form"] == "plain"
            else ""
        )
    rows = [
        {"layer": layer, "part": part, **_row(tensors[name])}
        for name, (layer, part) in named.items()
    ]
    sizes = {
        "parameters": _weights(tensors),
        "bytes": sum(row["bytes"] for row in rows),
        "share": share,
    }
    whole = {
        "kind": kind,
        "checksum": "right",
        "network": made.describe(),
        "ancestor_parameters": _weights_of(made) if share is not None else None,
    }
    return {**whole, **sizes, "tensors": rows, "provenance": about["provenance"], "build": build}


def plugins() -> None:
    """Every name of every kind, with the package that brings it and our help; one that cannot be imported with the reason."""
    table = Table(box=None, pad_edge=False)
    for title in ("kind", "name", "package", "help or state"):
        table.add_column(title, no_wrap=title != "help or state")
    for kind in registry.TABLES:
        for name, record in registry.records(kind).items():
            table.add_row(kind, name, f"evolve {__version__}", record.help)
        for name, points in registry.plugged(kind).items():
            for point in points:
                table.add_row(kind, name, registry.owner(point), _state(kind, name))
    Console(markup=False, emoji=False).print(table)


def _state(kind: str, name: str) -> str:
    if name in registry.records(kind):
        return "not used: the name is evolve's own"
    try:
        registry.find(kind, name)
    except UserError as error:
        return str(error)
    return "good"


def _split_names(made: Architecture) -> dict[str, tuple[str, str]]:
    """A state dict's names -> (layer, part)."""
    layers = {
        f"layers.{layer}.{part}": (layer, part)
        for layer in made.all_layers
        for part in made.shapes(layer)
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


def _weights_of(made: Architecture) -> int:
    return int(made.parameters)
