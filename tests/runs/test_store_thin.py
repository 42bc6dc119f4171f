"""Thinned lineages: reports that do not differ, snapshots that come back when they are needed, runs
that share a store.

Small and real.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from commands import evolve
from pictures import sketches
from tiny import PERFORM

from evolve.cli.gene import export
from evolve.core import toml
from evolve.core.errors import UserError
from evolve.engine.engine import run_stages
from evolve.engine.store import Stage, Store
from evolve.lineage import perform, restore, scenario
from evolve.report.curves import LineageRecord
from evolve.report.files import write_report
from evolve.runs.garbage import census
from evolve.runs.run import Run, prepare_folder, run_record
from evolve.runs.screens.summary import summarise_runs
from evolve.runs.snapshots import TENSORS, thin

TINY = tiny.toml(
    {
        "name": "tiny",
        "data.glyph_train": 8,
        "stream.tasks": 4,
        "ancestor.augment": [],
        "condense.method": "fixed",
        "descend.shots": 4,
        "descend.augment": [],
        **tiny.NO_CONTROLS,
    }
)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("thin")
    (folder / "tiny.toml").write_text(TINY)
    return folder


def opened(place: Path, out: str, *overrides: str) -> Run:
    run = tiny.opened(
        place / "tiny.toml", place / out, place / out.split("/")[0] / "store", *overrides
    )
    run.request.out.mkdir(parents=True, exist_ok=True)
    prepare_folder(run, ["evolve"])
    return run


def finish(run: Run) -> list[str]:
    """Compute, report and thin, as a session does, in this process."""
    with sketches():
        write_report([tiny.computed(run)], run.request.out)
    return thin(run.store, [run.world])


def whole(run: Run) -> list[int]:
    """The tasks after which the snapshot is whole; every one has its record."""
    results = [
        (stage.recipe["task"], run.store.get(stage.key))
        for stage in run.stages()
        if stage.kind == "accumulate"
    ]
    assert all(result is not None for _, result in results)
    return [task for task, result in results if result is not None and not result.thinned]


def numbers(run: Run) -> list[bytes]:
    return [
        (run.request.out / name).read_bytes()
        for name in (
            "generations.csv",
            "descendants.csv",
            "learning.csv",
            "summary.json",
            "curve.svg",
            "genome.png",
        )
    ]


@pytest.fixture(scope="module")
def kept(place: Path) -> Run:
    run = opened(place, "kept/run")
    assert finish(run) == [] and whole(run) == [0, 1, 2, 3, 4]
    return run


@pytest.fixture(scope="module")
def thinned(place: Path) -> Run:
    run = opened(place, "thinned/run", 'ancestor.keep="last"')
    (line,) = finish(run)
    assert line.startswith("4 snapshots") and whole(run) == [4]
    return run


def record(run: Run) -> LineageRecord:
    again = Run(run.request, run.world, run.store, run.context, {})
    return run_record(again)


def test_a_thinned_run_reports_what_the_whole_one_reports(kept: Run, thinned: Run) -> None:
    assert numbers(thinned) == numbers(kept)
    assert (
        record(thinned).generations == record(kept).generations
        and len(record(kept).generations) == 5
    )
    with sketches():
        write_report([record(thinned)], thinned.request.out)  # from the store as it is now
    assert numbers(thinned) == numbers(kept)


def test_keep_changes_no_key(kept: Run, thinned: Run) -> None:
    assert [stage.key for stage in kept.stages()] == [stage.key for stage in thinned.stages()]


def test_another_condenser_on_thinned_snapshots_gets_the_same_numbers(
    place: Path, kept: Run, thinned: Run
) -> None:
    other = ("condense.method=random", "condense.top_k=3")
    expected = opened(place, "kept/random", *other)
    finish(expected)
    run = opened(place, "thinned/random", *other, 'ancestor.keep="last"')
    computed: list[str] = []
    run_stages(
        run.stages,
        run.store.root,
        PERFORM,
        run.context,
        0,
        lambda event: computed.append(type(event).__name__),
    )
    assert whole(run) == [0, 1, 2, 3, 4]  # computed anew on the way
    assert finish(run) != [] and whole(run) == [4]
    assert numbers(run) == numbers(expected)
    summarise_runs([run.request.out], None)  # reads the records of thinned snapshots


def test_thinning_beside_a_recomputation_and_a_damaged_link_behind_it(
    place: Path, thinned: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(thinned.store.root, place / "broken" / "store")
    run = opened(place, "broken/run", "condense.method=random", 'ancestor.keep="last"')
    condense = {s.length: s for s in run.stages() if s.kind == "condense"}
    dropped: list[str] = []

    def beside(store: Store, key: str, compute: Any) -> Any:
        result = restore.whole(store, key, compute)
        if key in condense[1].inputs.values() and len(dropped) < 2:
            dropped.append(key)
            store.thin(key, TENSORS, "another run is done")
        return result

    def compute(stage: Stage) -> None:
        run_stages(lambda: [stage], run.store.root, PERFORM, run.context, 0, lambda event: None)

    with monkeypatch.context() as patched:
        patched.setattr(perform, "whole", beside)
        compute(condense[1])
    assert len(dropped) == 2 and run.store.has(condense[1].key)
    lost = next(s for s in run.stages() if s.kind == "accumulate" and s.recipe["task"] == 2)
    folder = run.store.folder.find(lost.key)
    assert folder is not None
    (folder / "result.json").write_text("{")
    with pytest.raises(UserError, match=r"damaged.*is set aside: `evolve resume`") as caught:
        compute(condense[3])
    assert "\n" not in str(caught.value)


def test_a_full_gpu_ends_in_one_line_and_puts_nothing(
    place: Path, kept: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = opened(place, "kept/other", "ancestor.epochs=2")
    stage = next(stage for stage in run.missing() if stage.kind == "accumulate")

    def full(*given: Any) -> Any:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(perform, "accumulate_outcome", full)
    with pytest.raises(UserError, match="GPU's memory is full: give --workers 1") as caught:
        run_stages(lambda: [stage], run.store.root, PERFORM, run.context, 0, lambda event: None)
    assert "\n" not in str(caught.value) and not run.store.has(stage.key)


def test_only_the_last_whole_one_before_is_gone_back_to(place: Path) -> None:
    run = opened(place, "every/second", "ancestor.keep=2")
    finish(run)
    assert whole(run) == [0, 2, 4]
    shorter = opened(
        place,
        "every/third",
        "stream.tasks=3",
        'ancestor.keep="last"',
        "condense.method=random",
        "controls.untrained=false",
    )
    stages = [stage for stage in shorter.stages() if "3" in stage.label]
    run_stages(lambda: stages, run.store.root, PERFORM, shorter.context, 0, lambda event: None)
    assert whole(run) == [0, 2, 3, 4]  # 3 from 2; 1 was not needed


def test_runs_that_keep_differently_do_not_hurt_each_other(place: Path) -> None:
    everything, sparing = (
        opened(place, "shared/all"),
        opened(place, "shared/last", 'ancestor.keep="last"'),
    )
    assert finish(sparing) == [] and whole(sparing) == [
        0,
        1,
        2,
        3,
        4,
    ]  # the other one keeps them, and has nothing left to compute
    (everything.request.out / "run.json").unlink()
    unfinished = opened(place, "shared/open", "condense.method=random", "ancestor.keep=3")
    assert thin(sparing.store, [sparing.world]) == []  # it still needs every snapshot
    finish(unfinished)
    assert whole(sparing) == [0, 3, 4]
    assert len(census(sparing.store).runs) == 2


def test_a_run_that_cannot_be_read_keeps_everything(place: Path) -> None:
    run = opened(place, "unreadable/run", 'ancestor.keep="last"')
    (run.store.root / "runs" / "other.json").write_text("{")
    (line,) = finish(run)
    assert "no snapshot was thinned" in line and "other" in line and whole(run) == [0, 1, 2, 3, 4]


def test_exporting_a_thinned_snapshot_says_why_not(thinned: Run, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r'after task 1 was thinned \(ancestor.keep = "last"\)'):
        export(
            f"{thinned.request.out}@1",
            tmp_path / "x.safetensors",
            {"data_dir": None, "store": None, "device": "cpu"},
            False,
        )
    export(
        f"{thinned.request.out}@4",
        tmp_path / "x.safetensors",
        {"data_dir": None, "store": None, "device": "cpu"},
        False,
    )


@pytest.mark.parametrize(
    ("value", "good"),
    [
        ('"all"', True),
        ('"last"', True),
        ("3", True),
        ("0", False),
        ("true", False),
        ("2.5", False),
        ('"some"', False),
    ],
)
def test_what_keep_may_be(place: Path, value: str, good: bool) -> None:
    if good:
        chosen = scenario.load(str(place / "tiny.toml"), "paper", [f"ancestor.keep={value}"])
        (place / "dumped.toml").write_text(toml.dump(chosen.settings))
        assert scenario.load(str(place / "dumped.toml")).settings == chosen.settings
    else:
        with pytest.raises(
            UserError, match=r"ancestor.keep = .*all, last, or a number, at least 1"
        ):
            scenario.load(str(place / "tiny.toml"), "paper", [f"ancestor.keep={value}"])


def said_by(words: Sequence[str], cwd: Path) -> str:
    done = evolve(*words, cwd=cwd)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def test_the_command_line_registers_thins_lists_and_collects(tmp_path: Path) -> None:
    (tmp_path / "tiny.toml").write_text(TINY)
    output = said_by(
        [
            "run",
            "--scenario",
            "tiny.toml",
            "--out",
            "far/run",
            "--store",
            "s",
            "--set",
            "ancestor.keep=3",
        ],
        tmp_path,
    )
    assert "2 snapshots were thinned" in output
    assert "far/run" in said_by(
        ["store", "--store", "s"], tmp_path
    )  # by its card: it does not lie beside the store
    assert "nothing that no run refers to" in said_by(
        ["store", "gc", "--store", "s", "--yes"], tmp_path
    )
    output = said_by(["resume", "far/run"], tmp_path)
    assert (
        "thinned" not in output
        and json.loads((tmp_path / "far" / "run" / "summary.json").read_text())["summary"]
    )


def test_opening_the_store_leaves_the_checkpoint_of_a_thinned_result(tmp_path: Path) -> None:
    """It may be under computation again; of a whole result the checkpoint is rubbish, unless
    somebody holds the stage.
    """
    store = Store(tmp_path)
    stage = Stage("accumulate", "a", {"x": 1}, {})
    store.put(stage, {}, {"ancestor": {"w": torch.ones(2)}}, {})
    store.checkpoint(stage.key).save({"w": torch.ones(2)}, {"epoch": 1})
    with store.lock(stage.key):
        Store(tmp_path)
    assert store.checkpoint(stage.key).load() is not None
    store.thin(stage.key, ["ancestor"], "why")
    Store(tmp_path)
    assert store.checkpoint(stage.key).load() is not None
    store.put(stage, {}, {"ancestor": {"w": torch.ones(2)}}, {})
    Store(tmp_path)
    assert store.checkpoint(stage.key).load() is None
