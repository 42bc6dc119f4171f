"""Inheritors: which descendant the selected layers of an ancestor become (docs/inheritance.md).

A descendant is data until it is built.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from evolve.core.registry import Record, blamed, find, nonsense, origin
from evolve.core.settings import InheritSettings
from evolve.networks.architecture import Architecture, Groups, Mixture, check_names
from evolve.networks.family import sound


@dataclass(frozen=True)
class Inheritor(Record):
    """An inheritor's record.

    Attributes:
        deep: whether ``inherit.depth`` says how deep its descendants are; it is its third argument.
    """

    deep: bool = False


_AT = "evolve.learngene.inheritors:"
INHERITORS = {
    "stack": Inheritor(_AT + "stack", "the paper's: selected layers stacked"),
    "repeat": Inheritor(_AT + "repeat", "as deep, layers repeat, after SWS", deep=True),
    "linear": Inheritor(_AT + "linear", "as deep, linear in depth, after TLEG", deep=True),
}


def descendant(
    ancestor: Architecture, selected: Sequence[str], chosen: InheritSettings
) -> Architecture:
    """The descendant's architecture: what it inherits from where, and what is fresh.

    Args:
        ancestor: its architecture.
        selected: the learngene's layers.
        chosen: the scenario's [inherit].
    """
    plan = built_by(chosen.method, ancestor, selected, chosen.depth)
    if chosen.embeddings == "inherited":
        plan = plan.with_inherited(
            {**plan.inherits(), **{name: {name: 1.0} for name in ancestor.carried}}
        )
    return plan if chosen.width == 1 else plan.narrowed(chosen.width)


def cut_down(ancestor: Architecture, chosen: InheritSettings) -> Architecture:
    """The whole ancestor as its own descendant, in the depth and width of ``chosen``.

    It inherits all layers by the rule that the descendants inherit theirs by, and extras where the
    same one stands in the same place.

    Args:
        ancestor: its architecture.
        chosen: the scenario's [inherit].
    """
    whole = ancestor.whole()
    if chosen.depth:
        whole = built_by(chosen.method, ancestor, ancestor.layer_names, chosen.depth)
        there = {ancestor.places()[name]: name for name in ancestor.extras}
        extras = {name: there.get(whole.places()[name]) for name in whole.extras}
        whole = whole.with_inherited(
            {**whole.inherits(), **{own: {name: 1.0} for own, name in extras.items() if name}}
        )
    return whole if chosen.width == 1 else whole.narrowed(chosen.width)


def size_problem(ancestor: Architecture, chosen: InheritSettings) -> str | None:
    """Why an ancestor's descendants cannot have the depth and width of ``chosen``; None: they can.

    Args:
        ancestor: its architecture.
        chosen: the scenario's [inherit].
    """
    depth, width = f"inherit.depth = {chosen.depth}", f"inherit.width = {chosen.width:g}"
    deep = [name for name, record in INHERITORS.items() if record.deep]
    if chosen.depth and chosen.method not in deep:
        return (
            f"{depth}: with inherit.method = {chosen.method} a descendant is as deep as the "
            f"selection makes it; allowed is 0, or inherit.method {' or '.join(deep)}"
        )
    try:
        if chosen.depth:
            ancestor.resized(chosen.depth)
    except ValueError as error:
        return f"{depth}: {error}; allowed is 0"
    try:
        if chosen.width < 1 and ancestor.narrowed(chosen.width) == ancestor:
            return f"{width}: nothing gets narrower ({ancestor.describe()}); give less, or 1"
    except ValueError as error:
        return f"{width}: {error}; allowed is 1"
    return None


def stack(ancestor: Architecture, selected: Sequence[str]) -> Architecture:
    """The paper's inheritor: layers in ancestor order, bridged by fresh ones (4.3).

    Args:
        ancestor: the ancestor's architecture.
        selected: names of the layers that are inherited.
    """
    return ancestor.stacked(selected)


def repeat(ancestor: Architecture, selected: Sequence[str], depth: int = 0) -> Architecture:
    """A descendant in which a selected layer repeats until the next one.

    After SWS (Xia et al., "Exploring Learngene via Stage-wise Weight Sharing", arXiv 2404.16897),
    whose descendants repeat the one layer that a stage shared. Each slot receives, of the selected
    layers of its :func:`kin`, the nearest at or before it; a slot before all of them the first. Kin
    without a selected layer are fresh.

    Args:
        ancestor: its architecture.
        selected: the learngene's layers.
        depth: see :meth:`Architecture.resized`; 0: the ancestor's.

    Raises:
        ValueError: the ancestor has no such layer.
    """

    def nearest(held: Mapping[int, str], at: Fraction) -> Mixture:
        return {held[max((place for place in held if place <= at), default=min(held))]: 1.0}

    return _expanded(ancestor, selected, depth, nearest)


def linear(ancestor: Architecture, selected: Sequence[str], depth: int = 0) -> Architecture:
    """A descendant whose layers are linear in their depth.

    Layer l of L is theta_l = theta_B + (l / L) theta_A, whatever L is.

    After TLEG (Xia et al., "Transformer as Linear Expansion of Learngene", arXiv 2312.05614). There
    theta_A and theta_B are trained. Here they are the least-squares line through the selected
    layers of a :func:`kin` at their depths, so each slot is a mixture of those. A single selected
    layer is repeated; kin without one are fresh.

    Args:
        ancestor: its architecture.
        selected: the learngene's layers.
        depth: see :meth:`Architecture.resized`; 0: the ancestor's.

    Raises:
        ValueError: the ancestor has no such layer.
    """

    def on_line(held: Mapping[int, str], at: Fraction) -> Mixture:
        shares = zip(held.values(), line(list(held), at), strict=True)
        return {name: float(share) for name, share in shares if share}

    return _expanded(ancestor, selected, depth, on_line)


def _expanded(
    ancestor: Architecture,
    selected: Sequence[str],
    depth: int,
    rule: Callable[[Mapping[int, str], Fraction], Mixture],
) -> Architecture:
    """The ancestor in another depth, every slot given what a rule makes of its selected kin.

    Slot l of L stands where the ancestor's layer l N / L of N kin does. The rule takes the selected
    kin by their place from 1, and the slot's.
    """
    wanted = check_names(ancestor, selected)
    heir = ancestor.resized(depth) if depth else ancestor
    own, given = _relatives(heir), dict[str, Mixture]()
    for kind, group in _relatives(ancestor).items():
        held = {place: name for place, name in enumerate(group, start=1) if name in wanted}
        slots = own.get(kind, []) if held else []
        for number, slot in enumerate(slots, start=1):
            given[slot] = rule(held, Fraction(number * len(group), len(slots)))
    return heir.with_inherited(given)


def kin(ancestor: Architecture) -> Groups:
    """The integral layers in groups whose tensors fit each other's slots: one stage, equal shapes.

    Where all layers have equal shapes (a ViT's blocks) there is one resolution, and all are one
    group.
    """
    return tuple(map(tuple, _relatives(ancestor).values()))


def _relatives(ancestor: Architecture) -> dict[tuple[Any, ...], list[str]]:
    """The groups of :func:`kin` by their stage and shapes."""
    shape = {name: tuple(sorted(ancestor.shapes(name).items())) for name in ancestor.layer_names}
    stages = ancestor.integral_layers("stage")
    if len(set(shape.values())) == 1:
        stages = (ancestor.layer_names,)
    groups: dict[tuple[Any, ...], list[str]] = {}
    for number, stage in enumerate(stages):
        for name in stage:
            groups.setdefault((number, shape[name]), []).append(name)
    return groups


def line(depths: Sequence[int], at: int | Fraction) -> list[Fraction]:
    """The coefficients of a least-squares line's value: w with sum(w_j theta_j) that value.

    Args:
        depths: where the points theta_j are, [n], all different.
        at: the depth whose value is wanted.

    Returns:
        w, [n], which sums to 1; one point gives a constant.
    """
    n = len(depths)
    mean = Fraction(sum(depths), n)
    spread = sum((depth - mean) ** 2 for depth in depths)
    return [
        Fraction(1, n) + ((at - mean) * (depth - mean) / spread if spread else 0)
        for depth in depths
    ]


def built_by(
    method: str, ancestor: Architecture, selected: Sequence[str], depth: int = 0
) -> Architecture:
    """The architecture that an inheritor gives. Ours are not looked at: their tests do that.

    Args:
        method: the inheritor's name.
        ancestor: its architecture.
        selected: the learngene's layers.
        depth: for an inheritor that knows it; see :meth:`Architecture.resized`.

    Raises:
        UserError: a plug-in gave a descendant that the learngene cannot fill; the line names it.
    """
    make = find("inheritors", method)
    deep = method in INHERITORS and INHERITORS[method].deep
    with blamed("inheritors", method):
        plan: Architecture = make(ancestor, selected, *([depth] if deep else []))
    if origin("inheritors", method) is not None:
        _check(sound("inheritors", method, plan), ancestor, selected, method)
    return plan


def _check(
    plan: Architecture, ancestor: Architecture, selected: Sequence[str], method: str
) -> None:
    held = {*selected, *ancestor.carried}
    for layer, mixture in plan.inherits().items():
        if missing := set(mixture) - held:
            raise nonsense(
                "inheritors",
                method,
                f"lets {layer} inherit {', '.join(sorted(missing))}; the learngene holds "
                f"{', '.join(selected)}",
            )
        if other := [given for given in mixture if ancestor.shapes(given) != plan.shapes(layer)]:
            raise nonsense(
                "inheritors", method, f"lets {layer} inherit {other[0]}, whose shapes differ"
            )
