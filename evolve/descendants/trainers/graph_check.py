"""Whether captured training is to be used here.

It is compared with the reference once a process and architecture.
"""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Hashable, Sequence
from dataclasses import replace

import torch

from evolve.core.errors import first_line, lacks_memory
from evolve.descendants.trainers.graph_draws import layout
from evolve.descendants.trainers.graphs import GraphTrainer, branches_of
from evolve.descendants.trainers.group import DownstreamTask, Group, Trainer
from evolve.descendants.trainers.plain import PlainTrainer
from evolve.networks.vgg import VGG
from evolve.networks.vgg_plan import anonymous

CHECKED_STEPS = 2  # full batches of the epochs that are compared; the tail comes on top
CHECKED_BRANCHES = 2  # one alone could not show that branches disturb each other
TOLERANCE = (
    1e-3  # relative, between mean losses: far above rounding, far below a wrong batch or rate
)

_agreed: dict[Hashable, bool] = {}  # by architecture and circumstances


def checked(models: Sequence[VGG], group: Group, capture: bool = True) -> Trainer:
    """A GraphTrainer where it is known to agree with the reference, the reference else.

    The first call in a process for an architecture compares a few steps with PlainTrainer's, on
    copies. What fails there is told in one line through ``warnings``. In a set of several
    generations either all are captured, or none is, or this raises: which way a descendant is
    trained, and so how it is rounded, must not hang on its company. Each by itself then goes its
    own way. Nor may it hang on free memory: where that is short, this raises.

    Args:
        models: the group's; they are left untouched.
        group: their tasks, images and settings.
        capture: as :class:`GraphTrainer`'s.

    Raises:
        Exception: the group is a set, and not all of it can be captured; or the GPU's memory is
            full.
    """
    agree = {agrees(models, member, group, capture) for member in range(group.size)}
    try:
        if agree == {True}:
            return GraphTrainer(models, group, capture)
        if True in agree:
            raise ArithmeticError("some of these architectures train otherwise when captured")
    except Exception as error:  # a fast path must not cost a result, whatever ails it
        if several(group) or lacks_memory(error):
            raise
        _warn(error)
    return PlainTrainer(models, group)


def several(group: Group) -> bool:
    """Whether a group is a set of generations: their numbers repeat.

    Args:
        group: the group.
    """
    return len(set(group.numbers)) < group.size


def _circumstances(model: VGG, group: Group, capture: bool) -> tuple[Hashable, ...]:
    """All but the architecture that makes a step another one."""
    d, shape, resident = group.d, layout(group), group.resident
    images = (shape.batch, shape.tail, d.augment, resident.size, str(resident.device))
    return (
        model.head.out_features,
        model.head.weight.dtype,
        d.momentum,
        d.weight_decay,
        *images,
        capture,
    )


def agrees(models: Sequence[VGG], member: int, group: Group, capture: bool) -> bool:
    """Whether captured training of a member's architecture gives what the reference gives.

    Where it does not, there is a warning, once.

    Args:
        models: the group's.
        member: the member's place in the group.
        group: the group.
        capture: as :class:`GraphTrainer`'s.
    """
    model = models[member]
    key = (
        anonymous(model.plan),
        len(generation(models, group, member)),
        *_circumstances(model, group, capture),
    )
    if key not in _agreed:
        try:
            _compare(models, group, generation(models, group, member) * CHECKED_BRANCHES, capture)
            _agreed[key] = True
        except Exception as error:  # as above
            if lacks_memory(error) or (several(group) and not isinstance(error, ArithmeticError)):
                raise  # no verdict on the architecture: it may be the set that is too large
            _warn(error)
            _agreed[key] = False
    return _agreed[key]


def generation(models: Sequence[VGG], group: Group, member: int) -> list[int]:
    """The members that are stacked with a member, itself among them.

    Args:
        models: the group's.
        group: the group.
        member: the member's place in the group.
    """
    (mine,) = [
        part for part in branches_of(models, group.numbers) if part.start <= member < part.stop
    ]
    return list(range(mine.start, mine.stop))


def _warn(error: Exception) -> None:
    warnings.warn(
        "captured training is not used here, the plain one is: "
        f"{type(error).__name__}: {first_line(error)}",
        RuntimeWarning,
        stacklevel=2,
    )


def _compare(models: Sequence[VGG], group: Group, members: Sequence[int], capture: bool) -> None:
    """Two short epochs of ``members`` both ways from the same start.

    In float64: in float32 a whole ancestor of 13 layers makes a thousandth of a loss out of
    rounding within six steps, either way. Raises ArithmeticError where losses or answers differ.
    """
    short = shortened(group, CHECKED_STEPS, members)
    graphed, plain = (
        make([copy.deepcopy(models[member]).double() for member in members])
        for make in (
            lambda own: GraphTrainer(own, short, capture),
            lambda own: PlainTrainer(own, short),
        )
    )
    for epoch in range(short.d.epochs):
        for ours, theirs in zip(graphed.epoch(epoch), plain.epoch(epoch), strict=True):
            same = math.isclose(ours, theirs, rel_tol=TOLERANCE) or (
                math.isnan(ours) and math.isnan(theirs)
            )
            if not same:
                raise ArithmeticError(f"a loss of {ours:.6g} where the reference has {theirs:.6g}")
    for mine, reference in zip(graphed.correct(), plain.correct(), strict=True):
        differ = int((mine != reference).sum())
        if differ > 2 + len(mine) / 10:  # a few answers hang on the last bits
            raise ArithmeticError(
                f"{differ} of {len(mine)} test images are judged otherwise than by the reference"
            )


def shortened(group: Group, steps: int, members: Sequence[int]) -> Group:
    """A group whose epoch is cut to some full batches and the same tail, for two epochs.

    Args:
        group: the whole one.
        steps: full batches at most.
        members: places in the group; any may recur.
    """
    shape = layout(group)
    count = min(steps, shape.body) * shape.batch + shape.tail
    tasks = [_thinned(group.tasks[member], count) for member in members]
    return replace(
        group,
        tasks=tasks,
        numbers=[group.numbers[member] for member in members],
        d=replace(group.d, epochs=2),
    )


def _thinned(task: DownstreamTask, count: int) -> DownstreamTask:
    """``count`` training images, evenly from all: they lie class by class."""
    chosen = torch.arange(count) * len(task.train) // count
    return replace(task, train=task.train[chosen], train_labels=task.train_labels[chosen])
