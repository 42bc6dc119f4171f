"""The page's tables as plain text in rows: the template escapes it.

Accuracies are in %, gains and differences in points, times in seconds.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from evolve.report import fewshot_table
from evolve.report.compare import Batch
from evolve.report.compare import Row as Compared
from evolve.report.compare_tables import TITLES, cells, plus_minus, reference_of
from evolve.report.curves import Interval, LineageRecord, Summary, evolved
from evolve.report.economy import economies
from evolve.report.economy import economy as overall
from evolve.report.explain import HEADS
from evolve.report.explain_files import Panel
from evolve.report.fewshot_table import Line as Learner
from evolve.report.page.pictures import Curve
from evolve.report.page.section import Line, Spent
from evolve.report.table import Row, Table

KINDS = ("accumulate", "condense", "descend", "fewshot")
OVER = {
    "reference": "from-scratch, paper's architecture",
    "lineage 0": "lineage 0 (gains compared)",
}


def comparison(batch: Batch, tables: Mapping[str, Sequence[Compared]]) -> list[Table]:
    """The methods side by side, a table a metric."""
    shown_tables = []
    for metric, rows in tables.items():
        heads = (
            batch.method,
            f"mean {TITLES[metric]}, 95 % interval",
            f"minus {reference_of(batch, rows)}, paired",
            "p (Holm)",
            "lineages",
        )
        shown = tuple(Row((_name(row), *cells(row)), row.best) for row in rows)
        shown_tables.append(Table(f"Comparison by {TITLES[metric]}", heads, shown))
    return [table for table in shown_tables if table.rows]


def _name(row: Compared) -> str:
    return f"{row.method} (reference)" if row.is_reference else row.method


def settings(caption: str, values: Mapping[str, Sequence[str]]) -> Table | None:
    """Settings by "section.key", a row each; several values where lineages differ."""
    rows = tuple(
        Row((name, " | ".join(value or '""' for value in every))) for name, every in values.items()
    )
    return Table(caption, ("setting", "value"), rows, words=2) if rows else None


def effects(summaries: Mapping[str, Summary]) -> Table | None:
    """Inherited minus every control, paired by task, a row a case; None without any control."""
    by_case = {name: {e.over: e for e in summary.effects} for name, summary in summaries.items()}
    overs = list(dict.fromkeys(over for of_case in by_case.values() for over in of_case))
    if not overs:
        return None
    rows = [
        Row(
            (
                name,
                *(
                    f"{plus_minus(of_case[o].interval, signed=True)} "
                    f"({of_case[o].interval.n} pairs)"
                    if o in of_case
                    else "not measured"
                    for o in overs
                ),
            )
        )
        for name, of_case in by_case.items()
    ]
    heads = ("case", *(f"minus {OVER.get(over, over)}" for over in overs))
    return Table(
        "Controls: inherited minus control, mean over the lineage with 95 % interval (points)",
        heads,
        tuple(rows),
    )


def fewshot(varieties: Mapping[str, Sequence[LineageRecord]]) -> Table | None:
    """Table III's learners beside every case's descendants, on the same tasks; None without any."""
    tables = {name: fewshot_table.table(records) for name, records in varieties.items()}
    differ = any(line.others for lines in tables.values() for line in lines)
    rows = tuple(
        Row(_beside(name, line, differ)) for name, lines in tables.items() for line in lines
    )
    shown = ("architecture",) if differ else ()
    heads = (
        "case",
        "method",
        *shown,
        "accuracy (%), 95 % interval",
        "inherited minus it, paired (points)",
        "tasks",
    )
    caption = "Few-shot learners beside the descendants" + (
        ", whose architectures differ (the condenser chose other layers)" if differ else ""
    )
    return Table(caption, heads, rows, words=2 + len(shown)) if rows else None


def _beside(name: str, line: Learner, differ: bool) -> tuple[str, ...]:
    accuracy = line.trouble or plus_minus(_points(line.accuracy))
    return (
        name,
        _learner(line),
        *((line.backbone,) if differ else ()),
        accuracy,
        _behind(line),
        str(line.accuracy.n),
    )


def _learner(line: Learner) -> str:
    return (
        f"inherited (lineage {line.lineage})"
        if line.method == fewshot_table.INHERITED
        else line.method
    )


def _behind(line: Learner) -> str:
    return plus_minus(_points(line.behind), signed=True) if line.behind else ""


def _points(i: Interval) -> Interval:
    return Interval(100 * i.mean, 100 * i.low, 100 * i.high, i.n)


def numbers(title: str, curves: Sequence[Curve]) -> Table:
    """What a panel shows, number by number: a row a lineage length."""
    columns = [(f"{line.label}: accuracy (%)", line.accuracy) for line in curves] + [
        (f"{line.label}: gain (points)", line.gain) for line in curves if line.gain
    ]
    lengths = sorted({length for _, points in columns for length in points})
    rows = tuple(
        Row(
            (
                str(length),
                *(plus_minus(points[length]) if length in points else "" for _, points in columns),
            )
        )
        for length in lengths
    )
    return Table(title, ("lineage length", *(head for head, _ in columns)), rows)


def economy(varieties: Mapping[str, Sequence[LineageRecord]]) -> Table:
    """What the economy picture shows: a row a case and lineage length, and the mean."""
    rows = []
    for name, records in varieties.items():
        for point in (*economies(records), overall(records)):
            if point is not None:
                where = "mean" if point.lineage is None else str(point.lineage)
                share = (
                    plus_minus(_points(point.share)) if point.decided else "whole not shown to gain"
                )
                gains = (plus_minus(point.gain, signed=True), plus_minus(point.whole, signed=True))
                rows.append(
                    Row(
                        (name, where, f"{100 * point.weights:.1f}", *gains, share),
                        total=point.lineage is None,
                    )
                )
    heads = (
        "case",
        "lineage length",
        "weights inherited (%)",
        "gain (points)",
        "whole ancestor's gain (points)",
        "share of it (%)",
    )
    return Table("Economy of the gene", heads, tuple(rows))


def genome(name: str, records: Sequence[LineageRecord]) -> Table:
    """What the genome picture shows, in words: a row a seed and lineage length."""
    rows = tuple(
        Row(
            (
                str(r.seed),
                str(g.lineage),
                " ".join(g.selected),
                g.status,
                _share(g.agreement),
                g.descendant,
            )
        )
        for r in records
        for g in sorted(r.generations, key=lambda g: g.lineage)
    )
    return Table(
        f"Inherited layers: {name}",
        ("seed", "lineage length", "layers", "status", "agreement", "descendant"),
        rows,
        words=6,
    )


def scores(name: str, records: Sequence[LineageRecord]) -> Table:
    """The layers' a~ (Eq. 9), a row a seed and lineage length; * marks what was inherited."""
    layers = max((g.all_layers for r in records for g in r.generations), key=len)
    rows = tuple(
        Row(
            (
                str(r.seed),
                str(g.lineage),
                g.status,
                f"{1 / len(g.all_layers):.4f}",
                f"{g.margin:.4f}",
                *(
                    f"{score:.4f}{'*' if layer in g.selected else ''}"
                    for layer, score in zip(g.all_layers, g.scores, strict=False)
                ),
            )
        )
        for r in records
        for g in sorted(r.generations, key=lambda g: g.lineage)
    )
    heads = ("seed", "lineage length", "status", "1/L", "margin", *layers)
    return Table(f"Scores a~ of the layers, * inherited: {name}", heads, rows, words=3)


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.0%}"


def ancestors(varieties: Mapping[str, Sequence[LineageRecord]]) -> Table | None:
    """The ancestors at the end of their lineages, mean over seeds.

    None where there was no stream.
    """
    rows = []
    for name, records in varieties.items():
        last = [evolved(record)[-1] for record in records if evolved(record)]
        if any(g.ancestor_accuracy is not None for g in last):
            lengths = sorted({g.lineage for g in last})
            measures = (
                [g.ancestor_accuracy for g in last],
                [g.forgetting for g in last],
                [g.backward_transfer for g in last],
            )
            rows.append(
                Row((name, str(len(last)), ", ".join(map(str, lengths)), *map(_mean, measures)))
            )
    heads = (
        "case",
        "seeds",
        "tasks learned",
        "accuracy on them (%)",
        "forgetting (points)",
        "backward transfer (points)",
    )
    return (
        Table("The ancestor at the end of its lineage, mean over seeds", heads, tuple(rows))
        if rows
        else None
    )


def _mean(fractions: Sequence[float | None]) -> str:
    percents = [100 * value for value in fractions if value is not None and math.isfinite(value)]
    return f"{math.fsum(percents) / len(percents):.2f}" if percents else ""


def explained(panel: Panel) -> Table:
    """Grad-CAM's numbers, one row a column of the picture."""
    rows = tuple(map(Row, panel.rows))
    return Table("Numbers of the maps: mean over images with 95 % interval", HEADS, rows)


def cost(lines: Sequence[Line]) -> Table | None:
    """CPU seconds of every lineage's stages by kind, as if it had run alone, and its share.

    A stage that several lineages need is divided among them.

    Args:
        lines: the lineages.

    Returns:
        The table; None without any result.
    """
    owners = Counter(key for line in lines for key in line.spent)
    stages = {key: spent for line in lines for key, spent in line.spent.items()}
    if not stages:
        return None
    kinds = [kind for kind in KINDS if any(spent.kind == kind for spent in stages.values())]
    rows = [
        Row(
            (
                line.case.name,
                str(line.case.seed),
                *_costs(line.spent.values(), kinds),
                _share_of(line, owners),
            )
        )
        for line in lines
        if line.spent
    ]
    rows.append(
        Row(
            ("all, each stage once", "", *_costs(stages.values(), kinds), _sum(stages.values())),
            total=True,
        )
    )
    heads = ("case", "seed", *kinds, "alone", "wall, alone", "with sharing")
    return Table(
        "Cost: CPU seconds of the stages (wall: seconds on the clock of one worker)",
        heads,
        tuple(rows),
    )


def _costs(spent: Iterable[Spent], kinds: Sequence[str]) -> list[str]:
    held = list(spent)
    return [
        *(_sum(stage for stage in held if stage.kind == kind) for kind in kinds),
        _sum(held),
        _sum(held, wall=True),
    ]


def _share_of(line: Line, owners: Mapping[str, int]) -> str:
    return _seconds(
        sum(spent.cpu / owners[key] for key, spent in line.spent.items()),
        partly(line.spent.values()),
    )


def _sum(spent: Iterable[Spent], wall: bool = False) -> str:
    held = list(spent)
    return _seconds(sum(stage.seconds if wall else stage.cpu for stage in held), partly(held))


def partly(spent: Iterable[Spent]) -> bool:
    """Whether the sum is a lower bound.

    Some results say only what was left after an interruption.
    """
    return any(stage.resumed for stage in spent)


def _seconds(total: float, least: bool) -> str:
    return f"{'≥ ' if least else ''}{total:,.1f}"


def timed(lines: Sequence[Line]) -> bool:
    """Whether every stage's whole time is known."""
    return not any(partly(line.spent.values()) for line in lines)
