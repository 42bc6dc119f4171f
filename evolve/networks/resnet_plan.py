"""A ResNet as data: its residual blocks stage by stage, and the rule that stacks a descendant.

Nothing here needs torch. The integral layers are the convolutions with their BN (paper, Eq. 5). The
1x1 shortcuts, where channels or resolution change, are extras.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from math import prod
from typing import Any

from evolve.networks.architecture import (
    GRANULARITIES,
    Architecture,
    Axes,
    Groups,
    Mixture,
    Shapes,
    check_names,
    front_or_last,
    kept,
)
from evolve.networks.vgg_plan import ConvSpec, short

IMAGE_CHANNELS = 3
WIDTHS = (64, 128, 256, 512)  # of the four stages, in ancestor and descendant
SMALL = 96  # pixels up to which the stem keeps the resolution
DEPTH = 3  # convolutions of a descendant's stage, at least, and of a residual block, at most
PAPER_SET = ("conv4", "conv5", "conv16", "conv17")
"""The paper says two 64-channel and two 512-channel convolutions (5.1): we take the last basic
block of the first and of the last stage.
"""
AUTHORS_SET = ("conv15", "conv16", "conv17")
"""The last three convolutions, as the authors picked in the VGG."""


@dataclass(frozen=True)
class Conv(ConvSpec):
    """A convolution without bias and its BN.

    It is padded, so that only ``stride`` changes the resolution, to the half rounded up.
    """

    kernel: int = 3
    stride: int = 1


@dataclass(frozen=True)
class Block:
    """Convolutions in a row, a ReLU after each.

    Attributes:
        stage: the stage's number, from 1.
        convs: the convolutions.
        residual: whether the block adds what came in before its last ReLU.
        shortcut: what that passes through; None: the identity.
        pool: pixels of a max pool of stride 2 that follows; 0: none. It is 2 in descendants, 3 in
            the stem for large images.
    """

    stage: int
    convs: tuple[Conv, ...]
    residual: bool = True
    shortcut: Conv | None = None
    pool: int = 0

    @property
    def all(self) -> tuple[Conv, ...]:
        """The convolutions and the shortcut."""
        return self.convs if self.shortcut is None else (*self.convs, self.shortcut)


@dataclass(frozen=True)
class ResNetPlan(Architecture):
    """A ResNet: residual blocks, global average pooling, one FC.

    Every map is half as large (rounded up) as that of the stage before.
    """

    family = "resnet"
    builder = "evolve.networks.resnet:ResNet"
    learners = dict.fromkeys(("sgd", "adamw"), "evolve.networks.fast.residual:WrittenResNet")
    written = "written-winograd"
    foreign = "evolve.networks.foreign_names:ForeignResNet"

    blocks: tuple[Block, ...]

    @property
    def layer_names(self) -> tuple[str, ...]:
        return tuple(conv.name for block in self.blocks for conv in block.convs)

    @property
    def extras(self) -> tuple[str, ...]:
        return tuple(block.shortcut.name for block in self.blocks if block.shortcut)

    @property
    def convs(self) -> dict[str, Conv]:
        """Every layer by name, block by block."""
        return {conv.name: conv for block in self.blocks for conv in block.all}

    @property
    def stages(self) -> dict[int, tuple[Conv, ...]]:
        """The integral layers of each stage."""
        numbers = dict.fromkeys(block.stage for block in self.blocks)
        return {
            number: tuple(
                conv for block in self.blocks if block.stage == number for conv in block.convs
            )
            for number in numbers
        }

    def integral_layers(self, granularity: str) -> Groups:
        """See :class:`Architecture`: ResNet18 has 17 groups at "conv" and 4 at "stage".

        The stem belongs to the first stage.
        """
        if granularity not in GRANULARITIES:
            raise ValueError(
                f"granularity = {granularity!r}: allowed are {', '.join(GRANULARITIES)}"
            )
        if granularity == "conv":
            return tuple((name,) for name in self.layer_names)
        return tuple(tuple(conv.name for conv in convs) for convs in self.stages.values())

    def inherits(self) -> Mapping[str, Mixture]:
        mixtures = {name: conv.mixture for name, conv in self.convs.items()}
        return {name: given for name, given in mixtures.items() if given is not None}

    def places(self) -> Mapping[str, str]:
        named: dict[str, str] = {}
        for number, convs in self.stages.items():
            shortcuts = [
                block.shortcut for block in self.blocks if block.stage == number and block.residual
            ]
            named |= {
                conv.name: f"stage{number}_{place}" for place, conv in enumerate(convs, start=1)
            }
            named |= {
                conv.name: _shortcut_name(number, place)
                for place, conv in enumerate(shortcuts, start=1)
                if conv
            }
        return named

    def anonymous(self) -> ResNetPlan:
        named = self.places()
        return self._with(lambda conv: replace(conv, name=named[conv.name], inherits=None))

    def with_inherited(self, inherited: Mapping[str, Mixture]) -> ResNetPlan:
        check_names(self, set(inherited).difference(self.extras))
        return self._with(lambda conv: replace(conv, inherits=short(inherited.get(conv.name))))

    def _with(self, change: Callable[[Conv], Conv]) -> ResNetPlan:
        """This network with every layer changed, shortcuts too."""
        return ResNetPlan(
            tuple(
                replace(
                    block,
                    convs=tuple(map(change, block.convs)),
                    shortcut=change(block.shortcut) if block.shortcut else None,
                )
                for block in self.blocks
            )
        )

    def stacked(self, selected: Iterable[str]) -> ResNetPlan:
        """The descendant of some of this ancestor's layers (paper, 4.3).

        Each layer is in a stage of its own number, so at the resolution it had.

        * A stage starts with the ancestor's first convolution of that stage if it is selected, else
          with a fresh one like it. The selected one brings its stride of 2. Before a fresh one the
          stage before is pooled instead, 2x2, as the last stage always is.
        * Then come as many fresh convolutions as make three in all, then the stage's other selected
          ones in ancestor order.
        * They stand in residual blocks of three (the last may be shorter). Where channels or
          resolution change, the block has a fresh 1x1 shortcut.
        * A stem that reduces large images fourfold, 7x7 and pool, counts in its stage and stays
          outside the residual blocks.

        For ResNet18 at up to 96 pixels and the paper's set this is ResNet12. Whatever is selected,
        every stage's maps have the ancestor's size.

        Args:
            selected: the layers' names.

        Raises:
            ValueError: the ancestor lacks a layer; the message names it.
        """
        wanted = check_names(self, selected)
        rows = [_row(number, convs, wanted) for number, convs in self.stages.items()]
        pools = [2 if after[0].stride == 1 else 0 for after in rows[1:]] + [2]
        stem = self.blocks[0]
        blocks: list[Block] = []
        for number, row, pool in zip(self.stages, rows, pools, strict=True):
            if not blocks and stem.pool and not stem.residual:
                blocks.append(replace(stem, convs=tuple(row[:1])))
                row = row[1:]
            blocks += _residual(number, row, pool)
        return ResNetPlan(tuple(blocks))

    def resized(self, depth: int) -> ResNetPlan:
        """See :class:`Architecture`; what precedes the first residual block stays as it is."""
        blocks = [block for block in self.blocks if not block.residual]
        for number in self.stages:
            first, *more = (b for b in self.blocks if b.stage == number and b.residual)
            blocks += [first, *(more * depth)[: depth - 1]]
        plan = ResNetPlan(tuple(map(_numbered, range(len(blocks)), blocks))).anonymous()
        return self if plan == self.anonymous() else plan

    def narrowed(self, width: float) -> ResNetPlan:
        widths = {conv.c_out for conv in self.convs.values()}
        if len({kept(channels, width) for channels in widths}) < len(widths):
            raise ValueError(f"at {width:g} of its channels, stages would be equally wide")
        streams = self._streams()

        def narrow(conv: Conv) -> Conv:
            image = streams[conv.name][1] == IMAGE_CHANNELS
            c_in = conv.c_in if image else kept(conv.c_in, width)
            return replace(conv, c_in=c_in, c_out=kept(conv.c_out, width))

        return self._with(narrow)

    def axes(self, layer: str) -> Mapping[str, Axes]:
        leaving, arriving = self._streams()[layer]
        kernel = self.convs[layer].kernel
        return {
            part: ((leaving,), (arriving,), (kernel,), (kernel,))
            if len(shape) == 4
            else ((leaving,),) * len(shape)
            for part, shape in self.shapes(layer).items()
        }

    def _streams(self) -> dict[str, tuple[str, str | int]]:
        """Layer -> the groups of channels that it puts out and takes in.

        All that a sum adds up is one group, so blocks with the identity as shortcut pass one on.
        """
        streams: dict[str, tuple[str, str | int]] = {}
        arriving: str | int = IMAGE_CHANNELS
        for block in self.blocks:
            entry, last = arriving, block.convs[-1].name
            kept_on = block.residual and block.shortcut is None
            for conv in block.convs:
                leaving = str(entry) if kept_on and conv.name == last else conv.name
                streams[conv.name] = leaving, arriving
                arriving = leaving
            if block.shortcut:
                streams[block.shortcut.name] = last, entry
        return streams

    def named_set(self, name: str, count: int) -> tuple[int, ...]:
        listed = {"paper": PAPER_SET, "authors": AUTHORS_SET}.get(name)
        return (
            tuple(self.layer_names.index(layer) for layer in listed)
            if listed
            else front_or_last(name, len(self.layer_names), count)
        )

    def describe(self) -> str:
        """ "[64 64* 64*] [128 128 128] ...": residual blocks in brackets.

        "/2" halves the resolution; other stages are pooled before.
        """
        return " ".join(_written(block) for block in self.blocks)

    def to_json(self) -> Any:
        return {"family": self.family, "blocks": [asdict(block) for block in self.blocks]}

    def shapes(self, layer: str) -> Shapes:
        conv = self.convs[layer]
        vectors = dict.fromkeys(
            ("bn.weight", "bn.bias", "bn.running_mean", "bn.running_var"), (conv.c_out,)
        )
        return (
            {"conv.weight": (conv.c_out, conv.c_in, conv.kernel, conv.kernel)}
            | vectors
            | {"bn.num_batches_tracked": ()}
        )

    def macs(self, size: int) -> float:
        return (
            sum(
                side * side * conv.c_in * conv.c_out * conv.kernel**2
                for conv, side in self._sides(size)
            )
            / 1e9
        )

    def numbers_out(self, size: int) -> float:
        return float(sum(side * side * conv.c_out for conv, side in self._sides(size)))

    def _sides(self, size: int) -> Iterator[tuple[Conv, int]]:
        """Every layer with the side of its output, for images of ``size`` pixels."""
        for block in self.blocks:
            for conv in block.convs:
                size = -(-size // conv.stride)
                yield conv, size
            if block.shortcut:
                yield block.shortcut, size
            size = -(-size // 2) if block.pool else size


def resnet18(width: float, size: int) -> ResNetPlan:
    """ResNet18 (He et al., arXiv 1512.03385), as torchvision has it.

    Its layers are "conv1".."conv17" and "shortcut2".."shortcut4". The stem for images of more than
    96 pixels is torchvision's, 7x7 with stride 2 and a pool. For smaller ones it is 3x3 and keeps
    the resolution (there section 4.2, on CIFAR).

    Args:
        width: what the channels are multiplied by; at least one is left.
        size: pixels of an image's side.

    Raises:
        ValueError: ``width`` is not positive.
    """
    if not width > 0:
        raise ValueError(f"width = {width}: must be above 0")
    widths = [max(1, round(channels * width)) for channels in WIDTHS]
    large = size > SMALL
    stem = Conv(
        "conv1", IMAGE_CHANNELS, widths[0], kernel=7 if large else 3, stride=2 if large else 1
    )
    blocks = [Block(1, (stem,), residual=False, pool=3 if large else 0)]
    number, current = 2, widths[0]
    for stage, channels in enumerate(widths, start=1):
        for stride in (1 if stage == 1 else 2, 1):
            convs = (
                Conv(f"conv{number}", current, channels, stride=stride),
                Conv(f"conv{number + 1}", channels, channels),
            )
            blocks.append(Block(stage, convs, shortcut=shortcut_past(f"shortcut{stage}", convs)))
            number, current = number + 2, channels
    return ResNetPlan(tuple(blocks))


def _numbered(number: int, block: Block) -> Block:
    """The block with names that no other one has."""
    convs = tuple(replace(c, name=f"block{number}_{n}") for n, c in enumerate(block.convs))
    past = block.shortcut and replace(block.shortcut, name=f"block{number}_shortcut")
    return replace(block, convs=convs, shortcut=past)


def _row(number: int, convs: Sequence[Conv], wanted: set[str]) -> list[Conv]:
    """A descendant's stage, made of the ancestor's ``convs`` that are wanted."""
    entry, *rest = convs
    fresh = replace(
        entry, name=f"stage{number}_entry", inherits=None, stride=entry.stride if number == 1 else 1
    )
    first = replace(entry, inherits=entry.name) if entry.name in wanted else fresh
    chosen = [replace(conv, inherits=conv.name) for conv in rest if conv.name in wanted]
    fill = [
        Conv(f"stage{number}_fill{place}", entry.c_out, entry.c_out)
        for place in range(1, DEPTH - len(chosen))
    ]
    return [first, *fill, *chosen]


def _residual(stage: int, convs: Sequence[Conv], pool: int) -> list[Block]:
    """The convolutions in residual blocks, a pool after the last."""
    parts = [tuple(convs[start : start + DEPTH]) for start in range(0, len(convs), DEPTH)]
    blocks = [
        Block(stage, part, shortcut=shortcut_past(_shortcut_name(stage, place), part))
        for place, part in enumerate(parts, start=1)
    ]
    return [*blocks[:-1], replace(blocks[-1], pool=pool)]


def shortcut_past(name: str, convs: Sequence[Conv]) -> Conv | None:
    """The 1x1 convolution past a block's convolutions; None where the identity fits.

    Args:
        name: the shortcut's.
        convs: the block's.
    """
    shortcut = Conv(
        name, convs[0].c_in, convs[-1].c_out, kernel=1, stride=prod(conv.stride for conv in convs)
    )
    return None if shortcut.c_in == shortcut.c_out and shortcut.stride == 1 else shortcut


def _shortcut_name(stage: int, place: int) -> str:
    """A descendant's shortcut, and where any shortcut stands: past the ``place``-th residual block
    of its stage.
    """
    return f"stage{stage}_shortcut{place}"


def _written(block: Block) -> str:
    marks = (
        (
            f"{c.kernel}x{c.kernel}:" if c.kernel != 3 else "",
            "*" if c.inherits else "",
            f"/{c.stride}" if c.stride > 1 else "",
        )
        for c in block.convs
    )
    text = " ".join(
        f"{kernel}{conv.c_out}{star}{stride}"
        for conv, (kernel, star, stride) in zip(block.convs, marks, strict=True)
    )
    return f"[{text}]" if block.residual else f"{text} M" if block.pool else text
