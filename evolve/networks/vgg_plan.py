"""A VGG as data: its convolutions block by block, and the rule that stacks a descendant.

Nothing here needs torch, so a process that only plans a lineage starts fast.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
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

IMAGE_CHANNELS = 3
PAPER_SET = ("conv1", "conv11", "conv12", "conv13")
"""The learngene the paper finds in VGG16 (5.1): stacked, it gives VGG8, the pseudo-descendant's
architecture too.
"""
AUTHORS_SET = ("conv11", "conv12", "conv13")
"""What the authors picked by eye from the conference code's heat maps."""
_VGG16 = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


Given = str | tuple[tuple[str, float], ...] | None
"""What a layer receives, as a plan holds it: see :class:`ConvSpec`."""


@dataclass(frozen=True)
class ConvSpec:
    """One integral layer: a 3x3 convolution with its BN and ReLU (paper, Eq. 4).

    ``inherits`` names the ancestor's layer whose tensors it receives, or several with their
    coefficients. It is None for a fresh layer.
    """

    name: str
    c_in: int
    c_out: int
    inherits: Given = None

    @property
    def mixture(self) -> Mixture | None:
        """``inherits`` as coefficients."""
        return (
            {self.inherits: 1.0}
            if isinstance(self.inherits, str)
            else None
            if self.inherits is None
            else dict(self.inherits)
        )


Plan = tuple[tuple[ConvSpec, ...], ...]  # blocks; a 2x2 max pool follows each


class VggPlan(tuple[tuple[ConvSpec, ...], ...], Architecture):
    """A :data:`Plan` that is an :class:`Architecture`."""

    family = "vgg"
    builder = "evolve.networks.vgg:VGG"
    passes = "evolve.networks.fast.fused:passes"
    learners = {"sgd": "evolve.networks.fast.flat:Flat"}
    foreign = "evolve.networks.foreign_names:ForeignVgg"

    @property
    def layer_names(self) -> tuple[str, ...]:
        return layer_names(self)

    def integral_layers(self, granularity: str) -> Groups:
        return integral_layers(self, granularity)

    def inherits(self) -> Mapping[str, Mixture]:
        mixtures = {spec.name: spec.mixture for block in self for spec in block}
        return {name: given for name, given in mixtures.items() if given is not None}

    def places(self) -> Mapping[str, str]:
        return places(self)

    def anonymous(self) -> VggPlan:
        return VggPlan(anonymous(self))

    def stacked(self, selected: Iterable[str]) -> VggPlan:
        return stack_plan(self, selected)

    def with_inherited(self, inherited: Mapping[str, Mixture]) -> VggPlan:
        check_names(self, inherited)
        given = {name: short(mixture) for name, mixture in inherited.items()}
        return VggPlan(
            tuple(replace(spec, inherits=given.get(spec.name)) for spec in block) for block in self
        )

    def resized(self, depth: int) -> VggPlan:
        """See :class:`Architecture`; every stage keeps its first convolution, which widens it."""
        plan = VggPlan(
            tuple(
                ConvSpec(
                    f"block{number}_{place}",
                    block[0].c_in if place == 1 else block[-1].c_out,
                    block[-1].c_out,
                )
                for place in range(1, depth + 1)
            )
            for number, block in enumerate(self, start=1)
        )
        return self if plan == self.anonymous() else plan

    def narrowed(self, width: float) -> VggPlan:
        first = self.layer_names[0]
        return VggPlan(
            tuple(
                replace(
                    spec,
                    c_in=spec.c_in if spec.name == first else kept(spec.c_in, width),
                    c_out=kept(spec.c_out, width),
                )
                for spec in block
            )
            for block in self
        )

    def axes(self, layer: str) -> Mapping[str, Axes]:
        place = self.layer_names.index(layer)
        arriving = self.layer_names[place - 1] if place else IMAGE_CHANNELS
        return {
            part: ((layer,), (arriving,), (3,), (3,))
            if len(shape) == 4
            else ((layer,),) * len(shape)
            for part, shape in self.shapes(layer).items()
        }

    def named_set(self, name: str, count: int) -> tuple[int, ...]:
        listed = {"paper": PAPER_SET, "authors": AUTHORS_SET}.get(name)
        return (
            tuple(self.layer_names.index(layer) for layer in listed)
            if listed
            else front_or_last(name, len(self.layer_names), count)
        )

    def describe(self) -> str:
        return " ".join(
            " ".join(f"{spec.c_out}{'*' if spec.inherits else ''}" for spec in block) + " M"
            for block in self
        )

    def to_json(self) -> Any:
        return plan_to_json(self)

    def shapes(self, layer: str) -> Shapes:
        spec = {spec.name: spec for block in self for spec in block}[layer]
        vectors = dict.fromkeys(
            ("conv.bias", "bn.weight", "bn.bias", "bn.running_mean", "bn.running_var"),
            (spec.c_out,),
        )
        return (
            {"conv.weight": (spec.c_out, spec.c_in, 3, 3)}
            | vectors
            | {"bn.num_batches_tracked": ()}
        )

    def learner(self, optimizer: str) -> Callable[..., Any] | None:
        """See :class:`Architecture`; it needs :attr:`passes`."""
        return super().learner(optimizer) if self.passes else None

    def macs(self, size: int) -> float:
        return (
            sum(
                side * side * sum(spec.c_in * spec.c_out * 9 for spec in block)
                for block, side in self._sides(size)
            )
            / 1e9
        )

    def numbers_out(self, size: int) -> float:
        return float(
            sum(
                side * side * sum(spec.c_out for spec in block) for block, side in self._sides(size)
            )
        )

    def _sides(self, size: int) -> list[tuple[tuple[ConvSpec, ...], int]]:
        """Every block with the side of its maps, before pooling."""
        return [(block, max(1, size >> depth)) for depth, block in enumerate(self)]


def short(mixture: Mixture | None) -> Given:
    """A mixture as a spec holds it: a plain copy by its name alone.

    Args:
        mixture: what a layer inherits; None: nothing.
    """
    if mixture is None:
        return None
    if len(mixture) == 1 and next(iter(mixture.values())) == 1.0:
        return next(iter(mixture))
    return tuple((name, float(share)) for name, share in mixture.items())


def vgg16(width: float, size: int) -> VggPlan:
    """VGG16; its layers are the same at every size.

    Args:
        width: its share of VGG16's channels.
        size: pixels of an image's side.
    """
    return vgg16_plan(width)


def vgg16_plan(width: float) -> VggPlan:
    """VGG16's 13 convolutions "conv1".."conv13" in five blocks.

    Args:
        width: what the channels are multiplied by (rounded, at least one is left).

    Raises:
        ValueError: ``width`` is not positive.
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
    return VggPlan(plan)


def layer_names(plan: Plan) -> tuple[str, ...]:
    """Every convolution's name, from input to output.

    Args:
        plan: the blocks.
    """
    return tuple(spec.name for block in plan for spec in block)


def integral_layers(plan: Plan, granularity: str) -> tuple[tuple[str, ...], ...]:
    """Groups of layer names that are inherited as a whole; a condenser chooses among them.

    Args:
        plan: the network.
        granularity: "conv": every convolution by itself (VGG16: 13 groups); "stage": all
            convolutions between two poolings (5 groups).

    Raises:
        ValueError: another granularity.
    """
    if granularity == "conv":
        return tuple((name,) for name in layer_names(plan))
    if granularity == "stage":
        return tuple(tuple(spec.name for spec in block) for block in plan)
    raise ValueError(f"granularity = {granularity!r}: allowed are {', '.join(GRANULARITIES)}")


def stack_plan(ancestor: Plan, selected: Iterable[str]) -> VggPlan:
    """The descendant of some of the ancestor's layers (paper, 4.3).

    They stand in ancestor order, each in its own block, so at the resolution it had. Fresh
    convolutions bridge them where channels do not line up.

    * A block without a selected layer gets one fresh convolution from the block before to its
    width. * A block whose first selected layer takes other channels than arrive gets a fresh one
    before it. * Otherwise a block holds only its selected layers. Every block ends with the
    ancestor's width.

    For VGG16 and conv 1, 11, 12, 13 this is the paper's VGG8; for all layers it is the ancestor's
    trunk; for none it is one fresh convolution a block. A fresh layer is named by its block and
    place ("block2_entry"), so that the same fresh layer has the same name in every plan.

    Args:
        ancestor: the ancestor.
        selected: the layers' names.

    Raises:
        ValueError: the ancestor lacks a layer; the message names it.
    """
    wanted = check_names(VggPlan(ancestor), selected)
    plan, current = [], ancestor[0][0].c_in
    for number, block in enumerate(ancestor, start=1):
        chosen = [replace(spec, inherits=spec.name) for spec in block if spec.name in wanted]
        plan.append(_bridge(chosen, f"block{number}", current, block[-1].c_out))
        current = block[-1].c_out
    return VggPlan(plan)


def _bridge(chosen: Sequence[ConvSpec], block: str, c_in: int, c_out: int) -> tuple[ConvSpec, ...]:
    """The chosen layers with a fresh one wherever channels would not line up from ``c_in`` to
    ``c_out``.
    """
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
    """Layer name -> its place, "block2_1" for the first of the second block.

    Names say where a layer came from, places where it stands.

    Args:
        plan: the blocks.
    """
    return {
        spec.name: f"block{b}_{p}"
        for b, block in enumerate(plan, start=1)
        for p, spec in enumerate(block, start=1)
    }


def anonymous(plan: Plan) -> Plan:
    """The bare architecture: layers named by their place, nothing inherited.

    Equal architectures are equal, whatever they inherit.

    Args:
        plan: the blocks.
    """
    named = places(plan)
    return tuple(
        tuple(replace(spec, name=named[spec.name], inherits=None) for spec in block)
        for block in plan
    )


def plan_to_json(plan: Plan) -> list[list[dict[str, Any]]]:
    """Blocks as lists of plain dicts; :func:`plan_from_json` reads them back equal.

    Args:
        plan: the blocks.
    """
    return [[asdict(spec) for spec in block] for block in plan]


def plan_from_json(value: Any) -> VggPlan:
    """The plan that :func:`plan_to_json` wrote.

    Args:
        value: what JSON made of it.

    Raises:
        ValueError: it is no connected plan.
    """
    try:
        plan = VggPlan(tuple(_spec(spec) for spec in block) for block in value)
    except (TypeError, AttributeError) as error:
        raise ValueError(f"not a plan: {error}") from error
    specs = [spec for block in plan for spec in block]
    names = [spec.name for spec in specs]
    if (
        not specs
        or not all(plan)
        or not all(map(_well_typed, specs))
        or len(set(names)) != len(names)
    ):
        raise ValueError(
            "not a plan: every block needs layers with unique names and positive channels"
        )
    if any(before.c_out != after.c_in for before, after in zip(specs, specs[1:], strict=False)):
        raise ValueError(
            "not a plan: a layer's input channels differ from the output channels of the layer "
            "before it"
        )
    return plan


def given_from_json(value: Any) -> Given:
    """What JSON made of a :data:`Given`, read back.

    Args:
        value: None, a name, or pairs of name and share.

    Raises:
        TypeError: it is anything else.
    """
    if value is None or isinstance(value, str):
        return value
    if not isinstance(value, Sequence):
        raise TypeError(f"{value!r} names no layers")
    pairs = tuple((name, share) for name, share in value)
    if not all(isinstance(name, str) and isinstance(share, float) for name, share in pairs):
        raise TypeError(f"{value!r} is not layers with their shares")
    return pairs


def _spec(value: Mapping[str, Any]) -> ConvSpec:
    return ConvSpec(**{**value, "inherits": given_from_json(value.get("inherits"))})


def _well_typed(spec: ConvSpec) -> bool:
    return isinstance(spec.name, str) and all(
        type(c) is int and c > 0 for c in (spec.c_in, spec.c_out)
    )
