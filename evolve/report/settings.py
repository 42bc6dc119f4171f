"""The settings of lineages as a reader meets them: by "section.key", and the method in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from evolve.report.curves import LineageRecord

METHOD = {
    "ancestor.strategy": "the ancestor learns by",
    "condense.method": "the learngene is chosen by",
    "inherit.method": "it is inherited by",
}
APART = ("name", "title")  # said elsewhere


def flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Settings by "section.key"; values that TensorBoard cannot hold become text.

    Args:
        settings: such as {"ancestor": {"lr": 0.1}}.
        prefix: begins every name.
    """
    values: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            values |= flat(value, f"{prefix}{key}.")
        else:
            values[prefix + key] = (
                value if isinstance(value, (bool, int, float, str)) else str(value)
            )
    return values


def shared(records: Sequence[LineageRecord]) -> dict[str, tuple[str, ...]]:
    """Every setting of some lineages.

    Args:
        records: the lineages.

    Returns:
        "section.key" -> its values as text, each once; several where the lineages differ.
    """
    every = [flat(record.settings) for record in records]
    names = dict.fromkeys(name for settings in every for name in settings)
    return {
        name: tuple(dict.fromkeys(str(settings[name]) for settings in every if name in settings))
        for name in names
        if name not in APART
    }


def changed(records: Sequence[LineageRecord]) -> dict[str, tuple[str, ...]]:
    """The settings that differ from the shipped scenario's in any of the lineages.

    Args:
        records: the lineages.

    Returns:
        As :func:`shared`.
    """
    names = {change.partition("=")[0] for record in records for change in record.changes}
    return {name: values for name, values in shared(records).items() if name in names}


def method_words(records: Sequence[LineageRecord]) -> str:
    """The method in one sentence; of lineages that differ, all of its values.

    Args:
        records: the lineages.
    """
    values = shared(records)
    parts = [
        f"{words} {', '.join(values[name])} ({name})"
        for name, words in METHOD.items()
        if name in values
    ]
    return f"Method: {', '.join(parts)}." if parts else ""
