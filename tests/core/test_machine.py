"""What surrounds our processes: cores, control groups, variables."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import commands
import pytest

from evolve.core import machine

FIRST = "cgroup cgroup rw,cpu,cpuacct"
SECOND = "cgroup2 cgroup2 rw,nsdelegate"
GROUPS = {
    "v2, own group": ("0::/user/run", "/", SECOND, {"user/run/cpu.max": "150000 100000"}, 1.5),
    "v2, a parent": ("0::/user/run", "/", SECOND, {"user/cpu.max": "max 100000"}, math.inf),
    "v2, parent below own": (
        "0::/user/run",
        "/",
        SECOND,
        {"user/run/cpu.max": "400000 100000", "user/cpu.max": "50000 100000"},
        0.5,
    ),
    "v2, another's": ("0::/user/run", "/", SECOND, {"user/other/cpu.max": "1 100"}, math.inf),
    "v2, a container's own namespace": ("0::/", "/", SECOND, {"cpu.max": "100000 100000"}, 1.0),
    "v1": (
        "4:memory:/x\n3:cpu,cpuacct:/a/b",
        "/",
        FIRST,
        {"a/cpu.cfs_quota_us": "200000", "a/cpu.cfs_period_us": "100000"},
        2.0,
    ),
    "v1, unlimited": (
        "3:cpu,cpuacct:/a",
        "/",
        FIRST,
        {"a/cpu.cfs_quota_us": "-1", "a/cpu.cfs_period_us": "100000"},
        math.inf,
    ),
    "v1, a container under the host's name": (
        "3:cpu,cpuacct:/docker/77",
        "/docker/77",
        FIRST,
        {"cpu.cfs_quota_us": "100000", "cpu.cfs_period_us": "100000"},
        1.0,
    ),
    "a file that says nothing": ("0::/", "/", SECOND, {"cpu.max": ""}, math.inf),
}


@pytest.mark.parametrize(("own", "root", "kind", "files", "cores"), GROUPS.values(), ids=GROUPS)
def test_quotas_of_control_groups_count(
    own: str, root: str, kind: str, files: Mapping[str, str], cores: float, tmp_path: Path
) -> None:
    point, process = tmp_path / "control groups", tmp_path / "self"
    for name, text in files.items():
        (point / name).parent.mkdir(parents=True, exist_ok=True)
        (point / name).write_text(text)
    process.mkdir()
    (process / "cgroup").write_text(f"{own}\n")
    shown = str(point).replace(" ", "\\040")
    (process / "mountinfo").write_text(
        f"30 20 0:1 / / rw - ext4 /dev/vda rw\n31 30 0:28 {root} {shown} rw shared:9 - {kind}\n"
    )
    assert machine.cgroup_quota(process) == cores


def test_a_container_with_one_core_gets_one_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(64)))
    for quota, cores in ((0.2, 1), (1.0, 1), (1.5, 2), (8.0, 8), (math.inf, 64)):
        monkeypatch.setattr(machine, "cgroup_quota", lambda quota=quota: quota)
        assert machine.usable_cores() == cores


def test_where_there_are_no_control_groups_nothing_limits(tmp_path: Path) -> None:
    assert machine.cgroup_quota(tmp_path) == math.inf


MAIN = """
import os, sys
from evolve.cli.main import main
sys.argv = ["evolve", "scenarios"]
main()
print("matplotlib" in sys.modules, os.environ["MPLBACKEND"], "OMP_PLACES" in os.environ)
"""


def test_a_notebooks_backend_does_not_reach_the_command() -> None:
    surroundings = {"MPLBACKEND": "module://not_here", "OMP_PLACES": "cores"}
    command = [sys.executable, "-c", MAIN]
    environment = commands.environment(surroundings)
    done = subprocess.run(command, env=environment, text=True, capture_output=True)
    assert done.stdout.splitlines()[-1] == "False Agg False", done.stderr
