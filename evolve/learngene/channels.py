"""Which channels of a learngene a narrower descendant keeps (``inherit.width``).

Those with the largest L1 norm of the filter that produces them, as in filter pruning (Li et al.,
"Pruning Filters for Efficient ConvNets", arXiv 1608.08710), and the same ones in every tensor that
names them: BN, the input of the next layer, everything that a residual sum adds up (there section
3.3 and figure 3). An architecture says which dimensions count the same channels
(:meth:`Architecture.axes`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from math import prod

from torch import Tensor

from evolve.networks.architecture import Architecture, Axes

Layers = Mapping[str, Mapping[str, Tensor]]  # own layer -> part ("conv.weight") -> tensor


def narrowed(plan: Architecture, wide: Layers) -> Layers:
    """Cut inherited tensors to the widths of a descendant's plan.

    Args:
        plan: the descendant.
        wide: what its layers inherit, with more channels than the plan's have.

    Returns:
        The tensors in the plan's shapes; the channels that are kept stand in their old order.

    Raises:
        ValueError: they do not fit each other, or the family has no rule for another width.
    """
    keep = strongest(plan, wide)

    def cut(tensor: Tensor, dims: Axes) -> Tensor:
        view = tensor.reshape(_view(tensor.shape, dims))
        for place, factor in enumerate(chain(*dims)):
            if isinstance(factor, str):
                view = view.index_select(place, keep[factor].to(tensor.device))
        sides = iter(view.shape)
        return view.reshape([prod(next(sides) for _ in dim) for dim in dims])

    return {
        layer: {part: cut(tensor, plan.axes(layer)[part]) for part, tensor in parts.items()}
        for layer, parts in wide.items()
    }


def strongest(plan: Architecture, wide: Layers) -> dict[str, Tensor]:
    """The channels that are kept, by their group.

    A channel's strength is the L1 norm of the weights that produce it, summed over all inherited
    layers that do (a residual stream has several). Where every layer that produces it is fresh, it
    is the L1 norm of the inherited weights that read it. Of equal ones the first are kept.

    Args:
        plan: the descendant; it says how many are kept.
        wide: what its layers inherit.

    Returns:
        Group -> places of the kept channels, int64, ascending.

    Raises:
        ValueError: a tensor is narrower than the plan's, or layers hold a group in other widths.
    """
    sizes = _sizes(plan, wide)
    produced: dict[str, Tensor] = {}
    read: dict[str, Tensor] = {}
    for layer, parts in wide.items():
        axes = plan.axes(layer)
        for part, tensor in parts.items():
            # Neither vectors nor a ViT's tokens and positions are filters.
            if tensor.ndim < 2 or not part.endswith("weight"):
                continue
            view = tensor.double().abs().reshape(_view(tensor.shape, axes[part]))
            dims = [dim for dim, factors in enumerate(axes[part]) for _ in factors]
            for place, group in enumerate(chain(*axes[part])):
                if isinstance(group, str):
                    norm = view.movedim(place, 0).flatten(1).sum(1).cpu()
                    norms = read if dims[place] else produced
                    norms[group] = norms[group] + norm if group in norms else norm
    return {
        group: strength.argsort(descending=True, stable=True)[: sizes[group][1]].sort().values
        for group, strength in (read | produced).items()
    }


def _sizes(plan: Architecture, wide: Layers) -> dict[str, tuple[int, int]]:
    """How many channels each group has, and how many of them the plan keeps.

    Raises:
        ValueError: see :func:`strongest`.
    """
    sizes: dict[str, tuple[int, int]] = {}
    for layer, parts in wide.items():
        axes, shapes = plan.axes(layer), plan.shapes(layer)
        for part, tensor in parts.items():
            held, own = (_view(shape, axes[part]) for shape in (tensor.shape, shapes[part]))
            groups = list(chain(*axes[part]))
            fits = prod(held) == tensor.numel() and all(
                sizes.setdefault(group, (many, few)) == (many, few) and many >= few
                for group, many, few in zip(groups, held, own, strict=True)
                if isinstance(group, str)
            )
            if not fits:
                raise misfit(f"{layer}.{part}", tensor.shape, shapes[part])
    return sizes


def misfit(name: str, held: Sequence[int], own: Sequence[int]) -> ValueError:
    """The error for a tensor that does not fit the plan's."""
    return ValueError(f"{name}: the learngene's shape is {tuple(held)}, the plan's {tuple(own)}")


def _view(shape: Sequence[int], dims: Axes) -> list[int]:
    """A shape with every dimension split into its factors."""
    sides: list[int] = []
    for side, dim in zip(shape, dims, strict=True):
        fixed = prod(factor for factor in dim if isinstance(factor, int))
        sides += [factor if isinstance(factor, int) else side // fixed for factor in dim]
    return sides
