"""A batch of images in one sweep: gathered, scaled, cropped and mirrored by a compiled kernel."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from evolve.networks.fast.compiled import images as compiled


def image_batch(
    images: Tensor,
    index: Tensor,
    scale: Tensor,
    shift: Tensor,
    crop: Tensor | None,
    flip: Tensor | None,
) -> Callable[[], Tensor]:
    """What makes a batch.

    Args:
        images: bytes [N, ...], on the CPU, as channels_last memory holds them.
        index: int64 [B], each a place in ``images``; the kernel trusts it.
        scale, shift: float32 [3 * S], channels fastest: a line is its bytes * scale - shift.
        crop: lines and columns to skip of each padded image, int64 [2, B, 1]; None for no crop.
        flip: which images are mirrored, bool [B]; None for none.

    Returns:
        What gives float32 [B, 3, S, S] in channels_last memory, anew at each call.
    """
    size, count = len(scale) // 3, len(index)
    run = compiled.batch(size, crop is not None, flip is not None, torch.float32)

    def make() -> Tensor:
        out = torch.empty_strided(
            (count, 3, size, size), (3 * size**2, 1, 3 * size, 3), dtype=torch.float32
        )
        more = (0 if part is None else part.data_ptr() for part in (scale, shift, crop, flip))
        run(out.data_ptr(), images.data_ptr(), index.data_ptr(), count, *more)
        return out

    return make
