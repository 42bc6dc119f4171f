"""kill -9 at random moments, then the same command: nothing finished is redone and every number is
the uninterrupted run's.
"""

from __future__ import annotations

import random
import signal
import time
from pathlib import Path

import pytest
from commands import evolve_process, start
from test_small_lineage import TINY

pytestmark = pytest.mark.slow
COMMAND = ["run", "--scenario", "tiny.toml", "--workers", "2", "--out"]


def results(place: Path, store: str) -> dict[str, int]:
    return {
        p.parent.name: p.stat().st_mtime_ns
        for p in (place / store / "results").rglob("manifest.json")
    }


def test_killed_runs_end_in_the_same_bytes(tmp_path: Path) -> None:
    (tmp_path / "tiny.toml").write_text(TINY.replace("ancestor.epochs = 2", "ancestor.epochs = 12"))
    assert evolve_process(*COMMAND, "whole/run", cwd=tmp_path).returncode == 0
    draw = random.Random(7)
    for _ in range(6):
        before = results(tmp_path, "cut/store") if (tmp_path / "cut").exists() else {}
        running = start(*COMMAND, "cut/run", cwd=tmp_path)
        time.sleep(draw.uniform(4, 16))
        running.send_signal(signal.SIGKILL)
        running.communicate()
        after = results(tmp_path, "cut/store")
        assert before.items() <= after.items()
    done = evolve_process(*COMMAND, "cut/run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for name in ("generations.csv", "descendants.csv", "summary.json", "curve.svg", "genome.png"):
        assert (tmp_path / "cut/run" / name).read_bytes() == (
            tmp_path / "whole/run" / name
        ).read_bytes(), name
    assert not list((tmp_path / "cut/store/partial").iterdir())
    assert not [p for p in (tmp_path / "cut/store/tmp").iterdir() if p.is_dir()]


def test_two_runs_on_one_store_at_once(tmp_path: Path) -> None:
    (tmp_path / "tiny.toml").write_text(TINY)
    pair = [start(*COMMAND, f"runs/{n}", "--store", "shared", cwd=tmp_path) for n in "ab"]
    for process in pair:
        process.communicate(timeout=400)
    assert [process.returncode for process in pair] == [0, 0]
    assert (tmp_path / "runs/a/generations.csv").read_bytes() == (
        tmp_path / "runs/b/generations.csv"
    ).read_bytes()
