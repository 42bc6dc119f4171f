"""From rounds to what is quoted: medians, and the range over the rounds that count."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from statistics import median
from typing import Any

from .cases import SHARE_AIM, SHARE_TARGET, Case
from .work import train_flops


@dataclass(frozen=True)
class Spread:
    """Median and range over the rounds."""

    median: float
    least: float
    most: float

    @staticmethod
    def of(values: Sequence[float]) -> Spread:
        """Of at least one value."""
        return Spread(median(values), min(values), max(values))


@dataclass(frozen=True)
class Row:
    """A line of the table.

    Attributes:
        name, title, unit: in words.
        baseline, ours: what was measured, in ``unit``.
        value: what the goals are about: a ratio ours / baseline, or a share.
        target, aim: the goals.
        share: whether ``value`` is a share.
        lower_is_better: whether the goals are upper limits.
        alone: the ratio for one process of ours.
        sgemm: its share of one thread's sgemm rate.
        quoted: whether the machine was idle in as many rounds as were wanted.
    """

    name: str
    title: str
    unit: str
    baseline: Spread
    ours: Spread
    value: Spread
    target: float | None = None
    aim: float | None = None
    share: bool = False
    lower_is_better: bool = False
    alone: Spread | None = None
    sgemm: Spread | None = None
    quoted: bool = True

    @property
    def verdict(self) -> str:
        """By the median: "aim met", "met", "missed"; nothing where nothing was asked or is quoted."""
        if self.target is None or not self.quoted:
            return ""
        sign = -1 if self.lower_is_better else 1
        reached = [
            goal is not None and sign * self.value.median >= sign * goal
            for goal in (self.target, self.aim)
        ]
        return "aim met" if reached[1] else "met" if reached[0] else "missed"

    def as_json(self) -> dict[str, Any]:
        """Plain types."""
        return asdict(self) | {"verdict": self.verdict}


def rate(part: Mapping[str, float]) -> float:
    """Images a second."""
    return part["images"] / part["seconds"]


def rows(case: Case, measured: Mapping[str, Any], device: str) -> list[Row]:
    """The lines of one case: the comparison, and the share of sgemm where it has a goal.

    Args:
        case: what was measured.
        measured: what :func:`rounds.measure` gave.
        device: "cpu" or "cuda".
    """
    rounds: list[dict[str, Any]] = measured["rounds"] or measured["disturbed"]
    return [replace(row, quoted=measured["quoted"]) for row in _rows(case, rounds, device)]


def _rows(case: Case, rounds: list[dict[str, Any]], device: str) -> list[Row]:
    target, aim = case.goals.get(device, (None, None))
    if case.kind == "overhead":
        return [_overhead(case, rounds, target, aim)]

    def spread(value: Callable[[dict[str, Any]], float], needs: str) -> Spread | None:
        return Spread.of([value(turn) for turn in rounds]) if needs in rounds[0] else None

    flops = train_flops(case.plan, case.settings.data.size)
    row = Row(
        case.name,
        case.title,
        "images/s",
        Spread.of([rate(turn["baseline"]) for turn in rounds]),
        Spread.of([rate(turn["ours"]) for turn in rounds]),
        Spread.of([rate(turn["ours"]) / rate(turn["baseline"]) for turn in rounds]),
        target,
        aim,
        alone=spread(lambda turn: rate(turn["alone"]) / rate(turn["baseline"]), "alone"),
        sgemm=spread(lambda turn: flops * rate(turn["alone"]) / sgemm_rate(turn), "sgemm"),
    )
    return [row, _share(case, rounds, flops, row.sgemm)] if case.share_goal and row.sgemm else [row]


def sgemm_rate(turn: Mapping[str, Any]) -> float:
    """Operations a second of a round's matrix products, before and after ours together."""
    return sum(part["flops"] for part in turn["sgemm"]) / sum(
        part["seconds"] for part in turn["sgemm"]
    )


def _share(case: Case, rounds: Sequence[Mapping[str, Any]], flops: float, share: Spread) -> Row:
    sgemm = Spread.of([sgemm_rate(turn) / 1e9 for turn in rounds])
    ours = Spread.of([flops * rate(turn["alone"]) / 1e9 for turn in rounds])
    return Row(
        f"{case.name}-sgemm",
        "... of sgemm, one thread",
        "Gflop/s",
        sgemm,
        ours,
        share,
        SHARE_TARGET,
        SHARE_AIM,
        share=True,
    )


def _overhead(
    case: Case, rounds: Sequence[Mapping[str, float]], target: float | None, aim: float | None
) -> Row:
    share = Spread.of([(turn["strategy"] - turn["bare"]) / turn["strategy"] for turn in rounds])
    bare, strategy = (
        Spread.of([1000 * turn[name] for turn in rounds]) for name in ("bare", "strategy")
    )
    return Row(
        case.name,
        case.title,
        "ms a step",
        bare,
        strategy,
        share,
        target,
        aim,
        share=True,
        lower_is_better=True,
    )
