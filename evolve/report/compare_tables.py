"""What a batch leaves: the table that compares the methods, and the long-form data."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from evolve.core.durable import write_whole
from evolve.core.toml import toml_value
from evolve.report import figures
from evolve.report.compare import Batch, Case, Row, power
from evolve.report.curves import CONTROLS, Interval, LineageRecord, percent
from evolve.report.economy import economy, economy_sentence
from evolve.report.economy_figure import economy_figure, has_economy
from evolve.report.files import csv_bytes, finite, parquet_bytes
from evolve.report.trends import SEEDS_AS_UNITS

TITLES = {"accuracy": "accuracy (%)", "gain": "gain (points)"}
METRIC_WORDS = {"accuracy": "accuracy", "gain": "gain over from-scratch"}


def write_batch(
    batch: Batch,
    tables: Mapping[str, Sequence[Row]],
    records: Sequence[tuple[Case, LineageRecord]],
    out: Path,
) -> list[Path]:
    """Write a batch's tables and its economy picture, each file whole or not at all.

    Args:
        batch: the batch.
        tables: metric -> rows of the comparison.
        records: cases with what they measured.
        out: the batch's folder.

    Returns:
        table.md, table.tex, table.json, descendants.csv and .parquet (long form), and, where it was
        measured, economy.png and .svg.

    Raises:
        UserError: a file cannot be written.
    """
    files = {
        "table.md": markdown(batch, tables),
        "table.tex": latex(batch, tables),
        "table.json": json.dumps(
            finite({m: [asdict(row) for row in rows] for m, rows in tables.items()}), indent=1
        )
        + "\n",
    }
    rows = list(long_form(records))
    contents = {name: text.encode() for name, text in files.items()}
    contents |= {"descendants.csv": csv_bytes(rows), "descendants.parquet": parquet_bytes(rows)}
    shown = {name: pooled for name, pooled in varieties(records).items() if has_economy(pooled)}
    if shown:
        title = batch.title or batch.name
        contents |= figures.pictures(
            "economy", lambda: economy_figure(shown, title), ("png", "svg")
        )
    return [write_whole(out / name, content, "batch report") for name, content in contents.items()]


def varieties(records: Sequence[tuple[Case, LineageRecord]]) -> dict[str, list[LineageRecord]]:
    """The lineages that can be pooled: those of one case.

    Args:
        records: cases with what they measured.

    Returns:
        Case name -> its lineages by seed, in the batch's order.
    """
    pooled: dict[str, list[LineageRecord]] = {}
    for case, record in records:
        pooled.setdefault(case.name, []).append(record)
    return {
        name: sorted(lineages, key=lambda record: record.seed) for name, lineages in pooled.items()
    }


def economy_lines(records: Sequence[tuple[Case, LineageRecord]]) -> list[str]:
    """What every case's learngene carries of the whole ancestor's gain.

    Args:
        records: cases with what they measured.

    Returns:
        A sentence a case; none for a case without that control.
    """
    sentences = {
        name: economy_sentence(economy(pooled)) for name, pooled in varieties(records).items()
    }
    return [f"{name}: {sentence}" for name, sentence in sentences.items() if sentence]


def long_form(records: Sequence[tuple[Case, LineageRecord]]) -> Iterator[dict[str, Any]]:
    """One row a case, generation, method and descendant; accuracies are in %."""
    for case, record in records:
        axes = {
            axis: value if isinstance(value, (str, int, float)) else toml_value(value)
            for axis, value in case.values.items()
        }
        start = {"case": case.name, **axes, "seed": case.seed}
        for g in record.generations:
            for name in ("inherited", *CONTROLS):
                descent = getattr(g, name)
                for i, accuracy in enumerate(descent.accuracy if descent else ()):
                    values = {
                        "lineage": g.lineage,
                        "method": descent.method,
                        "descendant": i,
                        "accuracy": percent(accuracy),
                    }
                    yield (
                        start
                        | values
                        | {"best": percent(descent.best[i]), "selected": " ".join(g.selected)}
                    )


def cells(row: Row) -> tuple[str, str, str, str]:
    """A row's mean, difference to the reference, p (Holm) and number of lineages, as text."""
    d = row.difference
    gap = (
        plus_minus(d.interval, signed=True)
        if d
        else "reference"
        if row.is_reference
        else "not paired"
    )
    p = "" if d is None or math.isnan(d.holm) else "< 0.001" if d.holm < 0.001 else f"{d.holm:.3f}"
    return plus_minus(row.interval), gap, p, str(row.lineages)


def plus_minus(i: Interval, signed: bool = False) -> str:
    """Points as "61.24 [56.1, 66.3]".

    Args:
        i: in points; without bounds only its mean stands.
        signed: with the sign, as a difference has it.
    """
    mean = f"{i.mean:+.2f}" if signed else f"{i.mean:.2f}"
    return (
        mean
        if math.isnan(i.low)
        else f"{mean} [{i.low:{'+' if signed else ''}.2f}, {i.high:{'+' if signed else ''}.2f}]"
    )


def note(batch: Batch, tables: Mapping[str, Sequence[Row]]) -> str:
    """What the numbers are, in words a caption may use."""
    seeds = sorted({case.seed for case in batch.cases})
    few = any(
        row.difference and row.difference.seeds < SEEDS_AS_UNITS
        for rows in tables.values()
        for row in rows
    )
    text = (
        "Mean over downstream tasks and generations with a 95 % interval (seeds, then tasks, "
        "resampled); differences are paired by "
        "task and seed; p of a t-test by Holm's correction, which decides, "
        "and the test's interval at the corrected level. "
        f"Seeds {', '.join(map(str, seeds))}."
    )
    if few:
        text += (
            " With fewer than three seeds the test counts tasks, "
            "so it speaks of these ancestors only."
        )
    if batch.controls:
        text += " A control's row is its mean over the lengths at which it was measured."
    return text + " Bold: better than every other method by the corrected test."


def power_words(metric: str, rows: Sequence[Row]) -> str:
    """What the table could resolve; empty without any test."""
    size = power(rows)
    if math.isnan(size):
        return ""
    tests = sum(row.difference is not None and not math.isnan(row.difference.p) for row in rows)
    which = "" if tests == 1 else f" (median of {tests} comparisons, corrected for their number)"
    return (
        f"A difference of {size:.1f} points in {METRIC_WORDS[metric]} would have been found 8 "
        f"times in 10{which}."
    )


def markdown(batch: Batch, tables: Mapping[str, Sequence[Row]]) -> str:
    """All metrics as Markdown tables."""
    parts = [f"# {batch.title or batch.name} ({batch.profile})\n"]
    for metric, rows in tables.items():
        parts.append(
            f"| {batch.method} | {TITLES[metric]} | minus {reference_of(batch, rows)} | p | "
            "lineages |\n|---|---|---|---|---|"
        )
        for row in rows:
            mean, gap, p, count = cells(row)
            method = row.method.replace("|", r"\|")
            name = f"**{method}**" if row.best else method
            parts.append(f"| {name} | {mean} | {gap} | {p} | {count} |")
        parts.append("")
        if words := power_words(metric, rows):
            parts += [words, ""]
    return "\n".join([*parts, note(batch, tables), ""])


def latex(batch: Batch, tables: Mapping[str, Sequence[Row]]) -> str:
    """All metrics as LaTeX tabulars (booktabs)."""
    parts = [f"% {batch.name} ({batch.profile}), by evolve batch"]
    for metric, rows in tables.items():
        parts += [r"\begin{tabular}{lrrrr}", r"\toprule"]
        heads = (
            batch.method,
            TITLES[metric],
            f"minus {reference_of(batch, rows)}",
            "$p$",
            "lineages",
        )
        parts += [
            " & ".join(escape(head) if head != "$p$" else head for head in heads) + r" \\",
            r"\midrule",
        ]
        for row in rows:
            name = rf"\textbf{{{escape(row.method)}}}" if row.best else escape(row.method)
            # {} first: LaTeX takes a "[" after the last row's end for its argument
            parts.append("{}" + " & ".join((name, *map(escape, cells(row)))) + r" \\")
        parts += [r"\bottomrule", r"\end{tabular}", ""]
        if words := power_words(metric, rows):
            parts += [rf"\par{{\footnotesize {escape(words)}}}", ""]
    return "\n".join([*parts, "% " + note(batch, tables), ""])


def reference_of(batch: Batch, rows: Sequence[Row]) -> str:
    """The name of the reference."""
    return batch.reference or (rows[0].method if rows else "reference")


def escape(text: str) -> str:
    """Text as LaTeX prints it."""
    for sign in "\\&%$#_{}":
        text = text.replace(sign, "\\" + sign if sign != "\\" else r"\textbackslash ")
    for sign, code in (
        ("^", r"\textasciicircum{}"),
        ("~", r"\textasciitilde{}"),
        ("<", "$<$"),
        (">", "$>$"),
    ):
        text = text.replace(sign, code)
    return text
