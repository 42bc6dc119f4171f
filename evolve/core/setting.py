"""How one setting is declared.

It stands apart from ``settings.py`` so that a room may declare its own section beside its code.
"""

from __future__ import annotations

from dataclasses import field
from typing import Any


def setting(
    default: Any,
    help: str,
    *,
    choices: tuple[Any, ...] | None = None,
    registry: str | None = None,
    least: float | None = None,
    most: float | None = None,
    key: bool = True,
) -> Any:
    """A dataclass field with the limits and the help that errors and ``evolve show`` quote.

    Args:
        default: the value; not a list, since settings are frozen.
        help: one line.
        choices: the values that are allowed.
        registry: a kind whose names are choices too, also the plug-ins'.
        least: the smallest number that is allowed.
        most: the largest.
        key: whether the setting can change a number, and so stands in stage keys.
    """
    metadata = {
        "help": help,
        "choices": choices,
        "registry": registry,
        "least": least,
        "most": most,
        "key": key,
    }
    if isinstance(default, list):
        raise TypeError("use a tuple: settings are frozen")
    return field(default=default, metadata=metadata)


# Upper bounds, far above any use: a slip of the hand is refused at once, not after hours.
STEPS = 100_000  # tasks, epochs, steps, images a step
MANY = 1_000_000  # images a class, class ids
SEEDS = 10**9
RATE = 1e38  # learning rates, weight decays: what float32 holds; a wild one may diverge
WEIGHT = 1_000_000  # weights of losses, temperatures

SETS = ("paper", "authors", "front", "last")
