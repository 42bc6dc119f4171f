"""A network as data: its convolutions block by block, its integral layers, and the rule that stacks a descendant.

Nothing here needs torch, so a process that only plans a lineage starts fast.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

IMAGE_CHANNELS = 3
PAPER_SET = ("conv1", "conv11", "conv12", "conv13")
"""The learngene the paper finds in VGG16 (SPEC 3): stacked, it gives VGG8, the pseudo-descendant's architecture too."""
GRANULARITIES = ("conv", "stage")
_VGG16 = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


@dataclass(frozen=True)
class ConvSpec:
    """One integral layer: a 3x3 convolution with its BN and ReLU (SPEC 3).

    ``inherits`` names the ancestor's layer whose tensors it receives; None for a fresh layer.
    """

    name: str
    c_in: int
    c_out: int
    inherits: str | None = None


Plan = tuple[tuple[ConvSpec, ...], ...]  # blocks; a 2x2 max pool follows each


def vgg16_plan(width: float) -> Plan:
    """VGG16's 13 convolutions "conv1".."conv13" in five blocks, channels times ``width`` (rounded, at least one).

    Raises ValueError unless ``width`` is positive.
    """
    if not width > 0:
        raise ValueError(f"width = {width}: must be above 0")
    plan, current, number = [], IMAGE_CHANNELS, 0
    for block in _VGG16:
        specs = []
        for channels in block:
            number += 1
            scaled = max(1, round(channels * width))
            specs.append(ConvSpec(f"conv{number}", current, scaled))
            current = scaled
        plan.append(tuple(specs))
    return tuple(plan)


def layer_names(plan: Plan) -> tuple[str, ...]:
    """Every convolution's name, from input to output."""
    return tuple(spec.name for block in plan for spec in block)


def integral_layers(plan: Plan, granularity: str) -> tuple[tuple[str, ...], ...]:
    """What a condenser chooses among: groups of layer names that are inherited as a whole.

    "conv": every convolution by itself (VGG16: 13 groups); "stage": all convolutions between two poolings (5 groups).
    Raises ValueError for another granularity.
    """
    if granularity == "conv":
        return tuple((name,) for name in layer_names(plan))
    if granularity == "stage":
        return tuple(tuple(spec.name for spec in block) for block in plan)
    raise ValueError(f"granularity = {granularity!r}: allowed are {', '.join(GRANULARITIES)}")


def stack_plan(ancestor: Plan, selected: Iterable[str]) -> Plan:
    """The descendant of the ancestor layers ``selected`` (SPEC 3): they in ancestor order, each in its own block, so at the
    resolution it had, bridged by fresh convolutions where channels do not line up.

    * A block without a selected layer gets one fresh convolution from the block before to this block's width.
    * A block whose first selected layer takes other channels than arrive gets one fresh convolution before it.
    * Otherwise a block holds only its selected layers. Every block ends with the ancestor block's width.

    For VGG16 and conv 1, 11, 12, 13 this is the paper's VGG8; for all layers the ancestor's trunk; for none, one fresh
    convolution a block. A fresh layer is named by its block and place ("block2_entry"), so that the same fresh layer has
    the same name in every plan. Raises ValueError, naming them, for layers that the ancestor does not have.
    """
    wanted = set(selected)
    if unknown := wanted.difference(layer_names(ancestor)):
        raise ValueError(f"no such layers in the ancestor: {', '.join(sorted(unknown))}; it has {', '.join(layer_names(ancestor))}")
    plan, current = [], ancestor[0][0].c_in
    for number, block in enumerate(ancestor, start=1):
        chosen = [replace(spec, inherits=spec.name) for spec in block if spec.name in wanted]
        plan.append(_bridge(chosen, f"block{number}", current, block[-1].c_out))
        current = block[-1].c_out
    return tuple(plan)


def _bridge(chosen: Sequence[ConvSpec], block: str, c_in: int, c_out: int) -> tuple[ConvSpec, ...]:
    """The chosen layers with a fresh one wherever channels would not line up from ``c_in`` to ``c_out``."""
    stacked: list[ConvSpec] = []
    current = c_in
    for spec in chosen:
        if spec.c_in != current:
            place = f"before_{spec.name}" if stacked else "entry"
            stacked.append(ConvSpec(f"{block}_{place}", current, spec.c_in))
        stacked.append(spec)
        current = spec.c_out
    if not stacked or current != c_out:
        stacked.append(ConvSpec(f"{block}_{'exit' if stacked else 'entry'}", current, c_out))
    return tuple(stacked)


def places(plan: Plan) -> dict[str, str]:
    """Layer name -> its place, "block2_1" for the first of the second block. Names say where a layer came from, places where it stands."""
    return {spec.name: f"block{b}_{p}" for b, block in enumerate(plan, start=1) for p, spec in enumerate(block, start=1)}


def anonymous(plan: Plan) -> Plan:
    """The bare architecture: layers named by their place, nothing inherited. Equal architectures are equal, whatever they inherit."""
    named = places(plan)
    return tuple(tuple(replace(spec, name=named[spec.name], inherits=None) for spec in block) for block in plan)


def plan_to_json(plan: Plan) -> list[list[dict[str, Any]]]:
    """Blocks as lists of plain dicts; :func:`plan_from_json` reads them back equal."""
    return [[asdict(spec) for spec in block] for block in plan]


def plan_from_json(value: Any) -> Plan:
    """The plan that :func:`plan_to_json` wrote. Raises ValueError for anything that is not a connected plan."""
    try:
        plan = tuple(tuple(ConvSpec(**spec) for spec in block) for block in value)
    except (TypeError, AttributeError) as error:
        raise ValueError(f"not a plan: {error}") from error
    specs = [spec for block in plan for spec in block]
    names = [spec.name for spec in specs]
    if not specs or not all(plan) or not all(map(_well_typed, specs)) or len(set(names)) != len(names):
        raise ValueError("not a plan: every block needs layers with unique names and positive channels")
    if any(before.c_out != after.c_in for before, after in zip(specs, specs[1:], strict=False)):
        raise ValueError("not a plan: a layer's input channels differ from the output channels of the layer before it")
    return plan


def _well_typed(spec: ConvSpec) -> bool:
    names = isinstance(spec.name, str) and isinstance(spec.inherits, (str, type(None)))
    return names and all(type(c) is int and c > 0 for c in (spec.c_in, spec.c_out))
