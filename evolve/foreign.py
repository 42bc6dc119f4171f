"""What an inheritor of another package returns is looked at before a descendant is built on it. Needs no torch."""

from __future__ import annotations

from collections.abc import Sequence

from evolve.networks.architecture import Architecture
from evolve.networks.family import sound
from evolve.registry import blamed, find, nonsense, origin


def made_by(method: str, ancestor: Architecture, selected: Sequence[str]) -> Architecture:
    """What the inheritor ``method`` makes. UserError, naming the plug-in, for a descendant that the learngene cannot fill.

    Ours are not looked at: their tests do that.
    """
    make = find("inheritors", method)
    with blamed("inheritors", method):
        made: Architecture = make(ancestor, selected)
    if origin("inheritors", method) is not None:
        _check(sound("inheritors", method, made), ancestor, selected, method)
    return made


def _check(made: Architecture, ancestor: Architecture, selected: Sequence[str], method: str) -> None:
    held = {*selected, *ancestor.carried}
    for layer, mixture in made.inherits().items():
        if missing := set(mixture) - held:
            raise nonsense("inheritors", method, f"lets {layer} inherit {', '.join(sorted(missing))}; the learngene holds {', '.join(selected)}")
        if other := [given for given in mixture if ancestor.shapes(given) != made.shapes(layer)]:
            raise nonsense("inheritors", method, f"lets {layer} inherit {other[0]}, whose shapes differ")
