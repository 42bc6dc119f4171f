"""The pieces of a lineage that `evolve bench --answer` times, and how a lineage's time follows.

A piece is timed in chunks, ours and the baseline in turn, by the CPU seconds of an image. A kind of
stage costs its images times that. Descendants of other architectures lie between the measured ones,
by their multiply-adds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any, cast

import numpy as np

from evolve.condensers.batches import steps_per_epoch
from evolve.core.errors import UserError
from evolve.core.settings import DataSettings, Settings
from evolve.networks.architecture import Architecture
from evolve.networks.vgg_plan import VggPlan
from evolve.runs.estimate.counts import published

from .cases import Case
from .evidence import Finished, Work
from .processes import Process
from .rounds import Pace, chunk, take_rounds

OURS, ONE, MANY = "ours", "one thread", "torch's threads"
ITERATIONS = 10  # of the baseline's condenser, a chunk

REQUIRED = {
    "ancestor.network": "vgg16",
    "ancestor.strategy": "naive",
    "ancestor.optimizer": "sgd",
    "ancestor.precision": "float32",
    "condense.method": "meta-network",
    "condense.objective": "eq16",
    "condense.repeats": 1,
    "descend.optimizer": "sgd",
    "descend.precision": "float32",
    "descend.warmup": 0,
    "inherit.method": "stack",
    "inherit.lr_scale": 1.0,
    "inherit.depth": 0,
    "inherit.width": 1.0,
}
"""What the baselines do; other methods would need other ones."""


@dataclass(frozen=True)
class Piece:
    """What is timed.

    Attributes:
        case: what is learned.
        amounts: the baseline's chunk and ours; ours is a whole stage.
    """

    case: Case
    amounts: tuple[int, int]

    @property
    def name(self) -> str:
        """Its case's."""
        return self.case.name


def images_of(s: Settings) -> DataSettings:
    """Embedded images, as many as the scenario's source has where it asks for all.

    Args:
        s: the scenario's settings; speed does not depend on what images show.
    """
    c = s.condense.images_per_class or published(s)["condense"].train
    a = s.stream.images_per_class or published(s)["ancestor"].train
    train, test = max(a, c, s.descend.shots), published(s)["ancestor"].test
    return DataSettings(source="glyphs", size=s.data.size, glyph_train=train, glyph_test=test)


def pieces(lineages: Sequence[Finished], quick: bool) -> list[Piece]:
    """What to time for these lineages.

    Args:
        lineages: whose stages are to be timed; all have the same settings.
        quick: a smoke test with few images.

    Raises:
        UserError: the baselines do not do what these settings ask for.
    """
    s = lineages[0].world.settings
    check(s)
    if quick:
        s = small(s)
    s = replace(s, data=images_of(s), condense=replace(s.condense, meta_reach=0.0))
    timed = [
        Piece(_case("ancestor", "ancestor", s), (1, s.ancestor.epochs)),
        Piece(_case("ancestor's tests", "tests", s), (1, 1)),
        Piece(_case("condenser", "condenser", s), (ITERATIONS, s.condense.epochs)),
    ]
    for name, network in networks(lineages).items():
        timed.append(Piece(_case(name, "descendants", s, network), (s.descend.epochs,) * 2))
    return timed


def small(s: Settings) -> Settings:
    """The same with few images and epochs, for a smoke test."""
    return replace(
        s,
        stream=replace(s.stream, images_per_class=16),
        ancestor=replace(s.ancestor, epochs=1),
        condense=replace(s.condense, epochs=1, images_per_class=8),
        descend=replace(s.descend, descendants=1, shots=4, epochs=1, test_per_class=2),
    )


def _case(name: str, kind: str, s: Settings, network: VggPlan | None = None) -> Case:
    return Case(name, name, kind, s, {}, network=network, cpu_time=True)


def check(s: Settings) -> None:
    """Refuse settings that the baselines do not know.

    Raises:
        UserError: it names the setting.
    """
    for key, wanted in REQUIRED.items():
        section, name = key.split(".")
        given = getattr(getattr(s, section), name)
        if given != wanted:
            raise UserError(
                f"{key} = {given!r}: --answer has a baseline for {wanted!r} only; "
                "name runs with that"
            )


def networks(lineages: Sequence[Finished]) -> dict[str, VggPlan]:
    """The least and the largest network that descendants train, and the most frequent between."""
    trained: Counter[Architecture] = Counter()
    for lineage in lineages:
        for work, count in lineage.counts.items():
            if work.network is not None:
                trained[work.network] += count
    size = lineages[0].world.settings.data.size
    ordered = sorted(trained, key=lambda network: network.macs(size))
    least, *between, most = ordered
    named = {"the least": least, "the whole ancestor": most}
    if between:
        named["the usual"] = max(between, key=lambda network: trained[network])
    return {f"descendants, {name}": cast(VggPlan, plan) for name, plan in named.items()}


def measure_piece(
    piece: Piece,
    plain: Process,
    ours: Process,
    threads: int,
    pace: Pace,
    report: Callable[[str], None],
) -> dict[str, Any]:
    """Take rounds of a piece.

    Args:
        piece: what is timed.
        plain: the baseline's process.
        ours: ours.
        threads: torch's own number of threads; the baseline is timed with one, and with these.
        pace: how many rounds.
        report: told what is being done.

    Returns:
        As :func:`rounds.take_rounds`, with what the sides said of themselves.
    """
    report("getting ready")
    plain.ask("threads", 1)
    info = {
        "baseline": plain.ask("open", piece.case, 0.0),
        "ours": ours.ask("open", piece.case, 0.0),
    }
    baseline, stage = piece.amounts
    for process, amount in ((plain, 1), (ours, 1)):  # warms up
        chunk([process], amount)

    def turn() -> dict[str, Any]:
        parts = {ONE: chunk([plain], baseline), OURS: chunk([ours], stage)}
        if threads > 1:
            plain.ask("threads", threads)
            parts[MANY] = chunk([plain], baseline)
            plain.ask("threads", 1)
        return parts

    taken = take_rounds(turn, pace, report)
    for process in (plain, ours):
        process.ask("shut")
    return {"info": info} | taken


@dataclass(frozen=True)
class Row:
    """A kind of stage: how many a lineage has, and CPU seconds of all of them by side.

    Attributes:
        part: "chain" (whatever the number of descendants), "task" or "draw".
        seconds: by side, one value a round.
    """

    title: str
    part: str
    count: float
    seconds: Mapping[str, tuple[float, ...]]

    def middle(self, side: str) -> float:
        """The rounds' median."""
        return median(self.seconds[side])


def rows(
    lineages: Sequence[Finished], measured: Mapping[str, Mapping[str, Any]], timed: Sequence[Piece]
) -> list[Row]:
    """The cost of a lineage by kind of stage, a mean over the lineages.

    Args:
        lineages: whose stages are counted.
        measured: by piece, what :func:`measure_piece` gave.
        timed: the pieces.
    """
    each = _mean_counts(lineages)
    s = lineages[0].world.settings
    rates = {piece.name: _rates(measured[piece.name]) for piece in timed}
    tasks, condensed = each[Work("accumulate")], each[Work("condense")]
    a, c, d = s.stream, s.condense, s.descend
    seen = a.images_per_class or published(s)["ancestor"].train
    learned = tasks * s.ancestor.epochs * a.classes_per_task * seen
    matched = condensed * c.epochs * _steps(s, len(lineages[0].world.condense_classes)) * c.batch
    descent = d.descendants * d.classes_per_task * d.shots * d.epochs
    table = [
        Row("ancestor: tasks learned", "chain", tasks, _times(rates["ancestor"], learned)),
        Row("ancestor: tests", "chain", tasks, _tests(measured["ancestor's tests"], rates)),
        Row("condensations", "chain", condensed, _times(rates["condenser"], matched)),
    ]
    for method in dict.fromkeys(work.method for work in each if work.kind == "descend"):
        of = {work: count for work, count in each.items() if work.method == method}
        part = "draw" if method == "from-scratch" else "task"
        times = _descents(of, descent, rates, timed)
        table.append(Row(TITLES.get(method, method), part, sum(of.values()), times))
    return table


TITLES = {"from-scratch": "from-scratch draws", "full-ancestor": "whole ancestor's heirs"}


def _mean_counts(lineages: Sequence[Finished]) -> dict[Work, float]:
    counts: Counter[Work] = Counter()
    for lineage in lineages:
        counts.update(lineage.counts)
    return {work: count / len(lineages) for work, count in counts.items()}


Rates = dict[str, tuple[float, ...]]


def _rates(measured: Mapping[str, Any]) -> Rates:
    """CPU seconds an image, by side, one a round."""
    turns = measured["rounds"] or measured["disturbed"]
    return {
        side: tuple(turn[side]["cpu"] / turn[side]["images"] for turn in turns) for side in turns[0]
    }


def _times(rates: Rates, images: float) -> Rates:
    return {side: tuple(images * rate for rate in values) for side, values in rates.items()}


def _tests(measured: Mapping[str, Any], rates: Mapping[str, Rates]) -> Rates:
    """Every task's tests on all tasks so far; of ours the first one's belong to its stage."""
    info = measured["info"]
    after = info["ours"]["after_task"]
    images = dict.fromkeys(
        (ONE, MANY), info["baseline"]["task"] * len(after) * (len(after) + 1) / 2
    )
    images[OURS] = sum(after) - len(after) * after[0]
    tested = rates["ancestor's tests"]
    return {side: tuple(images[side] * rate for rate in values) for side, values in tested.items()}


def _steps(s: Settings, classes: int) -> int:
    """Training batches of a condensation's epoch."""
    images = s.condense.images_per_class or published(s)["condense"].train
    meta = min(images - 1, max(1, round(images * s.condense.meta_fraction)))
    return steps_per_epoch(classes * (images - meta), s.condense.batch)


def _descents(
    of: Mapping[Work, float], images: int, rates: Mapping[str, Rates], timed: Sequence[Piece]
) -> Rates:
    """Descents of several architectures, each between the measured ones by its multiply-adds."""
    timed_at = sorted(
        (piece.case.plan.macs(piece.case.settings.data.size), piece.name)
        for piece in timed
        if piece.case.kind == "descendants"
    )
    size = timed[0].case.settings.data.size
    at = [work.network.macs(size) for work in of if work.network is not None]
    counts = np.array(list(of.values()))

    def seconds(side: str, turn: int) -> float:
        costs = [rates[name][side][turn] for _, name in timed_at]
        each = np.interp(at, [macs for macs, _ in timed_at], costs)
        return float(images * (each @ counts))

    sides = rates[timed_at[0][1]]
    turns = min(len(next(iter(rates[name].values()))) for _, name in timed_at)
    return {side: tuple(seconds(side, turn) for turn in range(turns)) for side in sides}
