"""Small runs of their own as a user begins them: the plain path beside the fast one, a stop by a
signal, a plan before anything is computed.
"""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import pytest
from commands import evolve, start
from test_small_lineage import TINY


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lineage")
    (folder / "tiny.toml").write_text(TINY)
    return folder


@pytest.mark.slow
def test_the_reference_path_is_a_run_of_its_own_and_resumes_as_one(place: Path) -> None:
    words = ["--set", "stream.tasks=1", "--set", "controls.shuffled=0"]
    runs = {}
    for name, more in (("fast", []), ("plain", ["--reference"])):
        done = evolve(
            "run", "--scenario", "tiny.toml", "--out", f"paths/{name}", *words, *more, cwd=place
        )
        assert done.returncode == 0, done.stderr
        runs[name] = place / "paths" / name
    assert [json.loads((run / "run.json").read_text())["reference"] for run in runs.values()] == [
        False,
        True,
    ]
    before = len(list((place / "paths" / "store" / "results").rglob("manifest.json")))
    again = evolve("resume", str(runs["plain"]), cwd=place)
    assert again.returncode == 0, again.stderr
    assert len(list((place / "paths" / "store" / "results").rglob("manifest.json"))) == before
    mixed = evolve("summary", str(runs["fast"]), str(runs["plain"]), cwd=place)
    assert mixed.returncode == 2 and "arithmetic" in mixed.stderr, (
        "results of two roundings are not pooled"
    )
    other = evolve("run", "--scenario", "tiny.toml", "--out", "paths/plain", *words, cwd=place)
    assert other.returncode == 2 and "reference" in other.stderr


@pytest.mark.slow
def test_sigterm_ends_as_cleanly_as_ctrl_c(place: Path) -> None:
    words = ["--out", "stopped/run", "--set", "ancestor.epochs=2000", "--workers", "1"]
    running = start("run", "--scenario", "tiny.toml", *words, cwd=place)
    partial = place / "stopped" / "store" / "partial"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not (partial.is_dir() and any(partial.iterdir())):
        time.sleep(0.2)
    running.send_signal(signal.SIGTERM)
    out, error = running.communicate(timeout=60)
    assert (
        running.returncode == 128 + signal.SIGTERM
        and "Continue with: evolve resume" in out
        and error.strip() == ""
    )


def test_plan_on_an_empty_store(place: Path) -> None:
    for words in (
        [],
        ["--set", "ancestor.batch=64", "--set", "descend.batch=64", "--set", "condense.batch=64"],
    ):
        plan = evolve("plan", "tiny.toml", "--out", "planned/run", *words, cwd=place)
        assert plan.returncode == 0, plan.stderr
        assert "left: about" in plan.stdout
