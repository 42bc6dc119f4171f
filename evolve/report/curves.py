"""The evolution curve: what a lineage measured, and its intervals.

Accuracies are fractions in [0, 1]; gains and slopes in summaries are percentage points. The design
is paired: descendant i of every generation and method meets the same task, images, fresh layers and
batches, so methods are compared by index. The generations of a lineage share these tasks, so the
unit that counts is the task.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from evolve.report.trends import Array, Trend, bootstrap, mean_interval

# Generation's fields that hold a control, and what every table, file and picture calls it
NAMES = {
    "scratch": "from-scratch",
    "shuffled": "shuffled",
    "joint": "joint",
    "full_ancestor": "whole-ancestor",
    "distilled": "distilled",
}
CONTROLS = tuple(NAMES)
SEEDS_WANTED = 5  # with three, Student's intervals over seeds are twice as wide
FALLBACKS = ("tied", "collapsed")  # statuses in which the condenser did not select layers itself


@dataclass(frozen=True)
class Descent:
    """One method's descendants of one generation, tuples by descendant; accuracies in [0, 1]."""

    lineage: int
    method: str  # "inherited", a control, or a few-shot learner
    accuracy: tuple[float, ...]  # on the test images after the last epoch
    best: tuple[float, ...]
    curves: tuple[tuple[float, ...], ...]  # test accuracy after each of the epochs ``tested``
    train_loss: tuple[tuple[float, ...], ...]
    test_images: tuple[int, ...]
    tested: tuple[int, ...] = ()  # epochs, from 1, after which the curves were measured
    newborn: tuple[float, ...] = ()  # before any training: nearest class mean of the features
    draws: int = 1  # random draws whose mean this is
    # Of few-shot learners only: their network in the paper's notation (a generation says its
    # descendants' itself), and whether a loss, or a test image's best score, was not finite.
    backbone: str = ""
    diverged: bool = False


@dataclass(frozen=True)
class Tried:
    """One candidate set of the condenser "trial".

    Attributes:
        origin: the methods that proposed it.
        share: of the ancestor's weights.
        gain: on condensing classes, a fraction.
        error: the gain's standard error.
    """

    origin: str
    layers: tuple[str, ...]
    share: float
    gain: float
    error: float


@dataclass(frozen=True)
class Parameters:
    """How many parameters there are in one generation's networks, heads left out.

    Attributes:
        descendant: of a descendant that inherits the learngene; its from-scratch control has as
            many.
        learngene: that the learngene holds, from which descendants of every size are made.
        whole: of the whole ancestor, cut down to the descendants' depth and width.
    """

    descendant: int
    learngene: int
    whole: int


@dataclass(frozen=True)
class Generation:
    """One point of the evolution curve.

    ``scratch`` has the same architecture and tasks as ``inherited``. A control that is off is None.
    """

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
    # Share of repeated condensations that chose the same layers; None: one condensation.
    agreement: float | None = None
    ancestor_accuracy: float | None = None
    forgetting: float | None = None
    backward_transfer: float | None = None
    trials: tuple[Tried, ...] = ()
    share: float | None = None  # of the ancestor's weights that the learngene holds
    sizes: tuple[float, ...] = ()  # of all_layers: every layer's share of the ancestor's weights
    parameters: Parameters | None = None
    # The condenser's course, curve by curve (condensers/meta_network/convergence.py).
    history: dict[str, tuple[float, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class LineageRecord:
    """What one seed's lineage has measured so far.

    ``generations`` are sorted; some may be missing.
    """

    scenario: str
    profile: str
    seed: int
    tasks: int
    generations: tuple[Generation, ...] = ()
    reference: Descent | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    lengths: tuple[int, ...] = ()  # all that this lineage measures, or is to measure
    # Table III's learners on the same tasks; they depend on no generation.
    fewshot: tuple[Descent, ...] = ()
    changes: tuple[str, ...] = ()  # "section.key=value" where it differs from the shipped scenario


@dataclass(frozen=True)
class Interval:
    """A mean with its 95 % interval (Student's t); NaN bounds when n < 2."""

    mean: float
    low: float
    high: float
    n: int

    @property
    def half(self) -> float:
        """Half the interval's width."""
        return (self.high - self.low) / 2

    def percent(self, sign: str = "", digits: int = 2) -> str:
        """A fraction with its interval, in percent: "61.24 ± 5.10".

        Args:
            sign: "+" for a difference.
            digits: after the point.
        """
        if math.isnan(self.mean):
            return "-"
        half = f" ± {100 * self.half:.{digits}f}" if math.isfinite(self.half) else ""
        return f"{100 * self.mean:{sign}.{digits}f}{half}"


@dataclass(frozen=True)
class Effect:
    """A paired difference in percentage points.

    A pair is one downstream task averaged over the generations. "reference" and, where the
    from-scratch control is off, "lineage 0" compare descendants of other architectures.
    """

    over: str
    interval: Interval
    generations: int  # generations averaged, over all seeds


@dataclass(frozen=True)
class Summary:
    """One run, or several seeds of one scenario pooled.

    Gains are in points, slopes in points per step of their scale.
    """

    scenario: str
    profile: str
    seeds: tuple[int, ...]
    tasks: int
    # Lineage lengths >= 1 (of no tasks: 0) that every seed has measured; trends stand on these.
    lengths: tuple[int, ...]
    accuracy: Trend
    gain: Trend
    effects: tuple[Effect, ...]
    seed_gain: Interval  # gain over from-scratch with seeds as units
    fallbacks: int  # generations with a status of FALLBACKS
    measured: int  # generations of these lengths, over all seeds
    diverged: int = 0  # inherited and from-scratch descendants whose loss stopped being finite
    changes: tuple[str, ...] = ()  # as in LineageRecord

    @property
    def title(self) -> str:
        """Which lineages these are: scenario, profile, seeds, and what differs from the scenario.

        An example: "cifar-seq25 quick, seed 0, condense.method=cka, stream.tasks=4".
        """
        return title(self.scenario, self.profile, self.seeds, self.changes)

    def effect(self, over: str) -> Effect | None:
        """The paired difference to a control; None where it was not measured."""
        return next((effect for effect in self.effects if effect.over == over), None)


SHOWN_CHANGES = 4
DIGITS = 10  # of a percentage, after the point; far below one test image's share


def title(scenario: str, profile: str, seeds: Sequence[int], changes: Sequence[str]) -> str:
    """Lineages by name: "cifar-seq25 quick, seed 0, condense.method=cka, stream.tasks=4".

    Args:
        scenario: the scenario's name.
        profile: "quick" or "paper".
        seeds: of the lineages.
        changes: where they differ from the shipped scenario; the first few are shown.
    """
    numbers = (
        f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"
        if len(seeds) < 9
        else f"{len(seeds)} seeds"
    )
    more = len(changes) - SHOWN_CHANGES
    shown = [*changes[:SHOWN_CHANGES], *([f"{more} more settings"] if more > 0 else [])]
    return ", ".join([f"{scenario} {profile}", numbers, *shown])


def percent(fraction: float) -> float:
    """A fraction in percent, without the last bits that a product by 100 adds.

    Args:
        fraction: an accuracy, or a difference of two.
    """
    return round(100 * fraction, DIGITS)


def point_interval(values: Sequence[float]) -> Interval:
    """95 % t-interval over descendants: one point of the curve.

    Args:
        values: one a descendant, in any unit.

    Returns:
        The interval in that unit.
    """
    return Interval(*mean_interval(values))


def aligned(tables: Sequence[Mapping[int, Array]]) -> dict[int, list[Array]]:
    """The seeds' rows at every lineage length that all of them have.

    A mean over other seeds at every length would step where one ends.

    Args:
        tables: lineage length -> row, one table a seed.

    Returns:
        Lineage length -> the rows, one a seed.
    """
    common = set.intersection(*map(set, tables)) if tables else set()
    return {length: [table[length] for table in tables] for length in sorted(common)}


def pooled_interval(groups: Sequence[Array]) -> Interval:
    """95 % interval of a mean over tasks.

    Of one seed it is Student's t over its tasks. Of several, seeds are resampled, then tasks, since
    those of one seed share an ancestor.

    Args:
        groups: one array [tasks] a seed.
    """
    if len(groups) == 1:
        return Interval(*mean_interval(groups[0]))
    return Interval(*bootstrap(groups), sum(map(len, groups)))


def differences(first: Descent, second: Descent) -> tuple[float, ...]:
    """Paired differences of two methods' accuracies.

    Args:
        first: descendants of one generation.
        second: the same descendants by another method.

    Returns:
        First minus second by descendant, fractions.

    Raises:
        ValueError: they are not the same descendants.
    """
    if len(first.accuracy) != len(second.accuracy):
        raise ValueError(
            f"{first.method} has {len(first.accuracy)} descendants, "
            f"{second.method} has {len(second.accuracy)}: not paired"
        )
    return tuple(a - b for a, b in zip(first.accuracy, second.accuracy, strict=True))


def paired_gain(generation: Generation) -> Interval:
    """Inherited minus from-scratch of the same architecture, over the descendants.

    Args:
        generation: the generation.

    Returns:
        A fraction, as accuracy is; NaN where the from-scratch control is off.
    """
    return point_interval(gains(generation))


def gains(generation: Generation) -> tuple[float, ...]:
    """Inherited minus from-scratch by descendant.

    Args:
        generation: the generation.

    Returns:
        Fractions; NaN where the control is off.
    """
    if generation.scratch is None:
        return (math.nan,) * len(generation.inherited.accuracy)
    return differences(generation.inherited, generation.scratch)


def untrained(record: LineageRecord) -> Generation | None:
    """Lineage 0: the learngene of an ancestor that has learned no task.

    None in a lineage of no tasks, whose one ancestor is pretrained.
    """
    return next((g for g in record.generations if g.lineage == 0 and record.tasks > 0), None)


def evolved(record: LineageRecord) -> tuple[Generation, ...]:
    """Generations whose ancestor has learned something.

    Args:
        record: the lineage.

    Returns:
        By lineage length; of a lineage of no tasks, its one generation (see :func:`untrained`).
    """
    return tuple(
        sorted(
            (g for g in record.generations if g.lineage > 0 or record.tasks == 0),
            key=lambda g: g.lineage,
        )
    )
