"""The methods of a batch's picture, each beside its own architecture from scratch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import cycle
from typing import Any

from evolve.core.words import WHOLE
from evolve.report.batch.figure import Pair
from evolve.report.compare import Batch, Values, control_values, task_means
from evolve.report.curves import Descent, Generation, Interval, LineageRecord, pooled_interval
from evolve.report.figures import BLUE, GREEN, MARKERS, ORANGE, PINK, RED, SKY

COLOURS = (BLUE, RED, ORANGE, GREEN, PINK, SKY, "#000000")
SCRATCH = "from-scratch"
INHERITED, FULL = "inherited", "full-ancestor"
# What an arm measured, by what its descendants began with.
SIDES: Mapping[str, Callable[[Generation], Descent | None]] = {
    INHERITED: lambda g: g.inherited,
    SCRATCH: lambda g: g.scratch,
}
SAME = "dashed: the same architecture from scratch"


@dataclass(frozen=True)
class Arm:
    """One method: a condenser, or a control such as the whole ancestor.

    Attributes:
        pairs: cases with their records. A generation's ``inherited`` is the method's, its
            ``scratch`` the same architecture from scratch.
    """

    name: str
    colour: str
    marker: str
    pairs: tuple[Pair, ...]


def arms(batch: Batch, measured: Sequence[Pair]) -> list[Arm]:
    """The batch's methods, then its controls beside from-scratch.

    The controls are those of the reference's lineages.

    Args:
        batch: the batch.
        measured: its cases with what they measured.

    Returns:
        Those that have measured anything.
    """
    pairs = {
        method: tuple((case, record) for case, record in measured if case.method == method)
        for method in batch.methods
    }
    there = {method: own for method, own in pairs.items() if own}
    reference = there.get(batch.reference) or next(iter(there.values()), ())
    for name in batch.controls:
        if name != SCRATCH and (own := _controls(name, reference)):
            there[WHOLE if name == FULL else name] = own
    looks = zip(cycle(COLOURS), cycle(MARKERS), strict=False)
    return [
        Arm(name, colour, marker, own)
        for (name, own), (colour, marker) in zip(there.items(), looks, strict=False)
    ]


def _controls(name: str, pairs: Sequence[Pair]) -> tuple[Pair, ...]:
    """A control in the place of what was inherited, where it was measured."""
    field = name.replace("-", "_")

    def of(record: LineageRecord) -> LineageRecord:
        generations = tuple(
            replace(g, inherited=descent, scratch=g.full_scratch if name == FULL else g.scratch)
            for g in record.generations
            if (descent := getattr(g, field)) is not None
        )
        return replace(record, generations=generations)

    controls = ((case, of(record)) for case, record in pairs)
    return tuple((case, record) for case, record in controls if record.generations)


def grouped(arm: Arm, key: Callable[[Pair], Any]) -> dict[Any, list[Pair]]:
    """An arm's cases by a value, sorted by it."""
    parts: dict[Any, list[Pair]] = {}
    for pair in arm.pairs:
        parts.setdefault(key(pair), []).append(pair)
    return {value: parts[value] for value in sorted(parts)}


def setting(pair: Pair, axis: str) -> Any:
    """A setting of a case by "section.key"."""
    section, _, name = axis.partition(".")
    return getattr(getattr(pair[0].scenario.settings, section), name)


def side_values(side: str) -> Values:
    """How to read the accuracies of one of :data:`SIDES`; none where it was not measured."""
    return control_values(SCRATCH) if side == SCRATCH else lambda g: g.inherited.accuracy


def pooled_mean(pairs: Sequence[Pair], values: Values) -> Interval | None:
    """The mean over seeds and tasks with its 95 % interval, in points; None without any value."""
    groups = task_means(pairs, values)
    return pooled_interval(list(groups.values())) if groups else None


def bounds(interval: Interval, name: str = "accuracy") -> dict[str, Any]:
    """An interval as the cells of a row."""
    return {name: interval.mean, "low": interval.low, "high": interval.high, "tasks": interval.n}


def pairing_title(pairing: Sequence[str]) -> str:
    """The values of the other axes as a panel's title: "shots 10, scenario cifar-pretrained"."""
    parts = (part.partition("=") for part in pairing)
    return ", ".join(f"{key.rpartition('.')[2]} {value.strip(chr(34))}" for key, _, value in parts)
