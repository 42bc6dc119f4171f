"""What a batch does once, however many cases and events it has."""

from __future__ import annotations

from pathlib import Path

import pytest

from evolve.data import sources
from evolve.engine.scheduler import StageDone, StageProgress, StageStarted
from evolve.lineage import scenario
from evolve.runs.batch import file
from evolve.runs.batch.run import BatchRequest, BatchRun
from evolve.runs.screens.batch import BatchScreen

BATCH = """
scenario = "glyphs-seq25"
seeds = [0, 1]
[set]
stream.tasks = 2
data.glyph_train = 12
data.glyph_test = 6
ancestor.width = 0.0625
condense.images_per_class = 4
descend.shots = 6
[axes]
condense.method = ["fixed", "random"]
data.size = [8, 16]
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "b.toml").write_text(BATCH)
    return tmp_path / "b.toml"


def opened(path: Path) -> BatchRun:
    return BatchRun(
        BatchRequest(
            path.parent / "runs" / "b",
            path.parent / "store",
            device="cpu",
            workers=1,
            batch=file.load(str(path)),
        ),
        lambda text: None,
    )


def test_a_scenario_is_resolved_once_for_all_seeds(path, monkeypatch):
    read, load = [], scenario.load
    monkeypatch.setattr(scenario, "load", lambda *given: read.append(given) or load(*given))
    batch = file.load(str(path))
    assert len(batch.cases) == 8 and len(read) == 4
    assert [case.seed for case in batch.cases] == [0, 1] * 4 and len(
        {case.folder for case in batch.cases}
    ) == 8


def test_every_set_of_images_is_opened_once(path, monkeypatch):
    read, load = [], sources.load_images
    monkeypatch.setattr(
        sources, "load_images", lambda data, *given: read.append(data.size) or load(data, *given)
    )
    assert len(opened(path).runs) == 8
    assert sorted(read) == [8, 16]


def test_a_stage_of_several_cases_is_named_once_after_the_first(path):
    batch = opened(path)
    named = batch.stages()
    owners = batch.owners()
    assert len({stage.key for stage in named}) == len(named) == len(owners)
    assert all(stage.label.startswith(f"{owners[stage.key][0]}: ") for stage in named)
    alone = {stage.key: stage for _, run in batch.runs.values() for stage in run.stages()}
    assert all(
        (stage.recipe, stage.inputs, stage.priority)
        == (alone[stage.key].recipe, alone[stage.key].inputs, alone[stage.key].priority)
        for stage in named
    )
    assert any(len(folders) > 1 for folders in owners.values())


def test_an_event_names_no_stages(path, monkeypatch):
    batch = opened(path)
    stages = batch.stages()
    monkeypatch.setattr(BatchRun, "stages", lambda self: pytest.fail("named again"))
    with BatchScreen(batch) as screen:
        for stage in stages[:3]:
            screen.event(StageStarted(stage))
            screen.event(StageProgress(stage, 0.5, "half"))
            screen.event(StageDone(stage, 1.0, from_store=False))
        task = screen.progress.tasks[0]
        assert 0 < task.completed < task.total == 1 and "left" in task.fields["left"]
