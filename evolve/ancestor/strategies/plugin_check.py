"""A strategy of another package: an Avalanche plugin, and what of :class:`Stored` it needs."""

from __future__ import annotations

from collections.abc import Mapping
from types import MethodType
from typing import Any

from avalanche.core import BasePlugin

from evolve.ancestor.strategies.template import Stored
from evolve.core.registry import blamed, find, nonsense

OFFERED = ("attach", "state", "restore", "running", "resume")


def foreign_plugin(name: str, arguments: Mapping[str, Any]) -> Any:
    """Make another package's plugin.

    What it lacks of :class:`Stored` is that of a plugin that keeps nothing.

    Args:
        name: the plug-in's.
        arguments: ancestor.strategy_args.

    Raises:
        UserError: it cannot be made so; the line names the package.
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
