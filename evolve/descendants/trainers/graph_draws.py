"""The draws of an epoch as one block of integers.

It is all that a captured training step has to be told about its images.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from evolve.data.batches import batches
from evolve.descendants.trainers.group import Group

# What a slot says of an image: its index in the Resident, lines and columns to skip of the padded
# image, mirrored (0 or 1), label.
INDEX, CROP, FLIP, LABEL = 0, slice(1, 3), 3, 4
FIELDS = 5


@dataclass(frozen=True)
class Layout:
    """An epoch's batch sizes: ``body`` steps of ``batch`` images, and a tail of ``tail``.

    The tail, where it is not 0, is what is left over, or a full batch that a single last image has
    joined.
    """

    members: int
    body: int
    batch: int
    tail: int

    @property
    def numbers(self) -> int:
        """Length of the block."""
        return FIELDS * self.members * (self.body * self.batch + self.tail)

    def parts(self, block: Tensor) -> list[Tensor]:
        """Cut a block into slots.

        Args:
            block: [numbers].

        Returns:
            Views [steps, FIELDS, members, images], one for each batch size of the epoch, in order.
        """
        whole = FIELDS * self.members * self.body * self.batch
        shapes = ((block[:whole], self.body, self.batch), (block[whole:], 1, self.tail))
        return [
            part.view(steps, FIELDS, self.members, images)
            for part, steps, images in shapes
            if steps * images
        ]


def layout(group: Group) -> Layout:
    """The batch sizes of a group's epochs, all alike.

    Args:
        group: the group.
    """
    sizes = [len(part) for part in batches(torch.arange(group.images), group.d.batch)]
    tail = sizes[-1] if sizes[-1] != group.d.batch else 0
    return Layout(group.size, len(sizes) - (tail > 0), group.d.batch, tail)


def pack(group: Group, epoch: int) -> Tensor:
    """The block of one epoch: PlainTrainer's draws, from the same generators in the same order.

    Members of one number and task, as several generations have them, share their draws.

    Args:
        group: the group.
        epoch: the epoch's number, from 0.

    Returns:
        int64 [numbers] on the CPU.
    """
    shape = layout(group)
    block = torch.empty(shape.numbers, dtype=torch.int64)
    drawn: dict[tuple[int, int], Tensor] = {}
    for member in range(group.size):
        done, who = 0, (group.numbers[member], id(group.tasks[member]))
        rows = drawn[who] if who in drawn else drawn.setdefault(who, _rows(group, member, epoch))
        for part in shape.parts(block):
            steps, _, _, images = part.shape
            mine = rows[:, done : done + steps * images].view(FIELDS, steps, images)
            part[:, :, member] = mine.transpose(0, 1)
            done += steps * images
    return block


def _rows(group: Group, member: int, epoch: int) -> Tensor:
    """One member's images of an epoch in the order of training, int64 [FIELDS, images]."""
    task, order, augment = (
        group.tasks[member],
        group.batches(member, epoch),
        group.augmentation(member, epoch),
    )
    drawn = [group.resident.draw(len(part), group.d.augment, augment) for part in order]
    shifts, flips = (
        [part for part in column if part is not None] for column in zip(*drawn, strict=True)
    )
    places = torch.cat(order)
    rows = torch.zeros(FIELDS, len(places), dtype=torch.int64)
    rows[INDEX], rows[LABEL] = task.train[places], task.train_labels[places]
    if shifts:
        rows[CROP] = torch.cat(shifts, 1).squeeze(2)
    if flips:
        rows[FLIP] = torch.cat(flips).long()
    return rows
