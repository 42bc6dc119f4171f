"""A strategy of another package: an Avalanche plugin, with as much of :class:`Stored` as it needs."""

from __future__ import annotations

from collections.abc import Mapping
from types import MethodType
from typing import Any

from avalanche.core import BasePlugin

from evolve.ancestor.strategies.template import Stored
from evolve.core.registry import blamed, find, nonsense

OFFERED = ("attach", "state", "restore", "running", "resume")


def foreign_plugin(name: str, arguments: Mapping[str, Any]) -> Any:
    """The plugin ``name`` made with ``ancestor.strategy_args``; what it lacks of :class:`Stored` is that of one that keeps nothing.

    UserError, naming the package, where it cannot be made so.
    """
    make = find("strategies", name)
    with blamed("strategies", name):
        plugin = make(**arguments)
    if not isinstance(plugin, BasePlugin):
        raise nonsense(
            "strategies", name, f"returned {type(plugin).__name__}, not an Avalanche plugin"
        )
    for method in OFFERED:
        if not hasattr(plugin, method):
            setattr(plugin, method, MethodType(getattr(Stored, method), plugin))
    return plugin
