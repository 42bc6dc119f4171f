"""A vision transformer as data: its encoder blocks, and the rule that stacks a descendant.

Nothing here needs torch. The integral layers are the encoder blocks (paper, Eq. 3). Patch
projection, class token and positions are one extra, "embed", which a learngene carries along for
inheritors that want it (``inherit.embeddings``). The last LayerNorm is the other, "norm".
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
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
from evolve.networks.vgg_plan import Given, given_from_json, short

IMAGE_CHANNELS = 3
EMBEDDING = "embedding"  # the channels of the residual stream
DEPTH = 12
HEAD = 64  # numbers a head attends with
LEAST_HEAD = 16  # below one head's width the head itself narrows, to no less
MLP = 4  # the FFN's hidden layer, times the embedding
# blocks of a "stage": a ViT has one resolution, so neighbours are paired; the paper's lower half is
# three of six
STAGE = 2


@dataclass(frozen=True)
class BlockSpec:
    """One encoder block and what it receives from the ancestor.

    A block is LayerNorm, MSA, LayerNorm and FFN, with their residuals.
    """

    name: str
    inherits: Given = None


@dataclass(frozen=True)
class ViTPlan(Architecture):
    """A ViT; all its blocks are of one shape.

    Attributes:
        patch: pixels of a patch's side.
        size: pixels of an image's side.
        dim: numbers of a token.
        heads: attention heads of a block.
        blocks: the encoder blocks.
        embed, norm: what the extras receive from the ancestor.
    """

    family = "vit"
    builder = "evolve.networks.vit:ViT"
    learners = dict.fromkeys(("sgd", "adamw"), "evolve.networks.fast.encoder:WrittenViT")
    foreign = "evolve.networks.foreign_names:ForeignViT"

    patch: int
    size: int
    dim: int
    heads: int
    blocks: tuple[BlockSpec, ...]
    embed: Given = None
    norm: Given = None

    @property
    def layer_names(self) -> tuple[str, ...]:
        return tuple(block.name for block in self.blocks)

    @property
    def extras(self) -> tuple[str, ...]:
        return ("embed", "norm")

    @property
    def carried(self) -> tuple[str, ...]:
        return ("embed",)

    def tokens(self, size: int) -> int:
        """Tokens of an image of ``size`` pixels: its patches and the class token."""
        return (size // self.patch) ** 2 + 1

    def integral_layers(self, granularity: str) -> Groups:
        """See :class:`Architecture`; at "stage", neighbouring blocks stand in pairs."""
        if granularity not in GRANULARITIES:
            raise ValueError(
                f"granularity = {granularity!r}: allowed are {', '.join(GRANULARITIES)}"
            )
        names, step = self.layer_names, 1 if granularity == "conv" else STAGE
        return tuple(names[start : start + step] for start in range(0, len(names), step))

    def inherits(self) -> Mapping[str, Mixture]:
        given = {
            "embed": self.embed,
            **{block.name: block.inherits for block in self.blocks},
            "norm": self.norm,
        }
        return {
            name: {mixture: 1.0} if isinstance(mixture, str) else dict(mixture)
            for name, mixture in given.items()
            if mixture is not None
        }

    def places(self) -> Mapping[str, str]:
        numbered = {
            block.name: f"block{number}" for number, block in enumerate(self.blocks, start=1)
        }
        return {"embed": "embed", **numbered, "norm": "norm"}

    def anonymous(self) -> ViTPlan:
        blocks = tuple(BlockSpec(f"block{number}") for number in range(1, len(self.blocks) + 1))
        return replace(self, blocks=blocks, embed=None, norm=None)

    def stacked(self, selected: Iterable[str]) -> ViTPlan:
        """The selected blocks in ancestor order, and fresh ones behind them.

        Together they are half the ancestor's depth (the paper's 6 of 12). More selected blocks make
        a deeper descendant. Embeddings, norm and head are fresh.

        Args:
            selected: the blocks' names.

        Raises:
            ValueError: the ancestor lacks a block; the message names it.
        """
        wanted = check_names(self, selected)
        chosen = [BlockSpec(name, name) for name in self.layer_names if name in wanted]
        fresh = [
            BlockSpec(f"fresh{place}")
            for place in range(len(chosen) + 1, max(1, len(self.blocks) // 2) + 1)
        ]
        return replace(self, blocks=(*chosen, *fresh), embed=None, norm=None)

    def with_inherited(self, inherited: Mapping[str, Mixture]) -> ViTPlan:
        check_names(self, set(inherited).difference(self.extras))
        given = {name: short(mixture) for name, mixture in inherited.items()}
        blocks = tuple(replace(block, inherits=given.get(block.name)) for block in self.blocks)
        return replace(self, blocks=blocks, embed=given.get("embed"), norm=given.get("norm"))

    def resized(self, depth: int) -> ViTPlan:
        blocks = tuple(BlockSpec(f"block{number}") for number in range(1, depth + 1))
        plan = replace(self, blocks=blocks, embed=None, norm=None)
        return self if plan == self.anonymous() else plan

    def narrowed(self, width: float) -> ViTPlan:
        """See :class:`Architecture`; a share of the heads, which keep their width.

        A single head narrows itself, as :func:`vit` narrows it.
        """
        if self.heads > 1 and self._whole_heads:
            heads = kept(self.heads, width)
            return replace(self, heads=heads, dim=HEAD * heads)
        step = 8 * self.heads
        least = LEAST_HEAD * self.heads
        return replace(self, dim=max(min(least, self.dim), step * round(self.dim * width / step)))

    @property
    def _whole_heads(self) -> bool:
        """Whether heads are as wide as at width 1: then heads are kept or dropped whole."""
        return self.dim == HEAD * self.heads

    def axes(self, layer: str) -> Mapping[str, Axes]:
        d, heads, hidden = (EMBEDDING,), f"{layer}.heads", (f"{layer}.hidden",)
        attended: tuple[str | int, ...] = (
            (heads, HEAD) if self._whole_heads else (self.heads, heads)
        )
        leaving = {"attn.qkv": (3, *attended), "mlp.fc1": hidden}
        arriving = {"attn.proj": attended, "mlp.fc2": hidden}
        fixed = {
            "cls_token": ((1,), (1,), d),
            "pos_embed": ((1,), (self.tokens(self.size),), d),
            "patch_embed.proj.weight": (d, (IMAGE_CHANNELS,), (self.patch,), (self.patch,)),
        }
        axes: dict[str, Axes] = {}
        for part, shape in self.shapes(layer).items():
            module = part.rpartition(".")[0]
            both = leaving.get(module, d), arriving.get(module, d)
            axes[part] = fixed.get(part, both[: len(shape)])
        return axes

    def named_set(self, name: str, count: int) -> tuple[int, ...]:
        if name in ("paper", "authors"):  # both the lower half
            return tuple(range(max(1, len(self.blocks) // 2)))
        return front_or_last(name, len(self.blocks), count)

    def describe(self) -> str:
        embed = f"{self.dim}/{self.patch}{'*' if self.embed else ''}"
        return f"{embed} " + " ".join(f"B{'*' if block.inherits else ''}" for block in self.blocks)

    def to_json(self) -> Any:
        blocks = [{"name": block.name, "inherits": block.inherits} for block in self.blocks]
        shape = {"patch": self.patch, "size": self.size, "dim": self.dim, "heads": self.heads}
        return {
            "family": self.family,
            **shape,
            "blocks": blocks,
            "embed": self.embed,
            "norm": self.norm,
        }

    def shapes(self, layer: str) -> Shapes:
        d = self.dim
        norm: dict[str, tuple[int, ...]] = {"weight": (d,), "bias": (d,)}
        if layer == "norm":
            return norm
        if layer == "embed":
            patches = {
                "patch_embed.proj.weight": (d, IMAGE_CHANNELS, self.patch, self.patch),
                "patch_embed.proj.bias": (d,),
            }
            return {"cls_token": (1, 1, d), "pos_embed": (1, self.tokens(self.size), d)} | patches
        if layer not in self.layer_names:
            raise KeyError(layer)
        weights: dict[str, tuple[int, ...]] = {
            "norm1": (d,),
            "attn.qkv": (3 * d, d),
            "attn.proj": (d, d),
            "norm2": (d,),
            "mlp.fc1": (MLP * d, d),
            "mlp.fc2": (d, MLP * d),
        }
        return {
            f"{name}.{part}": shape
            for name, weight in weights.items()
            for part, shape in (("weight", weight), ("bias", weight[:1]))
        }

    def macs(self, size: int) -> float:
        tokens, d = self.tokens(size), self.dim
        patches = (tokens - 1) * IMAGE_CHANNELS * self.patch**2 * d
        block = tokens * d * d * (4 + 2 * MLP) + 2 * tokens**2 * d
        return (patches + len(self.blocks) * block) / 1e9

    def numbers_out(self, size: int) -> float:
        return float(self.tokens(size) * self.dim * (len(self.blocks) + 1))


def vit_s16(width: float, size: int) -> ViTPlan:
    """ViT-S/16, timm's vit_small_patch16_224 and DINO's DeiT-S/16: 12 blocks, 6 heads of 64.

    Args:
        width, size: see :func:`vit`.
    """
    return vit(6, 16, width, size)


def vit_small4(width: float, size: int) -> ViTPlan:
    """A ViT for small images: patches of 4 pixels, 12 blocks, 3 heads of 64.

    Args:
        width, size: see :func:`vit`.
    """
    return vit(3, 4, width, size)


def vit(heads: int, patch: int, width: float, size: int) -> ViTPlan:
    """A ViT of 12 blocks, each head of which attends with 64 numbers.

    Args:
        heads: attention heads at width 1.
        patch: pixels of a patch's side.
        width: what the heads are multiplied by (rounded). Where that is less than one head, there
            is one head of 64 * heads * width numbers, a multiple of 8 and at least 16.
        size: pixels of an image's side.

    Raises:
        ValueError: the size is no multiple of the patch, or ``width`` is not positive.
    """
    if not width > 0:
        raise ValueError(f"width = {width}: must be above 0")
    if size < patch or size % patch:
        near = max(patch, patch * round(size / patch))
        raise ValueError(
            f"{size} pixels cannot be cut into patches of {patch}; give a multiple of {patch}, "
            f"such as data.size = {near}"
        )
    exact = heads * width
    narrow = max(LEAST_HEAD, 8 * round(HEAD * exact / 8))
    count, dim = (round(exact), HEAD * round(exact)) if exact >= 1 else (1, narrow)
    return ViTPlan(
        patch,
        size,
        dim,
        count,
        tuple(BlockSpec(f"block{number}") for number in range(1, DEPTH + 1)),
    )


def plan_from_json(value: Any) -> ViTPlan:
    """The plan that :meth:`ViTPlan.to_json` wrote.

    Args:
        value: what JSON made of it.

    Raises:
        ValueError: it is anything else.
    """
    try:
        numbers = {name: value[name] for name in ("patch", "size", "dim", "heads")}
        blocks = tuple(
            BlockSpec(block["name"], given_from_json(block["inherits"]))
            for block in value["blocks"]
        )
        embed, norm = given_from_json(value["embed"]), given_from_json(value["norm"])
    except (KeyError, TypeError) as error:
        raise ValueError(f"not a ViT: {error!r}") from error
    names = [block.name for block in blocks]
    if (
        not names
        or not all(isinstance(name, str) for name in names)
        or len({*names, "embed", "norm"}) != len(names) + 2
    ):
        raise ValueError("not a ViT: it needs blocks with unique names")
    if any(type(number) is not int or number < 1 for number in numbers.values()):
        raise ValueError(f"not a ViT: {numbers} must be whole numbers above 0")
    if numbers["dim"] % numbers["heads"] or numbers["size"] % numbers["patch"]:
        raise ValueError("not a ViT: heads must divide dim, and patch the size")
    return ViTPlan(**numbers, blocks=blocks, embed=embed, norm=norm)
