"""`make test-faults`: flips bytes in every kind of file, and gives a table of bad inputs.

It prints the table of docs/reliability.md, and ends with 1 where a number would have been changed
silently, a bad input was taken, or Python's own traceback would have been shown.
"""

from __future__ import annotations

import random
import shutil
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from inputs import inputs
from kinds import Kind, kinds
from torch import Tensor

from evolve.core.errors import UserError

FLIPS = 100  # of each kind of file
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


def main() -> int:
    """Try all of it and print the table."""
    rows: list[tuple[str, Counter[str]]] = []
    with tempfile.TemporaryDirectory() as place:
        for number, kind in enumerate(kinds()):
            folder = Path(place) / str(number)
            folder.mkdir()
            counts = flipped(kind, random.Random(f"{SEED} {kind.name}"), folder)
            rows.append((kind.name + (", sealed" if kind.sealed else ""), counts))
        table = Path(place) / "inputs"
        table.mkdir()
        rows.append(("bad inputs, a table", refused(table)))
    columns = ("refused", "equal", "other", "silent", "traceback")
    print("| what | tried | refused or rebuilt | no change | another input | silent | tracebacks |")
    print("|---|---|---|---|---|---|---|")
    total: Counter[str] = Counter()
    for name, counts in [*rows, ("all", total)]:
        total.update(counts if counts is not total else {})
        told_counts = " | ".join(f"{counts[column]:,}" for column in columns)
        print(f"| {name} | {counts.total():,} | {told_counts} |")
    return 1 if total["silent"] or total["traceback"] else 0


if __name__ == "__main__":
    signal.signal(signal.SIGALRM, lambda number, frame: 1 / 0)
    sys.exit(main())
