"""The table, the lines above and below it, and the raw numbers as a file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Any

from rich.table import Table

from .rounds import QUIET, busiest
from .summary import Row, Spread


def header(machine: Mapping[str, Any], pace: Mapping[str, Any], quick: bool) -> list[str]:
    """Lines that say which machine it was, and how it was measured.

    Args:
        machine: as :func:`machine.describe` gives it, with processes and threads.
        pace: the fields of :class:`rounds.Pace`.
        quick: whether this is a smoke test.
    """
    where = machine["gpu"] or machine["cpu"]
    lines = [
        f"{where}, {machine['cores']} cores, {machine['capability']}; torch {machine['torch']}, "
        f"Python {machine['python']}"
    ]
    ours = f"{machine['processes']} process{'es' if machine['processes'] > 1 else ''} of one thread"
    lines.append(
        f"baseline: one process, {machine['baseline_threads']} threads (torch's default); ours: "
        f"{ours}, as the engine runs them"
    )
    lines.append(
        f"{pace['rounds']} interleaved rounds of chunks of at least about {pace['seconds']:g} s; "
        "medians, (least..most)"
    )
    return lines + (["--quick: a smoke test, too short to quote"] if quick else [])


def table(rows: Sequence[Row], quick: bool) -> Table:
    """The table: one line a row.

    Args:
        rows: where the machine was not idle, the numbers are left out.
        quick: a smoke test, which shows them as they are.
    """
    grid = Table(box=None, pad_edge=False)
    for title in (
        "",
        "baseline",
        "ours",
        "",
        "ours / baseline",
        "one process",
        "of sgemm",
        "target",
        "aim",
        "",
    ):
        grid.add_column(title, justify="left" if not title else "right", no_wrap=True)
    for row in rows:
        if not (row.quoted or quick):
            grid.add_row(row.title, "", "", "", "[red]disturbed: not quoted[/]", *[""] * 5)
            continue
        alone = f"{row.alone.median:.2f}x" if row.alone else ""
        sgemm = f"{row.sgemm.median:.0%}" if row.sgemm else ""
        color = {"missed": "red", "met": "green", "aim met": "bold green"}.get(row.verdict, "")
        verdict = f"[{color}]{row.verdict}[/]" if color else ""
        goals = (_goal(row, row.target), _goal(row, row.aim))
        grid.add_row(
            row.title,
            _number(row.baseline),
            _number(row.ours),
            row.unit,
            spelled(row.value, row.share),
            alone,
            sgemm,
            *goals,
            verdict,
        )
    return grid


def notes(results: Sequence[Mapping[str, Any]]) -> list[str]:
    """Lines that say what the baselines chose and what the columns mean."""
    lines = []
    for result in results:
        info = result["measured"].get("baseline", {})
        if "num_workers" in info:
            lines.append(
                f"{result['name']}: the baseline's DataLoader was fastest with "
                f"num_workers={info['num_workers']}"
            )
        if "core_taken" in result["measured"]:
            core = result["measured"]["core_taken"]
            lines.append(
                f"{result['name']}: a matrix product loop "
                + (f"held core {core}" if core is not None else "ran, pinned to no core")
            )
    lines += disturbances({result["name"]: result["measured"] for result in results})
    lines.append(
        '"one process": ours on one thread against the same baseline; "of sgemm": nominal '
        "convolution operations of that thread"
    )
    lines.append(
        "against a 1024 x 1024 sgemm on it in the same round. A lineage runs descendants and "
        "condensers in all processes at once;"
    )
    lines.append("its ancestor is a serial chain and has one.")
    return lines


def disturbances(measured: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Say what other programs took while chunks ran.

    Args:
        measured: by name, what :func:`rounds.take_rounds` gave.
    """
    lines, seen = [], []
    for name, taken in measured.items():
        seen += [busiest(turn) for turn in (*taken["rounds"], *taken["disturbed"])]
        if taken["disturbed"]:
            most = max(map(busiest, taken["disturbed"]))
            lines.append(
                f"{name}: {len(taken['disturbed'])} rounds were left out, because other programs "
                f"used up to {most:.2f} cores"
            )
    if seen:
        lines.append(f"other programs used {mean(seen):.2f} cores; {QUIET:g} count as idle")
    return lines


def _number(spread: Spread) -> str:
    return f"{spread.median:,.0f}" if spread.median >= 100 else f"{spread.median:.3g}"


def spelled(value: Spread, share: bool) -> str:
    """A median with its range: a ratio, or a share in percent."""
    form = "{:.1%} ({:.1%}..{:.1%})" if share else "{:.2f}x ({:.2f}..{:.2f})"
    return form.format(value.median, value.least, value.most)


def _goal(row: Row, goal: float | None) -> str:
    if goal is None:
        return ""
    sign = "<=" if row.lower_is_better else ">="
    return f"{sign} {goal:.0%}" if row.share else f"{sign} {goal:g}x"
