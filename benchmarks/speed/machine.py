"""The machine that the numbers belong to."""

from __future__ import annotations

import os
import platform
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from evolve.core.machine import usable_cores


def describe(device: torch.device) -> dict[str, Any]:
    """CPU, cores, torch and its vector instructions, GPU."""
    return {
        "cpu": cpu_name(),
        "cores": usable_cores(),
        "torch": str(torch.__version__),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "python": platform.python_version(),
        "system": platform.platform(),
        "device": device.type,
        "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
    }


class Watch:
    """How busy other programs keep the machine, from its making on.

    Ours are this process and all that descend from it. What the host took counts as another
    program's.
    """

    def __init__(self) -> None:
        self.begun, self.before = time.perf_counter(), _other_ticks()

    def others(self) -> float | None:
        """Cores that other programs used since; None where nobody can tell."""
        now = _other_ticks()
        if now is None or self.before is None:
            return None
        seconds = (now - self.before) / os.sysconf("SC_CLK_TCK")
        return max(0.0, seconds / (time.perf_counter() - self.begun))


def _other_ticks() -> int | None:
    """Clock ticks of all cores since boot that were neither idle nor ours."""
    counters = Path("/proc/stat")
    if not counters.is_file():
        return None
    user, nice, system, _idle, _waiting, irq, softirq, stolen = map(
        int, counters.read_text().split()[1:9]
    )
    return user + nice + system + irq + softirq + stolen - _own_ticks()


def _own_ticks() -> int:
    """Clock ticks of this process and its descendants, those that have left included (proc(5))."""
    parents, ticks = dict[int, int](), dict[int, int]()
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it has just left
            number, _, rest = entry.read_text(errors="replace").partition(" ")
            values = rest.rpartition(")")[2].split()
            parents[int(number)] = int(values[1])
            ticks[int(number)] = sum(map(int, values[11:15]))  # its own and its reaped children's
    ours, size = {os.getpid()}, 0
    while len(ours) > size:
        size = len(ours)
        ours |= {number for number, parent in parents.items() if parent in ours}
    return sum(ticks.get(number, 0) for number in ours)


def cpu_name() -> str:
    """As the system calls it."""
    listing = Path("/proc/cpuinfo")
    if listing.is_file():
        for line in listing.read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
