"""Inheritors: which descendant the selected layers of an ancestor become. Needs no torch: a descendant is data until it is built."""

from __future__ import annotations

from collections.abc import Sequence

from evolve.networks.architecture import Architecture
from evolve.registry import find
from evolve.settings import InheritSettings


def descendant(ancestor: Architecture, selected: Sequence[str], chosen: InheritSettings) -> Architecture:
    """The descendant's architecture: what it inherits from where, and what is fresh."""
    made: Architecture = find("inheritors", chosen.method)(ancestor, selected)
    if chosen.embeddings == "inherited":
        made = made.with_inherited({**made.inherits(), **{name: {name: 1.0} for name in ancestor.carried}})
    return made


def stack(ancestor: Architecture, selected: Sequence[str]) -> Architecture:
    """The paper's: the layers stacked in ancestor order, bridged by fresh ones (SPEC 3)."""
    return ancestor.stacked(selected)
