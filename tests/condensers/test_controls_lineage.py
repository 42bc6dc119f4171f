"""Every condenser as a user runs it: a whole small lineage by the command line, all over one
store.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tiny
from commands import evolve

from evolve.core.registry import names

SCENARIO = tiny.toml(
    {"condense.meta_reach": 0.2, "condense.lr": 0.02, "condense.window": 2, **tiny.NO_CONTROLS}
)
STATUSES = {"fixed": {"fixed"}, "random": {"selected"}, "fisher": {"selected"}}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("condensers")
    (folder / "tiny.toml").write_text(SCENARIO)
    return folder


@pytest.mark.parametrize("method", names("condensers"))
def test_a_lineage_runs_with_every_condenser_and_the_ancestor_is_trained_once(
    place: Path, method: str
) -> None:
    done = evolve(
        "run",
        "--scenario",
        "tiny.toml",
        "--out",
        f"runs/{method}",
        "--set",
        f"condense.method={method}",
        cwd=place,
    )
    assert done.returncode == 0, done.stderr
    rows = tiny.rows(place / "runs" / method)
    assert [int(row["lineage"]) for row in rows] == [0, 1, 2]
    assert {row["status"] for row in rows} <= STATUSES.get(method, {"selected", "tied"})
    if method == "gradient":  # an untrained ancestor and one task have no stability
        assert [row["status"] for row in rows][:2] == [
            "tied",
            "tied",
        ] and "at least 2 tasks" in rows[1]["selected_by"]
        assert "at least 2 tasks" not in rows[2]["selected_by"]
    ancestors = sorted((place / "runs" / "store" / "results" / "accumulate").rglob("manifest.json"))
    written = {str(path): path.stat().st_mtime_ns for path in ancestors}
    file = place / "ancestors.json"
    if not file.exists():
        file.write_text(json.dumps(written))
    assert len(written) == 3 and json.loads(file.read_text()) == written
