"""The machine that the numbers belong to."""

from __future__ import annotations

import os
import platform
import time
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


def busy_cores(seconds: float) -> float | None:
    """Sleep so many seconds; how many cores the whole machine kept busy meanwhile.

    What the host took from it counts, too. None where nobody can tell.
    """
    before = _busy_ticks()
    begun = time.perf_counter()
    time.sleep(seconds)
    after = _busy_ticks()
    if before is None or after is None:
        return None
    return (after - before) / os.sysconf("SC_CLK_TCK") / (time.perf_counter() - begun)


def _busy_ticks() -> int | None:
    """Clock ticks of all cores that were not idle, since boot."""
    counters = Path("/proc/stat")
    if not counters.is_file():
        return None
    user, nice, system, _idle, _waiting, irq, softirq, stolen = map(
        int, counters.read_text().split()[1:9]
    )
    return user + nice + system + irq + softirq + stolen


def cpu_name() -> str:
    """As the system calls it."""
    listing = Path("/proc/cpuinfo")
    if listing.is_file():
        for line in listing.read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
