"""Batches of a data set, in an order drawn from a generator."""

from __future__ import annotations

import torch
from torch import Tensor


def batches(order: Tensor, size: int) -> list[Tensor]:
    """Cut an order into batches; a last batch of one image joins the batch before it.

    Args:
        order: int64 [n].
        size: images a batch.
    """
    parts = list(order.split(size))
    if len(parts) > 1 and len(parts[-1]) == 1:
        parts[-2:] = [torch.cat(parts[-2:])]
    return parts


def batch_count(count: int, size: int) -> int:
    """How many batches :func:`batches` makes.

    Args:
        count: images.
        size: images of a batch.
    """
    whole, rest = divmod(count, size)
    return max(1, whole + (rest > 1))
