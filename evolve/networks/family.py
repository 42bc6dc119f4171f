"""From names and JSON to architectures, whatever their family."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from evolve.errors import UserError
from evolve.networks.architecture import Architecture
from evolve.registry import find, names


def architecture(network: str, width: float, size: int) -> Architecture:
    """The ancestor's architecture: a registered ``network``, its channels times ``width``, for images of ``size`` pixels.

    Raises UserError where the network cannot be had at that width or size.
    """
    make: Callable[[float, int], Architecture] = find("networks", network)
    try:
        return make(width, size)
    except ValueError as error:
        raise UserError(f"ancestor.network = {network!r} at ancestor.width = {width:g}, data.size = {size}: {error}") from None


def from_json(value: Any) -> Architecture:
    """The architecture that :meth:`Architecture.to_json` wrote. Raises ValueError for anything else."""
    family = "vgg" if isinstance(value, list) else value.get("family") if isinstance(value, dict) else None
    if not isinstance(family, str) or family not in names("families"):
        raise ValueError(f"not an architecture of a family that is known here ({', '.join(names('families'))})")
    made: Architecture = find("families", family)(value)
    return made
