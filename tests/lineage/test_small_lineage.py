"""A whole lineage of three tasks, run as a user runs it: files, equality over workers and resumes,
controls, errors.
"""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import tiny
from commands import SKETCHING, environment, evolve, evolve_process
from tiny import rows

TINY = tiny.toml(
    {
        "data.glyph_test": 10,
        "stream.tasks": 3,
        "ancestor.epochs": 2,
        "ancestor.augment": ["crop"],
        "condense.meta_lr": 0.003,
        "condense.augment": ["crop"],
        "descend.epochs": 2,
        "descend.augment": ["crop"],
    }
)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lineage")
    (folder / "tiny.toml").write_text(TINY)
    return folder


@pytest.fixture(scope="module")
def finished(place: Path) -> Path:
    """One run with two workers and every control."""
    words = ["--set", "controls.joint=3", "--set", "controls.full_ancestor=3"]
    done = evolve_process(
        "run", "--scenario", "tiny.toml", "--out", "runs/two", "--workers", "2", *words, cwd=place
    )
    assert done.returncode == 0, done.stderr
    assert "picture" in done.stdout and "tensorboard" in done.stdout
    return place / "runs" / "two"


def test_a_run_leaves_what_the_readme_promises(finished: Path) -> None:
    for name in (
        "curve.png",
        "curve.svg",
        "genome.png",
        "generations.csv",
        "descendants.csv",
        "summary.json",
        "scenario.toml",
        "run.json",
    ):
        assert (finished / name).stat().st_size > 0, name
    assert [int(row["lineage"]) for row in rows(finished)] == [0, 1, 2, 3]
    assert len(list((finished / "learngenes").glob("*.safetensors"))) == 4
    assert list((finished / "tensorboard").rglob("events.out.tfevents.*"))
    json.loads((finished / "summary.json").read_text())


def test_every_control_is_measured(finished: Path) -> None:
    methods = {row["method"] for row in rows(finished, "descendants.csv")}
    assert methods == {
        "inherited",
        "from-scratch",
        "shuffled",
        "joint",
        "whole-ancestor",
        "whole-ancestor from-scratch",
        "reference",
    }


def stamps(place: Path) -> dict[Path, int]:
    """When each result of the store was written."""
    return {
        path: path.stat().st_mtime_ns
        for path in (place / "runs" / "store" / "results").rglob("manifest.json")
    }


def test_the_same_command_again_computes_nothing(finished: Path, place: Path) -> None:
    before, table = stamps(place), (finished / "generations.csv").read_bytes()
    again = evolve("resume", str(finished), cwd=place)
    assert again.returncode == 0, again.stderr
    assert stamps(place) == before and (finished / "generations.csv").read_bytes() == table


def test_one_process_gives_the_same_bytes(finished: Path, place: Path) -> None:
    """The figure is compared as sketched, its numbers and words: the rendered one is as large and
    takes 9 s.
    """
    words = [
        "run",
        "--scenario",
        "tiny.toml",
        "--set",
        "controls.joint=3",
        "--set",
        "controls.full_ancestor=3",
    ]
    for out in ("other/one", "runs/two"):
        done = evolve(*words, "--out", out, cwd=place)
        assert done.returncode == 0, done.stderr
    for name in ("generations.csv", "descendants.csv", "curve.svg"):
        assert (place / "other" / "one" / name).read_bytes() == (finished / name).read_bytes(), name


def test_a_damaged_result_is_found_and_computed_again(finished: Path, tmp_path: Path) -> None:
    """In a copy: a process checks a file once."""
    shutil.copytree(finished.parent, tmp_path / "runs")
    table = (finished / "generations.csv").read_bytes()
    victims = sorted((tmp_path / "runs/store/results/condense").rglob("learngene.safetensors"))
    data = bytearray(victims[0].read_bytes())
    data[-1] ^= 1
    victims[0].write_bytes(bytes(data))
    (tmp_path / "runs/two/generations.csv").unlink()
    again = evolve("resume", "runs/two", "--store", "runs/store", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert "damaged" in again.stdout + again.stderr
    assert (tmp_path / "runs/two/generations.csv").read_bytes() == table


def test_another_seed_is_another_lineage(finished: Path, place: Path) -> None:
    words = [
        "--seed",
        "1",
        "--set",
        "stream.tasks=1",
        "--set",
        "controls.untrained=false",
        "--set",
        "controls.shuffled=0",
    ]
    done = evolve("run", "--scenario", "tiny.toml", "--out", "runs/seed1", *words, cwd=place)
    assert done.returncode == 0, done.stderr
    assert [int(row["lineage"]) for row in rows(place / "runs" / "seed1")] == [1]
    mine, other = (
        json.loads((r / "run.json").read_text()) for r in (finished, place / "runs" / "seed1")
    )
    assert mine["classes"] == other["classes"]  # the split does not depend on the seed


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["run", "--scenario", "nope"], "is not known"),
        (["plan", "fig6-networks"], "a batch, not a scenario: evolve batch plan fig6-networks"),
        (["batch", "plan", "cifar-seq25"], "a scenario, not a batch: evolve plan cifar-seq25"),
        (["run", "--scenario", "tiny.toml", "--set", "descend.shots=13"], "give at most 12"),
        (["run", "--scenario", "tiny.toml", "--set", "data.split=[90,16,20]"], "data.split"),
        (["run", "--scenario", "tiny.toml", "--device", "cuda"], "--device cuda"),
        (
            [
                "run",
                "--scenario",
                "tiny.toml",
                "--set",
                "ancestor.strategy=ewc",
                "--set",
                "ancestor.strategy_args={lamda=1}",
            ],
            "lamda",
        ),
        (
            ["run", "--scenario", "tiny.toml", "--out", "runs/two", "--seed", "5"],
            "holds another run",
        ),
        (["run", "--scenario", "tiny.toml", "--out", "tiny.toml"], "tiny.toml"),
        (
            ["run", "--scenario", "tiny.toml", "--out", "inside", "--store", "inside/store"],
            "lies in the run folder",
        ),
        (["summary", "runs/two", "--out", "tiny.toml"], "tiny.toml"),
        (["resume", "."], "not a run folder"),
        (["summary", "runs/two", "runs/two"], "is given twice"),
    ],
)
def test_mistakes_end_in_one_line_and_code_2(
    finished: Path, place: Path, words: list[str], expected: str
) -> None:
    if "cuda" in words and __import__("torch").cuda.is_available():
        pytest.skip("this machine has a GPU")
    done = evolve(*words, cwd=place)
    assert done.returncode == 2
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    assert len(lines) == 1 and lines[0].startswith("evolve: ") and expected in lines[0], done.stderr


def test_a_moved_project_finds_its_store(finished: Path, place: Path, tmp_path: Path) -> None:
    shutil.copytree(place / "runs", tmp_path / "moved")
    facts = json.loads((tmp_path / "moved/two/run.json").read_text())
    del facts["seal"]
    (tmp_path / "moved/two/run.json").write_text(
        json.dumps(facts | {"store": str(tmp_path / "gone")})
    )
    shown = evolve("summary", "moved/two", cwd=tmp_path)
    assert shown.returncode == 0 and shown.stdout == evolve("summary", "runs/two", cwd=place).stdout
    (tmp_path / "moved/store").rename(tmp_path / "elsewhere")
    lost = evolve("summary", "moved/two", cwd=tmp_path)
    assert lost.returncode == 2 and "--store" in lost.stderr and not (tmp_path / "gone").exists()
    assert (
        evolve("summary", "moved/two", "--store", "elsewhere", cwd=tmp_path).stdout == shown.stdout
    )


@pytest.mark.parametrize("damage", ["missing", "empty"])
def test_a_crash_while_the_folder_was_made_does_not_block_it(
    finished: Path, place: Path, damage: str
) -> None:
    table = (finished / "generations.csv").read_bytes()
    folder = place / "runs" / damage
    folder.mkdir()
    (folder / "scenario.toml").write_text("half")
    (folder / ".run.json.123.tmp").write_text("{")
    if damage == "empty":
        (folder / "run.json").write_text("")
    words = ["--set", "controls.joint=3", "--set", "controls.full_ancestor=3"]
    done = evolve("run", "--scenario", "tiny.toml", "--out", str(folder), *words, cwd=place)
    assert done.returncode == 0, done.stderr
    assert (folder / "generations.csv").read_bytes() == table


@pytest.mark.slow
def test_without_anyone_to_read_it_the_lineage_goes_on(finished: Path, place: Path) -> None:
    command = shlex.join([*SKETCHING, "resume", str(finished)])
    for shell in (
        f"{command} >&-",
        f"{command} > /dev/full",
        f"{command} | head -c 1 > /dev/null; exit ${{PIPESTATUS[0]}}",
    ):
        done = subprocess.run(
            ["bash", "-c", shell],
            cwd=place,
            env=environment(),
            text=True,
            capture_output=True,
            timeout=300,
        )
        assert "Traceback" not in done.stderr, (shell, done.stderr)


@pytest.mark.slow
@pytest.mark.parametrize("closed", [">&-", "<&- >&- 2>&-"])
def test_a_stage_is_computed_where_the_shell_closed_the_streams(
    finished: Path, place: Path, closed: str
) -> None:
    result = min((place / "runs" / "store" / "results" / "descend").glob("*/*"))
    shutil.rmtree(result)
    command = shlex.join([*SKETCHING, "resume", str(finished), "--workers", "1"])
    done = subprocess.run(
        ["bash", "-c", f"{command} {closed}"],
        cwd=place,
        env=environment(),
        text=True,
        capture_output=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert (result / "manifest.json").is_file()


def test_plan_and_summary(finished: Path, place: Path) -> None:
    words = ["--set", "controls.joint=3", "--set", "controls.full_ancestor=3"]
    plan = evolve("plan", "tiny.toml", "--out", "runs/two", *words, cwd=place)
    assert plan.returncode == 0, plan.stderr
    assert "accumulate" in plan.stdout
    summary = evolve("summary", "runs/two", cwd=place)
    assert summary.returncode == 0, summary.stderr
    assert "lineage" in summary.stdout
