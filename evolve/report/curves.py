"""The evolution curve: what a lineage measured, its intervals, and what may be concluded from it.

Accuracies are fractions in [0, 1]; gains and slopes in summaries are percentage points. The design is paired:
descendant i of every generation and method meets the same task, images, fresh layers and batches, so methods
are compared by index. The generations of a lineage share these tasks, so the unit that counts is the task.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from evolve.core.errors import UserError
from evolve.report.trends import Array, Trend, bootstrap, mean_interval, trend

CONTROLS = (
    "scratch",
    "shuffled",
    "joint",
    "full_ancestor",
    "distilled",
)  # Generation's fields that hold a control
SEEDS_WANTED = 5  # with three, Student's intervals over seeds are twice as wide
FALLBACKS = (
    "tied",
    "collapsed",
)  # statuses in which the condenser did not select the layers itself


@dataclass(frozen=True)
class Descent:
    """One method's descendants of one generation; every tuple is by descendant. Accuracies in [0, 1]."""

    lineage: int
    method: (
        str  # "inherited" | "from-scratch" | "shuffled" | "joint" | "full-ancestor" | "distilled"
    )
    accuracy: tuple[float, ...]  # on the test images after the last epoch
    best: tuple[float, ...]
    curves: tuple[tuple[float, ...], ...]  # test accuracy after each of the epochs ``tested``
    train_loss: tuple[tuple[float, ...], ...]
    test_images: tuple[int, ...]
    tested: tuple[int, ...] = ()  # epochs, from 1, after which the curves were measured
    newborn: tuple[
        float, ...
    ] = ()  # accuracy before any training: nearest class mean of the features
    draws: int = 1  # random draws whose mean this is
    backbone: str = ""  # few-shot learners: their network in the paper's notation (a generation says its descendants' itself)
    diverged: bool = (
        False  # few-shot learners: a loss, or a test image's best score, was not finite
    )


@dataclass(frozen=True)
class Tried:
    """One candidate set of the condenser "trial": its part of the ancestor's weights, and its gain on condensing classes (a fraction)."""

    origin: str
    layers: tuple[str, ...]
    share: float
    gain: float
    error: float


@dataclass(frozen=True)
class Generation:
    """One point of the evolution curve. ``scratch`` has the same architecture and tasks as ``inherited``; None: control off."""

    lineage: int
    selected: tuple[str, ...]
    all_layers: tuple[str, ...]
    scores: tuple[float, ...]  # a~ (Eq. 9), [L]
    alpha: tuple[tuple[float, ...], ...]  # [L, K]
    margin: float
    status: str  # "selected" | "tied" | "collapsed" | "fixed"
    selected_by: str
    descendant: str
    inherited: Descent
    scratch: Descent | None = None
    shuffled: Descent | None = None
    joint: Descent | None = None
    full_ancestor: Descent | None = None
    full_scratch: Descent | None = None  # the whole ancestor's architecture, all layers random
    distilled: Descent | None = None
    agreement: float | None = (
        None  # share of repeated condensations that chose the same layers; None: one condensation
    )
    ancestor_accuracy: float | None = None
    forgetting: float | None = None
    backward_transfer: float | None = None
    trials: tuple[Tried, ...] = ()
    share: float | None = None  # of the ancestor's weights that are inherited
    history: dict[str, tuple[float, ...]] = field(
        default_factory=dict
    )  # the condenser's course, curve by curve (condensers/convergence.py)


@dataclass(frozen=True)
class LineageRecord:
    """What one seed's lineage has measured so far; ``generations`` are sorted, some may be missing."""

    scenario: str
    profile: str
    seed: int
    tasks: int
    generations: tuple[Generation, ...] = ()
    reference: Descent | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    lengths: tuple[int, ...] = ()  # all that this lineage measures, or is to measure
    fewshot: tuple[
        Descent, ...
    ] = ()  # Table III's learners on the same tasks; they depend on no generation


@dataclass(frozen=True)
class Interval:
    """A mean with its 95 % interval (Student's t); NaN bounds when n < 2."""

    mean: float
    low: float
    high: float
    n: int

    @property
    def half(self) -> float:
        return (self.high - self.low) / 2

    def percent(self, sign: str = "") -> str:
        """A fraction with its interval, in percent: "61.24 ± 5.10"; ``sign`` "+" for a difference."""
        if math.isnan(self.mean):
            return "-"
        half = f" ± {100 * self.half:.2f}" if math.isfinite(self.half) else ""
        return f"{100 * self.mean:{sign}.2f}{half}"


@dataclass(frozen=True)
class Effect:
    """A paired difference in percentage points; a pair is one downstream task averaged over the generations.

    "reference" and, where the from-scratch control is off, "lineage 0" compare descendants of other architectures.
    """

    over: str
    interval: Interval
    generations: int  # generations averaged, over all seeds


@dataclass(frozen=True)
class Summary:
    """One run, or several seeds of one scenario pooled. Gains in points, slopes in points per step of their scale."""

    scenario: str
    profile: str
    seeds: tuple[int, ...]
    tasks: int
    lengths: tuple[
        int, ...
    ]  # lineage lengths >= 1 (of no tasks: 0) that every seed has measured; the trends stand on these
    accuracy: Trend
    gain: Trend
    effects: tuple[Effect, ...]
    seed_gain: Interval  # gain over from-scratch with seeds as units
    fallbacks: (
        int  # generations whose layers the condenser did not select itself (tied or collapsed)
    )
    measured: int  # generations of these lengths, over all seeds
    diverged: int = 0  # inherited and from-scratch descendants whose loss stopped being finite

    def effect(self, over: str) -> Effect | None:
        return next((effect for effect in self.effects if effect.over == over), None)


def point_interval(values: Sequence[float]) -> Interval:
    """95 % t-interval over descendants: one point of the curve. Unit as given."""
    return Interval(*mean_interval(values))


def aligned(tables: Sequence[Mapping[int, Array]]) -> dict[int, list[Array]]:
    """Tables by lineage length, one a seed -> the seeds' rows at every length that all of them have: a mean over other seeds at every length
    would step where one ends.
    """
    common = set.intersection(*map(set, tables)) if tables else set()
    return {length: [table[length] for table in tables] for length in sorted(common)}


def pooled_interval(groups: Sequence[Array]) -> Interval:
    """95 % interval of a mean over tasks, one array a seed: of one seed Student's t over its tasks; of several, seeds are resampled, then
    tasks, since those of one seed share an ancestor.
    """
    if len(groups) == 1:
        return Interval(*mean_interval(groups[0]))
    return Interval(*bootstrap(groups), sum(map(len, groups)))


def differences(first: Descent, second: Descent) -> tuple[float, ...]:
    """first - second by descendant. ValueError when they are not the same descendants."""
    if len(first.accuracy) != len(second.accuracy):
        raise ValueError(
            f"{first.method} has {len(first.accuracy)} descendants, {second.method} has {len(second.accuracy)}: not paired"
        )
    return tuple(a - b for a, b in zip(first.accuracy, second.accuracy, strict=True))


def paired_gain(generation: Generation) -> Interval:
    """Inherited minus from-scratch of the same architecture, over the descendants; a fraction, as accuracy is.

    NaN where the from-scratch control is off.
    """
    return point_interval(gains(generation))


def gains(generation: Generation) -> tuple[float, ...]:
    """Inherited minus from-scratch by descendant; NaN where the control is off."""
    if generation.scratch is None:
        return (math.nan,) * len(generation.inherited.accuracy)
    return differences(generation.inherited, generation.scratch)


def untrained(record: LineageRecord) -> Generation | None:
    """Lineage 0: the learngene of an ancestor that has learned no task. None in a lineage of no tasks, whose one ancestor is pretrained."""
    return next((g for g in record.generations if g.lineage == 0 and record.tasks > 0), None)


def evolved(record: LineageRecord) -> tuple[Generation, ...]:
    """Generations whose ancestor has learned something, by lineage length; the one generation of a lineage of no tasks (see :func:`untrained`)."""
    return tuple(
        sorted(
            (g for g in record.generations if g.lineage > 0 or record.tasks == 0),
            key=lambda g: g.lineage,
        )
    )


def summarise(records: Sequence[LineageRecord]) -> Summary:
    """Pool one or several seeds of one scenario. UserError when the records are not that."""
    _check_poolable(records)
    lengths = _common_lengths(records)
    accuracy = [_table(record, lengths, lambda g: g.inherited.accuracy) for record in records]
    gain = (
        [_table(record, lengths, gains) for record in records]
        if all(g.scratch for record in records for g in evolved(record))
        else []
    )
    effects = [
        effect
        for name, other in _OTHERS.items()
        if (effect := _effect(name, records, other)) is not None
    ]
    generations = [g for record in records for g in evolved(record)]
    return Summary(
        scenario=records[0].scenario,
        profile=records[0].profile,
        seeds=tuple(record.seed for record in records),
        tasks=records[0].tasks,
        lengths=lengths,
        accuracy=trend(lengths, accuracy),
        gain=trend(lengths, gain),
        effects=tuple(effects),
        seed_gain=point_interval(
            [
                float(np.mean(pairs))
                for r in records
                if len(pairs := _pairs(r, _OTHERS["from-scratch"]))
            ]
        ),
        fallbacks=sum(g.status in FALLBACKS for g in generations),
        measured=len(generations),
        diverged=sum(_broken(d) for g in generations for d in (g.inherited, g.scratch) if d),
    )


_Other = Callable[[LineageRecord, Generation], "Descent | None"]


def _untrained_descent(record: LineageRecord, _: Generation) -> Descent | None:
    zero = untrained(record)
    return zero.inherited if zero else None


_OTHERS: dict[str, _Other] = {
    "from-scratch": lambda record, g: g.scratch,
    "shuffled": lambda record, g: g.shuffled,
    "lineage 0": _untrained_descent,
    "joint": lambda record, g: g.joint,
    "full-ancestor": lambda record, g: g.full_ancestor,
    "distilled": lambda record, g: g.distilled,
    "reference": lambda record, g: record.reference,
}


def _pairs(record: LineageRecord, other: _Other) -> Array:
    """[descendants]: inherited minus other in points, averaged over the generations that have both."""
    if other is _untrained_descent:
        rows = _over_untrained(record)
    else:
        found = [
            (g.inherited, descent)
            for g in evolved(record)
            if (descent := other(record, g)) is not None
        ]
        rows = [differences(inherited, descent) for inherited, descent in found]
    return 100 * np.mean(np.array(rows, dtype=np.float64), axis=0) if rows else np.empty(0)


def _over_untrained(record: LineageRecord) -> list[tuple[float, ...]]:
    """What training the ancestor adds, by generation and descendant.

    The condenser may give lineage 0 another architecture, so gains over from-scratch are compared, not accuracies; without
    the from-scratch control, accuracies.
    """
    zero = untrained(record)
    if zero is None:
        return []
    if zero.scratch and all(g.scratch for g in evolved(record)):
        return [
            tuple(a - b for a, b in zip(gains(g), gains(zero), strict=True))
            for g in evolved(record)
        ]
    return [differences(g.inherited, zero.inherited) for g in evolved(record)]


def _effect(name: str, records: Sequence[LineageRecord], other: _Other) -> Effect | None:
    groups = [pairs for record in records if len(pairs := _pairs(record, other))]
    if not groups:
        return None
    count = sum(other(record, g) is not None for record in records for g in evolved(record))
    return Effect(name, pooled_interval(groups), count)


def _common_lengths(records: Sequence[LineageRecord]) -> tuple[int, ...]:
    """A seed that is further along must not bend the pooled curve: only lengths that all have, all finite."""
    having = [{g.lineage for g in evolved(r) if _finite(g)} for r in records]
    return tuple(sorted(set.intersection(*having)))


def _broken(d: Descent) -> int:
    """Descendants whose training loss was not finite at the end."""
    return sum(bool(losses) and not math.isfinite(losses[-1]) for losses in d.train_loss)


def _finite(g: Generation) -> bool:
    return bool(
        np.isfinite([*g.inherited.accuracy, *(g.scratch.accuracy if g.scratch else ())]).all()
    )


def _table(
    record: LineageRecord, lengths: Sequence[int], values: Callable[[Generation], Sequence[float]]
) -> Array:
    """[T, descendants] in percent."""
    wanted = {g.lineage: g for g in evolved(record)}
    rows = [values(wanted[length]) for length in lengths]
    return 100 * np.array(rows, dtype=np.float64) if rows else np.empty((0, 0))


def _check_poolable(records: Sequence[LineageRecord]) -> None:
    if not records:
        raise UserError("no lineage to summarise: name at least one run")
    first = records[0]
    for record in records[1:]:
        if (record.scenario, record.profile, record.tasks) != (
            first.scenario,
            first.profile,
            first.tasks,
        ):
            raise UserError(
                f"cannot pool seeds of different scenarios: {first.scenario} ({first.profile}, {first.tasks} tasks) and "
                f"{record.scenario} ({record.profile}, {record.tasks} tasks); report them apart"
            )
        changed = sorted(
            key
            for key in {*first.settings, *record.settings}
            if first.settings.get(key) != record.settings.get(key)
        )
        if changed:
            raise UserError(
                f"cannot pool seeds {first.seed} and {record.seed}: their settings differ in {changed[0]}; report them apart"
            )
    seeds = [record.seed for record in records]
    twice = next((seed for seed in seeds if seeds.count(seed) > 1), None)
    if twice is not None:
        raise UserError(
            f"seed {twice} is given twice: pooling it with itself would make the intervals too narrow; name each seed once"
        )
