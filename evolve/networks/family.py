"""From names and JSON to architectures, whatever their family."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from evolve.core.errors import UserError
from evolve.core.registry import Record, blamed, find, names, nonsense, origin
from evolve.networks.architecture import Architecture

_AT = "evolve.networks."
NETWORKS = {
    "vgg16": Record(_AT + "vgg_plan:vgg16", "VGG16-BN, the paper's; descendant VGG8"),
    "resnet18": Record(_AT + "resnet_plan:resnet18", "torchvision's; descendant ResNet12"),
    "vit-s16": Record(_AT + "vit_plan:vit_s16", "ViT-S/16; a descendant of 6 blocks"),
    "vit-small4": Record(_AT + "vit_plan:vit_small4", "patches of 4 pixels, half as wide"),
}
FAMILIES = {
    "vgg": Record(_AT + "vgg_plan:plan_from_json", "convolutions"),
    "resnet": Record(_AT + "resnet_json:plan_from_json", "residual blocks"),
    "vit": Record(_AT + "vit_plan:plan_from_json", "encoder blocks"),
}


def architecture(network: str, width: float, size: int) -> Architecture:
    """The ancestor's architecture.

    Args:
        network: a registered network's name.
        width: what its channels are multiplied by.
        size: pixels of an image's side.

    Raises:
        UserError: the network is unknown, or cannot be had at that width or size.
    """
    if network not in names("networks"):
        raise UserError(f"network {network!r}: unknown; allowed are {', '.join(names('networks'))}")
    make: Callable[[float, int], Architecture] = find("networks", network)
    with blamed("networks", network):
        try:
            plan = make(width, size)
        except ValueError as error:
            raise UserError(
                f"ancestor.network = {network!r} at ancestor.width = {width:g}, data.size = "
                f"{size}: {error}"
            ) from None
    return plan if origin("networks", network) is None else sound("networks", network, plan)


def sound(kind: str, name: str, plan: Any) -> Architecture:
    """Return a plug-in's architecture, after a look at it.

    Args:
        kind: what the plug-in registers.
        name: its name there.
        plan: what it returned.

    Raises:
        UserError: it is no architecture, or does not come back equal from its JSON form, as stages
            need it; the message names the plug-in.
    """
    if not isinstance(plan, Architecture):
        raise nonsense(kind, name, f"returned {type(plan).__name__}, not an Architecture")
    with blamed(kind, name):
        again = from_json(json.loads(json.dumps(plan.to_json())))
    if again != plan:
        raise nonsense(
            kind, name, "returned an Architecture that does not come back equal from its to_json()"
        )
    return plan


def from_json(value: Any) -> Architecture:
    """The architecture that :meth:`Architecture.to_json` wrote.

    Args:
        value: what JSON made of it.

    Raises:
        ValueError: it is anything else.
    """
    family = (
        "vgg"
        if isinstance(value, list)
        else value.get("family")
        if isinstance(value, dict)
        else None
    )
    if not isinstance(family, str) or family not in names("families"):
        raise ValueError(
            f"not an architecture of a family that is known here ({', '.join(names('families'))})"
        )
    plan: Architecture = find("families", family)(value)
    return plan
