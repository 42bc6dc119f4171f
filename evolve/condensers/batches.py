"""The condensing images: split into training and meta-data, and served in an order.

Only the seed decides that order.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from evolve.core.errors import UserError
from evolve.core.randomness import generator


def split_meta(
    indices: Sequence[Tensor], fraction: float, seed: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Split every class's images once into training data and meta-data (paper, appendix A.1).

    Of a class's n images, round(n * fraction) become meta-data: at least 1 and at most n - 1. No
    image is in both parts.

    Args:
        indices: one int64 tensor of image indices a class.
        fraction: the meta-data's share, in [0, 1].
        seed: seed of the draw.

    Returns:
        (train index, train labels, meta index, meta labels), all int64; a label is the class's
        position in ``indices``.

    Raises:
        UserError: a class has fewer than two images.
    """
    parts: list[list[Tensor]] = [[], [], [], []]
    for label, index in enumerate(indices):
        if len(index) < 2:
            raise UserError(
                f"condense.images_per_class: condensing class number {label + 1} has {len(index)} "
                "training image(s); "
                "at least 2 are needed, one to train on and one of meta-data; raise it or give the "
                "source more images"
            )
        meta = min(len(index) - 1, max(1, round(len(index) * fraction)))
        order = torch.randperm(len(index), generator=generator(seed, "split-meta", label))
        for place, rows in ((0, order[meta:]), (2, order[:meta])):
            chosen = index[rows.sort().values]
            parts[place].append(chosen)
            parts[place + 1].append(torch.full_like(chosen, label))
    train, train_labels, meta_index, meta_labels = (torch.cat(p) for p in parts)
    return train, train_labels, meta_index, meta_labels


def draw_images(
    indices: Sequence[Tensor], class_ids: Sequence[int], count: int, seed: int
) -> list[Tensor]:
    """Draw so many images of each class, without repeats.

    Args:
        indices: one int64 tensor of image indices a class.
        class_ids: the classes' ids, in the same order.
        count: images a class; 0 takes all.
        seed: seed of the draw.

    Returns:
        One tensor of ascending indices a class.

    Raises:
        UserError: a class has fewer than ``count`` images.
    """
    if not count:
        return list(indices)
    drawn = []
    for class_id, index in zip(class_ids, indices, strict=True):
        if count > len(index):
            raise UserError(
                f"condense.images_per_class = {count}: class {class_id} has {len(index)} training "
                "images; "
                f"give at most {len(index)}, or 0 for all"
            )
        order = torch.randperm(len(index), generator=generator(seed, "condense-images", class_id))
        drawn.append(index[order[:count].sort().values])
    return drawn


def steps_per_epoch(count: int, batch: int) -> int:
    """Whole batches in an epoch; a single smaller batch where there are too few images.

    The images that fill no batch are left out. Every epoch leaves out others.

    Args:
        count: images.
        batch: images of a batch.
    """
    return max(1, count // batch)


def epoch_rows(count: int, batch: int, seed: int, epoch: int) -> Iterator[Tensor]:
    """Give the rows of one epoch's training batches, int64 [batch] each.

    Args:
        count: training images.
        batch: images of a batch.
        seed: seed of the order.
        epoch: the epoch's number, which draws its order.
    """
    order = torch.randperm(count, generator=generator(seed, "condense-order", epoch))
    for step in range(steps_per_epoch(count, batch)):
        yield order[step * batch : (step + 1) * batch]


def meta_rows(count: int, batch: int, seed: int) -> Iterator[Tensor]:
    """Give meta batches without end, int64 [batch] each.

    Pass follows pass over the meta-data, each in an order of its own and in whole batches only.

    Args:
        count: meta images.
        batch: images of a batch.
        seed: seed of the orders.
    """
    number = 0
    while True:
        order = torch.randperm(count, generator=generator(seed, "meta-order", number))
        for step in range(steps_per_epoch(count, batch)):
            yield order[step * batch : (step + 1) * batch]
        number += 1


def evenly(index: Tensor, most: int) -> Tensor:
    """Take at most ``most`` of ``index`` [N], spread evenly over it.

    Where the images lie class by class, this takes about equally many of each class.

    Args:
        index: what is chosen from.
        most: how many at most.
    """
    return index if len(index) <= most else index[torch.arange(most) * len(index) // most]
