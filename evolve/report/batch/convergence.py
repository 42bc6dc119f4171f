"""Accuracy against epoch, a panel for every combination of the other axes (paper, Figure 3)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from evolve.report.batch.arms import (
    INHERITED,
    SAME,
    SIDES,
    Arm,
    arms,
    bounds,
    grouped,
    pairing_title,
    pooled_mean,
)
from evolve.report.batch.figure import BatchFigure, Pair
from evolve.report.batch.panels import grid, legend
from evolve.report.compare import Batch
from evolve.report.compare_tables import plus_minus
from evolve.report.curves import Descent, Generation, Interval
from evolve.report.economy import areas, learning
from evolve.report.table import Row, Table

Pairing = tuple[str, ...]
Curve = Mapping[int, Interval]  # epoch -> accuracy in %
Curves = Mapping[tuple[Pairing, str, str], Curve]  # by panel, method and side


def convergence(batch: Batch, measured: Sequence[Pair]) -> BatchFigure:
    """Learning curves of the descendants, tested after every ``descend.test_every`` epochs.

    Args:
        batch: whose other axes, such as descend.shots, make the panels.
        measured: its cases with what they measured.
    """
    shown = arms(batch, measured)
    parts = {
        (pairing, arm.name): pairs
        for arm in shown
        for pairing, pairs in grouped(arm, lambda pair: pair[0].pairing).items()
    }
    curves: Curves = {
        (pairing, name, side): _curve(pairs, pick)
        for (pairing, name), pairs in parts.items()
        for side, pick in SIDES.items()
    }
    panels = list(dict.fromkeys(case.pairing for case, _ in measured))
    return BatchFigure(
        tuple(_rows(curves)),
        (_table(panels, parts),),
        lambda: _draw(batch, panels, shown, curves),
        "Accuracy of the descendants against epoch, mean over seeds and tasks; band: 95 % "
        f"interval; {SAME}.",
    )


def _curve(pairs: Sequence[Pair], pick: Callable[[Generation], Descent | None]) -> Curve:
    """The mean accuracy after every epoch that was tested."""
    epochs = sorted(
        {
            epoch
            for _, record in pairs
            for g in record.generations
            if (descent := pick(g))
            for epoch in descent.tested
        }
    )
    means = {epoch: pooled_mean(pairs, partial(_at, pick, epoch)) for epoch in epochs}
    return {epoch: mean for epoch, mean in means.items() if mean is not None}


def _at(
    pick: Callable[[Generation], Descent | None], epoch: int, g: Generation
) -> tuple[float, ...]:
    """The accuracies after an epoch by descendant; none where it was not tested."""
    descent = pick(g)
    if descent is None or epoch not in descent.tested:
        return ()
    place = descent.tested.index(epoch)
    return tuple(curve[place] for curve in descent.curves)


def _rows(curves: Curves) -> Iterator[dict[str, Any]]:
    for (pairing, method, side), curve in curves.items():
        for epoch, interval in curve.items():
            axes = dict(part.split("=", 1) for part in pairing)
            yield {
                **axes,
                "method": method,
                "descendants": side,
                "epoch": epoch,
                **bounds(interval),
            }


def _table(panels: Sequence[Pairing], parts: Mapping[tuple[Pairing, str], Sequence[Pair]]) -> Table:
    heads = (
        "panel",
        "method",
        "accuracy (%)",
        "area under the curve (%)",
        "area less from scratch's (points)",
        "epochs to from scratch's final accuracy",
        "from scratch's own",
    )
    rows = tuple(
        Row((pairing_title(pairing), name, *_measures(pairs)))
        for panel in panels
        for (pairing, name), pairs in parts.items()
        if pairing == panel
    )
    return Table("Learning: from scratch is the same architecture", heads, rows, words=2)


def _measures(pairs: Sequence[Pair]) -> Iterator[str]:
    """One row's numbers as text; empty where they were not measured."""
    final = pooled_mean(pairs, lambda g: g.inherited.accuracy)
    area = pooled_mean(pairs, lambda g: areas(g.inherited))
    ahead = pooled_mean(pairs, _area_ahead)
    course = learning([record for _, record in pairs])
    yield plus_minus(final) if final else ""
    yield plus_minus(area) if area else ""
    yield plus_minus(ahead, signed=True) if ahead else ""
    if not course.asked:
        yield from ("", "")
    elif not course.reached:
        yield from ("not reached", "")
    else:
        some = "" if course.reached == course.asked else f" ({course.reached} of {course.asked})"
        yield f"{course.epochs:.1f}{some}"
        yield f"{course.epochs_scratch:.1f}"


def _area_ahead(g: Generation) -> tuple[float, ...]:
    """The area less from-scratch's, by descendant."""
    if g.scratch is None:
        return ()
    return tuple(a - b for a, b in zip(areas(g.inherited), areas(g.scratch), strict=True))


def _draw(batch: Batch, panels: Sequence[Pairing], shown: Sequence[Arm], curves: Curves) -> Any:
    figure, axes = grid(batch, len(panels), "epoch", "test accuracy (%)")
    for panel, pairing in zip(axes, panels, strict=True):
        for arm in shown:
            for side in SIDES:
                if curve := curves.get((pairing, arm.name, side)):
                    _line(panel, arm, curve, side == INHERITED)
        panel.set_title(pairing_title(pairing), fontsize=9)
        panel.xaxis.get_major_locator().set_params(integer=True)
    legend(figure, shown)
    return figure


def _line(axes: Any, arm: Arm, curve: Curve, inherits: bool) -> None:
    means, epochs = [interval.mean for interval in curve.values()], list(curve)
    if inherits:
        low, high = [i.low for i in curve.values()], [i.high for i in curve.values()]
        axes.fill_between(epochs, low, high, color=arm.colour, alpha=0.12, lw=0)
    axes.plot(
        epochs,
        means,
        color=arm.colour,
        lw=1.6 if inherits else 1.0,
        ls="-" if inherits else "--",
        marker=arm.marker if len(epochs) < 30 else None,
        mfc=None if inherits else "white",
        ms=3,
    )
