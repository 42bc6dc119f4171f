"""Every condenser as a user runs it: a whole small lineage by the command line, all over one store."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest

from evolve.core.registry import names

SCENARIO = """
[data]
source = "glyphs"
size = 16
split = [12, 4, 8]
glyph_train = 12
glyph_test = 6
[stream]
tasks = 2
classes_per_task = 3
[ancestor]
width = 0.0625
epochs = 1
batch = 8
[condense]
epochs = 1
batch = 8
meta_batch = 8
meta_reach = 0.2
lr = 0.02
window = 2
[descend]
descendants = 2
classes_per_task = 3
shots = 6
epochs = 1
[controls]
shuffled = 0
from_scratch = false
"""
STATUSES = {"fixed": {"fixed"}, "random": {"selected"}, "fisher": {"selected"}}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("condensers")
    (folder / "tiny.toml").write_text(SCENARIO)
    return folder


@pytest.mark.parametrize("method", names("condensers"))
def test_a_lineage_runs_with_every_condenser_and_the_ancestor_is_trained_once(place: Path, method: str) -> None:
    words = ["run", "--scenario", "tiny.toml", "--out", f"runs/{method}", "--workers", "1", "--set", f"condense.method={method}"]
    done = subprocess.run([sys.executable, "-m", "evolve.cli", *words], cwd=place, text=True, capture_output=True, timeout=300)
    assert done.returncode == 0, done.stderr
    with open(place / "runs" / method / "generations.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["lineage"]) for row in rows] == [0, 1, 2]
    assert {row["status"] for row in rows} <= STATUSES.get(method, {"selected", "tied"})
    if method == "gradient":  # an untrained ancestor and one task have no stability
        assert [row["status"] for row in rows][:2] == ["tied", "tied"] and "at least 2 tasks" in rows[1]["selected_by"]
        assert "at least 2 tasks" not in rows[2]["selected_by"]
    ancestors = sorted((place / "runs" / "store" / "results" / "accumulate").rglob("manifest.json"))
    written = {str(path): path.stat().st_mtime_ns for path in ancestors}
    known = place / "ancestors.json"
    if not known.exists():
        known.write_text(json.dumps(written))
    assert len(written) == 3 and json.loads(known.read_text()) == written
