"""TensorBoard and trackers of a whole batch: every case's own, and TensorBoard's overview.

The overview lists the axes and headline metrics of the HPARAMS page. Without it TensorBoard takes
the first case's settings for all, so an axis that only other cases have could not be filtered by.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from evolve.core.terminal import tell
from evolve.report.compare import Batch, Case
from evolve.report.curves import LineageRecord
from evolve.report.event_files import SUFFIX, clear_ours, wait_until_after, writable
from evolve.report.settings import flat
from evolve.report.tensorboard import HEADLINE, hparams, write_tensorboard
from evolve.runs.trackers import open_trackers, say_where

Value = bool | int | float | str


def write_board(batch: Batch, records: Sequence[tuple[Case, LineageRecord]], out: Path) -> None:
    """Write every measured lineage's TensorBoard files, and the batch's overview, into ``out``.

    Args:
        batch: the batch.
        records: cases with what they measured.
        out: the batch's folder.

    Raises:
        UserError: the files cannot be written.
    """
    from tensorboard.plugins.hparams.summary_v2 import HParam, Metric, hparams_config_pb
    from torch.utils.tensorboard import SummaryWriter

    for case, record in records:
        labels = _labels(batch, case, record)
        write_tensorboard(record, out / case.folder / "tensorboard", labels)
    with writable(out):
        wait_until_after(clear_ours(out))
        make: Any = SummaryWriter
        writer = make(str(out), purge_step=0, filename_suffix=SUFFIX)
        axes = [HParam(name, _domain(values)) for name, values in columns(batch, records).items()]
        writer.file_writer.add_summary(hparams_config_pb(axes, [Metric(tag) for tag in HEADLINE]))
        writer.close()


def track(
    batch: Batch, records: Sequence[tuple[Case, LineageRecord]], out: Path, names: Sequence[str]
) -> None:
    """Send every measured lineage to trackers; one that fails gets no further lineage.

    Args:
        batch: the batch.
        records: cases with what they measured.
        out: the batch's folder.
        names: of evolve.core.words.TRACKERS.
    """
    for name in names:
        tell(f"sending {len(records)} lineages to {name}")
        where = None
        for case, record in records:
            folder, labels = out / case.folder, _labels(batch, case, record)
            group = f"{out.name}/{case.folder}"
            (tracker,) = open_trackers([name], record, folder, group, tell, labels)
            tracker.close(record)
            if (where := tracker.where) is None:
                break
            where = where.replace(str(folder), str(out / "*"))
        say_where(name, where)


def columns(batch: Batch, records: Sequence[tuple[Case, LineageRecord]]) -> dict[str, list[Value]]:
    """What cases may be filtered by: the case, the method, every axis, the seed.

    Returns:
        Name -> its values.
    """
    cases = [hparams(record, _labels(batch, case, record)) for case, record in records]
    return {
        name: list(dict.fromkeys(settings[name] for settings in cases if name in settings))
        for name in ("case", "method", *_axes(batch), "seed")
    }


def _axes(batch: Batch) -> list[str]:
    """Every axis of the batch and of its cases, by "section.key"."""
    return list(
        dict.fromkeys([*batch.axes, *(axis for case in batch.cases for axis in case.values)])
    )


def _labels(batch: Batch, case: Case, record: LineageRecord) -> dict[str, Value]:
    settings = flat(record.settings)
    axes = {axis: settings[axis] for axis in _axes(batch) if axis in settings}
    return {"case": case.name, "method": case.method, **axes}


def _domain(values: Sequence[Value]) -> Any:
    """The values to choose from.

    None where there is none, or they are of several types, which TensorBoard does not take.
    """
    from tensorboard.plugins.hparams.summary_v2 import Discrete

    return Discrete(values) if len({type(value) for value in values}) == 1 else None
