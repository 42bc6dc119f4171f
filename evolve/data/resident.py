"""All images as one uint8 tensor on a device.

A batch is a gather, a scaling, a shift and a flip; on a CPU a compiled kernel does it in one sweep.
Images that a GPU cannot hold, and those of two sources on a CPU, stay where they are in memory or
on disk, and only batches travel.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from evolve.data.sources import ImageSet
from evolve.networks.fast import image_batch

KNOWN = ("crop", "flip")
AHEAD = 64  # batches that are prepared at once
# The part of a GPU's memory that images may take: workers share it, and networks need room.
DEVICE_SHARE = 0.25


class Resident:
    """Serves normalised batches by index, without a loader, workers or global random state.

    On ``device`` live ``labels`` int64 [N], ``mean`` and ``std``, float32 [1, 3, 1, 1], and where
    ``held`` says so the images, uint8 [N, 3, H, W] in channels_last memory. Whether a GPU holds the
    images follows from their bytes and from its whole memory, not from what is free just now; the
    batches are equal either way. On a CPU, images that already lie in that memory order (those of
    ``load_images`` do) are not copied, so that worker processes share one memmap.
    """

    def __init__(self, images: ImageSet, device: torch.device) -> None:
        self.device = torch.device(device)
        self.size = int(images.images.shape[-1])
        self.pieces = tuple(
            _tensor(piece).contiguous(memory_format=torch.channels_last)
            for piece in (images.images, *images.more)
        )
        self.held = _held(self.pieces, self.device)
        self.images = _whole(self.pieces, self.device) if self.held else self.pieces[0][:0]
        self.labels = torch.from_numpy(np.array(images.labels, dtype=np.int64)).to(self.device)
        self.mean = torch.tensor(images.mean, device=self.device).view(1, 3, 1, 1)
        self.std = torch.tensor(images.std, device=self.device).view(1, 3, 1, 1)
        self.class_names = images.class_names
        self.own_id = images.own_id  # what a user calls a class
        self.fingerprint = images.fingerprint
        self._scale = (1.0 / (255.0 * self.std)).view(3).repeat(self.size)
        self._shift = (self.mean / self.std).view(3).repeat(self.size)
        self._by_class = _group(
            np.asarray(images.labels), np.asarray(images.is_test), len(images.class_names)
        )

    def indices(self, class_id: int, test: bool) -> Tensor:
        """The images of a class, sorted.

        Args:
            class_id: the class.
            test: its test images, or its training images.

        Returns:
            int64 [n] on the CPU.

        Raises:
            KeyError: there is no such class.
        """
        return self._by_class[int(class_id), bool(test)].clone()

    def batch(
        self, index: Tensor, augment: tuple[str, ...] = (), generator: torch.Generator | None = None
    ) -> Tensor:
        """Serve a batch, normalised by the source's mean and std.

        Args:
            index: int64 [B], the images.
            augment: "crop" shifts each image by up to H//8 pixels each way and fills with the mean
                colour (zero, after normalising); "flip" mirrors each image with probability 1/2.
            generator: draws on the CPU, all crops before all flips whatever the order of
                ``augment``.

        Returns:
            float32 [B, 3, H, W] in channels_last memory.

        Raises:
            ValueError: ``augment`` has an unknown name, or needs a generator.
        """
        return self._prepared(index, *self.draw(len(index), augment, generator))()

    def batches(
        self,
        indices: Sequence[Tensor],
        augment: tuple[str, ...] = (),
        generator: torch.Generator | None = None,
    ) -> Iterator[Tensor]:
        """Serve :meth:`batch` of one index after the other, bit for bit, sooner.

        It draws for several batches at a time, so the generator may be ahead of what was served.

        Args:
            indices: int64 [B] each.
            augment: see :meth:`batch`.
            generator: see :meth:`batch`.
        """
        for start in range(0, len(indices), AHEAD):
            part = indices[start : start + AHEAD]
            prepared = [
                self._prepared(index, *self.draw(len(index), augment, generator)) for index in part
            ]
            for make in prepared:
                yield make()

    def _prepared(
        self, index: Tensor, shift: Tensor | None, flip: Tensor | None
    ) -> Callable[[], Tensor]:
        """What makes a batch with these draws, on the CPU as :meth:`draw` leaves them; there by a
        kernel, to the bits of :meth:`gather`.
        """
        if self.device.type != "cpu":
            there = index if not self.held else sent(index, self.device)
            return lambda: self.gather(
                there,
                *(None if part is None else sent(part, self.device) for part in (shift, flip)),
            )
        places, count = index.tolist(), len(self.labels)
        if places and not 0 <= min(places) <= max(places) < count:
            raise IndexError(
                f"images {min(places)} to {max(places)} are asked for, there are {count}"
            )
        more = self._scale, self._shift, shift, flip
        if not self.held:
            return lambda: image_batch(self._raw(index), torch.arange(len(index)), *more)()
        return image_batch(self.images, index.to(torch.int64).contiguous(), *more)

    def draw(
        self, count: int, augment: tuple[str, ...], generator: torch.Generator | None
    ) -> tuple[Tensor | None, Tensor | None]:
        """Draw what :meth:`batch` needs, on the CPU.

        Args:
            count: how many images.
            augment: see :meth:`batch`.
            generator: see :meth:`batch`.

        Returns:
            The crops, int64 [2, count, 1]: lines and columns, 0 to 2 * (H//8), to skip of the
            padded image. The flips, bool [count]. None for what ``augment`` does not name.

        Raises:
            ValueError: as :meth:`batch` does.
        """
        unknown = set(augment) - set(KNOWN)
        if unknown:
            raise ValueError(f"unknown augmentation {sorted(unknown)}; known: {KNOWN}")
        if augment and generator is None:
            raise ValueError("augmentation needs a generator: global random state is never used")
        shift = (
            torch.randint(0, 2 * (self.size // 8) + 1, (2, count, 1), generator=generator)
            if "crop" in augment
            else None
        )
        flip = torch.rand(count, generator=generator) < 0.5 if "flip" in augment else None
        return shift, flip

    def gather(
        self, index: Tensor, shift: Tensor | None = None, flip: Tensor | None = None
    ) -> Tensor:
        """:meth:`batch` with draws made before, bit for bit.

        All arguments lie on the device and nothing waits for it, nor does a shape depend on a
        value. So a CUDA graph may hold this (where the images are ``held``).

        Args:
            index: int64 [B].
            shift: see :meth:`draw`.
            flip: see :meth:`draw`.
        """
        rows = self._rows(index)
        if shift is not None:
            rows = self._crop(rows, shift)
        pixels = rows.view(len(rows), self.size, self.size, 3)
        if flip is not None:
            pixels = torch.where(flip.view(-1, 1, 1, 1), pixels.flip(2), pixels)
        return pixels.permute(0, 3, 1, 2)

    def _rows(self, index: Tensor) -> Tensor:
        """The normalised images as float32 [B, H, W*3], pixels side by side as channels_last has
        them.
        """
        raw = self._raw(index).view(len(index), self.size, self.size * 3)
        return raw.to(torch.float32).mul_(self._scale).sub_(self._shift)

    def _raw(self, index: Tensor) -> Tensor:
        """The images as uint8 [B, H*W*3] on the device."""
        if self.held:
            return _flat(self.images).index_select(0, index.to(self.device))
        places = index.cpu()
        raw = torch.empty(
            len(places),
            self.size * self.size * 3,
            dtype=torch.uint8,
            pin_memory=self.device.type == "cuda",
        )
        start = 0
        for piece in self.pieces:
            here = torch.nonzero((places >= start) & (places < start + len(piece))).view(-1)
            if len(here) == len(places):
                torch.index_select(_flat(piece), 0, places - start, out=raw)
            elif len(here):
                raw[here] = _flat(piece).index_select(0, places[here] - start)
            start += len(piece)
        return raw.to(self.device, non_blocking=True)

    def _crop(self, rows: Tensor, shift: Tensor) -> Tensor:
        """Shift every image by its own (dy, dx): one gather of windows of the padded rows."""
        count, size, reach = len(rows), self.size, self.size // 8
        padded = F.pad(rows, (3 * reach, 3 * reach, reach, reach))
        side = size + 2 * reach
        windows = padded.view(-1).as_strided(
            (max(0, count * side * side - size + 1), size * 3), (3, 1)
        )
        image = torch.arange(count, device=self.device).view(-1, 1)
        line = torch.arange(size, device=self.device)
        place = (image * side + line + shift[0]) * side + shift[1]
        return windows.index_select(0, place.view(-1)).view(count, size, size * 3)


def _tensor(images: np.ndarray) -> Tensor:
    """A tensor over the array's own memory, which may be read-only: nothing here writes into it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(images)


def _flat(images: Tensor) -> Tensor:
    """[N, 3, H, W] in channels_last memory as [N, H*W*3]."""
    return images.permute(0, 2, 3, 1).flatten(1)


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on another device.

    To a GPU it goes from pinned memory: from any other a copy waits for all work that is queued
    there.

    Args:
        tensor: what to move; where it is there already, it is returned itself.
        device: where it goes.
    """
    if device.type != "cuda" or tensor.is_cuda:
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def device_bytes(device: torch.device) -> int:
    """All the memory of a GPU.

    Args:
        device: the GPU.
    """
    return int(torch.cuda.get_device_properties(device).total_memory)


def _held(pieces: Sequence[Tensor], device: torch.device) -> bool:
    """Whether the images are to lie on the device as one tensor.

    On a CPU a single piece does, wherever it is mapped from.
    """
    if device.type == "cpu":
        return len(pieces) == 1
    return sum(piece.numel() for piece in pieces) <= DEVICE_SHARE * device_bytes(device)


def _whole(pieces: Sequence[Tensor], device: torch.device) -> Tensor:
    """The pieces as one tensor on the device, in channels_last memory; one piece alone as it is."""
    if len(pieces) == 1:
        return pieces[0].to(device)
    shape = (sum(len(piece) for piece in pieces), *pieces[0].shape[1:])
    whole = torch.empty(shape, dtype=torch.uint8, device=device).contiguous(
        memory_format=torch.channels_last
    )
    for part, piece in zip(whole.split([len(piece) for piece in pieces]), pieces, strict=True):
        part.copy_(piece)
    return whole


def _group(labels: np.ndarray, is_test: np.ndarray, classes: int) -> dict[tuple[int, bool], Tensor]:
    """Indices of every (class, test?) pair, sorted."""
    key = labels * 2 + is_test
    order = np.argsort(key, kind="stable").astype(np.int64)
    ends = np.searchsorted(key[order], np.arange(2 * classes + 1))
    return {
        (place // 2, bool(place % 2)): torch.from_numpy(order[ends[place] : ends[place + 1]])
        for place in range(2 * classes)
    }
