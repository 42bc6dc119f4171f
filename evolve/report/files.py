"""Report files of one run, or of several seeds pooled, from records alone.

They are figures, tables and a summary. The same records give the same bytes, so a report can be
compared, cached and kept under version control.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from evolve.core.durable import result_folder, write_whole
from evolve.report import fewshot_table
from evolve.report.alpha_figure import alpha_figure, alpha_rows, has_scores
from evolve.report.curves import (
    CONTROLS,
    NAMES,
    Descent,
    Generation,
    LineageRecord,
    Summary,
    gains,
    percent,
    point_interval,
)
from evolve.report.economy import economies, economy, economy_sentence, learning
from evolve.report.economy_figure import economy_figure, has_economy
from evolve.report.genome_figure import genome_figure
from evolve.report.pooling import summarise
from evolve.report.verdict import gain_sentence, verdict

Row = dict[str, Any]
# What a spreadsheet takes for the begin of a formula
FORMULA = ("=", "+", "-", "@", "\t", "\r")


def write_report(records: LineageRecord | Sequence[LineageRecord], out: Path) -> list[Path]:
    """Write a report's files into ``out``, each replaced whole.

    They are curve.png and .svg, genome.png, generations.csv, descendants.csv, learning.csv and
    summary.json; alpha.png, .svg, .pdf and .csv where layers were scored; convergence.png and .svg
    where the meta-network condensed; economy.png and .svg and fewshot.csv where these were
    measured. Everywhere accuracies are in %, gains in percentage points and shares fractions.

    Args:
        records: one lineage, or several of one scenario that differ in their seed.
        out: the folder; made where it is not there.

    Returns:
        The files.

    Raises:
        UserError: the folder cannot be written, or the records cannot be pooled.
    """
    pooled = (
        [records]
        if isinstance(records, LineageRecord)
        else sorted(records, key=lambda record: record.seed)
    )
    files = render_report(pooled)
    result_folder(out, "report")
    return [write_whole(out / name, content, "report") for name, content in files.items()]


def render_report(records: Sequence[LineageRecord]) -> dict[str, bytes]:
    """Make a report's files; all of them before the first byte is written.

    Args:
        records: lineages of one scenario that differ in their seed.

    Returns:
        File name -> content.
    """
    from evolve.report import convergence_figure, figures

    summary = summarise(records)
    title = f"{summary.title}: the learngene along the lineage"
    economy_title = f"{summary.title}: the economy of the gene"
    both = ("png", "svg")
    files = {
        **figures.pictures("curve", lambda: figures.evolution_figure(records, summary), both),
        "genome.png": figures.encode(lambda: genome_figure(records, title), "png"),
        "generations.csv": csv_bytes(generation_rows(records)),
        "descendants.csv": csv_bytes(descendant_rows(records)),
        "learning.csv": csv_bytes(learning_rows(records)),
        "summary.json": summary_json(records, summary),
    }
    if has_economy(records):
        name = str(records[0].settings.get("condense", {}).get("method", "learngene"))
        files |= figures.pictures(
            "economy", lambda: economy_figure({name: records}, economy_title), both
        )
    if has_scores(records):
        files |= _choice(records, summary.title)
    if convergence_figure.courses(records):
        files |= figures.pictures(
            "convergence", lambda: convergence_figure.convergence_figure(records, summary), both
        )
    return files | (
        {"fewshot.csv": csv_bytes(fewshot_table.rows(records))}
        if any(record.fewshot for record in records)
        else {}
    )


def _choice(records: Sequence[LineageRecord], name: str) -> dict[str, bytes]:
    """The alpha matrices, as pictures and numbers."""
    from evolve.report import figures

    title = f"{name}: alpha, the choice of the learngene"
    kinds = ("png", "svg", "pdf")
    pictures = figures.pictures("alpha", lambda: alpha_figure(records, title), kinds)
    return pictures | {"alpha.csv": csv_bytes(alpha_rows(records))}


def generation_rows(records: Sequence[LineageRecord]) -> Iterator[Row]:
    """One row a seed and generation: what was inherited, the curve's point, gain, ancestor."""
    for record in records:
        for g in record.generations:
            yield {**_run(record), "lineage": g.lineage, **_genome(g), **_measures(g), **_scores(g)}


def descendant_rows(records: Sequence[LineageRecord]) -> Iterator[Row]:
    """Long form: one row a seed, generation, method and descendant.

    The reference and few-shot learners stand without a lineage length.
    """
    for record, lineage, descent in _descents(records):
        for i, accuracy in enumerate(descent.accuracy):
            epochs = len(descent.train_loss[i]) if i < len(descent.train_loss) else ""
            newborn = percent(descent.newborn[i]) if i < len(descent.newborn) else ""
            images = descent.test_images[i] if i < len(descent.test_images) else ""
            best = percent(descent.best[i]) if i < len(descent.best) else ""
            values = {
                "descendant": i,
                "accuracy": percent(accuracy),
                "best": best,
                "newborn": newborn,
                "epochs": epochs,
                "test_images": images,
            }
            yield {**_run(record), "lineage": lineage, "method": descent.method, **values}


def learning_rows(records: Sequence[LineageRecord]) -> Iterator[Row]:
    """Long form: one row an epoch of every descendant.

    There is no test accuracy where an epoch was not tested.
    """
    for record, lineage, descent in _descents(records):
        for i, losses in enumerate(descent.train_loss):
            tests = dict(zip(descent.tested, map(percent, descent.curves[i]), strict=True))
            for epoch, loss in enumerate(losses, start=1):
                accuracy = tests.get(epoch, "")
                values = {
                    "descendant": i,
                    "epoch": epoch,
                    "test_accuracy": accuracy,
                    "train_loss": loss,
                }
                yield {**_run(record), "lineage": lineage, "method": descent.method, **values}


def summary_json(records: Sequence[LineageRecord], summary: Summary) -> bytes:
    """Effects and trends as numbers and in words; undefined numbers (NaN) are null."""
    body = {
        "format": 1,
        "verdict": verdict(summary),
        "gain": gain_sentence(summary),
        "summary": asdict(summary),
        "economy": economy_sentence(economy(records)),
        "learning": asdict(learning(records)),
        "economies": [asdict(point) for point in (economy(records), *economies(records)) if point],
        "settings": records[0].settings,
        "versions": {str(record.seed): record.versions for record in records},
    }
    if lines := fewshot_table.sentences(records):
        body["fewshot"] = lines
    return (
        json.dumps(finite(body), indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
        + "\n"
    ).encode()


def _run(record: LineageRecord) -> Row:
    return {"scenario": record.scenario, "profile": record.profile, "seed": record.seed}


def _genome(g: Generation) -> Row:
    how = {
        "status": g.status,
        "selected_by": g.selected_by,
        "margin": g.margin,
        "agreement": g.agreement,
    }
    return {"selected": " ".join(g.selected), "share": g.share, **how, "descendant": g.descendant}


def _measures(g: Generation) -> Row:
    point = point_interval([percent(value) for value in g.inherited.accuracy])
    gain = point_interval([percent(value) for value in gains(g)])
    row: Row = {"descendants": point.n, "mean": point.mean, "low": point.low, "high": point.high}
    row |= {"gain": gain.mean, "gain_low": gain.low, "gain_high": gain.high}
    for field, name in NAMES.items():
        control = getattr(g, field)
        row[name] = percent(point_interval(control.accuracy).mean) if control is not None else None
    ancestor = {
        "ancestor_accuracy": g.ancestor_accuracy,
        "forgetting": g.forgetting,
        "backward_transfer": g.backward_transfer,
    }
    return row | {
        name: None if value is None else percent(value) for name, value in ancestor.items()
    }


def _scores(g: Generation) -> Row:
    return {f"score {layer}": score for layer, score in zip(g.all_layers, g.scores, strict=False)}


def _descents(
    records: Sequence[LineageRecord],
) -> Iterator[tuple[LineageRecord, int | str, Descent]]:
    for record in records:
        for g in record.generations:
            for name in ("inherited", *CONTROLS):
                descent = getattr(g, name)
                if descent is not None:
                    yield record, g.lineage, descent
            if g.full_scratch is not None:
                yield (
                    record,
                    g.lineage,
                    replace(g.full_scratch, method=f"{NAMES['full_ancestor']} from-scratch"),
                )
        if record.reference is not None:
            yield record, "", _renamed(record.reference)
        for learner in record.fewshot:
            yield record, "", learner


def _renamed(reference: Descent) -> Descent:
    return replace(reference, method="reference")


def csv_bytes(rows: Iterable[Row]) -> bytes:
    """Rows as CSV; columns in the order of first appearance.

    Floats are written by repr so that they read back exactly. NaN and None are empty. A text that
    a spreadsheet would take for a formula gets an apostrophe before it (OWASP, "CSV injection").
    """
    kept, columns = _columned(rows)
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(map(_cell, columns))
    writer.writerows([_cell(row.get(column)) for column in columns] for row in kept)
    return out.getvalue().encode()


def parquet_bytes(rows: Iterable[Row]) -> bytes:
    """The same table as Parquet, for pandas, polars, R and DuckDB.

    A column of numbers and texts is one of texts; what is undefined is null.
    """
    import pyarrow
    from pyarrow import parquet

    kept, columns = _columned(rows)
    sink = pyarrow.BufferOutputStream()
    parquet.write_table(
        pyarrow.table({column: _alike([row.get(column) for row in kept]) for column in columns}),
        sink,
    )
    return bytes(sink.getvalue())


def _columned(rows: Iterable[Row]) -> tuple[list[Row], list[str]]:
    """All rows, and their columns in the order of first appearance."""
    kept = list(rows)
    return kept, list(dict.fromkeys(key for row in kept for key in row))


def _alike(values: Sequence[Any]) -> list[Any]:
    """Values of one type, as a column must have; None where there is none."""
    given = [None if _undefined(value) else value for value in values]
    kinds = {type(value) for value in given if value is not None}
    return (
        given
        if len(kinds) < 2 or kinds == {int, float}
        else [value if value is None else str(value) for value in given]
    )


def _undefined(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def _cell(value: Any) -> Any:
    if _undefined(value):
        return ""
    if isinstance(value, str):
        return f"'{value}" if value.startswith(FORMULA) else value
    return repr(float(value)) if isinstance(value, float) else value


def finite(value: Any) -> Any:
    """A value with None for every number that is not finite: JSON has no NaN."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): finite(item) for key, item in value.items()}
    return [finite(item) for item in value] if isinstance(value, (list, tuple)) else value
