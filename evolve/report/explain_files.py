"""What `evolve explain` writes into a folder, and what a report reads there."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from evolve.core.durable import result_folder, write_whole
from evolve.core.errors import UserError
from evolve.report import figures
from evolve.report.explain import Explained, cells, rows, summary
from evolve.report.explain_figure import explain_figure
from evolve.report.files import csv_bytes, finite

STEM = "explain"  # begins the name of every file, and of the folders that a report looks for


def write_explained(explained: Explained, out: Path) -> list[Path]:
    """Write the picture (PNG, SVG, PDF) and the numbers (CSV, JSON).

    Args:
        explained: what to write.
        out: the folder; its files of these names are replaced.

    Returns:
        The files.

    Raises:
        UserError: the folder cannot be made or written into.
    """
    result_folder(out, "--out")
    contents = figures.pictures(STEM, lambda: explain_figure(explained), ("png", "svg", "pdf"))
    contents[f"{STEM}.csv"] = csv_bytes(rows(explained))
    contents[f"{STEM}.json"] = (json.dumps(finite(summary(explained)), indent=1) + "\n").encode()
    return [write_whole(out / name, data, "explain") for name, data in contents.items()]


@dataclass(frozen=True)
class Panel:
    """What an explain folder holds for the report.

    Attributes:
        lineage: the lineage length.
        about: where the images come from, and how many there are.
        rows: the numbers, see :func:`evolve.report.explain.cells`.
        png: the picture.
    """

    lineage: int
    about: str
    rows: Sequence[tuple[str, ...]]
    png: bytes


def read_panels(run: Path) -> tuple[Panel, ...]:
    """The panels of a run's explain folders, by lineage length; incomplete folders are left out.

    Raises:
        UserError: a folder is damaged; the line names it.
    """
    folders = [
        folder
        for folder in run.glob(f"{STEM}-*")
        if all((folder / f"{STEM}.{kind}").is_file() for kind in ("json", "png"))
    ]
    return tuple(sorted(map(_panel, folders), key=lambda panel: panel.lineage))


def _panel(folder: Path) -> Panel:
    try:
        measured = json.loads((folder / f"{STEM}.json").read_bytes())
        return Panel(
            int(measured["lineage"]),
            f"{measured['images']} images: {measured['source']}",
            cells(measured),
            (folder / f"{STEM}.png").read_bytes(),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{folder / STEM}.json: damaged ({error!r}): remove the folder, or repeat the "
            "`evolve explain` that wrote it"
        ) from None
