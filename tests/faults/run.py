"""`make test-faults`: damaged files of every kind, bad inputs, killed commands, failing disks.

It prints the tables of docs/reliability.md, and ends with 1 where a number would have been changed
silently, a result or a bad input was lost sight of, or Python's own traceback would have been
shown.
"""

from __future__ import annotations

import multiprocessing
import random
import shutil
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fuzz import fuzz, targets
from inputs import inputs
from kinds import Kind, kinds
from scenes import Scene, scenes, smallest, warm
from torch import Tensor
from trials import faults, kills

from evolve.core.errors import UserError
from evolve.core.machine import usable_cores

Rows = dict[str, Counter[str]]
WORK: list[Callable[[Path], Rows]] = []  # filled before the processes are forked that do it
FLIPS = 100  # of each kind of file
PARTS = 8  # in which every operation of a run fails once
KILLS = (60, 50, 30, 30, 30)  # of run, batch, gc, thinning, report
OF_FILES = {
    "refused or rebuilt": "refused",
    "no change": "equal",
    "another input": "other",
    "silent": "silent",
    "tracebacks": "traceback",
}
OF_COMMANDS = {
    "one line, then the same bytes": "refused",
    "the same bytes": "equal",
    "silent": "silent",
    "lost": "lost",
    "tracebacks": "traceback",
}
SEED = 20261128
LONGEST = 20  # seconds for one case


def told(value: Any) -> Any:
    """A value that can be compared."""
    if isinstance(value, dict):
        return {str(key): told(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [told(item) for item in value]
    if isinstance(value, (Tensor, np.ndarray)):
        return repr((value.dtype, tuple(value.shape), np.asarray(value).tobytes()))
    return repr(value)


def tried(call: Callable[[], Any]) -> tuple[str, Any]:
    """What became of a call: ("value", it), ("refused", the line) or ("traceback", the error)."""
    signal.alarm(LONGEST)
    try:
        return "value", told(call())
    except UserError as error:
        line = str(error)
        return ("refused" if line.isprintable() and len(line) < 2000 else "traceback"), line
    except Exception as error:
        return "traceback", repr(error)
    finally:
        signal.alarm(0)


def damaged(data: bytes, draw: random.Random) -> bytes:
    """A file with one byte changed; of ten, one is cut short and one has a byte more."""
    at = draw.randrange(len(data))
    how = draw.randrange(10)
    if how == 0:
        return data[:at]
    if how == 1:
        return data[:at] + bytes([draw.randrange(256)]) + data[at:]
    return data[:at] + bytes([data[at] ^ 1 << draw.randrange(8)]) + data[at + 1 :]


def flipped(kind: Kind, draw: random.Random, folder: Path) -> Counter[str]:
    """Damage a kind of file, each time a fresh one, and count what became of it."""
    pristine = folder / "pristine"
    pristine.mkdir()
    kind.make(pristine)
    (file,) = pristine.glob(kind.file)
    name, data = file.relative_to(pristine), file.read_bytes()
    expected = tried(lambda: kind.read(pristine))
    assert expected[0] == "value" and expected[1] != repr(None), (kind.name, expected)
    count: Counter[str] = Counter()
    for number in range(FLIPS):
        # Always the same path, which some of the values name.
        shutil.copytree(pristine, folder / "kept")
        (pristine / name).write_bytes(damaged(data, draw))
        what, value = tried(lambda: kind.read(pristine))
        if what == "value":
            what = "equal" if value == expected[1] else "silent" if kind.sealed else "other"
            what = "refused" if value == repr(None) else what
        if what in ("traceback", "silent"):
            print(f"{kind.name}, flip {number}: {what}: {str(value)[:300]}", file=sys.stderr)
        count[what] += 1
        shutil.rmtree(pristine)
        (folder / "kept").rename(pristine)
    return count


def refused(folder: Path) -> Counter[str]:
    """Give every bad input, and count what became of it."""
    count: Counter[str] = Counter()
    for name, call in inputs(folder):
        what, value = tried(call)
        what = "silent" if what == "value" else what
        if what != "refused":
            print(f"{name[:200]}: {what}: {str(value)[:300]}", file=sys.stderr)
        count[what] += 1
    return count


def flips(folder: Path) -> Rows:
    """Damage every kind of file, and give all bad inputs."""
    rows: Rows = {}
    for number, kind in enumerate(kinds()):
        (place := folder / str(number)).mkdir()
        draw = random.Random(f"{SEED} {kind.name}")
        rows[kind.name + (", sealed" if kind.sealed else "")] = flipped(kind, draw, place)
    (place := folder / "inputs").mkdir()
    return rows | {"bad inputs, a table": refused(place)}


def made_up(folder: Path) -> Rows:
    """Files that hypothesis makes up."""
    return {f"made up: {target[0]}": fuzz(target, tried) for target in targets(folder)}


def failing(scene: Scene, part: int, parts: int, folder: Path) -> Rows:
    """Let the file operations of a command fail."""
    return {f"failing disk: {scene.name}": faults(scene, folder, part, parts)}


def killed(scene: Scene, number: int, seed: str, folder: Path) -> Rows:
    """Kill a command."""
    return {f"killed: {scene.name}": kills(scene, folder, number, seed)}


def work() -> list[Callable[[Path], Rows]]:
    """All parts of the work; any may go beside any other."""
    parts: list[Callable[[Path], Rows]] = [flips, made_up]
    for scene in smallest():
        number = 1 if scene.cold else PARTS
        parts += [partial(failing, scene, part, number) for part in range(number)]
    for scene, number in zip(scenes(), KILLS, strict=True):
        for part in range(2):
            parts.append(partial(killed, scene, number // 2, f"{SEED} {scene.name} {part}"))
    return parts


def finished(number: int) -> Rows:
    """Do one part of the work in a folder of its own, and give its rows."""
    signal.signal(signal.SIGALRM, lambda signal_number, frame: 1 / 0)
    with tempfile.TemporaryDirectory() as place:
        return WORK[number](Path(place).resolve())


def table(rows: Mapping[str, Counter[str]], columns: Mapping[str, str]) -> None:
    """Print rows and their sum.

    Args:
        rows: counts by name.
        columns: what is counted, by heading.
    """
    print(f"| what | tried | {' | '.join(columns)} |")
    print("|---|" + "---|" * (1 + len(columns)))
    total = sum(rows.values(), Counter[str]())
    for name, counts in [*rows.items(), ("all", total)]:
        numbers = [counts.total(), *(counts[column] for column in columns.values())]
        print(f"| {name} | {' | '.join(f'{number:,}' for number in numbers)} |")
    print(flush=True)


def main() -> int:
    """Try all of it and print the tables."""
    torch.set_num_threads(1)
    rows: Rows = {}
    with tempfile.TemporaryDirectory() as place:
        warm(Path(place).resolve())
        WORK.extend(work())
        fork = multiprocessing.get_context("fork")  # what was made above is there in each
        with ProcessPoolExecutor(usable_cores(), fork) as crew:
            for part in crew.map(finished, range(len(WORK))):
                print(f"done: {', '.join(part)}", file=sys.stderr, flush=True)
                for name, counts in part.items():
                    rows[name] = rows.get(name, Counter()) + counts
    commands = {name: rows[name] for name in rows if name.startswith(("killed", "failing"))}
    table({name: rows[name] for name in rows if name not in commands}, OF_FILES)
    table(commands, OF_COMMANDS)
    total = sum(rows.values(), Counter[str]())
    return 1 if total["silent"] + total["lost"] + total["traceback"] else 0


if __name__ == "__main__":
    sys.exit(main())
