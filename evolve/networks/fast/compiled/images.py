"""A batch of images as machine code: gathered, normalised, shifted and mirrored in one sweep.

torch makes a pass through memory for each. Every number is made as in
:meth:`evolve.data.resident.Resident.gather`, to the same bit: a byte, as a number, times the scale,
minus the shift.
"""

from __future__ import annotations

import torch

from evolve.networks.fast.compiled.emit import Code, Value
from evolve.networks.fast.compiled.kernel import kernel
from evolve.networks.fast.compiled.units import Channels

CHANNELS = 3
CACHE_LINE = 64


@kernel("pppipppp")
def batch(code: Code, size: int, crop: bool, flip: bool, dtype: torch.dtype) -> None:
    """A kernel (out, images, index, B, scale, shift, skipped, mirrored): a batch of images.

    Takes the images ``index`` [B] out of bytes [N, size, size, 3] as out [B, size, size, 3].
    ``scale`` and ``shift``: [3 * size], a line's. With ``crop``, ``skipped`` [2, B] says how many
    lines and columns of an image that is padded by size // 8 zeros on every side come before what
    is shown, 0..2 * (size // 8). With ``flip``, bytes ``mirrored`` [B], 0 or 1. Integers are 64
    bits wide.

    Args:
        code: what the kernel is written into.
        size: pixels of an image's side.
        crop, flip: whether the kernel does it.
        dtype: of ``out``, ``scale`` and ``shift``.
    """
    _Batch(code, size, size // 8 if crop else 0, flip).written()


class _Batch:
    """Line by line: normalised into a room with zeros on both sides, then copied from where the
    shift says.
    """

    def __init__(self, code: Code, size: int, reach: int, flip: bool) -> None:
        self.code, self.size, self.reach, self.flip = code, size, reach, flip
        self.line = CHANNELS * size
        self.k = Channels(
            code, self.line
        )  # a line's numbers are gone through as a pixel's channels are
        (
            self.out,
            self.images,
            self.index,
            self.count,
            self.scale,
            self.shift,
            self.skipped,
            self.mirrored,
        ) = code.arguments
        self.room = code.room(CHANNELS * (size + 2 * reach))

    def written(self) -> None:
        code = self.code
        code.each(
            CHANNELS * (self.size + 2 * self.reach),
            lambda n: code.store(code.const(0.0), code.at(self.room, n)),
        )
        code.loop(self.count, lambda image, _: self._image(image))

    def _image(self, image: Value) -> None:
        code, b, size = self.code, self.code.b, self.size
        source, target = (
            code.mul(place, size * self.line) for place in (code.integer(self.index, image), image)
        )
        down, right = (
            code.integer(self.skipped, place) if self.reach else code.index(0)
            for place in (image, b.add(image, self.count))
        )
        following = code.mul(code.integer(self.index, self._after(image)), size * self.line)

        def line(y: Value) -> None:
            for ahead in range(
                0, self.line, CACHE_LINE
            ):  # the next image comes from far while this one is made
                code.prefetch(self.images, code.linear((1, following), (y, self.line), (1, ahead)))
            row = b.sub(b.add(y, down), code.index(self.reach))
            outside = b.icmp_unsigned(">=", row, code.index(size))  # a negative one is a large one
            to = code.at(self.out, code.linear((1, target), (y, self.line)))
            with b.if_else(outside) as (there, here):
                with there:
                    self.k.each(lambda n: self.k.store(self.k.const(0.0), to, n))
                with here:
                    self._normalise(code.linear((1, source), (row, self.line)))
                    self._copy(to, code.at(self.room, code.mul(right, CHANNELS)), image)

        code.loop(size, lambda y, _: line(y))

    def _after(self, image: Value) -> Value:
        b, more = self.code.b, self.code.add(image, 1)
        return b.select(b.icmp_signed("<", more, self.count), more, image)

    def _normalise(self, start: Value) -> None:
        code, b, k = self.code, self.code.b, self.k

        def some(n: Value | int) -> None:
            raw = code.bytes(self.images, code.add(start, n), k.lanes)
            k.store(
                b.fsub(b.fmul(raw, k.load(self.scale, n)), k.load(self.shift, n)),
                self.room,
                code.add(n, CHANNELS * self.reach),
            )

        k.each(some)

    def _copy(self, to: Value, window: Value, image: Value) -> None:
        if not self.flip:
            self._straight(to, window)
            return
        b = self.code.b
        mirrored = b.icmp_unsigned("!=", self.code.byte(self.mirrored, image), self.code.index(0))
        with b.if_else(mirrored) as (yes, no):
            with yes:
                self._turned(to, window)
            with no:
                self._straight(to, window)

    def _straight(self, to: Value, window: Value) -> None:
        self.k.each(lambda n: self.k.store(self.k.load(window, n), to, n))

    def _turned(self, to: Value, window: Value) -> None:
        code = self.code

        def pixel(x: Value, _: object) -> None:
            for channel in range(CHANNELS):
                place = code.add(code.mul(code.less(self.size - 1, x), CHANNELS), channel)
                code.store(
                    code.load(code.at(window, place), 1),
                    code.at(to, code.add(code.mul(x, CHANNELS), channel)),
                )

        code.loop(self.size, pixel)
