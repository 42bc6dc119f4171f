"""What a plain PyTorch user's data side looks like.

It is PIL images, torchvision transforms and a DataLoader.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from evolve.data.resident import Resident

Transform = Callable[[Image.Image], Tensor]


class PilImages(Dataset[tuple[Tensor, int]]):
    """A map dataset over decoded images, as torchvision's CIFAR100 is one.

    Transforms run an image at a time.
    """

    def __init__(
        self, images: Sequence[Image.Image], targets: Sequence[int], transform: Transform
    ) -> None:
        self.images, self.targets, self.transform = list(images), list(targets), transform

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, place: int) -> tuple[Tensor, int]:
        """The image as float32 [3, H, W], normalised, and its label."""
        return self.transform(self.images[place]), self.targets[place]


def pil_images(resident: Resident, index: Tensor) -> list[Image.Image]:
    """The resident uint8 images ``index`` [N] as PIL images."""
    pixels = resident.images[index.to(resident.device)].permute(0, 2, 3, 1).cpu().numpy()
    return [Image.fromarray(image) for image in pixels]


def transform_of(resident: Resident, augment: Sequence[str]) -> Transform:
    """torchvision's transforms for ``augment`` (crop, flip), then ToTensor and Normalize."""
    size = resident.size
    steps: list[Any] = [transforms.RandomCrop(size, padding=size // 8)] if "crop" in augment else []
    steps += [transforms.RandomHorizontalFlip()] if "flip" in augment else []
    mean, std = (values.flatten().tolist() for values in (resident.mean, resident.std))
    composed: Transform = transforms.Compose(
        [*steps, transforms.ToTensor(), transforms.Normalize(mean, std)]
    )
    return composed


def loader(
    dataset: Dataset[tuple[Tensor, int]], batch: int, workers: int, device: torch.device
) -> DataLoader[tuple[Tensor, int]]:
    """A shuffling DataLoader; pinned memory for a GPU."""
    return DataLoader(
        dataset,
        batch_size=batch,
        shuffle=True,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=device.type == "cuda",
    )


def fastest(
    candidates: Sequence[int], chunk: Callable[[int], Any], seconds: float
) -> tuple[int, dict[str, list[float]]]:
    """Choose the number of workers that takes least time.

    After a warm-up each, the candidates take turns. A single one is not tried.

    Args:
        candidates: numbers of workers.
        chunk: runs with so many workers.
        seconds: how long they take turns, at least once each.

    Returns:
        The number, and the seconds of every try.
    """
    tried: dict[int, list[float]] = {workers: [] for workers in candidates}
    if len(tried) == 1:
        return candidates[0], {}
    for workers in tried:
        chunk(workers)
    ends = time.perf_counter() + seconds
    while time.perf_counter() < ends or not all(tried.values()):
        for workers, spent in tried.items():
            begun = time.perf_counter()
            chunk(workers)
            spent.append(time.perf_counter() - begun)
    chosen = min(tried, key=lambda workers: sorted(tried[workers])[len(tried[workers]) // 2])
    return chosen, {str(workers): spent for workers, spent in tried.items()}
