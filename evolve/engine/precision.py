"""The precision of a stage's convolutions and products, and the path that computes them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch

from evolve.core.errors import UserError

FLOAT32 = "float32"
BFLOAT16_FLAGS = ("amx_bf16", "avx512_bf16")  # of a processor that multiplies bfloat16


@contextmanager
def computing(arithmetic: str, device: torch.device) -> Iterator[bool]:
    """Inside, a stage computes with the arithmetic that its key names.

    Weights, sums and updates stay float32. The compiled kernels know float32 alone, so a CPU takes
    the library's for bfloat16.

    Args:
        arithmetic: "reference", "winograd", "passes" or "fast"; a precision other than float32
            stands behind it ("winograd bfloat16").
        device: what computes.

    Yields:
        Whether to take the plain path.

    Raises:
        UserError: the device cannot compute with that precision.
    """
    path, _, name = arithmetic.partition(" ")
    check_precision(name, device)
    with precision(name, device):
        yield path == "reference" or (name == "bfloat16" and device.type == "cpu")


def check_precision(name: str, device: torch.device) -> None:
    """Refuse a precision that a device has not.

    Args:
        name: "float32", "bfloat16" or "tf32".
        device: what computes.

    Raises:
        UserError: TF32 without a GPU.
    """
    if name == "tf32" and device.type != "cuda":
        raise UserError(
            'precision = "tf32": NVIDIA GPUs alone have it, and this run computes on the CPU; '
            "take float32 or bfloat16 for ancestor.precision and descend.precision"
        )


@contextmanager
def precision(name: str, device: torch.device) -> Iterator[None]:
    """Inside, convolutions and products are computed in a precision.

    Args:
        name: "tf32", "bfloat16" (torch's autocast), or any other for float32.
        device: where they are computed.
    """
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    with ExitStack() as stack:
        if name == "tf32":
            torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True
        if name == "bfloat16":  # kept casts would outlive the step that changes the weights
            stack.enter_context(torch.autocast(device.type, torch.bfloat16, cache_enabled=False))
        try:
            yield
        finally:
            torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


def multiplies_bfloat16(device: torch.device) -> bool:
    """Whether a device has instructions for bfloat16 (a CPU: AMX or AVX512-BF16)."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    listing = Path("/proc/cpuinfo")
    flags = listing.read_text(errors="replace") if listing.exists() else ""
    return any(flag in flags for flag in BFLOAT16_FLAGS)
