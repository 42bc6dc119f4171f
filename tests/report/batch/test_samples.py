"""Accuracy against images a class, and how many from-scratch needs to match."""

from __future__ import annotations

import math

import made
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evolve.report.batch.arms import arms
from evolve.report.batch.figure import batch_figure, write_figure
from evolve.report.batch.samples import matches, matching_shots, samples

SHOTS = (10, 100, 1000)


def level(value: float, spread: float = 0.02) -> list[list[float]]:
    """Three tasks around ``value``."""
    return [[value - spread], [value], [value + spread]]


def pairs(seeds: int = 2, whole: bool = False) -> list:
    """From scratch 30, 50, 70 %; inherited 40, 60, 80 %: half a decade ahead."""
    return [
        made.pair(
            "ours",
            seed,
            {"descend.shots": shots},
            made.generation(
                level(0.4 + 0.2 * place + 0.01 * seed),
                level(0.3 + 0.2 * place + 0.01 * seed),
                *([level(0.9), level(0.2)] if whole else []),
            ),
        )
        for place, shots in enumerate(SHOTS)
        for seed in range(seeds)
    ]


def test_rows_hold_the_means_over_seeds_and_tasks() -> None:
    measured = pairs()
    rows = samples(made.batch("samples", measured), measured).rows
    means = {(row["descendants"], row["shots"]): row["accuracy"] for row in rows}
    assert means == pytest.approx(
        {("inherited", s): 40.5 + 20 * n for n, s in enumerate(SHOTS)}
        | {("from-scratch", s): 30.5 + 20 * n for n, s in enumerate(SHOTS)}
    )
    assert all(row["low"] < row["accuracy"] < row["high"] and row["tasks"] == 6 for row in rows)


def test_matching_is_read_off_the_log_scale() -> None:
    """Half way up from 10 to 100 images stand the root of 1,000; tasks and seeds move together."""
    measured = pairs()
    (arm,) = arms(made.batch("samples", measured), measured)
    numbers = matches(arm)
    assert numbers[10] == pytest.approx((math.sqrt(1000),) * 3)
    assert numbers[100] == pytest.approx((math.sqrt(100_000),) * 3)
    assert numbers[1000] == (math.inf,) * 3
    words = samples(made.batch("samples", measured), measured).tables[1].rows
    assert [row.cells[1] for row in words] == [
        "32 [32, 32]",
        "316 [316, 316]",
        "more than 1000 [more than 1000, more than 1000]",
    ]


@given(
    st.lists(st.floats(0, 1), min_size=2, max_size=5, unique=True).map(sorted),
    st.floats(-0.1, 1.1),
)
def test_numpy_interpolates_rising_curves_alike(curve: list[float], goal: float) -> None:
    shots = [10 * 3**n for n in range(len(curve))]
    result = matching_shots(shots, np.array([goal]), np.array(curve)[:, None])[0]
    expected = math.exp(np.interp(goal, curve, np.log(shots), right=math.inf))
    assert result == pytest.approx(expected)


def test_the_whole_ancestor_stands_beside_its_own_architecture() -> None:
    measured = pairs(whole=True)
    rows = samples(
        made.batch("samples", measured, ("from-scratch", "full-ancestor")), measured
    ).rows
    means = {(row["method"], row["descendants"]): row["accuracy"] for row in rows}
    assert means["whole ancestor", "inherited"] == pytest.approx(90)
    assert means["whole ancestor", "from-scratch"] == pytest.approx(20)


def test_one_task_gives_no_interval_and_no_control_no_match() -> None:
    measured = [made.pair("ours", 0, {"descend.shots": 10}, made.generation([[0.5]], None))]
    shown = samples(made.batch("samples", measured), measured)
    assert [row["accuracy"] for row in shown.rows] == [50] and math.isnan(shown.rows[0]["low"])
    assert shown.tables[1].rows == ()


def test_files_hold_picture_and_numbers(tmp_path) -> None:
    measured = pairs(seeds=1)
    batch = made.batch("samples", measured)
    assert batch_figure(batch, []) is None  # nothing measured yet
    assert write_figure(batch, [], tmp_path) is None and not list(tmp_path.iterdir())
    assert write_figure(batch, measured, tmp_path) is not None
    files = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    starts = {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF", "csv": b"method,", "json": b"{"}
    assert {
        name.rpartition(".")[2]: text[: len(starts[name.rpartition(".")[2]])]
        for name, text in files.items()
    } == starts
    assert len(files["figure.csv"].splitlines()) == 1 + 6
    write_figure(batch, measured, tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == files
