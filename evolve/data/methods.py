"""The records of the image sources: code, help, what they hold. Free of torch."""

from __future__ import annotations

from dataclasses import dataclass

from evolve.core.registry import Record


@dataclass(frozen=True)
class Source(Record):
    """An image source.

    ``held``: its training and test images a class (None: as the glyphs' settings say).

    ``capped``: whether it reads data.images_per_class.

    ``counts``: code that counts what lies in a folder, (DataSettings, folder) -> classes and, on
    average, training and test images a class; of a source that holds whatever lies there.

    ``download``: megabytes that it downloads where the images are not there.
    """

    held: tuple[int, int] | None = None
    capped: bool = False
    counts: str = ""
    download: int = 0

    @property
    def own(self) -> bool:
        """Whether what lies there is all that is known of it: no counts are published."""
        return bool(self.counts) and self.held is None


SOURCES = {
    "glyphs": Source("evolve.data.glyphs:prepare", "characters, rendered on the spot"),
    "cifar100": Source("evolve.data.cifar100:prepare", "CIFAR-100", (500, 100), download=169),
    "tinyimagenet": Source("evolve.data.tinyimagenet:prepare", "TinyImageNet", (500, 50)),
    "imagenet": Source(
        "evolve.data.imagenet:prepare",
        "ImageNet (ILSVRC-2012), or a part of it",
        (1281, 50),
        True,
        "evolve.data.imagenet:counts",
    ),
    "miniimagenet": Source(
        "evolve.data.miniimagenet:prepare", "miniImageNet, its own split", (500, 100), True
    ),
    "imagefolder": Source(
        "evolve.data.imagefolder:prepare",
        "own photographs in class folders or a .zip of them",
        capped=True,
        counts="evolve.data.imagefolder:counts",
    ),
}
PLUGGED = Source("", "")  # another package's
