"""What surrounds our processes: the cores that they may use, and variables that must not reach us.

`import evolve` imports this, before torch: a threading library that is told to pin binds the process
to one core while it is loaded.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

PINS = ("OMP_PROC_BIND", "OMP_PLACES", "GOMP_CPU_AFFINITY", "KMP_AFFINITY")
"""Each pins the first thread of every process to its first core: all workers to the same."""

SURROUNDINGS: Mapping[str, str | None] = {
    "MPLBACKEND": "Agg",  # a notebook names one that is only there
    **dict.fromkeys(PINS),
}
"""Variables that a process of ours has (a text) or must not have (None)."""

_BINDS = hasattr(os, "sched_getaffinity")
_BEFORE = os.sched_getaffinity(0) if _BINDS and any(map(os.environ.get, PINS)) else None


def settle_surroundings() -> None:
    """Set :data:`SURROUNDINGS` in this process, which must be ours: no user's notebook."""
    set_variables(SURROUNDINGS)


def set_variables(variables: Mapping[str, str | None]) -> None:
    """Set environment variables; those that are None are removed."""
    for name, value in variables.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


@contextmanager
def unpinned() -> Iterator[None]:
    """Inside, this thread and every process that it starts run as if nobody had set :data:`PINS`."""
    if _BEFORE is None:
        yield
        return
    pinned = os.sched_getaffinity(0)
    with suppress(OSError):  # cores that were taken from us meanwhile
        os.sched_setaffinity(0, _BEFORE)
    try:
        yield
    finally:
        with suppress(OSError):
            os.sched_setaffinity(0, pinned)


def usable_cores() -> int:
    """Cores that this process may use: those it is bound to, at most its control groups' quota.

    A quota of 1.5 cores counts as two: the workers share it.
    """
    bound = (_BEFORE or os.sched_getaffinity(0)) if _BINDS else range(os.cpu_count() or 1)
    return max(1, math.ceil(min(len(bound), cgroup_quota())))


def cgroup_quota(process: Path = Path("/proc/self")) -> float:
    """The CPU time that control groups allow a process, in cores; infinite where none limits it.

    All groups above the process's own count (https://docs.kernel.org/admin-guide/cgroup-v2.html,
    "cpu.max"; version 1: cpu.cfs_quota_us over cpu.cfs_period_us).

    Args:
        process: its folder under /proc.
    """
    try:
        groups = (process / "cgroup").read_text("utf-8", "surrogateescape").splitlines()
        mounts = (process / "mountinfo").read_text("utf-8", "surrogateescape").splitlines()
    except OSError:  # another system
        return math.inf
    paths = {
        kind: path
        for _, controllers, path in (line.split(":", 2) for line in groups if line.count(":") > 1)
        for kind in controllers.split(",")
    }
    quotas = [math.inf]
    for mount in mounts:
        before, _, after = mount.partition(" - ")
        kind, _, options = (after.split() + ["", "", ""])[:3]
        first = kind == "cgroup" and "cpu" in options.split(",")
        if (first or kind == "cgroup2") and (own := paths.get("cpu" if first else "")) is not None:
            root, point = map(_unescaped, before.split()[3:5])
            quotas += map(_quota, _levels(Path(point), root, own))
    return min(quotas)


def _unescaped(path: str) -> str:
    """A path of mountinfo, whose spaces and line ends are octal."""
    return re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), path)


def _levels(point: Path, root: str, own: str) -> list[Path]:
    """The folders of a group and of those above it, as far as the mount shows them.

    A container may see the mount of its own group only, under the host's names or under "/".
    """
    below = os.path.relpath(own, root)
    group = point if below.startswith("..") else point / below
    return [group, *(above for above in group.parents if point in (above, *above.parents))]


def _quota(group: Path) -> float:
    """The cores that a group's own files allow."""
    with suppress(OSError, ValueError, ZeroDivisionError):
        if (limit := group / "cpu.max").exists():
            quota, period = limit.read_text("ascii").split()
        else:
            quota = (group / "cpu.cfs_quota_us").read_text("ascii")
            period = (group / "cpu.cfs_period_us").read_text("ascii")
        return math.inf if quota == "max" or int(quota) <= 0 else int(quota) / int(period)
    return math.inf
