"""The optimizers that ancestor and descendants may learn by, from their settings."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

OPTIMIZERS = ("sgd", "adamw")


def make_optimizer(
    parameters: Iterable[Any], kind: str, lr: float, momentum: float, weight_decay: float, *, fused: bool = False, foreach: bool | None = None
) -> torch.optim.Optimizer:
    """``kind`` of :data:`OPTIMIZERS` over parameters, or groups of them (dicts whose other entries it keeps).

    "sgd": momentum and L2 decay (SPEC 7); "adamw": betas 0.9 and 0.999, decoupled decay, as ViTs are trained; ``momentum`` is unread.
    ``fused`` and ``foreach`` choose torch's way of computing the step, not what it computes.
    """
    if kind == "adamw":
        return torch.optim.AdamW(parameters, lr=lr, weight_decay=weight_decay, fused=fused, foreach=foreach)
    return torch.optim.SGD(parameters, lr=lr, momentum=momentum, weight_decay=weight_decay, fused=fused, foreach=foreach)
