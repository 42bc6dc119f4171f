"""`--log`: refused at once where it cannot work, and of no harm to a run where it stops working."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import tiny
from commands import evolve
from test_tensorboard import ACCURACY
from test_trackers import Memory

from evolve.cli import options
from evolve.report.trackers.tracker import Make, Origin
from evolve.runs import trackers

QUICK = {"stream.tasks": 1, "condense.method": "fixed", **tiny.NO_CONTROLS}


class Installed:
    origin = "there"


class Folder:
    origin = None  # a namespace package, such as the folder "wandb" that W&B itself leaves


@pytest.mark.parametrize("there", [None, Folder])
def test_a_missing_package_is_named_with_its_extra_before_anything(tmp_path, monkeypatch, there):
    monkeypatch.setattr(options, "find_spec", lambda name: there)
    done = evolve("run", "glyphs-seq25", "--log", "mlflow", cwd=tmp_path)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "pip install 'evolve-learngene[mlflow]'" in done.stderr and not [*tmp_path.iterdir()]


@pytest.mark.slow
def test_a_run_ends_well_beside_a_tracker_that_fails_in_the_middle(tmp_path, monkeypatch):
    kept: dict[str, Memory] = {}

    def make(name: str) -> Make:
        def opened(of: Origin, config: Mapping[str, Any]) -> Memory:
            kept[name] = Memory(of, config, fails_at=1 if name == "mlflow" else 99)
            return kept[name]

        return opened

    monkeypatch.setattr(trackers, "sink", make)
    monkeypatch.setattr(options, "find_spec", lambda name: Installed)
    (tmp_path / "t.toml").write_text(tiny.toml(QUICK))
    done = evolve("run", "t.toml", "--out", "a", "--log", "wandb", "--log", "mlflow", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("--log mlflow failed") == 1 and "wandb        memory" in done.stdout
    rows = {int(row["lineage"]): float(row["mean"]) for row in tiny.rows(tmp_path / "a")}
    curve = {
        step: value
        for (run, tag, step), value in kept["wandb"].points.items()
        if (run, tag) == ("inherited", ACCURACY)
    }
    assert curve == pytest.approx(rows) and len(rows) == 2
    assert {step for _, step, _ in kept["mlflow"].calls} == {0}
    assert (tmp_path / "a" / "report.html").exists() and kept["wandb"].words
    first = kept["wandb"].origin
    (tmp_path / "a").rename(tmp_path / "moved")
    assert evolve("resume", "moved", "--log", "wandb", cwd=tmp_path).returncode == 0
    again = kept["wandb"]
    assert (
        again.origin.key == first.key
        and again.points.items()
        >= {("inherited", ACCURACY, step): value for step, value in curve.items()}.items()
    )
