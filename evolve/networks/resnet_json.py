"""Reading a ResNet's plan from JSON, and what makes one a connected ResNet."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from typing import Any

from evolve.networks.resnet_plan import IMAGE_CHANNELS, Block, Conv, ResNetPlan, shortcut_past
from evolve.networks.vgg_plan import given_from_json


def plan_from_json(value: Any) -> ResNetPlan:
    """The plan that :meth:`ResNetPlan.to_json` wrote.

    Args:
        value: what JSON made of it.

    Raises:
        ValueError: it is no connected ResNet.
    """
    try:
        plan = ResNetPlan(tuple(_block(block) for block in value["blocks"]))
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"not a ResNet: {error!r}") from error
    layers = [conv for block in plan.blocks for conv in block.all]
    if (
        not layers
        or not all(map(_well_typed, layers))
        or len({conv.name for conv in layers}) != len(layers)
    ):
        raise ValueError(
            "not a ResNet: it needs layers with unique names, positive channels, kernels 1, 3 or 7 "
            "and strides 1 or 2"
        )
    if any(
        type(b.stage) is not int
        or b.stage < 1
        or type(b.residual) is not bool
        or b.pool not in (0, 2, 3)
        for b in plan.blocks
    ):
        raise ValueError("not a ResNet: stages are numbered from 1, pools are 0, 2 or 3")
    if any(before.stage > after.stage for before, after in pairwise(plan.blocks)):
        raise ValueError("not a ResNet: its stages are not in order")
    convs = [conv for block in plan.blocks for conv in block.convs]
    if convs[0].c_in != IMAGE_CHANNELS or any(
        before.c_out != after.c_in for before, after in pairwise(convs)
    ):
        raise ValueError(
            "not a ResNet: a layer's input channels differ from the output channels of the layer "
            "before it"
        )
    if not all(map(_passes, plan.blocks)):
        raise ValueError("not a ResNet: a block's shortcut does not lead past its convolutions")
    return plan


def _block(value: Mapping[str, Any]) -> Block:
    shortcut = value["shortcut"]
    convs = tuple(_conv(conv) for conv in value["convs"])
    if not convs:
        raise TypeError("a block without convolutions")
    return Block(
        value["stage"],
        convs,
        value["residual"],
        None if shortcut is None else _conv(shortcut),
        value["pool"],
    )


def _conv(value: Mapping[str, Any]) -> Conv:
    return Conv(**{**value, "inherits": given_from_json(value["inherits"])})


def _well_typed(conv: Conv) -> bool:
    named = isinstance(conv.name, str) and conv.name.isidentifier()
    numbers = all(
        type(n) is int and n > 0 for n in (conv.c_in, conv.c_out, conv.kernel, conv.stride)
    )
    return named and numbers and conv.kernel in (1, 3, 7) and conv.stride in (1, 2)


def _passes(block: Block) -> bool:
    """Whether the block's shortcut is the one that its convolutions need."""
    needed = shortcut_past("", block.convs) if block.residual else None
    return (block.shortcut and replace(block.shortcut, name="", inherits=None)) == needed
