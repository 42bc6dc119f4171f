"""What W&B and MLflow get: the same as TensorBoard, once, and never at the run's cost."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import test_tensorboard as board
from pictures import blank
from test_tensorboard import descent, generation, record

from evolve.report import figures
from evolve.report.curves import LineageRecord
from evolve.report.tensorboard import FOLDERS, HEADLINE, SUMMARY, scalars, write_tensorboard
from evolve.report.trackers import mlflow_runs
from evolve.report.trackers.mlflow_runs import metric_name
from evolve.report.trackers.tracker import Origin, Tracker
from evolve.runs.trackers import sink

Points = dict[tuple[str, str, int], float]  # run, tag, step -> value


class Memory:
    """A sink that keeps what it gets, and may fail at a step."""

    where = "memory"

    def __init__(self, origin: Origin, config: Mapping[str, Any], fails_at: int = 99) -> None:
        self.origin, self.config, self.fails_at = origin, config, fails_at
        self.calls: list[tuple[str, int, Mapping[str, float]]] = []
        self.words: Mapping[str, str] = {}

    def log(self, name: str, step: int, values: Mapping[str, float]) -> None:
        if step >= self.fails_at:
            raise ConnectionError("no route\nto host")
        self.calls.append((name, step, values))

    def end(
        self, step: int, values: Mapping[str, float], words: Mapping[str, str], picture: Path
    ) -> None:
        self.log(SUMMARY, step, values)
        self.words = words

    @property
    def points(self) -> Points:
        return {(run, tag, step): v for run, step, all in self.calls for tag, v in all.items()}


def full() -> LineageRecord:
    last = replace(
        generation(3),
        full_ancestor=descent(3, "full-ancestor", 0.8),
        full_scratch=descent(3, "from-scratch", 0.3),
    )
    whole = record(range(0, 3))
    return replace(whole, generations=(*whole.generations, last), lengths=(0, 1, 2, 3))


def origin(folder: Path) -> Origin:
    return Origin("0123456789abcdef", "toy-seed3", folder, {"case": "ours"})


def tracked(begun: LineageRecord, folder: Path, **memory: Any) -> tuple[Tracker, Memory, list[str]]:
    kept: list[Memory] = []

    def make(of: Origin, config: Mapping[str, Any]) -> Memory:
        kept.append(Memory(of, config, **memory))
        return kept[0]

    said: list[str] = []
    tracker = Tracker("memory", make, begun, origin(folder), said.append)
    return tracker, kept[0], said


def expected(done: LineageRecord) -> Points:
    return {
        (run, tag, g.lineage): value
        for g in done.generations
        for run, values in scalars(g, done.reference).items()
        for tag, value in values.items()
    }


def test_a_tracker_gets_the_runs_tags_steps_and_values_of_tensorboard(tmp_path, monkeypatch):
    monkeypatch.setattr(figures, "pixels", blank)
    done = replace(full(), reference=descent(0, "from-scratch", 0.2))
    write_tensorboard(done, tmp_path)
    shown = {
        (run, tag, event.step): event.value
        for run in FOLDERS
        if (tmp_path / run).exists()
        for tag in board.read(tmp_path, run).Tags()["scalars"]
        for event in board.read(tmp_path, run).Scalars(tag)
    }
    tracker, memory, said = tracked(replace(full(), generations=()), tmp_path)
    for g in done.generations:
        tracker.add(g)
    tracker.close(done)  # the reference is known at the end only
    assert memory.points == pytest.approx(shown) and not said
    assert "from-scratch" in memory.words["verdict"]
    assert memory.config["ancestor.lr"] == 0.1 and memory.config["case"] == "ours"
    assert memory.config["seed"] == 3


def test_generations_are_written_in_order_and_once(tmp_path):
    done = full()
    tracker, memory, _ = tracked(replace(done, generations=done.generations[:1]), tmp_path)
    for number in (2, 3, 1, 1):
        tracker.add(done.generations[number])
    tracker.close(done)
    steps = [step for run, step, _ in memory.calls if run == "inherited"]
    assert steps == [0, 1, 2, 3] and memory.points.items() >= expected(done).items()
    assert len(memory.calls) == len({(run, step) for run, step, _ in memory.calls})


def test_a_tracker_that_fails_is_one_line_and_nothing_goes_through(tmp_path):
    tracker, memory, said = tracked(replace(full(), generations=()), tmp_path, fails_at=1)
    for g in full().generations:
        tracker.add(g)
    tracker.close(full())
    assert {step for _, step, _ in memory.calls} == {0} and tracker.where is None
    assert len(said) == 1 and "(no route)" in said[0] and "--log memory failed" in said[0]


def test_one_that_cannot_be_opened_is_one_line(tmp_path):
    def refused(of: Origin, config: Mapping[str, Any]) -> Memory:
        raise PermissionError

    said: list[str] = []
    tracker = Tracker("memory", refused, full(), origin(tmp_path), said.append)
    tracker.close()
    assert len(said) == 1 and "PermissionError" in said[0]


def test_a_stop_goes_through(tmp_path):
    def stopped(of: Origin, config: Mapping[str, Any]) -> Memory:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Tracker("memory", stopped, full(), origin(tmp_path), lambda text: None)


def metrics(done: LineageRecord) -> Points:
    return {key: value for key, value in expected(done).items() if key[0] != SUMMARY}


def twice(name: str, folder: Path, stop: Callable[[], None] = lambda: None) -> None:
    """A run that stops after two generations, and the same one again to its end.

    Args:
        name: the tracker's.
        folder: the run's.
        stop: what the tracker does where a process ends.
    """
    done, said = full(), list[str]()
    (folder / "curve.png").write_bytes(PNG)
    begun = replace(done, generations=done.generations[:1])
    stopped = Tracker(name, sink(name), begun, origin(folder), said.append)
    stopped.add(done.generations[1])
    stop()
    resumed = replace(done, generations=done.generations[:2])
    tracker = Tracker(name, sink(name), resumed, origin(folder), said.append)
    for g in done.generations[2:]:
        tracker.add(g)
    tracker.close(done)
    stop()
    assert said == [] and tracker.where


# A white picture of 1 x 1 pixels.
PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108000000003a7e9b550000000a49444154789c63f80f"
    "00010101001bb6ee560000000049454e44ae426082"
)


def logged(file: Path) -> Iterator[Any]:
    """The records of a W&B file: LevelDB's log format after a head of 7 bytes."""
    from wandb.proto import wandb_internal_pb2

    data, at, whole = file.read_bytes(), 7, b""
    while at + 7 <= len(data):
        room = 32768 - at % 32768  # of this block; a header is not cut
        if room < 7:
            at += room
            continue
        _, size, kind = struct.unpack("<IHB", data[at : at + 7])
        whole += data[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # whole, or the last part
            read = wandb_internal_pb2.Record()
            read.ParseFromString(whole)
            yield read
            whole = b""


@pytest.mark.slow  # 4 s of CPU
def test_wandb_offline_holds_every_point_once_after_a_resume(tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    twice("wandb", tmp_path, wandb.teardown)
    points: Points = {}
    runs: dict[str, Any] = {}
    for file in tmp_path.glob("wandb/offline-run-*/*.wandb"):
        records = list(logged(file))
        (run,) = (r.run for r in records if r.HasField("run"))
        assert run.job_type not in runs, "the stopped run's files are gone"
        runs[run.job_type] = run
        for row in (r.history for r in records if r.HasField("history")):
            for item in row.item:
                key = item.key or item.nested_key[0]
                if len(item.nested_key) < 2 and not key.startswith("_"):
                    points[run.job_type, key, row.step.num] = float(item.value_json)
    assert {k: v for k, v in points.items() if k[0] != SUMMARY} == pytest.approx(metrics(full()))
    assert points[SUMMARY, HEADLINE[0], 3] == pytest.approx(12.0)
    assert {run.run_group for run in runs.values()} == {"toy-seed3"}
    config = {entry.key: entry.value_json for entry in runs["inherited"].config.update}
    assert config["condense.method"] == '"cka"' and config["case"] == '"ours"'
    assert len([*tmp_path.glob("wandb/*/files/media/images/**/*.png")]) == 1


def test_mlflow_holds_every_point_once_after_a_resume(tmp_path, monkeypatch):
    pytest.importorskip("mlflow")
    from mlflow.tracking import MlflowClient

    for variable, value in mlflow_runs.QUIET.items():
        monkeypatch.setenv(variable, value)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "store").as_uri())
    twice("mlflow", tmp_path)
    client = MlflowClient()
    (experiment,) = (e for e in client.search_experiments() if e.name == "evolve")
    runs = {
        run.data.tags[mlflow_runs.METHOD]: run
        for run in client.search_runs([experiment.experiment_id])
    }
    points = [
        ((name, key, point.step), point.value)
        for name, run in runs.items()
        for key in run.data.metrics
        for point in client.get_metric_history(run.info.run_id, key)
    ]
    assert len(points) == len(dict(points))
    renamed = {(n, metric_name(tag), s): value for (n, tag, s), value in metrics(full()).items()}
    assert {k: v for k, v in points if k[0] != SUMMARY} == pytest.approx(renamed)
    summary = runs.pop(SUMMARY)
    assert summary.data.metrics[metric_name(HEADLINE[0])] == pytest.approx(12.0)
    assert summary.data.params["condense.method"] == "cka" and summary.info.status == "FINISHED"
    assert [f.path for f in client.list_artifacts(summary.info.run_id)] == ["curve.png"]
    parents = {run.data.tags["mlflow.parentRunId"] for run in runs.values()}
    assert parents == {summary.info.run_id}


def test_mlflow_s_names_stay_apart_and_have_only_signs_that_it_takes():
    tags = {tag for _, tag, _ in expected(full())} | set(HEADLINE)
    names = {metric_name(tag) for tag in tags}
    assert len(names) == len(tags) and all(re.fullmatch(r"[\w\-. :/]+", name) for name in names)
    assert metric_name(board.ACCURACY) == "1 evolution curve/accuracy percent"
