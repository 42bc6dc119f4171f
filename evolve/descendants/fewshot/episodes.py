"""What meta-training reads: episodes and plain batches of the ancestor's training images.

Every draw comes from a generator of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from evolve.core.errors import UserError
from evolve.core.fewshot_settings import FewshotSettings
from evolve.core.randomness import generator
from evolve.data.batches import batches
from evolve.data.resident import Resident
from evolve.data.streams import class_images


@dataclass(frozen=True)
class Episode:
    """An N-way K-shot task on the device, with normalised images.

    Attributes:
        support: [N*K, 3, H, W].
        support_labels: int64 [N*K], 0..N-1.
        query: [N*Q, 3, H, W].
        query_labels: int64 [N*Q], 0..N-1.
    """

    support: Tensor
    support_labels: Tensor
    query: Tensor
    query_labels: Tensor


class Episodes:
    """The meta-training data of some classes: their training images alone.

    Episode n depends on (seed, n) and the settings, not on the learner. So all learners see the
    same episodes.

    Args:
        resident: the images.
        classes: the classes' ids.
        ways: classes of an episode.
        settings: the [fewshot] settings.
        seed: seed of all draws.
        images_per_class: the ancestor's (stream.images_per_class; 0: all), so that learners see the
            very images of a class that the ancestor may see.

    Raises:
        UserError: a class has fewer images.
    """

    def __init__(
        self,
        resident: Resident,
        classes: Sequence[int],
        ways: int,
        settings: FewshotSettings,
        seed: int,
        images_per_class: int = 0,
    ) -> None:
        self.resident, self.ways, self.seed, self.settings = resident, ways, seed, settings
        self.classes = sorted(set(classes))
        self._images = [class_images(c, images_per_class, resident, seed)[0] for c in self.classes]
        self._capped = " (stream.images_per_class)" if images_per_class else ""

    def check(self) -> None:
        """Refuse classes or images that are too few for an episode; plain batches need fewer.

        Raises:
            UserError: there are too few classes, or a class has too few images.
        """
        if self.ways > len(self.classes):
            has = (
                f"episodes of [fewshot] need as many of the {len(self.classes)} ancestor "
                f"classes; give at most {len(self.classes)}"
            )
            raise UserError(f"descend.classes_per_task = {self.ways}: {has}")
        shots, queries = self.settings.shots, self.settings.queries
        for class_id, images in zip(self.classes, self._images, strict=True):
            if shots + queries > len(images):
                has = (
                    f"ancestor class {class_id} has {len(images)} training "
                    f"images{self._capped}; their sum can be that at most"
                )
                raise UserError(f"fewshot.shots = {shots} and fewshot.queries = {queries}: {has}")

    def episode(self, number: int) -> Episode:
        """Episode ``number``; support and query share no image."""
        shots, queries = self.settings.shots, self.settings.queries
        draw = generator(self.seed, "fewshot", "episode", number)
        chosen = torch.randperm(len(self.classes), generator=draw)[: self.ways].tolist()
        drawn = [self._draw(place, shots + queries, draw) for place in chosen]
        support, query = (
            torch.cat([d[:shots] for d in drawn]),
            torch.cat([d[shots:] for d in drawn]),
        )
        images = self.resident.batch(torch.cat([support, query]), self.settings.augment, draw)
        labels = torch.arange(self.ways, device=self.resident.device)
        return Episode(
            images[: len(support)],
            labels.repeat_interleave(shots),
            images[len(support) :],
            labels.repeat_interleave(queries),
        )

    def _draw(self, place: int, count: int, draw: torch.Generator) -> Tensor:
        images = self._images[place]
        return images[torch.randperm(len(images), generator=draw)[:count]]

    @property
    def steps(self) -> int:
        """Steps of an epoch of plain classification."""
        return len(self._order(0))

    def epoch(self, number: int) -> list[tuple[Tensor, Tensor]]:
        """One epoch over all training images of all classes.

        Returns:
            Indices and labels of each batch, int64 on the CPU; a label is the place in ``classes``.
        """
        index = torch.cat(self._images)
        labels = torch.repeat_interleave(
            torch.arange(len(self.classes)), torch.tensor([len(i) for i in self._images])
        )
        return [(index[places], labels[places]) for places in self._order(number)]

    def _order(self, epoch: int) -> list[Tensor]:
        count = sum(len(images) for images in self._images)
        return batches(
            torch.randperm(count, generator=generator(self.seed, "fewshot", "epoch", epoch)),
            self.settings.pretrain_batch,
        )

    def images(self, index: Tensor, epoch: int, step: int) -> Tensor:
        """The augmented images of one batch of :meth:`epoch`, [B, 3, H, W].

        Args:
            index: the batch's image indices [B].
            epoch: the epoch's number.
            step: the batch's number in it.
        """
        return self.resident.batch(
            index, self.settings.augment, generator(self.seed, "fewshot", "augment", epoch, step)
        )
