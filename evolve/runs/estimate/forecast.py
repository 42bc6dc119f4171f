"""How far a run is, and how long the rest takes, learned from what its stages take.

Every stage has an expected cost (:mod:`evolve.runs.estimate.cost`). What finished and running
stages really took corrects it, kind by kind. The rest takes as long as its longest chain of stages,
or as all of it shared among the workers, whichever is longer.
"""

from __future__ import annotations

import time
from bisect import bisect
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

PRIOR = 10.0  # seconds of the estimate that weigh as much as measured ones
LEAST_FRACTION = 0.1  # of a running stage, before what it took so far says anything
SAID_EVERY = 0.5  # seconds between two looks at all stages while some only progress
UNFINISHED = 0.99  # what the bar shows at most while something is left


@dataclass(frozen=True)
class Item:
    """One stage that can be named now.

    Attributes:
        key: the stage's.
        kind: stages of one kind share what is learned about their cost.
        expected: seconds on one core.
        inputs: keys of the stages before it.
        done: its result is in the store.
    """

    key: str
    kind: str
    expected: float
    inputs: tuple[str, ...]
    done: bool


class Forecast:
    """The part of a run that is done, which never shrinks, and the seconds left."""

    def __init__(self, workers: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._workers, self._clock = max(1, workers), clock
        self._items: dict[str, Item] = {}
        self._unnamed: Mapping[str, float] = {}
        self._begun = clock()
        self._held: frozenset[str] | None = None  # done before this session
        self._started: dict[str, float] = {}
        self._fractions: dict[str, float] = {}
        self._took: dict[str, float] = {}
        self._left: tuple[float, float] | None = None  # (seconds, when that was said)
        self._fraction = 0.0

    def plan(self, items: Iterable[Item], unnamed: Mapping[str, float]) -> None:
        """Say what there is to do.

        Args:
            items: all stages that can be named now.
            unnamed: expected seconds of stages that cannot be named yet, by kind.
        """
        self._items, self._unnamed = {item.key: item for item in items}, unnamed
        if self._held is None:
            self._held = frozenset(item.key for item in self._items.values() if item.done)
        self._say()

    def started(self, key: str) -> None:
        """A stage has begun."""
        self._started[key] = self._clock()

    def progress(self, key: str, fraction: float) -> None:
        """A running stage has come so far; ``fraction`` is in [0, 1]."""
        self._fractions[key] = fraction
        if self._left is None or self._clock() - self._left[1] >= SAID_EVERY:
            self._say()

    def finished(self, key: str, seconds: float) -> None:
        """A stage was computed in this session and took so long."""
        self._took[key] = seconds
        self._started.pop(key, None)

    @property
    def fraction(self) -> float:
        """The part that is done, in [0, 1]; 1 only when nothing is left."""
        return self._fraction

    def left(self) -> float | None:
        """Seconds left, counting down between events; None before :meth:`plan`."""
        if self._left is None:
            return None
        seconds, since = self._left
        return max(0.0, seconds - (self._clock() - since))

    def _say(self) -> None:
        now, rates = self._clock(), self._rates()
        missing = [item for item in self._items.values() if not self._done(item)]
        rest = {item.key: self._rest(item, rates) for item in missing}
        unnamed = sum(seconds * rates[kind] for kind, seconds in self._unnamed.items())
        shared = (sum(rest.values()) + unnamed) / self._workers
        left = max(shared, self._longest_chain(missing, rest))
        held = [item for item in self._items.values() if item.key in (self._held or ())]
        spent = sum(item.expected * rates[item.kind] for item in held) / self._workers
        spent += now - self._begun
        self._left = left, now
        if not missing:
            self._fraction = 1.0
        elif spent + left > 0:
            share = min(UNFINISHED, spent / (spent + left))
            self._fraction = max(self._fraction, share)

    def _done(self, item: Item) -> bool:
        return item.done or item.key in self._took

    def _rest(self, item: Item, rates: Mapping[str, float]) -> float:
        return item.expected * rates[item.kind] * (1 - self._fractions.get(item.key, 0.0))

    def _rates(self) -> Mapping[str, float]:
        """Measured over expected seconds by kind; what is not measured yet goes like the rest.

        Medians, weighted by the expected seconds: a worker's first stage also imports libraries and
        compiles kernels, which no other one has to.
        """
        ratios: dict[str, list[tuple[float, float]]] = defaultdict(list)
        for item, seconds, part in self._measured():
            expected = part * item.expected
            if expected > 0:
                ratios[item.kind].append((seconds / expected, expected))
        overall = _median([(1.0, PRIOR), *(pair for kind in ratios.values() for pair in kind)])
        kinds = {item.kind for item in self._items.values()} | set(self._unnamed)
        return {kind: _median([(overall, PRIOR), *ratios[kind]]) for kind in kinds}

    def _measured(self) -> Iterable[tuple[Item, float, float]]:
        """What stages took so far: the stage, seconds, and which part of it they are for."""
        for key, seconds in self._took.items():
            if key in self._items:
                yield self._items[key], seconds, 1.0
        for key, begun in self._started.items():
            part = self._fractions.get(key, 0.0)
            if key in self._items and part >= LEAST_FRACTION:
                yield self._items[key], self._clock() - begun, part

    @staticmethod
    def _longest_chain(missing: Iterable[Item], rest: Mapping[str, float]) -> float:
        """Seconds of the longest chain of stages that wait for one another.

        A stage stands behind its inputs in ``missing``, as a lineage names them.
        """
        ends: dict[str, float] = {}
        for item in missing:
            before = max((ends.get(key, 0.0) for key in item.inputs), default=0.0)
            ends[item.key] = before + rest[item.key]
        return max(ends.values(), default=0.0)


def _median(pairs: Sequence[tuple[float, float]]) -> float:
    """The weighted median of values, between neighbours where it falls between them.

    Args:
        pairs: (value, weight), weights above 0.
    """
    values, weights = zip(*sorted(pairs), strict=True)
    ends = list(accumulate(weights))
    middles = [end - weight / 2 for end, weight in zip(ends, weights, strict=True)]
    half = ends[-1] / 2
    place = bisect(middles, half)
    if place in (0, len(values)):
        return float(values[min(place, len(values) - 1)])
    share = (half - middles[place - 1]) / (middles[place] - middles[place - 1])
    return float(values[place - 1] + share * (values[place] - values[place - 1]))
