"""TensorBoard files of a lineage: the evolution curve while it grows.

x (global_step) is the lineage length. TensorBoard wants the steps of a tag in rising order and
keeps what a crashed run wrote. So generations are written in order, and on every start all event
files of ours in the folder are emptied and everything known is written anew with ``purge_step=0``:
a TensorBoard that is already running drops the old points, a fresh one never sees them. Accuracies
are in %, gains in points. torch is imported late, inside.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

from evolve.core.errors import UserError
from evolve.report.curves import (
    CONTROLS,
    Descent,
    Generation,
    LineageRecord,
    evolved,
    gains,
    point_interval,
)
from evolve.report.pooling import summarise
from evolve.report.trends import STEP
from evolve.report.verdict import gain_sentence, verdict

SUFFIX = ".evolve"  # ends the names of our event files, so that nobody else's are touched
EMPTY_KEPT = 600  # seconds; a running TensorBoard has moved on from an emptied file by then
GAP_PATIENCE = 3  # generations that may wait for an earlier one before they are shown without it
LABELS = {
    "scratch": "from-scratch",
    "shuffled": "shuffled",
    "joint": "joint",
    "full_ancestor": "full-ancestor",
    "distilled": "distilled",
}
HEADLINE = (
    "headline/gain over from-scratch",
    f"headline/slope of the gain per {STEP}",
    "headline/last accuracy",
)
LAYOUT = {
    "evolution curve": {
        "descendants (95 %)": [
            "Margin",
            ["descendants/mean", "descendants/low", "descendants/high"],
        ],
        "gain over from-scratch (95 %)": ["Margin", ["gain/mean", "gain/low", "gain/high"]],
        "descendants and all controls": ["Multiline", ["descendants/mean", "controls/.*"]],
    },
    "ancestor": {
        "accuracy and forgetting": [
            "Multiline",
            ["ancestor/average accuracy", "ancestor/forgetting"],
        ]
    },
}


def write_tensorboard(record: LineageRecord, folder: Path, labels: Mapping[str, str] = {}) -> None:
    """Write everything a record holds, replacing what an earlier call wrote.

    Args:
        record: the lineage.
        folder: where the event files go.
        labels: stand among the settings on the HPARAMS page.

    Raises:
        UserError: the files cannot be written.
    """
    Board(folder, record, labels).close()


class Board:
    """The event file of one seed's lineage; ``add`` generations as they are measured.

    They may come in any order. Opening a board rewrites what ``record`` holds. A generation that is
    ahead waits for the ones before it, since TensorBoard would drop points that arrive late. One
    that is late or comes again causes a rewrite. Numbers are written for every generation, pictures
    at the end, of the last one.

    Args:
        folder: where the event file goes.
        record: what is measured already.
        labels: stand among the settings on the HPARAMS page.

    Raises:
        UserError: the files cannot be written.
    """

    def __init__(self, folder: Path, record: LineageRecord, labels: Mapping[str, str] = {}) -> None:
        self.folder, self.labels = Path(folder), labels
        self._known = {g.lineage: g for g in record.generations}
        self._record = replace(record, generations=())
        self._last = -1
        self._writer: Any = None
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

    def close(self) -> None:
        """Write what still waits, the last generation's pictures and the headline numbers.

        It is safe to call twice.
        """
        if self._writer is None:
            return
        with writable(self.folder):
            self._write_ready(wait=False)
            if self._known:
                self._images(self._known[self._last])
            self._headline()
            self._writer.close()
        self._writer = None

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
        from torch.utils.tensorboard import SummaryWriter

        with writable(self.folder):
            if self._writer is not None:
                self._writer.close()
            newest = clear_ours(self.folder)
            wait_until_after(newest)
            self._writer = SummaryWriter(
                str(self.folder), purge_step=0, filename_suffix=SUFFIX, flush_secs=10
            )
            self._writer.add_custom_scalars(LAYOUT)
            self._writer.add_text("about", _about(self._record), 0)
            self._last = -1
            self._write_ready()

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
        self._writer.flush()

    def _expected(self) -> Sequence[int]:
        """The trained lengths that are to come sooner or later."""
        return self._record.lengths or range(1, self._record.tasks + 1)

    def _write(self, g: Generation) -> None:
        for tag, value in scalars(g, self._record.reference).items():
            if math.isfinite(value):
                self._writer.add_scalar(tag, value, g.lineage)

    def _images(self, g: Generation) -> None:
        from evolve.report import figures
        from evolve.report.alpha_figure import alpha_figure, has_scores
        from evolve.report.genome_figure import genome_figure
        from evolve.report.learning_figure import learning_figure

        drawings = {
            "genome": lambda: genome_figure([self.record]),
            "learning curves": lambda: learning_figure(g),
        }
        if has_scores([self.record]):
            drawings["alpha"] = lambda: alpha_figure([self.record])
        for tag, draw in drawings.items():
            self._writer.add_image(tag, figures.pixels(draw), g.lineage, dataformats="HWC")

    def _headline(self) -> None:
        """Numbers and settings for the HPARAMS page, where several runs stand side by side."""
        record = self.record
        if not evolved(record):
            return
        from torch.utils.tensorboard import summary as builder

        make: Any = builder.hparams
        summary = summarise([record])
        effect = summary.effect("from-scratch")
        last = point_interval(record.generations[-1].inherited.accuracy).mean
        values = (effect.interval.mean if effect else math.nan, summary.gain.slope, 100 * last)
        shown = {
            tag: value for tag, value in zip(HEADLINE, values, strict=True) if math.isfinite(value)
        }
        for tag, value in shown.items():
            self._writer.add_scalar(tag, value, record.generations[-1].lineage)
        for part in make(hparams(record, self.labels), shown):
            self._writer.file_writer.add_summary(part)
        self._writer.add_text(
            "verdict",
            f"{gain_sentence(summary)}\n\n{verdict(summary)}",
            record.generations[-1].lineage,
        )


def hparams(record: LineageRecord, labels: Mapping[str, str] = {}) -> dict[str, Any]:
    """What the HPARAMS page knows of a lineage.

    Args:
        record: the lineage.
        labels: further entries.

    Returns:
        The labels, where the lineage comes from, every setting by "section.key".
    """
    return {
        **labels,
        "scenario": record.scenario,
        "profile": record.profile,
        "seed": record.seed,
        **_flat(record.settings),
    }


def scalars(g: Generation, reference: Descent | None = None) -> dict[str, float]:
    """What one generation measured, by TensorBoard's tags.

    Args:
        g: the generation.
        reference: the from-scratch descendants of the paper's architecture.

    Returns:
        Tag -> value; accuracies in %, gains in points. It may hold NaN.
    """
    values: dict[str, float] = {}
    values |= _interval("descendants", g.inherited.accuracy) | _interval("gain", gains(g))
    for i, accuracy in enumerate(g.inherited.accuracy, start=1):
        values[f"each descendant/{i}"] = 100 * accuracy
    for name in CONTROLS:
        control = getattr(g, name)
        if control is not None:
            values[f"controls/{LABELS[name]}"] = 100 * point_interval(control.accuracy).mean
    if reference is not None:
        values["controls/from-scratch, paper's architecture"] = (
            100 * point_interval(reference.accuracy).mean
        )
    ancestor = {
        "average accuracy": g.ancestor_accuracy,
        "forgetting": g.forgetting,
        "backward transfer": g.backward_transfer,
    }
    values |= {
        f"ancestor/{name}": 100 * value for name, value in ancestor.items() if value is not None
    }
    return values | {"learngene/layers": float(len(g.selected)), "learngene/margin": g.margin}


def clear_ours(folder: Path) -> float:
    """Empty the event files that we wrote into this folder.

    They are emptied, not removed: a running TensorBoard that finds the file it reads gone never
    looks at the next one. Files that have been empty for a while go.

    Args:
        folder: where they lie; nobody else's files are touched.

    Returns:
        The newest one's time, s since 1970; 0 if there was none.
    """
    newest = 0.0
    for path in sorted(folder.glob(f"events.out.tfevents.*{SUFFIX}")):
        if not path.is_file() or path.is_symlink():
            continue
        stamp = path.name.removeprefix("events.out.tfevents.").partition(".")[0]
        newest = max(newest, float(stamp) if stamp.isdigit() else 0.0)
        state = path.stat()
        if state.st_size > 0:
            os.truncate(path, 0)
        elif time.time() - state.st_mtime > EMPTY_KEPT:
            path.unlink(missing_ok=True)
    return newest


def wait_until_after(stamp: float) -> None:
    """Wait until a new event file's name sorts after the newest one's.

    A running TensorBoard reads only such files. Names start with the second.

    Args:
        stamp: the newest one's time, s since 1970.
    """
    while stamp <= time.time() < stamp + 1:
        time.sleep(0.05)


def _interval(tag: str, values: tuple[float, ...]) -> dict[str, float]:
    interval = point_interval([100 * value for value in values])
    return {f"{tag}/mean": interval.mean, f"{tag}/low": interval.low, f"{tag}/high": interval.high}


def _about(record: LineageRecord) -> str:
    return (
        f"**{record.scenario}** ({record.profile}), seed {record.seed}. "
        "The x axis is the lineage length: tasks the ancestor has learned. "
        "Accuracies are in %, gains in percentage points. "
        "For the evolution curve with its interval open CUSTOM SCALARS."
    )


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"ancestor": {"lr": 0.1}} -> {"ancestor.lr": 0.1}.

    Values that TensorBoard cannot hold become text.
    """
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value if isinstance(value, (bool, int, float, str)) else str(value)
    return flat


@contextmanager
def writable(folder: Path) -> Iterator[None]:
    """Turn an OSError inside into one line that names the folder.

    Args:
        folder: what is written into.

    Raises:
        UserError: that line.
    """
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        raise UserError(
            f"cannot write TensorBoard files to {folder}: {reason}; "
            "free some space or choose another folder"
        ) from error
