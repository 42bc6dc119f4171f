"""Whether, and how widely, captured training is to be used here: measured and compared with the reference once a process."""

from __future__ import annotations

import copy
import math
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch

from evolve.networks.vgg import VGG
from evolve.training.graph_draws import layout
from evolve.training.graphs import GraphTrainer, Wave
from evolve.training.group import DownstreamTask, Group, Trainer
from evolve.training.plain import PlainTrainer

WIDTHS = (1, 2, 5, 10, 20, 40)  # numbers of branches to try
GAIN = 1.03  # a wider graph has to be this much faster to be taken
TIMED_STEPS = 16  # of an epoch that is timed
CHECKED_STEPS = 2  # full batches of the epochs that are compared; the tail comes on top
TOLERANCE = 1e-3  # relative, between mean losses: far above rounding, far below a wrong batch or rate

_widths: dict[tuple[Any, ...], int] = {}  # 0: not to be used


def checked(models: Sequence[VGG], group: Group, capture: bool = True) -> Trainer:
    """A GraphTrainer where it is known to agree with the reference and to pay, the reference else. The models are left untouched.

    For each (architecture, batch, number of members) the first call in a process looks for the best number of branches and
    compares a few steps with PlainTrainer's, on copies. What fails there is told in one line through ``warnings``.
    """
    key = _kind(models, group, capture)
    if key not in _widths:
        _widths[key] = _judged(models, group, capture)
    if _widths[key]:
        try:
            return GraphTrainer(models, group, capture, _widths[key])
        except Exception as error:  # a fast path must not cost a result, whatever ails it
            _warn(error)
    return PlainTrainer(models, group)


def _kind(models: Sequence[VGG], group: Group, capture: bool) -> tuple[Any, ...]:
    model, d, resident = models[0], group.d, group.resident
    shape = layout(group)
    images = (shape.members, shape.batch, shape.tail, d.augment, resident.size, str(resident.device))
    return (model.plan, model.head.out_features, model.head.weight.dtype, d.momentum, d.weight_decay, *images, capture)


def _judged(models: Sequence[VGG], group: Group, capture: bool) -> int:
    """The number of branches to use; 0 and a warning where capture fails or computes something else."""
    try:
        width = branches(group.size, lambda count: seconds(models, group, count, capture))
        _compare(models, group, width, capture)
        return width
    except Exception as error:  # as above
        _warn(error)
        return 0


def _warn(error: Exception) -> None:
    first = (str(error).strip().splitlines() or [""])[0]
    warnings.warn(f"captured training is not used here, the plain one is: {type(error).__name__}: {first}", RuntimeWarning, stacklevel=2)


def branches(size: int, measure: Callable[[int], float]) -> int:
    """How many of ``size`` members to train in one graph. ``measure(count)`` gives the seconds of a step of ``count`` branches.

    Widths are tried from one on while they bring more images a second, and as memory allows. The choice may follow a
    measurement because no number depends on it.
    """
    best, speed = 0, 0.0
    for count in sorted({*(width for width in WIDTHS if width < size), size}):
        try:
            found = count / measure(count)
        except RuntimeError:  # out of memory; under capture it may come as the capture's own error
            if best == 0:
                raise
            break
        if best and found < GAIN * speed:
            break
        best, speed = count, found
    return best


def seconds(models: Sequence[VGG], group: Group, count: int, capture: bool, repeats: int = 3) -> float:
    """Time of a step of ``count`` branches, measured on copies: the least of ``repeats`` short epochs."""
    members = [place % group.size for place in range(count)]
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


def _compare(models: Sequence[VGG], group: Group, width: int, capture: bool) -> None:
    """Two short epochs both ways from the same start. Raises ArithmeticError where losses or answers differ."""
    members = list(range(width))
    short = shortened(group, CHECKED_STEPS, members)
    graphed, plain = (
        make([copy.deepcopy(models[member]) for member in members])
        for make in (lambda own: GraphTrainer(own, short, capture), lambda own: PlainTrainer(own, short))
    )
    for epoch in range(short.d.epochs):
        for ours, theirs in zip(graphed.epoch(epoch), plain.epoch(epoch), strict=True):
            same = math.isclose(ours, theirs, rel_tol=TOLERANCE) or (math.isnan(ours) and math.isnan(theirs))
            if not same:
                raise ArithmeticError(f"a loss of {ours:.6g} where the reference has {theirs:.6g}")
    for mine, reference in zip(graphed.correct(), plain.correct(), strict=True):
        differ = int((mine != reference).sum())
        if differ > 2 + len(mine) / 10:  # a few answers hang on the last bits
            raise ArithmeticError(f"{differ} of {len(mine)} test images are judged otherwise than by the reference")


def shortened(group: Group, steps: int, members: Sequence[int]) -> Group:
    """The group with these members (any may recur), its epoch cut to ``steps`` full batches and the same tail, for two epochs."""
    shape = layout(group)
    count = min(steps, shape.body) * shape.batch + shape.tail
    tasks = [_thinned(group.tasks[member], count) for member in members]
    return replace(group, tasks=tasks, numbers=[group.numbers[member] for member in members], d=replace(group.d, epochs=2))


def _thinned(task: DownstreamTask, count: int) -> DownstreamTask:
    """``count`` training images, evenly from all: they lie class by class."""
    chosen = torch.arange(count) * len(task.train) // count
    return replace(task, train=task.train[chosen], train_labels=task.train_labels[chosen])
