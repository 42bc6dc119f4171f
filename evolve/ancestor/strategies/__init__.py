"""Avalanche's strategies over resident images, with a state that can be stored as tensors.

Importing this imports Avalanche: call :func:`evolve.data.streams.load_avalanche` first, as
``ancestor`` does. The algorithms are Avalanche's. What is added here: batches by slicing instead of
a DataLoader, a generator for every draw, a loop that can start at any epoch, and
``state``/``restore`` so that the next task may run in another process.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from evolve.ancestor.strategies.plugin_check import foreign_plugin
from evolve.ancestor.strategies.template import MultiHeadAncestor, PlainStrategy, ResidentStrategy
from evolve.core.registry import find, origin


def make_strategy(name: str, arguments: Mapping[str, Any], **common: Any) -> ResidentStrategy:
    """The strategy of a name around an untrained ancestor.

    It is one of Avalanche's templates, or Avalanche's plugin in the plain template, or the plain
    template (naive, cumulative, joint), or another package's plugin in the plain template.

    Args:
        name: ancestor.strategy.
        arguments: ancestor.strategy_args, with their defaults.
        common: :class:`ResidentStrategy`'s own arguments but the plugin.
    """
    if origin("strategies", name) is not None:
        return PlainStrategy(plugin=foreign_plugin(name, arguments), **common)
    method = find("strategies", name)
    if method is PlainStrategy:
        return PlainStrategy(plugin=None, **common)
    if issubclass(method, ResidentStrategy):
        template: ResidentStrategy = method(plugin=None, arguments=arguments, **common)
        return template
    return PlainStrategy(plugin=method(**arguments), **common)


__all__ = ["MultiHeadAncestor", "ResidentStrategy", "make_strategy"]
