"""Inheritors: which descendant the selected layers of an ancestor become (docs/inheritance.md).

A descendant is data until it is built.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from evolve.core.registry import Record, blamed, find, nonsense, origin
from evolve.core.settings import InheritSettings
from evolve.networks.architecture import Architecture, Groups, Mixture, check_names
from evolve.networks.family import sound

INHERITORS = {
    "stack": Record("evolve.learngene.inheritors:stack", "the paper's: selected layers stacked"),
    "repeat": Record("evolve.learngene.inheritors:repeat", "as deep, layers repeat, after SWS"),
    "linear": Record("evolve.learngene.inheritors:linear", "as deep, linear in depth, after TLEG"),
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
    plan = built_by(chosen.method, ancestor, selected)
    if chosen.embeddings == "inherited":
        plan = plan.with_inherited(
            {**plan.inherits(), **{name: {name: 1.0} for name in ancestor.carried}}
        )
    return plan


def stack(ancestor: Architecture, selected: Sequence[str]) -> Architecture:
    """The paper's inheritor: layers in ancestor order, bridged by fresh ones (4.3).

    Args:
        ancestor: the ancestor's architecture.
        selected: names of the layers that are inherited.
    """
    return ancestor.stacked(selected)


def repeat(ancestor: Architecture, selected: Sequence[str]) -> Architecture:
    """A descendant as deep as the ancestor, in which a selected layer repeats until the next one.

    After SWS (Xia et al., "Exploring Learngene via Stage-wise Weight Sharing", arXiv 2404.16897),
    whose descendants repeat the one layer that a stage shared. Each slot receives, of the selected
    layers of its :func:`kin`, the nearest at or before it; a slot before all of them the first. Kin
    without a selected layer are fresh.

    Args:
        ancestor: its architecture.
        selected: the learngene's layers.

    Raises:
        ValueError: the ancestor has no such layer.
    """
    wanted = check_names(ancestor, selected)
    given: dict[str, Mixture] = {}
    for group in kin(ancestor):
        current = next((name for name in group if name in wanted), None)
        if current is None:
            continue
        for slot in group:
            current = slot if slot in wanted else current
            given[slot] = {current: 1.0}
    return ancestor.with_inherited(given)


def linear(ancestor: Architecture, selected: Sequence[str]) -> Architecture:
    """A descendant as deep as the ancestor whose layers are linear in their depth.

    Layer l is theta_l = theta_B + l theta_A.

    After TLEG (Xia et al., "Transformer as Linear Expansion of Learngene", arXiv 2312.05614, which
    writes l/L for l: the same family). There theta_A and theta_B are trained. Here they are the
    least-squares line through the selected layers of a :func:`kin` at their depths, so each slot is
    a mixture of those. A single selected layer is repeated; kin without one are fresh.

    Args:
        ancestor: its architecture.
        selected: the learngene's layers.

    Raises:
        ValueError: the ancestor has no such layer.
    """
    wanted = check_names(ancestor, selected)
    depth = {name: place for place, name in enumerate(ancestor.layer_names)}
    given: dict[str, Mixture] = {}
    for group in kin(ancestor):
        held = [name for name in group if name in wanted]
        for slot in group if held else ():
            shares = line([depth[name] for name in held], depth[slot])
            given[slot] = {
                name: float(share) for name, share in zip(held, shares, strict=True) if share
            }
    return ancestor.with_inherited(given)


def line(depths: Sequence[int], at: int) -> list[Fraction]:
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


def kin(ancestor: Architecture) -> Groups:
    """The integral layers in groups whose tensors fit each other's slots: one stage, equal shapes.

    Where all layers have equal shapes (a ViT's blocks) there is one resolution, and all are one
    group.

    Args:
        ancestor: the ancestor's architecture.
    """
    shape = {name: tuple(sorted(ancestor.shapes(name).items())) for name in ancestor.layer_names}
    if len(set(shape.values())) == 1:
        return (ancestor.layer_names,)
    groups: list[tuple[str, ...]] = []
    for stage in ancestor.integral_layers("stage"):
        groups += [
            tuple(name for name in stage if shape[name] == kind)
            for kind in dict.fromkeys(shape[name] for name in stage)
        ]
    return tuple(groups)


def built_by(method: str, ancestor: Architecture, selected: Sequence[str]) -> Architecture:
    """The architecture that an inheritor gives. Ours are not looked at: their tests do that.

    Args:
        method: the inheritor's name.
        ancestor: its architecture.
        selected: the learngene's layers.

    Raises:
        UserError: a plug-in gave a descendant that the learngene cannot fill; the line names it.
    """
    make = find("inheritors", method)
    with blamed("inheritors", method):
        plan: Architecture = make(ancestor, selected)
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
