"""Inheritors: which descendant the selected layers of an ancestor become. Needs no torch: a descendant is data until it is built."""

from __future__ import annotations

from collections.abc import Sequence

from evolve.networks.architecture import Architecture
from evolve.networks.family import sound
from evolve.registry import blamed, find, nonsense, origin
from evolve.settings import InheritSettings


def descendant(ancestor: Architecture, selected: Sequence[str], chosen: InheritSettings) -> Architecture:
    """The descendant's architecture: what it inherits from where, and what is fresh."""
    method = find("inheritors", chosen.method)
    with blamed("inheritors", chosen.method):
        made: Architecture = method(ancestor, selected)
    if origin("inheritors", chosen.method) is not None:
        _check(sound("inheritors", chosen.method, made), ancestor, selected, chosen.method)
    if chosen.embeddings == "inherited":
        made = made.with_inherited({**made.inherits(), **{name: {name: 1.0} for name in ancestor.carried}})
    return made


def _check(made: Architecture, ancestor: Architecture, selected: Sequence[str], method: str) -> None:
    """Raises UserError, naming the plug-in, for a descendant that the learngene cannot fill."""
    held = {*selected, *ancestor.carried}
    for layer, mixture in made.inherits().items():
        if missing := set(mixture) - held:
            raise nonsense("inheritors", method, f"lets {layer} inherit {', '.join(sorted(missing))}; the learngene holds {', '.join(selected)}")
        if other := [given for given in mixture if ancestor.shapes(given) != made.shapes(layer)]:
            raise nonsense("inheritors", method, f"lets {layer} inherit {other[0]}, whose shapes differ")


def stack(ancestor: Architecture, selected: Sequence[str]) -> Architecture:
    """The paper's: the layers stacked in ancestor order, bridged by fresh ones (SPEC 3)."""
    return ancestor.stacked(selected)
