"""The page as the commands leave it, on results that were really computed."""

from __future__ import annotations

import re
from pathlib import Path

import commands
import pytest
import tiny
from commands import Done

pytestmark = pytest.mark.slow

SETTINGS = {
    **tiny.SETTINGS,
    "stream.tasks": 1,
    "ancestor.lr": 0.01,
    "condense.method": "fixed",
    "descend.epochs": 2,
}


def evolve(folder: Path, *words: str) -> Done:
    return commands.evolve_process(
        *words, cwd=folder, env={"EVOLVE_STORE": str(folder / "store"), "COLUMNS": "160"}
    )


def costs(page: str) -> list[float]:
    """The last row of the cost table."""
    row = re.search(r'<tr class="total">(.*?)</tr>', page)
    assert row is not None
    return [float(number) for number in re.findall(r'class="number">([\d.,]+)<', row[1])]


def test_run_and_batch_end_in_a_page_and_report_makes_it_again(tmp_path: Path) -> None:
    axes = '[axes]\ncondense.fixed_set = ["paper", "front"]\n'
    (tmp_path / "tiny.toml").write_text(
        f'scenario = "glyphs-seq25"\n[set]\n{tiny.toml(SETTINGS)}{axes}'
    )
    done = evolve(tmp_path, "batch", "tiny.toml", "--workers", "1")
    assert done.returncode == 0, done.stderr
    out = tmp_path / "runs" / "tiny-paper"
    page = (out / "report.html").read_text()
    assert (
        "runs/tiny-paper/report.html" in done.stdout
        and "Tables as LaTeX" in page
        and "≥" not in page
    )
    *kinds, alone, wall, shared = costs(page)
    assert 0 < alone == pytest.approx(sum(kinds), abs=0.2) and alone == shared and wall > 0
    again = evolve(tmp_path, "report", "runs/tiny-paper", "--out", "again.html")
    assert again.returncode == 0 and (tmp_path / "again.html").read_text() == page

    settings = [
        word
        for key, value in {**SETTINGS, "condense.fixed_set": "front"}.items()
        for word in ("--set", f"{key}={value}")
    ]
    run = evolve(
        tmp_path,
        "run",
        "--scenario",
        "glyphs-seq25",
        *settings,
        "--out",
        "runs/one",
        "--workers",
        "1",
    )
    assert run.returncode == 0 and "runs/one/report.html" in run.stdout, run.stderr
    assert 0 < costs((tmp_path / "runs/one/report.html").read_text())[-1] <= shared, (
        "its stages were in the store; they cost what they had cost"
    )
    assert (
        evolve(tmp_path, "report", "runs/one", "runs/tiny-paper").returncode == 0
        and (tmp_path / "report.html").exists()
    )
    refused = evolve(tmp_path, "report", "store")
    assert (
        refused.returncode == 2
        and len(refused.stderr.splitlines()) == 1
        and "neither a run's folder" in refused.stderr
    )
