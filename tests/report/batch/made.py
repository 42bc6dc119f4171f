"""Small batches with known numbers, for the tests of their pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from evolve.lineage.scenario import load
from evolve.report.batch.figure import Pair
from evolve.report.compare import Batch, Case
from evolve.report.curves import Descent, Generation, LineageRecord

Curves = Sequence[Sequence[float]]  # [tasks][tested epochs], fractions


def descent(method: str, curves: Curves) -> Descent:
    """Descendants with these learning curves, tested after every epoch."""
    last = tuple(curve[-1] for curve in curves)
    losses = tuple((1.0,) * len(curve) for curve in curves)
    tested = tuple(range(1, len(curves[0]) + 1))
    rows = tuple(tuple(curve) for curve in curves)
    return Descent(1, method, last, last, rows, losses, (50,) * len(last), tested)


def generation(
    inherited: Curves,
    scratch: Curves | None,
    whole: Curves | None = None,
    whole_scratch: Curves | None = None,
    length: int = 1,
) -> Generation:
    """One generation with these learning curves."""
    how = ("conv1",), ("conv1", "conv2"), (0.6, 0.4), ((1.0,), (1.0,)), 0.1, "selected", "t", "8*"
    return Generation(
        length,
        *how,
        descent("inherited", inherited),
        descent("from-scratch", scratch) if scratch else None,
        full_ancestor=descent("full-ancestor", whole) if whole else None,
        full_scratch=descent("from-scratch", whole_scratch) if whole_scratch else None,
    )


def pair(
    method: str,
    seed: int,
    values: Mapping[str, Any],
    *generations: Generation,
    pairing: tuple[str, ...] | None = None,
) -> Pair:
    """A case of these settings with what it measured."""
    scenario = load("glyphs-seq25", "paper", [f"{axis}={value}" for axis, value in values.items()])
    named = tuple(f"{axis}={value}" for axis, value in values.items())
    case = Case(
        f"{method} {named}", seed, method, named if pairing is None else pairing, values, scenario
    )
    return case, LineageRecord("toy", "quick", seed, len(generations), generations)


def batch(figure: str, pairs: Sequence[Pair], controls: tuple[str, ...] = ()) -> Batch:
    """The batch of these cases."""
    cases = tuple(case for case, _ in pairs)
    first = cases[0].method
    return Batch(
        "toy", "a title", "quick", "toy.toml", "m", first, cases, controls=controls, figure=figure
    )
