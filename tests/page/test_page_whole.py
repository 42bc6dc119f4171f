"""The page as the commands leave it, on results that were really computed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

SETTINGS = {
    "stream.tasks": 1, "data.size": 16, "data.glyph_train": 12, "data.glyph_test": 6, "ancestor.width": 0.0625, "ancestor.epochs": 1,
    "ancestor.lr": 0.01, "condense.method": '"fixed"', "descend.shots": 6, "descend.epochs": 2, "descend.descendants": 2,
}  # fmt: skip


def evolve(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "EVOLVE_STORE": str(folder / "store"), "COLUMNS": "160"}
    return subprocess.run([sys.executable, "-m", "evolve.cli", *words], cwd=folder, env=environment, text=True, capture_output=True, timeout=300)


def costs(page: str) -> list[float]:
    """The last row of the cost table."""
    row = re.search(r'<tr class="total">(.*?)</tr>', page)
    assert row is not None
    return [float(number) for number in re.findall(r'class="number">([\d.,]+)<', row[1])]


def test_run_and_batch_end_in_a_page_and_report_makes_it_again(tmp_path: Path) -> None:
    lines = [f"{key} = {value}" for key, value in SETTINGS.items()]
    batch = ['scenario = "glyphs-seq25"', "[set]", *lines, "[axes]", 'condense.fixed_set = ["paper", "front"]']
    (tmp_path / "tiny.toml").write_text("\n".join(batch))
    made = evolve(tmp_path, "batch", "tiny.toml", "--workers", "1")
    assert made.returncode == 0, made.stderr
    out = tmp_path / "runs" / "tiny-paper"
    page = (out / "report.html").read_text()
    assert "runs/tiny-paper/report.html" in made.stdout and "Tables as LaTeX" in page and "≥" not in page
    *kinds, alone, wall, shared = costs(page)
    assert 0 < alone == pytest.approx(sum(kinds), abs=0.2) and alone == shared and wall > 0
    again = evolve(tmp_path, "report", "runs/tiny-paper", "--out", "again.html")
    assert again.returncode == 0 and (tmp_path / "again.html").read_text() == page

    settings = [word for key, value in {**SETTINGS, "condense.fixed_set": '"front"'}.items() for word in ("--set", f"{key}={value}".replace('"', ""))]
    run = evolve(tmp_path, "run", "--scenario", "glyphs-seq25", *settings, "--out", "runs/one", "--workers", "1")
    assert run.returncode == 0 and "runs/one/report.html" in run.stdout, run.stderr
    assert 0 < costs((tmp_path / "runs/one/report.html").read_text())[-1] <= shared, "its stages were in the store; they cost what they had cost"
    assert evolve(tmp_path, "report", "runs/one", "runs/tiny-paper").returncode == 0 and (tmp_path / "report.html").exists()
    refused = evolve(tmp_path, "report", "store")
    assert refused.returncode == 2 and len(refused.stderr.splitlines()) == 1 and "neither a run's folder" in refused.stderr
