"""Records what the engine told of a run, for the tests of the time left.

    python -m tests.runs.recorded.record OUT.json run --scenario glyphs-seq25 --profile quick ...

Runs that command of `evolve` in this process and writes, with seconds since its begin: every list
of stages that the forecast got, and every event. Keys are numbers, in the order of appearance.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from evolve.cli.main import cli
from evolve.runs.estimate.forecast import Forecast


def main(out: Path, words: list[str]) -> None:
    """Run `evolve WORDS` and write what its forecast was told."""
    told: list[list[Any]] = []
    numbers: dict[str, int] = {}
    begun = time.monotonic()

    def note(name: str, *content: Any) -> None:
        told.append([round(time.monotonic() - begun, 2), name, *content])

    def number(key: str) -> int:
        return numbers.setdefault(key, len(numbers))

    class Recording(Forecast):
        def plan(self, items: Any, unnamed: Any) -> None:
            listed = list(items)
            note("plan", [_row(item, number) for item in listed], dict(unnamed), self._workers)
            super().plan(listed, unnamed)

        def started(self, key: str) -> None:
            note("started", number(key))
            super().started(key)

        def progress(self, key: str, fraction: float) -> None:
            note("progress", number(key), round(fraction, 3))
            super().progress(key, fraction)

        def finished(self, key: str, seconds: float) -> None:
            note("finished", number(key), round(seconds, 2))
            super().finished(key, seconds)

    import evolve.runs.estimate.outlook as outlook

    outlook.Forecast = Recording  # type: ignore[misc]
    cli.main(words, standalone_mode=False)
    out.write_text(json.dumps(_thinned(told)) + "\n")


def _row(item: Any, number: Any) -> list[Any]:
    inputs = [number(key) for key in item.inputs]
    return [number(item.key), item.kind, round(item.expected, 3), inputs, item.done]


def _thinned(told: list[list[Any]]) -> list[list[Any]]:
    """Plans as what changed since the one before: the rows that are new or other."""
    last: dict[int, list[Any]] = {}
    for line in told:
        if line[1] == "plan":
            line[2] = [row for row in line[2] if last.get(row[0]) != row]
            last |= {row[0]: row for row in line[2]}
    return told


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
