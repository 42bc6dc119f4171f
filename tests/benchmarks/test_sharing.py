"""benchmarks/cluster/sharing.py: runs a batch from nothing with each number of workers and says
what it cost.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import tiny

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "cluster" / "sharing.py"
SETTINGS = {"stream.tasks": 1, "controls.shuffled": 0, "controls.untrained": False}
BATCH = f"""
scenario = "glyphs-seq25"
[set]
{tiny.toml(SETTINGS)}
[axes]
condense.method = ["random", "fixed"]
"""


@pytest.mark.slow
def test_every_number_of_workers_has_a_line_and_the_bytes_agree(tmp_path):
    (tmp_path / "small.toml").write_text(BATCH)
    command = [
        sys.executable,
        str(SCRIPT),
        str(tmp_path / "out"),
        str(tmp_path / "small.toml"),
        "--workers",
        "1",
        "--workers",
        "2",
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    first, second = [
        [float(cell) for cell in line.split()]
        for line in done.stdout.splitlines()
        if line.strip()[:2] in ("1 ", "2 ")
    ]
    assert (
        first[:2] == [1, second[1]] and second[0] == 2 and first[1] >= 7
    )  # 2 ancestors, 2 condensations, 2 descents, 1 control or 2
    assert first[3] > first[4] > 0 and first[5] == pytest.approx(
        first[3] / first[4], rel=0.05
    )  # of rounded numbers
    assert "same bytes" in done.stdout


def test_it_refuses_a_folder_that_is_there(tmp_path):
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(tmp_path)], capture_output=True, text=True, timeout=60
    )
    assert done.returncode != 0 and "exists" in done.stderr
