"""The device that computes: chosen, set to repeat its numbers, and named in provenance."""

from __future__ import annotations

import os
import platform
from typing import Any

import numpy as np
import torch

from evolve.core.errors import UserError
from evolve.core.version import __version__


def choose_device(name: str) -> torch.device:
    """The device of this name.

    Args:
        name: "cpu", "cuda" or "auto", which takes a GPU where there is one.

    Raises:
        UserError: this machine has no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: torch sees no CUDA device here; allowed are cpu and auto")
    return torch.device(name)


def repeatable(device: torch.device) -> torch.device:
    """Choose kernels that give the same numbers every time on one GPU.

    A worker takes no more than its share of that GPU's memory. A CPU with one thread gives the same
    numbers anyway.

    Returns:
        The same device.
    """
    if device.type == "cuda":
        if part := os.environ.get(PART):
            torch.cuda.set_per_process_memory_fraction(float(part))
        torch.backends.cudnn.deterministic = True
        torch.backends.cudnn.benchmark = False
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cuda.matmul.allow_tf32 = False
        # Attention by its formula: the fused kernels' backward passes add up in no fixed order.
        torch.backends.cuda.enable_flash_sdp(False)
        torch.backends.cuda.enable_mem_efficient_sdp(False)
        torch.backends.cuda.enable_cudnn_sdp(False)
    return device


def provenance(device: torch.device) -> dict[str, Any]:
    """What computed a result, beside its recipe: versions and machine."""
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return {
        "evolve": __version__,
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        "device": f"{device.type} ({where})",
    }


PART = "EVOLVE_GPU_PART"  # the share of a GPU's memory that a worker may take
