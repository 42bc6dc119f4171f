"""Looks at runs from outside: which there are, how two differ, how one that is computed goes on."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import Timeout

from evolve.core.errors import UserError
from evolve.core.locks import held
from evolve.lineage.collect import generations
from evolve.lineage.lineage import places
from evolve.lineage.schedule import measured
from evolve.report.curves import Generation, paired_gain
from evolve.runs.batch.file import flat
from evolve.runs.estimate.outlook import Outlook
from evolve.runs.folder import RUN_FILE, read_run
from evolve.runs.read import Reader
from evolve.runs.run import Run
from evolve.runs.screens.display import Display

DEEPEST = 3  # folders below the one that is looked through; a batch's runs lie one below it
POLL = 2.0  # seconds between two looks at a store


@dataclass(frozen=True)
class Listed:
    """One run as `evolve runs` lists it.

    Attributes:
        state: "running", "finished" or "unfinished"; else what is wrong with it.
        points: measured lineage lengths.
        wanted: how many there will be.
        last: the last measured generation.
        changed: when its folder was written to, seconds since the epoch.
    """

    folder: Path
    name: str
    seed: int
    state: str
    points: int
    wanted: int
    last: Generation | None
    changed: float


def runs_below(root: Path) -> Iterator[Path]:
    """The folders of runs in ``root``, itself included, in the order of their names."""
    level = [root]
    for _ in range(DEEPEST + 1):
        below: list[Path] = []
        for folder in level:
            if (folder / RUN_FILE).is_file():
                yield folder
            elif folder.is_dir() and not folder.is_symlink() | (folder / "store.json").is_file():
                below += sorted(path for path in folder.iterdir() if path.is_dir())
        level = below


def listed(folder: Path, reader: Reader) -> Listed:
    """One run's line; a run that cannot be read is listed with the reason."""
    changed = (folder / RUN_FILE).stat().st_mtime
    try:
        facts = read_run(folder)
        run = reader.opened(folder)
        points = _points(run)
    except UserError as error:
        reason = str(error).removeprefix(f"{folder}: ")
        return Listed(folder, "?", 0, reason, 0, 0, None, changed)
    wanted = len(measured(run.world.settings))
    state = "running" if is_held(folder) else "unfinished" if run.missing() else "finished"
    name = f"{facts['scenario']} ({facts['profile']})"
    last = points[-1] if points else None
    return Listed(folder, name, facts["seed"], state, len(points), wanted, last, changed)


def is_held(folder: Path) -> bool:
    """Whether a process on this machine computes the run now."""
    if not (folder / ".lock").exists():
        return False
    try:
        with held(folder / ".lock", 0):
            return False
    except Timeout:
        return True
    except (OSError, NotImplementedError):  # a folder that only others may write
        return False


def _points(run: Run) -> list[Generation]:
    """The lengths that are measured completely, by lineage length."""
    return list(generations(run.world, places(run.world, run.peek), run.peek))


@dataclass(frozen=True)
class Contrast:
    """How two runs differ.

    Attributes:
        settings: "section.key" -> the two values, of those that differ.
        shared: kind of stage -> (stages in common, of the first, of the second).
        parts: the first lineage length whose ancestor or learngene is another stage; None: none is.
        gains: lineage length -> gain over from-scratch of both, as text with the interval.
    """

    settings: Mapping[str, tuple[Any, Any]]
    shared: Mapping[str, tuple[int, int, int]]
    parts: int | None
    gains: Mapping[int, tuple[str, str]]


def contrast(first: Path, second: Path, reader: Reader) -> Contrast:
    """Compare two runs' settings, stages and curves.

    Args:
        first: a run's folder.
        second: another's.
        reader: reads their stores.

    Raises:
        UserError: a folder is no run's.
    """
    runs = [reader.opened(folder) for folder in (first, second)]
    facts = [read_run(folder) for folder in (first, second)]
    values = [flat(f["settings"]) | {"seed": f["seed"]} for f in facts]
    settings = {
        key: (values[0].get(key), values[1].get(key))
        for key in dict.fromkeys([*values[0], *values[1]])
        if values[0].get(key) != values[1].get(key)
    }
    chains = [{s.place: s for s in run.stages()} for run in runs]
    keys = [{s.key: s.kind for s in chain.values()} for chain in chains]
    counts = [Counter(kinds.values()) for kinds in keys]
    common = Counter(keys[0][key] for key in keys[0].keys() & keys[1].keys())
    shared = {k: (common[k], counts[0][k], counts[1][k]) for k in counts[0] | counts[1]}
    others = [
        stage.length
        for place, stage in chains[0].items()
        if stage.kind in ("accumulate", "condense")
        and stage.length is not None
        and (place not in chains[1] or chains[1][place].key != stage.key)
    ]
    points = [{g.lineage: paired_gain(g).percent("+") for g in _points(r)} for r in runs]
    gains = {
        length: (points[0].get(length, "-"), points[1].get(length, "-"))
        for length in sorted({*points[0], *points[1]})
    }
    return Contrast(settings, shared, min(others, default=None), gains)


def watch(folder: Path, store: Path | None, pause: Callable[[float], None] = time.sleep) -> None:
    """Show a run that another process or machine computes, until all of it is there.

    Args:
        folder: the run's folder.
        store: its store; None: the one that it recorded.
        pause: waits so many seconds.

    Raises:
        UserError: the folder is no run's, or its store is not there.
    """
    run, facts = Reader(store).opened(folder), read_run(folder)
    settings = run.world.settings
    with Display(facts["scenario"], facts["profile"], facts["seed"], str(folder)) as display:
        outlook = Outlook([run], 1)
        points, chance = len(measured(settings)), 1 / settings.descend.classes_per_task
        display.expect(outlook.forecast, points, chance)
        shown: set[int] = set()
        while True:
            for point in _points(run):
                if point.lineage not in shown:
                    shown.add(point.lineage)
                    display.generation(point, settings.stream.tasks)
            if not run.missing():
                return
            pause(POLL)
            outlook.look()
