from __future__ import annotations

import csv
import errno
import io
import json
import math
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pictures import sketches

from evolve.core.errors import UserError
from evolve.report import files as report
from evolve.report.convergence_figure import running_mean
from evolve.report.curves import Descent, Generation, LineageRecord
from evolve.report.genome_figure import genome_figure

LAYERS = ("conv1", "conv2", "conv3")


def descent(lineage: int, method: str, start: float) -> Descent:
    accuracy = tuple(start + 0.01 * i + 0.1 / 3 for i in range(3))
    return Descent(
        lineage,
        method,
        accuracy,
        accuracy,
        tuple((a / 2, a) for a in accuracy),
        ((1.0, 0.5),) * 3,
        (100,) * 3,
        (1, 2),
    )


def lineage(points: int = 4, seed: int = 0) -> LineageRecord:
    generations = []
    for t in range(points + 1):
        shuffled = descent(t, "shuffled", 0.4) if t % 2 else None
        status = "collapsed" if t == 2 else "selected"
        pair = (
            descent(t, "inherited", 0.5 + 0.01 * t + 0.001 * seed),
            descent(t, "from-scratch", 0.45),
        )
        scores, margin = ((0.5, 0.3, 0.2), 0.03) if t else ((), math.nan)
        alpha = ((1.0, 2.0),) * 3 if t else ()
        g = Generation(
            t,
            ("conv1", "conv3"),
            LAYERS,
            scores,
            alpha,
            margin,
            status,
            "threshold",
            "8* M",
            *pair,
            shuffled,
        )
        generations.append(replace(g, ancestor_accuracy=0.9 - 0.01 * t, forgetting=0.01 * t))
    reference = descent(0, "from-scratch", 0.44)
    return LineageRecord(
        "toy",
        "full",
        seed,
        6,
        tuple(generations),
        reference,
        {"data": {"split": (6, 2, 2)}},
        {"evolve": "0.1"},
    )


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_files_are_all_there_and_the_same_bytes_every_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = report.write_report([lineage(seed=1), lineage(seed=0)], tmp_path / "a" / "b")
    import matplotlib

    monkeypatch.setitem(matplotlib.rcParams, "font.size", 20)
    second = report.write_report([lineage(seed=0), lineage(seed=1)], tmp_path / "c")
    names = {
        "alpha.csv",
        "alpha.pdf",
        "alpha.png",
        "alpha.svg",
        "curve.png",
        "curve.svg",
        "genome.png",
        "generations.csv",
        "descendants.csv",
        "learning.csv",
        "summary.json",
    }
    assert (
        {path.name for path in first} == names == {path.name for path in (tmp_path / "c").iterdir()}
    )
    for path, other in zip(first, second, strict=True):
        assert path.read_bytes() == other.read_bytes(), path.name
    assert matplotlib.rcParams["font.size"] == 20


@pytest.mark.usefixtures("no_rendering")
def test_tables_hold_exactly_what_was_measured(tmp_path: Path) -> None:
    record = lineage()
    report.write_report(record, tmp_path)
    points = rows(tmp_path / "generations.csv")
    assert [int(row["lineage"]) for row in points] == [0, 1, 2, 3, 4]
    assert (
        points[1]["selected"] == "conv1 conv3"
        and float(points[1]["score conv2"]) == 0.3
        and points[0]["margin"] == ""
    )
    assert (
        float(points[3]["gain"]) == pytest.approx(8)
        and points[2]["shuffled"] == ""
        and points[2]["status"] == "collapsed"
    )
    single = rows(tmp_path / "descendants.csv")
    inherited = [row for row in single if row["lineage"] == "3" and row["method"] == "inherited"]
    assert [float(row["accuracy"]) for row in inherited] == [
        round(100 * accuracy, 10) for accuracy in record.generations[3].inherited.accuracy
    ]
    assert len(single) == 3 * (5 + 5 + 2 + 1) and {
        row["lineage"] for row in single if row["method"] == "reference"
    } == {""}
    assert len(rows(tmp_path / "learning.csv")) == 2 * len(single)


@pytest.mark.usefixtures("no_rendering")
def test_summary_is_strict_json_with_the_verdict(tmp_path: Path) -> None:
    report.write_report(replace(lineage(), generations=()), tmp_path)
    summary = json.loads(
        (tmp_path / "summary.json").read_text(), parse_constant=lambda name: pytest.fail(name)
    )
    assert "Too few" in summary["verdict"] and summary["summary"]["accuracy"]["slope"] is None
    assert summary["settings"] == {"data": {"split": [6, 2, 2]}}


@pytest.mark.parametrize("points", [0, 1, 2])
def test_partial_lineages_and_missing_controls_can_be_drawn(tmp_path: Path, points: int) -> None:
    record = lineage(points)
    bare = tuple(
        replace(g, shuffled=None, ancestor_accuracy=None, forgetting=None, margin=math.nan)
        for g in record.generations
    )
    report.write_report(replace(record, generations=bare, reference=None), tmp_path)
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")


def test_svg_speaks_the_papers_words_and_names_the_interval() -> None:
    from evolve.report import figures
    from evolve.report.pooling import summarise

    figure = figures.evolution_figure([lineage()], summarise([lineage()]))
    gain, axes = figure.axes[:2]
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    above = [text.get_text() for text in gain.get_legend().get_texts()]
    assert any("mean of 3 pairs, 95 % interval of the mean" in label for label in above)
    assert {"lineage 0: untrained ancestor", "from-scratch, same architecture"} <= set(above)
    assert {"inherited learngene", "from-scratch, same architecture", "shuffled learngene"} <= set(
        labels
    )
    assert "points" in figure.get_suptitle() and "seed 0" in gain.get_title(loc="left")
    begun = replace(lineage(), settings={"ancestor": {"checkpoint": "dino.pth"}})
    legend = figures.evolution_figure([begun], summarise([begun])).axes[0].get_legend()
    assert "lineage 0: pretrained ancestor" in [text.get_text() for text in legend.get_texts()]
    drawn = {line.get_label(): line for line in axes.lines}
    assert drawn["shuffled learngene"].get_ydata() == pytest.approx([44.333333, 44.333333])
    styles = [
        (str(line.get_linestyle()), line.get_marker())
        for name, line in drawn.items()
        if name in labels
    ]
    assert len(set(styles)) == len(styles)
    assert "%" in axes.get_ylabel() and "lineage length" in figure.axes[-1].get_xlabel()


def test_genome_marks_what_was_inherited_and_hatches_fallbacks() -> None:

    axes = genome_figure([lineage()]).axes[0]
    dots = {(int(x), int(y)) for line in axes.lines for x, y in line.get_xydata()}
    assert dots == {(t, row) for t in range(5) for row in (0, 2)}
    hatched = {round(patch.get_x() + 0.48) for patch in axes.patches if patch.get_hatch()}
    assert hatched == {2}


@pytest.mark.usefixtures("no_rendering")
def test_full_disk_is_one_line_and_the_old_file_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report.write_report(lineage(1), tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full(handle: int) -> Any:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(
        UserError,
        match=r"curve\.png: cannot be written \(No space left on device\); free some space",
    ) as caught:
        report.write_report(lineage(3), tmp_path)
    assert "\n" not in str(caught.value)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.usefixtures("no_rendering")
def test_folder_that_is_a_file_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("x")
    with pytest.raises(UserError, match="taken"):
        report.write_report(lineage(1), tmp_path / "taken")


@pytest.mark.usefixtures("no_rendering")
def test_files_agree_in_names_and_units(tmp_path: Path) -> None:
    """CSV, JSON and TensorBoard: a control has one name, an accuracy is in %, a gain in points."""
    from evolve.report.tensorboard import ACCURACY, GAIN, scalars

    record = lineage()
    files = report.render_report([record])
    table = list(csv.DictReader(io.StringIO(files["generations.csv"].decode())))
    boards = [scalars(g) for g in record.generations]
    for name in ("from-scratch", "shuffled"):
        cells = [row[name] and float(row[name]) for row in table]
        board = [values.get(name, {}).get(ACCURACY, "") for values in boards]
        assert cells == pytest.approx(board) and any(cell != "" for cell in cells)
    gains = [float(row["gain"]) for row in table]
    assert gains == pytest.approx([values["inherited"][GAIN] for values in boards])
    effects = {e["over"]: e for e in json.loads(files["summary.json"])["summary"]["effects"]}
    assert {"from-scratch", "shuffled"} <= set(effects)
    mean = sum(gains[1:]) / len(gains[1:])
    assert effects["from-scratch"]["interval"]["mean"] == pytest.approx(mean)


def test_a_text_is_no_formula_and_a_number_stays_one() -> None:
    rows = [{"=case": text, "x": -1.5} for text in ("=1+1", "+a", "-a", "@a", "a=b", "-")]
    read = list(csv.reader(io.StringIO(report.csv_bytes(rows).decode())))
    assert [row[0] for row in read] == ["'=case", "'=1+1", "'+a", "'-a", "'@a", "a=b", "'-"]
    assert {float(row[1]) for row in read[1:]} == {-1.5}


def test_the_genome_has_one_scale_sizes_and_fits_a_screen() -> None:
    seeds = [
        replace(
            lineage(seed=seed),
            generations=tuple(
                replace(g, sizes=(0.1, 0.2, 0.7), share=0.8) for g in lineage(seed=seed).generations
            ),
        )
        for seed in range(7)
    ]
    figure = genome_figure(seeds)
    assert figure.get_size_inches()[1] <= 7.5
    bar = figure.axes[-1]
    assert "1/L" in [text.get_text() for text in bar.texts]
    scores = [s for r in seeds for g in r.generations for s in g.scores if math.isfinite(s)]
    assert bar.get_ylim() == pytest.approx((min(scores), max(scores)))
    assert len([axes for axes in figure.axes if "seed" in axes.get_title(loc="left")]) == 7
    widths = [
        [p.get_width() for p in a.patches[:3]] for a in figure.axes if "weights" in a.get_xlabel()
    ]
    assert widths == [pytest.approx([10, 20, 70])]


def test_a_parquet_column_of_numbers_and_texts_is_one_of_texts():
    from pyarrow import BufferReader, parquet

    from evolve.report.files import parquet_bytes

    rows = [
        {"axis": 10, "value": 1, "x": math.nan},
        {"axis": "default", "value": 0.5, "flag": True},
    ]
    assert parquet.read_table(BufferReader(parquet_bytes(rows))).to_pylist() == [
        {"axis": "10", "value": 1.0, "x": None, "flag": None},
        {"axis": "default", "value": 0.5, "x": None, "flag": True},
    ]
    assert parquet_bytes(rows) == parquet_bytes(rows)


def course(length: int, number: int) -> dict[str, tuple[float, ...]]:
    """A condensation's curves: ``number`` stretches of three iterations, gradients that fall as
    1/T.
    """
    done = tuple(3.0 * (n + 1) for n in range(number))
    names = (
        "classification",
        "matching",
        "alpha_mean",
        "alpha_spread",
        "alpha_min",
        "alpha_max",
        "dead",
    )
    return {"iteration": done, "gradient": tuple((1 + length) / t for t in done)} | {
        name: tuple(1 / t for t in done) for name in names
    }


def test_the_condensers_course_is_drawn_where_there_is_one(tmp_path: Path) -> None:
    plain = lineage()
    followed = replace(
        plain,
        generations=tuple(replace(g, history=course(g.lineage, 7)) for g in plain.generations),
    )
    cka = replace(
        plain,
        generations=tuple(
            replace(g, history={"classification": (1.0, 0.5)}) for g in plain.generations
        ),
    )
    with sketches():
        written = report.write_report(cka, tmp_path / "cka")
    assert not {path.name for path in written} & {"convergence.png", "convergence.svg"}
    report.write_report(followed, tmp_path)
    assert (tmp_path / "convergence.png").stat().st_size > 10_000
    words = (tmp_path / "convergence.svg").read_text()
    assert "Theorem 1" in words and "lineage length" in words


def test_the_mean_of_the_gradients_so_far_counts_iterations_not_stretches() -> None:
    curves = {"iteration": np.array([1.0, 4.0]), "gradient": np.array([9.0, 1.0])}
    assert running_mean(curves).tolist() == [9.0, (9.0 + 3 * 1.0) / 4]
