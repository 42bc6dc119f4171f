"""Whether, and how widely, captured training is to be used here: compared with the reference and measured once a process."""

from __future__ import annotations

import copy
import math
import time
import warnings
from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace

import torch

from evolve.core.errors import first_line
from evolve.descendants.trainers.graph_draws import layout
from evolve.descendants.trainers.graphs import GraphTrainer, Wave, branches_of
from evolve.descendants.trainers.group import DownstreamTask, Group, Trainer
from evolve.descendants.trainers.plain import PlainTrainer
from evolve.networks.vgg import VGG
from evolve.networks.vgg_plan import anonymous, layer_names

WIDTHS = (1, 2, 4, 8)  # numbers of branches to try
GAIN = 1.03  # a wider graph has to be this much faster to be taken
TIMED_STEPS = 16  # of an epoch that is timed
CHECKED_STEPS = 2  # full batches of the epochs that are compared; the tail comes on top
CHECKED_BRANCHES = 2  # one alone could not show that branches disturb each other
TOLERANCE = (
    1e-3  # relative, between mean losses: far above rounding, far below a wrong batch or rate
)

_agreed: dict[Hashable, bool] = {}  # by architecture and circumstances
_seconds: dict[Hashable, float] = {}  # of a step, by circumstances and number of branches


def checked(models: Sequence[VGG], group: Group, capture: bool = True) -> Trainer:
    """A GraphTrainer where it is known to agree with the reference, the reference else. The models are left untouched.

    The first call in a process for an architecture compares a few steps with PlainTrainer's, on copies. What fails there is told in
    one line through ``warnings``. In a set of several generations either all are captured, or none is, or this raises: which way a
    descendant is trained, and so how it is rounded, must not hang on its company. Each by itself then goes its own way.
    """
    agree = {agrees(models, member, group, capture) for member in group.members()}
    try:
        if agree == {True}:
            return GraphTrainer(models, group, capture, _width(models, group, capture))
        if True in agree:
            raise ArithmeticError("some of these architectures train otherwise when captured")
    except Exception as error:  # a fast path must not cost a result, whatever ails it
        if several(group):
            raise
        _warn(error)
    return PlainTrainer(models, group)


def several(group: Group) -> bool:
    """Whether the group is a set of generations: their numbers repeat."""
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
    """Whether captured training of the member's architecture gives what the reference gives; a warning, once, where it does not."""
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
            if several(group) and not isinstance(error, ArithmeticError):
                raise  # no verdict on the architecture: it may be the set that is too large
            _warn(error)
            _agreed[key] = False
    return _agreed[key]


def generation(models: Sequence[VGG], group: Group, member: int) -> list[int]:
    """The members that are stacked with this one, itself among them."""
    (mine,) = [
        part for part in branches_of(models, group.numbers) if part.start <= member < part.stop
    ]
    return list(range(mine.start, mine.stop))


def _width(models: Sequence[VGG], group: Group, capture: bool) -> int:
    """The number of branches to use. Measured with the deepest of the models, which needs the most memory; the channels matter, the
    depth hardly, and nearly every generation has another architecture: so its times stand for all of as many channels.
    """
    deepest = max(models, key=lambda model: len(layer_names(model.plan)))
    member = list(models).index(deepest)
    channels = max(spec.c_out for block in deepest.plan for spec in block)
    stacked = generation(models, group, member)
    key = (channels, len(stacked), *_circumstances(deepest, group, capture))

    def measure(count: int) -> float:
        if (key, count) not in _seconds:
            try:
                _seconds[key, count] = seconds(models, group, stacked * count, capture)
            except (
                RuntimeError
            ):  # out of memory; under capture it may come as the capture's own error
                if count == 1:
                    raise
                _seconds[key, count] = math.inf
        return _seconds[key, count]

    return branches(len(branches_of(models, group.numbers)), measure)


def _warn(error: Exception) -> None:
    warnings.warn(
        f"captured training is not used here, the plain one is: {type(error).__name__}: {first_line(error)}",
        RuntimeWarning,
        stacklevel=2,
    )


def branches(size: int, measure: Callable[[int], float]) -> int:
    """How many of ``size`` generations to train in one graph. ``measure(count)`` gives the seconds of a step of ``count`` branches.

    Widths are tried from one on while they bring more images a second; the last may be wider than ``size``, so
    that groups of other sizes find the same ones measured. The choice may follow a measurement because no number depends on it.
    """
    best, speed = 0, 0.0
    for count, before in zip(WIDTHS, (0, *WIDTHS), strict=False):
        if before >= size:
            break
        found = count / measure(count)
        if best and found < GAIN * speed:
            break
        best, speed = count, found
    return min(best, size)


def seconds(
    models: Sequence[VGG], group: Group, members: Sequence[int], capture: bool, repeats: int = 3
) -> float:
    """Time of a step of ``members`` (generations may recur), on copies: the least of ``repeats`` short epochs."""
    short = shortened(group, TIMED_STEPS, members)
    trainer = GraphTrainer([copy.deepcopy(models[member]) for member in members], short, capture)
    (wave,) = trainer.waves
    wave.start(0)
    return min(_timed(wave) for _ in range(repeats)) / short.steps


def _timed(wave: Wave) -> float:
    wave.losses()  # waits for the device
    started = time.perf_counter()
    wave.replay()
    wave.losses()
    return time.perf_counter() - started


def _compare(models: Sequence[VGG], group: Group, members: Sequence[int], capture: bool) -> None:
    """Two short epochs of ``members`` both ways from the same start. Raises ArithmeticError where losses or answers differ.

    In float64: in float32 a whole ancestor of 13 layers makes a thousandth of a loss out of rounding within six steps, either way.
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
    """The group with these members (any may recur), its epoch cut to ``steps`` full batches and the same tail, for two epochs."""
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
