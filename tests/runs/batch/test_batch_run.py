"""A whole batch as a user runs it: the ancestor trained once, failures that stay in their case, the
table, a repetition.
"""

from __future__ import annotations

import csv
import json
from pathlib import Path

import commands
import pytest
import tiny
from commands import Done

pytestmark = pytest.mark.slow

SETTINGS = {
    "ancestor.lr": 0.01,
    "ancestor.batch": 64,  # a task is one step: the wild case fails in its second
    "condense.images_per_class": 4,
    "descend.epochs": 2,
    "descend.test_every": 1,
    "descend.descendants": 3,
    "controls.shuffled": 1,
}
BATCH = f"""
title = "tiny"
scenario = "glyphs-seq25"
seeds = [0, 1, 2]
[set]
{tiny.toml(SETTINGS)}
[axes]
condense.fixed_set = ["paper", "front", "last"]
condense.method = ["fixed"]
condense.top_k = [3]
[[case]]
name = "wild"
condense.method = "random"
ancestor.lr = 1e30
[report]
method = "condense.fixed_set"
reference = "paper"
controls = ["from-scratch"]
figure = "convergence"
"""


def evolve(folder: Path, *words: str) -> Done:
    return commands.evolve_process(
        *words, cwd=folder, env={"EVOLVE_STORE": str(folder / "store"), "COLUMNS": "160"}
    )


@pytest.fixture(scope="module")
def done(tmp_path_factory) -> tuple[Path, Done]:
    folder = tmp_path_factory.mktemp("batch")
    (folder / "tiny.toml").write_text(BATCH)
    return folder, evolve(folder, "batch", "tiny.toml", "--workers", "2")


def results(folder: Path, kind: str) -> set[str]:
    return {path.name for path in (folder / "store" / "results" / kind).glob("*/*")}


def test_methods_share_the_ancestor(done):
    folder, _ = done
    # Per seed: an untrained ancestor and two tasks, once for three methods; the wild case adds its
    # own first task.
    assert len(results(folder, "accumulate")) == 3 * (3 + 1)


def test_a_case_that_fails_ends_alone_and_the_exit_code_says_so(done):
    folder, run = done
    assert run.returncode == 1
    last = run.stderr.strip().splitlines()[-1]
    assert "3 of 12 lineages unfinished" in last and "wild-seed0" in last and "ancestor.lr" in last
    for name in ("paper", "front", "last"):
        for seed in range(3):
            case = next(folder.glob(f"runs/tiny-paper/*{name}*-seed{seed}"))
            assert (
                (case / "curve.png").exists()
                and (case / "generations.csv").exists()
                and list((case / "tensorboard").iterdir())
            )


def test_the_table_has_every_method_and_the_control(done):
    folder, run = done
    out = folder / "runs" / "tiny-paper"
    rows = json.loads((out / "table.json").read_text())["accuracy"]
    assert [row["method"] for row in rows][:3] == ["paper", "front", "last"] and rows[-1][
        "method"
    ] == "from-scratch"
    assert rows[0]["is_reference"] and rows[1]["difference"]["seeds"] == 3
    text = (out / "table.md").read_text()
    assert "| front |" in text and "minus paper" in text and "front" in run.stdout
    assert r"\begin{tabular}" in (out / "table.tex").read_text()


def test_a_batch_of_several_condensers_ends_in_what_they_cost(done):
    folder, run = done
    with open(folder / "runs" / "tiny-paper" / "cost.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["condenser"] != "wild"]
    assert len(rows) == 3 and {row["lineages"] for row in rows} == {"3"}
    assert len({row["ancestor"] for row in rows}) == 1, "they share it"
    assert float(rows[0]["ancestor"]) > 0 and float(rows[0]["gradient_statistics"]) == 0
    assert "| condenser | lineages |" in run.stdout
    manifests = (folder / "store" / "results" / "accumulate").glob("*/*/manifest.json")
    spent = [json.loads(path.read_text())["provenance"]["spent"] for path in manifests]
    counted = [took["parts"]["gradient statistics"] for took in spent if "parts" in took]
    assert len(counted) == 3 * (2 + 1) and min(counted) > 0, "every task that trains"


def test_it_ends_in_its_picture_of_the_cases_that_there_are(done):
    folder, run = done
    out = folder / "runs" / "tiny-paper"
    assert all((out / f"figure.{kind}").stat().st_size > 500 for kind in ("png", "svg", "pdf"))
    rows = json.loads((out / "figure.json").read_text())["rows"]
    with open(out / "figure.csv", newline="") as file:
        assert [float(row["accuracy"]) for row in csv.DictReader(file)] == [
            row["accuracy"] for row in rows
        ]
    table = {row["method"]: row for row in json.loads((out / "table.json").read_text())["accuracy"]}
    ends = {
        row["method"]: row["accuracy"]
        for row in rows
        if row["epoch"] == 2 and row["descendants"] == "inherited"
    }
    assert ends.keys() >= {"paper", "front", "last"}
    assert ends == pytest.approx({name: table[name]["interval"]["mean"] for name in ends})
    page = (out / "report.html").read_text()
    caption = json.loads((out / "figure.json").read_text())["caption"]
    assert f"<figcaption>{caption}</figcaption>" in page and "area under the curve" in page
    assert "area under the curve" in run.stdout and "figure.png" in run.stdout


def test_the_long_form_reproduces_the_table(done):
    folder, _ = done
    out = folder / "runs" / "tiny-paper"
    with open(out / "descendants.csv", newline="") as file:
        rows = [
            row
            for row in csv.DictReader(file)
            if row["condense.fixed_set"] == "front"
            and row["method"] == "inherited"
            and int(row["lineage"]) > 0
        ]
    assert len(rows) == 3 * 2 * 3
    table = {row["method"]: row for row in json.loads((out / "table.json").read_text())["accuracy"]}
    assert table["front"]["interval"]["mean"] == pytest.approx(
        sum(float(row["accuracy"]) for row in rows) / len(rows)
    )


def test_the_parquet_file_is_the_long_form(done):
    """CSV has texts only; Parquet has the types, and null where nothing was measured."""
    from pyarrow import parquet

    out = done[0] / "runs" / "tiny-paper"
    records = parquet.read_table(out / "descendants.parquet").to_pylist()
    with open(out / "descendants.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [type(records[0][name]) for name in ("case", "seed", "accuracy")] == [str, int, float]
    assert [
        {name: "" if value is None else str(value) for name, value in row.items()}
        for row in records
    ] == rows


def test_a_repetition_computes_nothing_and_changes_no_file(done):
    folder, _ = done
    out = folder / "runs" / "tiny-paper"
    before = {path: path.read_bytes() for path in out.glob("table.*")}
    again = evolve(
        folder, "batch", "tiny.toml", "--workers", "1", "--set", "ancestor.lr=0.01"
    )  # the wild case's own
    assert again.returncode == 2 and "the cases of" in again.stderr
    again = evolve(folder, "batch", "tiny.toml", "--workers", "1", "--set", "condense.lr=0.02")
    assert again.returncode == 2 and "holds another run" in again.stderr
    again = evolve(folder, "batch", "tiny.toml", "--workers", "1")
    assert again.returncode == 1 and "accumulate 1 " not in again.stdout
    assert before == {path: path.read_bytes() for path in out.glob("table.*")}


def test_plan_counts_what_is_shared(done):
    folder, _ = done
    plan = evolve(folder, "batch", "plan", "tiny.toml")
    assert plan.returncode == 0 and "12 lineages" in plan.stdout and "sharing saves" in plan.stdout
    line = next(line for line in plan.stdout.splitlines() if line.startswith("accumulate"))
    assert line.split()[1:3] == ["36", "15"]
