"""Accumulate: the ancestor learns the tasks of a stream, one stage a task (paper 5.3).

It learns them with an Avalanche strategy. Importing this does not import Avalanche; training does.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from evolve.ancestor.gradients import GradientFractions
from evolve.ancestor.methods import STRATEGIES, check_strategy
from evolve.ancestor.metrics import average_accuracy, backward_transfer, forgetting
from evolve.ancestor.model import accuracies, build_ancestor, labelling
from evolve.core.errors import UserError
from evolve.core.randomness import derive_seed, isolated_rng
from evolve.core.settings import AncestorSettings, StreamSettings
from evolve.core.spent import Progress
from evolve.data.resident import Resident
from evolve.data.streams import (
    StreamTask,
    load_avalanche,
    make_benchmark,
    stream_tasks,
)
from evolve.engine.checkpoint import Checkpoint
from evolve.networks.optimizers import make_optimizer, restore_state, state_of

if TYPE_CHECKING:
    from evolve.ancestor.strategies import ResidentStrategy


@dataclass(frozen=True, eq=False)
class Accumulated:
    """The ancestor after some tasks.

    Attributes:
        tensors: "model.<name>" and "strategy.<name>", on the CPU, contiguous.
        record: JSON-able.
    """

    tensors: dict[str, Tensor]
    record: dict[str, Any]


@dataclass(frozen=True, eq=False)
class AccumulateRequest:
    """One task that the ancestor is to learn.

    Attributes:
        a, s: how it learns, and the stream.
        class_ids: ids of the ancestor's classes.
        resident: their images.
        seed: draws everything random.
        task: the task's number, from 1; 0 asks for the untrained ancestor and reads no image.
        checkpoint: keeps the state after every epoch. Where it holds one, training goes on there,
            to bit-equal numbers.
        progress: told the fraction done, in [0, 1], and what is being done.
        previous: the ancestor after ``task`` - 1. Joint training needs none, or task 0's.
        history: the earlier tasks' rows of accuracies.
        reference: train by the plain module under autograd.
        start: weights that task 0 begins with, by their names in the trunk's state dict.
    """

    a: AncestorSettings
    s: StreamSettings
    class_ids: Sequence[int]
    resident: Resident
    seed: int
    task: int
    checkpoint: Checkpoint
    progress: Progress
    previous: Accumulated | None = None
    history: Sequence[Sequence[float]] = ()
    reference: bool = False
    start: Mapping[str, Tensor] | None = None


def accumulate(request: AccumulateRequest) -> Accumulated:
    """Let the ancestor learn one task of the stream; global random state is left alone.

    Args:
        request: the task, and what it starts from.

    Raises:
        UserError: settings cannot work, or the loss is no longer finite.
        ValueError: the ancestor after the task before is missing.
    """
    a, s, task, previous = request.a, request.s, request.task, request.previous
    common = request.class_ids, request.resident, request.seed
    if task == 0:
        model = build_ancestor(a, s, request.class_ids, request.resident.size, request.seed)
        model.trunk.load_state_dict(dict(request.start or {}), strict=False)
        return Accumulated(
            _flat(model.state_dict(), "model."), {"task": 0, "classes": [], "row": []}
        )
    joint = a.strategy == "joint"
    if task > 1 and previous is None and not joint:
        raise ValueError(f"task {task} needs the ancestor after task {task - 1}")
    tasks = stream_tasks(s, *common, task)
    untrained = previous if previous is not None and previous.record["task"] == 0 else None
    learner = Learner(a, s, *common, request.reference, untrained)
    learner.restore(None if joint or task == 1 else previous, task - 1)
    losses = learner.learn(tasks, request.checkpoint, request.progress)
    strategy = learner.strategy
    row = accuracies(
        strategy.model, tasks, a, request.class_ids, request.resident, strategy.classify
    )
    tensors, meta = learner.state()
    earlier = previous.record.get("gradients", []) if previous is not None and not joint else []
    whole = not joint and len(request.history) == task - 1
    matrix = [*request.history, row]
    record = {
        "task": task,
        "classes": [list(t.classes) for t in tasks],
        "head": labelling(a),
        "row": row,
        "train_loss": losses,
        "average_accuracy": average_accuracy([row]),
        "strategy": meta,
        "gradients": [*earlier, learner.gradients.fractions()],  # as "history": one row a task
        "forgetting": forgetting(matrix) if whole else None,
        "backward_transfer": backward_transfer(matrix) if whole else None,
    }
    return Accumulated(tensors, record)


def load_trunk(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state dict of the ancestor's network.

    Args:
        tensors: an :class:`Accumulated`'s.
    """
    return _unflat(tensors, "model.trunk.")


class Learner:
    """An ancestor and its Avalanche strategy.

    :meth:`restore` what earlier tasks left, :meth:`learn` a task, take the :meth:`state`.

    Args:
        a, s: the settings of ancestor and stream.
        class_ids: ids of the ancestor's classes.
        resident: their images.
        seed: draws everything random.
        reference: train by the plain module under autograd.
        untrained: the ancestor after task 0, whose layers it begins with: they may be pretrained.

    Raises:
        UserError: the strategy's arguments do not fit.
    """

    def __init__(
        self,
        a: AncestorSettings,
        s: StreamSettings,
        class_ids: Sequence[int],
        resident: Resident,
        seed: int,
        reference: bool = False,
        untrained: Accumulated | None = None,
    ) -> None:
        arguments = check_strategy(a)
        load_avalanche()
        from evolve.ancestor.strategies import make_strategy

        self.a, self.class_ids, self.resident, self.seed = a, class_ids, resident, seed
        model = build_ancestor(a, s, class_ids, resident.size, seed).to(resident.device)
        if untrained is not None:
            layers = {
                name: tensor
                for name, tensor in load_trunk(untrained.tensors).items()
                if name.startswith("layers.")
            }
            model.trunk.load_state_dict(
                layers, strict=False
            )  # the head may be another: joint training has its own
        model.trunk.fused = not reference
        optimizer = make_optimizer(
            model.parameters(), a.optimizer, a.lr, a.momentum, a.weight_decay, fused=not reference
        )
        self.strategy: ResidentStrategy = make_strategy(
            a.strategy,
            arguments,
            model=model,
            optimizer=optimizer,
            resident=resident,
            a=a,
            seed=seed,
        )
        self._losses: list[float] = []

    def restore(self, previous: Accumulated | None, learned: int) -> None:
        """Go on after some tasks.

        Args:
            previous: what they left; None for the untrained ancestor (joint, first task).
            learned: how many they are.
        """
        strategy = self.strategy
        strategy.clock.train_exp_counter = learned
        if hasattr(strategy.model, "known_train_tasks_labels"):
            strategy.model.known_train_tasks_labels = set(range(learned))
        if previous is None or learned == 0:
            return
        strategy.model.load_state_dict(_unflat(previous.tensors, "model."))
        strategy.restore(_unflat(previous.tensors, "strategy."), previous.record["strategy"])

    def learn(
        self, tasks: Sequence[StreamTask], checkpoint: Checkpoint, progress: Progress
    ) -> list[float]:
        """Train on the last task, cumulative and joint strategies on all of them.

        Args:
            tasks: the stream's, up to the one to learn.
            checkpoint: where training goes on, and what keeps its state after every epoch.
            progress: told the fraction done, in [0, 1], and what is being done.

        Returns:
            The mean loss of every epoch.

        Raises:
            UserError: a loss is not finite.
        """
        strategy, number = self.strategy, tasks[-1].number
        record = STRATEGIES.get(self.a.strategy)  # a plug-in has no record
        needed = tasks if record and record.whole else tasks[-1:]
        *past, experience = make_benchmark(
            needed, self.resident, labelling(self.a), self.class_ids
        ).train_stream
        strategy.past, self._losses = past, []
        meter = _Meter(self.a.epochs, number, progress)
        strategy.first_epoch = lambda running: self._resume(checkpoint.load())
        self.gradients = gradients = GradientFractions(
            strategy.model.trunk, self.a.gradient_threshold
        )

        def after_step(running: ResidentStrategy, epoch: int) -> None:
            gradients.step()
            meter.step(running, epoch)

        def after_epoch(running: ResidentStrategy, epoch: int) -> None:
            self._losses.append(self._finite(meter.take(), number, epoch))
            gradients.end_epoch()
            checkpoint.save(
                self._running(),
                {"epoch": epoch + 1, "losses": self._losses, "gradients": gradients.state()},
            )

        strategy.after_step, strategy.after_epoch = after_step, after_epoch
        with isolated_rng(derive_seed(self.seed, "ancestor", number)):
            strategy.train(experience, eval_streams=[])
        return list(self._losses)

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """What the next task needs, and JSON beside it."""
        strategy = self.strategy
        tensors, meta = strategy.state()
        return _flat(strategy.model.state_dict(), "model.") | _flat(tensors, "strategy."), meta

    def _running(self) -> dict[str, Tensor]:
        """What an epoch leaves to the next one of the same task.

        It is the tensors in use, since most epochs leave no checkpoint.
        """
        strategy = self.strategy
        held = state_of(strategy.optimizer, dict(strategy.model.named_parameters()))
        return (
            _named(strategy.model.state_dict(), "model.")
            | _named(held, "optimizer.")
            | _named(strategy.running(), "running.")
        )

    def _resume(self, checkpoint: tuple[dict[str, Tensor], dict[str, Any]] | None) -> int:
        """Load a checkpoint's state into the strategy, which is ready for the task's first epoch.

        Returns:
            The epoch to go on with.
        """
        if checkpoint is None:
            return 0
        tensors, meta = checkpoint
        strategy = self.strategy
        strategy.model.load_state_dict(_unflat(tensors, "model."))
        restore_state(
            strategy.optimizer,
            dict(strategy.model.named_parameters()),
            _unflat(tensors, "optimizer."),
        )
        strategy.resume(_unflat(tensors, "running."))
        self._losses = [float(loss) for loss in meta["losses"]]
        self.gradients.restore(meta["gradients"])
        return int(meta["epoch"])

    def _finite(self, loss: float, task: int, epoch: int) -> float:
        if not math.isfinite(loss):
            takes = (
                self.a.strategy not in STRATEGIES or STRATEGIES[self.a.strategy].arguments
            )  # a plug-in's are not listed
            more = " or ancestor.strategy_args" if takes else ""
            where = f"task {task}, epoch {epoch + 1}"
            raise UserError(
                f"ancestor.lr = {self.a.lr:g}: the loss became {loss} in {where}; "
                f"lower ancestor.lr{more}"
            )
        return loss


class _Meter:
    """The mean training loss of an epoch, and the progress shown while it runs.

    The losses stay on the device until the epoch ends.
    """

    def __init__(self, epochs: int, task: int, progress: Progress) -> None:
        self.epochs, self.task, self.progress = epochs, task, progress
        self.losses: list[Tensor] = []
        self.images: list[int] = []
        self.shown = time.monotonic()

    def step(self, strategy: ResidentStrategy, epoch: int) -> None:
        self.losses.append(strategy.loss.detach())
        self.images.append(len(strategy.mb_y))
        steps, all_steps, now = len(self.losses), len(strategy.dataloader), time.monotonic()
        if steps == all_steps or now - self.shown > 0.5:
            self.shown = now
            self.progress(
                (epoch + steps / all_steps) / self.epochs,
                f"task {self.task}, epoch {epoch + 1} of {self.epochs}",
            )

    def take(self) -> float:
        """The mean over the epoch's images, added up in the order of the steps; 0 for no images."""
        losses, images = self.losses, self.images
        self.losses, self.images = [], []
        if not losses:
            return 0.0
        values = torch.stack(losses).view(-1).cpu().numpy()
        return float(np.add.accumulate(values * np.array(images, values.dtype))[-1]) / sum(images)


def _flat(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Copies on the CPU, in the layout that files hold, under prefixed names."""
    copies = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in tensors.items()
    }
    return _named(copies, prefix)


def _named(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in tensors.items()}


def _unflat(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {
        name[len(prefix) :]: tensor for name, tensor in tensors.items() if name.startswith(prefix)
    }
