from __future__ import annotations

import math
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pictures import blank
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2

from evolve.core.errors import UserError
from evolve.report import figures
from evolve.report.curves import Descent, Generation, LineageRecord
from evolve.report.tensorboard import (
    ACCURACY,
    GAIN,
    HEADLINE,
    Board,
    scalars,
    write_tensorboard,
)


@pytest.fixture(autouse=True)
def small_images(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes most of the time; only the test that reads everything back needs real
    figures.
    """
    if "curve" not in request.node.name:
        monkeypatch.setattr(figures, "pixels", blank)


def descent(lineage: int, method: str, start: float) -> Descent:
    accuracy = (start, start + 0.1)
    return Descent(
        lineage,
        method,
        accuracy,
        accuracy,
        tuple((a / 2, a) for a in accuracy),
        ((1.0, 0.5),) * 2,
        (100,) * 2,
        (1, 2),
    )


def generation(t: int, start: float = 0.5) -> Generation:
    pair = descent(t, "inherited", start + 0.01 * t), descent(t, "from-scratch", 0.4)
    g = Generation(
        t,
        ("conv1",),
        ("conv1", "conv2"),
        (0.6, 0.4),
        ((1.0, 2.0), (0.5, 1.0)),
        0.1,
        "selected",
        "threshold",
        "8* M",
        *pair,
    )
    return replace(g, ancestor_accuracy=0.9, forgetting=0.1)


def record(lengths: range, seed: int = 3) -> LineageRecord:
    settings = {
        "ancestor": {"strategy": "naive", "lr": 0.1, "gamma": 0.5, "milestones": (0.5,)},
        "condense": {"method": "cka"},
    }
    generations = tuple(generation(t) for t in lengths)
    changes = ("ancestor.lr=0.1", "ancestor.milestones=[0.5]")
    return LineageRecord("toy", "full", seed, 9, generations, None, settings, changes=changes)


def read(folder: Path, run: str = "inherited") -> Any:
    accumulator = EventAccumulator(
        str(folder / run), size_guidance={"scalars": 0, "images": 0, "tensors": 0}
    )
    accumulator.Reload()
    return accumulator


def points(folder: Path, tag: str = ACCURACY, run: str = "inherited") -> list[tuple[int, float]]:
    """From text and numbers alike: step and value."""
    return [(event.step, round(event.value, 4)) for event in read(folder, run).Scalars(tag)]


def test_every_method_writes_the_curve_under_the_same_tag(tmp_path: Path) -> None:
    full = replace(
        generation(3),
        full_ancestor=descent(3, "full-ancestor", 0.8),
        full_scratch=descent(3, "from-scratch", 0.3),
    )
    lineage = replace(record(range(0, 3)), reference=descent(0, "from-scratch", 0.2))
    write_tensorboard(replace(lineage, generations=(*lineage.generations, full)), tmp_path)
    assert points(tmp_path) == [(t, 55.0 + t) for t in range(4)]
    assert points(tmp_path, run="from-scratch") == [(t, 45.0) for t in range(4)]
    assert points(tmp_path, run="whole-ancestor") == [(3, 85.0)]
    assert points(tmp_path, run="reference") == [(t, 25.0) for t in range(4)]
    assert points(tmp_path, GAIN) == [(t, 10.0 + t) for t in range(4)]
    assert points(tmp_path, GAIN, "whole-ancestor") == [(3, 50.0)]
    assert points(tmp_path, "3 ancestor/forgetting (points)", "ancestor") == [
        (t, 10.0) for t in range(4)
    ]
    assert {path.name for path in tmp_path.iterdir()} == {
        *("inherited", "from-scratch", "whole-ancestor", "reference", "ancestor", "summary")
    }
    back = read(tmp_path, "summary")
    assert back.Tags()["images"] == ["6 pictures/genome", "6 pictures/learning curves"]
    assert [event.step for event in back.Images("6 pictures/genome")] == [3]


def test_groups_are_numbered_and_units_stand_in_the_tags() -> None:
    tags = {tag for values in scalars(generation(1)).values() for tag in values}
    assert all(tag[0].isdigit() for tag in {*tags, *HEADLINE})
    assert min(tags).startswith("1 evolution curve/")
    assert all(tag.endswith(("(%)", "(points)")) for tag in tags if "learngene" not in tag)


def test_layout_names_only_tags_that_exist_and_draws_the_interval(tmp_path: Path) -> None:
    write_tensorboard(record(range(1, 3)), tmp_path)
    layout = layout_pb2.Layout()
    config = read(tmp_path, "summary").Tensors("custom_scalars__config__")[0]
    layout.ParseFromString(config.tensor_proto.string_val[0])
    margins = [
        s for category in layout.category for chart in category.chart for s in chart.margin.series
    ]
    assert len(margins) == 2
    for series in margins:
        assert {series.value, series.lower, series.upper} <= set(read(tmp_path).Tags()["scalars"])


def test_hparams_hold_what_differs_and_headline_and_no_experiment(tmp_path: Path) -> None:
    """Of several experiments TensorBoard would show one run's alone."""
    write_tensorboard(record(range(1, 5)), tmp_path)
    back = read(tmp_path, "summary")
    assert points(tmp_path, HEADLINE[0], "summary") == [(4, 12.5)]
    assert set(back.Tags()["scalars"]) <= set(HEADLINE), "each of its scalars is a metric"
    content = back.summary_metadata["_hparams_/session_start_info"].plugin_data.content
    assert b"ancestor.lr" in content and b"ancestor.milestones" in content
    assert b"condense.method" in content and b"ancestor.gamma" not in content
    assert "_hparams_/experiment" not in back.summary_metadata


def test_the_last_generation_has_pictures(tmp_path: Path) -> None:
    with Board(tmp_path, record(range(1, 4))) as board:
        for t in range(4, 10):
            board.add(generation(t))
    (image,) = read(tmp_path, "summary").Images("6 pictures/learning curves")
    assert image.step == 9
    assert [step for step, _ in points(tmp_path)] == list(range(1, 10))


def test_resume_shows_no_duplicate_points_on_a_fresh_tensorboard(tmp_path: Path) -> None:
    board = Board(tmp_path, record(range(1, 4)))
    del board  # a run that was killed: its file stays, unclosed
    with Board(tmp_path, record(range(1, 3))) as again:
        again.add(generation(3, 0.6))
        again.add(generation(4))
    assert points(tmp_path) == [(1, 56.0), (2, 57.0), (3, 68.0), (4, 59.0)]
    assert sum(path.stat().st_size > 0 for path in (tmp_path / "inherited").iterdir()) == 1


def test_running_tensorboard_follows_a_resume(tmp_path: Path) -> None:
    write_tensorboard(record(range(1, 4)), tmp_path)
    watching = read(tmp_path)
    with Board(tmp_path, record(range(1, 3))) as again:
        again.add(generation(3, 0.6))
    watching.Reload()
    assert [(e.step, round(e.value, 4)) for e in watching.Scalars(ACCURACY)] == [
        (1, 56.0),
        (2, 57.0),
        (3, 68.0),
    ]


def test_generations_that_come_out_of_order_are_shown_in_order(tmp_path: Path) -> None:
    with Board(tmp_path, record(range(0))) as board:
        for t in (1, 3, 2):
            board.add(generation(t))
        assert points(tmp_path) == [(t, 55.0 + t) for t in (1, 2, 3)]
        board.add(generation(0))
        board.add(generation(6))
        assert [step for step, _ in points(tmp_path)] == [0, 1, 2, 3]
    assert [step for step, _ in points(tmp_path)] == [0, 1, 2, 3, 6]


def test_only_our_files_are_removed(tmp_path: Path) -> None:
    names = (
        "events.out.tfevents.1.host.1.0",
        "notes.evolve",
        "deep/events.out.tfevents.1.h.1.0.evolve",
    )
    foreign = [tmp_path / name for name in names]
    (tmp_path / "deep").mkdir()
    for path in foreign:
        path.write_bytes(b"theirs")
    (tmp_path / "joint").mkdir()  # a control that this run no longer has
    ours = [
        tmp_path / "joint" / "events.out.tfevents.1.host.1.0.evolve",
        tmp_path / "joint" / "events.out.tfevents.2.host.1.0.evolve",
    ]
    ours[0].write_bytes(b"")
    os.utime(ours[0], (1, 1))
    ours[1].write_bytes(b"points of a killed run")
    write_tensorboard(record(range(1, 2)), tmp_path)
    assert all(path.read_bytes() == b"theirs" for path in foreign)
    assert not ours[0].exists() and ours[1].read_bytes() == b""


def test_fixed_selection_and_missing_numbers_are_left_out(tmp_path: Path) -> None:
    bare = replace(
        generation(1),
        alpha=(),
        scores=(),
        margin=math.nan,
        ancestor_accuracy=None,
        forgetting=None,
        status="fixed",
    )
    write_tensorboard(replace(record(range(0)), generations=(bare,)), tmp_path)
    assert points(tmp_path) == [(1, 56.0)]
    tags = read(tmp_path).Tags()["scalars"]
    assert [tag for tag in tags if tag.startswith("4")] == ["4 learngene/layers"]
    assert not (tmp_path / "ancestor").exists()


def test_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("x")
    with pytest.raises(UserError, match="taken"):
        Board(tmp_path / "taken", record(range(1)))
