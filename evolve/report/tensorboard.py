"""TensorBoard files of a lineage: the evolution curve while it grows.

Every method and control writes the same tags into a run folder of its own, so TensorBoard draws
them into one chart, each in its colour. x (global_step) is the lineage length. TensorBoard wants
the steps of a tag in rising order and keeps what a crashed run wrote. So generations are written in
order, and on every start all event files of ours are emptied and everything known is written anew
with ``purge_step=0``: a TensorBoard that is already running drops the old points, a fresh one never
sees them. Accuracies are in %, gains in points. torch is imported late, inside.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

from evolve.report.curves import (
    NAMES,
    Descent,
    Generation,
    LineageRecord,
    differences,
    evolved,
    point_interval,
    title,
)
from evolve.report.event_files import SUFFIX, clear_ours, wait_until_after, writable
from evolve.report.pooling import summarise
from evolve.report.settings import METHOD, flat
from evolve.report.trends import STEP
from evolve.report.verdict import gain_sentence, verdict

GAP_PATIENCE = 3  # generations that may wait for an earlier one before they are shown without it
# Run folders beside the methods'. Where no experiment is declared, TensorBoard takes every scalar
# at or below a session's run for a metric of HPARAMS. So the session is a leaf with headlines only.
REFERENCE, ANCESTOR, SUMMARY = "reference", "ancestor", "summary"
FOLDERS = ("inherited", *NAMES.values(), REFERENCE, ANCESTOR, SUMMARY)
ACCURACY = "1 evolution curve/accuracy (%)"
GAIN = "1 evolution curve/gain (points)"
BOUNDS = {
    ACCURACY: ("2 interval (95 %)/accuracy, low (%)", "2 interval (95 %)/accuracy, high (%)"),
    GAIN: ("2 interval (95 %)/gain, low (points)", "2 interval (95 %)/gain, high (points)"),
}
HEADLINE = (
    "5 headline/gain over from-scratch (points)",
    f"5 headline/slope of the gain (points per {STEP})",
    "5 headline/last accuracy (%)",
)
LAYOUT = {
    "evolution curve, band: 95 % interval": {
        tag.split("/")[1]: ["Margin", [tag, *bounds]] for tag, bounds in BOUNDS.items()
    }
}


def write_tensorboard(record: LineageRecord, folder: Path, labels: Mapping[str, Any] = {}) -> None:
    """Write everything a record holds, replacing what an earlier call wrote.

    Args:
        record: the lineage.
        folder: where the run folders go.
        labels: stand among the settings on the HPARAMS page.

    Raises:
        UserError: the files cannot be written.
    """
    Board(folder, record, labels).close()


class Board:
    """The event files of one seed's lineage; ``add`` generations as they are measured.

    They may come in any order. Opening a board rewrites what ``record`` holds. A generation that is
    ahead waits for the ones before it, since TensorBoard would drop points that arrive late. One
    that is late or comes again causes a rewrite. Numbers are written for every generation, pictures
    at the end, of the last one.

    Args:
        folder: where the run folders go.
        record: what is measured already.
        labels: stand among the settings on the HPARAMS page.

    Raises:
        UserError: the files cannot be written.
    """

    def __init__(self, folder: Path, record: LineageRecord, labels: Mapping[str, Any] = {}) -> None:
        self.folder, self.labels = Path(folder), labels
        self._known = {g.lineage: g for g in record.generations}
        self._record = replace(record, generations=())
        self._last = -1
        self._writers: dict[str, Any] = {}
        self._closed = False
        self._rewrite()

    def add(self, generation: Generation) -> None:
        """Show one more generation.

        Args:
            generation: the generation.

        Raises:
            UserError: the folder cannot be written any more.
        """
        late = generation.lineage <= self._last
        self._known[generation.lineage] = generation
        if late:
            self._rewrite()
        else:
            with writable(self.folder):
                self._write_ready()

    def close(self, record: LineageRecord | None = None) -> None:
        """Write what still waits, the last generation's pictures and the headline numbers.

        It is safe to call twice.

        Args:
            record: what was measured in the end, the reference included; None: what was known at
                first and added.
        """
        if self._closed:
            return
        if record is not None and record.reference != self._record.reference:
            self._record = replace(record, generations=())
            self._rewrite()
        with writable(self.folder):
            self._write_ready(wait=False)
            if self._known:
                self._images(self._known[self._last])
            self._headline()
            self._close_writers()
        self._closed = True

    def __enter__(self) -> Board:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def record(self) -> LineageRecord:
        """The record with all generations known so far."""
        return replace(self._record, generations=tuple(g for _, g in sorted(self._known.items())))

    def _rewrite(self) -> None:
        with writable(self.folder):
            self._close_writers()
            wait_until_after(max(clear_ours(self.folder / name) for name in FOLDERS))
            self._writer(SUMMARY).add_custom_scalars(LAYOUT)
            self._writer(SUMMARY).add_text("about", _about(self._record), 0)
            self._last = -1
            self._write_ready()

    def _writer(self, name: str) -> Any:
        """The run folder's writer; a folder is made with its first point."""
        from torch.utils.tensorboard import SummaryWriter

        if name not in self._writers:
            make: Any = SummaryWriter
            self._writers[name] = make(
                str(self.folder / name), purge_step=0, filename_suffix=SUFFIX, flush_secs=10
            )
        return self._writers[name]

    def _close_writers(self) -> None:
        for writer in self._writers.values():
            writer.close()
        self._writers.clear()

    def _write_ready(self, wait: bool = True) -> None:
        waiting = sorted(length for length in self._known if length > self._last)
        for place, length in enumerate(waiting):
            gap = any(
                earlier not in self._known
                for earlier in self._expected()
                if self._last < earlier < length
            )
            if gap and wait and len(waiting) - place <= GAP_PATIENCE:
                break
            self._write(self._known[length])
            self._last = length
        for writer in self._writers.values():
            writer.flush()

    def _expected(self) -> Sequence[int]:
        """The trained lengths that are to come sooner or later."""
        return self._record.lengths or range(1, self._record.tasks + 1)

    def _write(self, g: Generation) -> None:
        for name, values in scalars(g, self._record.reference).items():
            for tag, value in values.items():
                self._writer(name).add_scalar(tag, value, g.lineage)

    def _images(self, g: Generation) -> None:
        from evolve.report import figures
        from evolve.report.genome_figure import genome_figure
        from evolve.report.learning_figure import learning_figure

        drawings = {
            "genome": lambda: genome_figure([self.record]),
            "learning curves": lambda: learning_figure(g),
        }
        for tag, draw in drawings.items():
            self._writer(SUMMARY).add_image(
                f"6 pictures/{tag}", figures.pixels(draw), g.lineage, dataformats="HWC"
            )

    def _headline(self) -> None:
        """Numbers and settings for the HPARAMS page, where several runs stand side by side."""
        record, writer = self.record, self._writer(SUMMARY)
        shown, words = headline(record)
        if not words:
            return
        from torch.utils.tensorboard import summary as builder

        make: Any = builder.hparams
        for tag, value in shown.items():
            writer.add_scalar(tag, value, record.generations[-1].lineage)
        # The first part declares an experiment. TensorBoard shows the first that it finds alone, so
        # a run declares none: its batch does, or TensorBoard gathers the columns of all runs.
        for part in make(hparams(record, self.labels), shown)[1:]:
            writer.file_writer.add_summary(part)
        writer.add_text("verdict", "\n\n".join(words), record.generations[-1].lineage)


def headline(record: LineageRecord) -> tuple[dict[str, float], Sequence[str]]:
    """The numbers that several runs are compared by, and the verdict.

    Args:
        record: the lineage.

    Returns:
        By TensorBoard's tag, in % and points, those that are finite; sentences. Both are empty
        where nothing is measured of an ancestor that has learned.
    """
    if not evolved(record):
        return {}, ()
    summary = summarise([record])
    effect = summary.effect("from-scratch")
    last = point_interval(record.generations[-1].inherited.accuracy).mean
    values = (effect.interval.mean if effect else math.nan, summary.gain.slope, 100 * last)
    named = zip(HEADLINE, values, strict=True)
    shown = {tag: value for tag, value in named if math.isfinite(value)}
    return shown, (gain_sentence(summary), verdict(summary))


def hparams(record: LineageRecord, labels: Mapping[str, Any] = {}) -> dict[str, Any]:
    """What the HPARAMS page knows of a lineage.

    TensorBoard shows the first five columns, so only settings that tell runs apart are among them.

    Args:
        record: the lineage.
        labels: further entries.

    Returns:
        The labels, where the lineage comes from, and by "section.key" the method and the settings
        that differ from the shipped scenario's.
    """
    changed = (change.partition("=")[0] for change in record.changes)
    settings = flat(record.settings)
    shown = {key: settings[key] for key in (*METHOD, *changed) if key in settings}
    where = {"scenario": record.scenario, "profile": record.profile, "seed": record.seed}
    return {**shown, **where, **labels}


def scalars(g: Generation, reference: Descent | None = None) -> dict[str, dict[str, float]]:
    """What one generation measured, by run folder and TensorBoard's tag.

    Args:
        g: the generation.
        reference: the from-scratch descendants of the paper's architecture.

    Returns:
        Run folder -> tag -> value; accuracies in %, gains in points. All are finite; what was not
        measured is left out.
    """
    runs = {
        "inherited": _curve(g.inherited, g.scratch)
        | {
            "4 learngene/layers": float(len(g.selected)),
            "4 learngene/share of the ancestor's weights (%)": _percent(g.share),
            "4 learngene/margin of the choice (a~)": g.margin,
        },
        REFERENCE: _curve(reference),
        ANCESTOR: {
            "3 ancestor/average accuracy on its tasks (%)": _percent(g.ancestor_accuracy),
            "3 ancestor/forgetting (points)": _percent(g.forgetting),
            "3 ancestor/backward transfer (points)": _percent(g.backward_transfer),
        },
    }
    for field, name in NAMES.items():
        over = {"scratch": None, "full_ancestor": g.full_scratch}.get(field, g.scratch)
        runs[name] = _curve(getattr(g, field), over)
    return {
        name: finite
        for name, values in runs.items()
        if (finite := {tag: value for tag, value in values.items() if math.isfinite(value)})
    }


def _curve(descent: Descent | None, over: Descent | None = None) -> dict[str, float]:
    """A method's points of the evolution curve, with their intervals.

    Args:
        descent: the method's descendants.
        over: from-scratch descendants of the same architecture.
    """
    values: dict[str, Sequence[float]] = {}
    if descent is not None:
        values[ACCURACY] = descent.accuracy
        if over is not None:
            values[GAIN] = differences(descent, over)
    points: dict[str, float] = {}
    for tag, fractions in values.items():
        interval = point_interval([100 * value for value in fractions])
        low, high = BOUNDS[tag]
        points |= {tag: interval.mean, low: interval.low, high: interval.high}
    return points


def _percent(fraction: float | None) -> float:
    return math.nan if fraction is None else 100 * fraction


def _about(record: LineageRecord) -> str:
    name = title(record.scenario, record.profile, (record.seed,), record.changes)
    return (
        f"**{name}**. The x axis is the lineage length: tasks the ancestor has learned. "
        "Accuracies are in %; gains are over from-scratch, in percentage points. Runs are the "
        "methods and controls; "
        f"`{ANCESTOR}` is the ancestor on its own tasks, `{NAMES['full_ancestor']}` gains over its "
        "own architecture from scratch. **Set Smoothing to 0**: every point is a mean already, and "
        "smoothing drags a point towards those before it. CUSTOM SCALARS shows the 95 % intervals "
        "as bands."
    )
