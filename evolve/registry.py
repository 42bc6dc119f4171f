"""The door: what a scenario may name, ours and what other packages bring by entry points (docs/plugins.md).

A package offers, say, a condenser by an entry point in the group "evolve.condensers"; its name then stands beside ours in scenarios,
errors and ``evolve plugins``. Nothing is imported before it is asked for by name. Ours cannot be replaced.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from evolve.errors import UserError

# kind -> name -> "module:attribute"
BUILTIN: dict[str, dict[str, str]] = {
    "networks": {  # (width, size) -> Architecture
        "vgg16": "evolve.networks.plan:vgg16",
    },
    "families": {  # JSON -> Architecture
        "vgg": "evolve.networks.plan:plan_from_json",
    },
    "condensers": {  # Request -> Condensed
        "meta-network": "evolve.condensers.meta_network:meta_network",
        "fixed": "evolve.condensers.controls:fixed",
    },
    "inheritors": {  # (ancestor Architecture, selected layers) -> descendant Architecture
        "stack": "evolve.inheritors:stack",
    },
    "sources": {  # module with prepare(DataSettings, folder) -> Prepared
        "glyphs": "evolve.data.glyphs:prepare",
        "cifar100": "evolve.data.cifar100:prepare",
        "tinyimagenet": "evolve.data.tinyimagenet:prepare",
        "imagenet": "evolve.data.imagenet:prepare",
        "miniimagenet": "evolve.data.miniimagenet:prepare",
    },
    "strategies": {},  # evolve.strategy_table lists ours; a plug-in's makes an Avalanche plugin
}


@cache
def _plugged(kind: str) -> dict[str, EntryPoint]:
    """Other packages' entry points of a kind, by name; ours win."""
    return {point.name: point for point in entry_points(group=f"evolve.{kind}") if point.name not in BUILTIN[kind]}


def names(kind: str) -> tuple[str, ...]:
    """Every name of a kind: ours first, then the plug-ins'."""
    return (*BUILTIN[kind], *_plugged(kind))


def find(kind: str, name: str) -> Any:
    """What ``name`` stands for. KeyError for an unknown name; UserError, naming the package, for a plug-in that cannot be imported."""
    if name in BUILTIN[kind]:
        module, _, attribute = BUILTIN[kind][name].partition(":")
        return getattr(import_module(module), attribute)
    point = _plugged(kind)[name]
    try:
        return point.load()
    except Exception as error:  # whatever a stranger's module raises
        reason = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
        raise UserError(f"plug-in {name!r} ({point.value} of {_owner(point)}) cannot be imported ({reason}); mend or uninstall that package") from None


def origin(kind: str, name: str) -> str | None:
    """"package version" of a plug-in, for stage keys and provenance: another version may compute other numbers. None for ours."""
    return None if name in BUILTIN[kind] else _owner(_plugged(kind)[name])


def _owner(point: EntryPoint) -> str:
    return f"{point.dist.name} {point.dist.version}" if point.dist else "an unknown package"
