"""The records of the image sources: code, help, what they hold. Free of torch."""

from __future__ import annotations

from dataclasses import dataclass

from evolve.core.registry import Record


@dataclass(frozen=True)
class Source(Record):
    """An image source.

    ``held``: its training and test images a class (None: as the glyphs' settings say).

    ``capped``: whether it reads data.images_per_class.

    ``download``: megabytes that it downloads where the images are not there.
    """

    held: tuple[int, int] | None = None
    capped: bool = False
    download: int = 0


SOURCES = {
    "glyphs": Source("evolve.data.glyphs:prepare", "characters, rendered on the spot"),
    "cifar100": Source("evolve.data.cifar100:prepare", "CIFAR-100", (500, 100), download=169),
    "tinyimagenet": Source("evolve.data.tinyimagenet:prepare", "TinyImageNet", (500, 50)),
    "imagenet": Source(
        "evolve.data.imagenet:prepare", "ImageNet or class folders", (1281, 50), True
    ),
    "miniimagenet": Source(
        "evolve.data.miniimagenet:prepare", "miniImageNet, its own split", (500, 100), True
    ),
}
PLUGGED = Source("", "")  # another package's
