"""How many entries of many tensors are above a threshold, by one kernel over all of them."""

from __future__ import annotations

from array import array
from collections.abc import Sequence

import torch
from torch import Tensor

from evolve.networks.fast.compiled import parameters


def count_above(layers: Sequence[Sequence[Tensor]], threshold: float) -> Tensor:
    """How many numbers of each layer's tensors are greater than a threshold.

    Args:
        layers: each layer's tensors, on the CPU, all of one float dtype.
        threshold: the threshold.

    Returns:
        int64 [layers].
    """
    tensors = [
        (n, t if parameters.side_by_side(t) else t.contiguous())
        for n, layer in enumerate(layers)
        for t in layer
    ]
    counts = torch.zeros(len(layers), dtype=torch.int64)
    if tensors:
        dtype = tensors[0][1].dtype
        table = array(
            "q",
            [
                entry
                for number, tensor in tensors
                for entry in (tensor.data_ptr(), tensor.numel(), number)
            ],
        )
        limit = torch.tensor(threshold, dtype=dtype)
        parameters.above(dtype)(
            table.buffer_info()[0], len(tensors), limit.data_ptr(), counts.data_ptr()
        )
    return counts
