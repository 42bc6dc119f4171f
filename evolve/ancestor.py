"""Accumulate: the ancestor learns the tasks of a stream, one stage a task, with an Avalanche strategy (paper 5.3).

Importing this does not import Avalanche; training does.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn

from evolve.data.resident import Resident
from evolve.data.streams import StreamTask, class_labels, labels_of, load_avalanche, make_benchmark, stream_tasks, task_label
from evolve.errors import UserError
from evolve.metrics import average_accuracy, backward_transfer, forgetting
from evolve.networks.plan import vgg16_plan
from evolve.networks.vgg import VGG, initialise
from evolve.randomness import derive_seed, generator, isolated_rng
from evolve.settings import AncestorSettings, StreamSettings

if TYPE_CHECKING:
    from evolve.strategies import ResidentStrategy

Progress = Callable[[float, str], None]

# Arguments of Avalanche's plugins that a scenario may set: default, kind, least and most allowed.
ARGUMENTS: dict[str, dict[str, tuple[Any, type, float, float]]] = {
    "ewc": {"ewc_lambda": (1.0, float, 0, math.inf), "mode": ("separate", str, 0, 0), "decay_factor": (None, float, 0, 1)},
    "si": {"si_lambda": (1.0, float, 0, math.inf), "eps": (1e-7, float, 1e-30, math.inf)},
    "lwf": {"alpha": (1.0, float, 0, math.inf), "temperature": (2.0, float, 1e-3, math.inf)},
    "replay": {"mem_size": (200, int, 1, math.inf)},
}
EWC_MODES = ("separate", "online")
REHEARSAL = ("replay", "cumulative")


class Checkpoint(Protocol):
    """Where an interrupted task goes on; see ``evolve.checkpoint``."""

    def load(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None: ...

    def save(self, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None: ...


@dataclass(frozen=True, eq=False)
class Accumulated:
    """The ancestor after some tasks: ``tensors`` "model.<name>" and "strategy.<name>" (CPU, contiguous), ``record`` is JSON-able."""

    tensors: dict[str, Tensor]
    record: dict[str, Any]


def check_strategy(a: AncestorSettings) -> dict[str, Any]:
    """The strategy's arguments with their defaults. Raises UserError naming the argument, or the strategy that cannot
    work with the head, what is allowed and why. Imports no Avalanche.
    """
    if a.strategy in REHEARSAL and a.head == "shared":
        raise UserError(
            f'ancestor.head = "shared" with ancestor.strategy = "{a.strategy}": a class that recurs has another label in each task, '
            'so earlier images would contradict new ones; set ancestor.head to "single" or "per-task"'
        )
    known = ARGUMENTS.get(a.strategy, {})
    for name, value in a.strategy_args.items():
        _check_argument(a.strategy, name, value, known)
    chosen = {name: default for name, (default, *_) in known.items()} | dict(a.strategy_args)
    if a.strategy == "ewc" and (chosen["mode"] == "online") != (chosen["decay_factor"] is not None):
        raise UserError('ancestor.strategy_args.decay_factor: needed with mode = "online", and only there; a number from 0 to 1')
    return chosen


def _check_argument(strategy: str, name: str, value: Any, known: Mapping[str, tuple[Any, type, float, float]]) -> None:
    where = f"ancestor.strategy_args.{name}"
    if name not in known:
        allowed = f"it takes {', '.join(sorted(known))}" if known else "it takes none"
        raise UserError(f"{where}: not an argument of strategy {strategy}; {allowed}")
    _, kind, least, most = known[name]
    if kind is str:
        if value not in EWC_MODES:
            raise UserError(f'{where} = {value!r}: allowed are {", ".join(EWC_MODES)}')
        return
    fits = isinstance(value, int if kind is int else (int, float)) and not isinstance(value, bool)
    if not fits or not least <= value <= most or not math.isfinite(value):
        limits = f"of at least {least:g}" if most == math.inf else f"from {least:g} to {most:g}"
        raise UserError(f"{where} = {value!r}: expected {'a whole number' if kind is int else 'a number'} {limits}")


def labelling(a: AncestorSettings) -> str:
    """The head in use. Joint training sees all tasks at once, where a shared head's task-local labels would contradict each
    other as soon as a class recurs: there it gets one head over all ancestor classes.
    """
    return "single" if a.strategy == "joint" and a.head == "shared" else a.head


class Ancestor(nn.Module):
    """A VGG ``trunk`` (its ``head`` inside) that ignores task labels."""

    def __init__(self, trunk: VGG) -> None:
        super().__init__()
        self.trunk = trunk

    def forward(self, x: Tensor) -> Tensor:
        """[B, 3, H, W] -> [B, classes]."""
        return self.trunk(x)


def build_ancestor(a: AncestorSettings, s: StreamSettings, class_ids: Sequence[int], seed: int) -> Any:
    """The untrained ancestor, in channels_last: a module with ``.trunk``. Its trunk's draw is the same for every head."""
    head = labelling(a)
    trunk = VGG(vgg16_plan(a.width), len(class_ids) if head == "single" else s.classes_per_task)
    initialise(trunk, seed, "ancestor")
    if head != "per-task":
        return Ancestor(trunk)
    load_avalanche()
    from evolve.strategies import MultiHeadAncestor

    return MultiHeadAncestor(trunk, [_head(trunk, seed, number) for number in range(2, s.tasks + 1)])


@torch.no_grad()
def _head(trunk: VGG, seed: int, task: int) -> nn.Linear:
    made = nn.utils.skip_init(nn.Linear, trunk.head.in_features, trunk.head.out_features)
    made.weight.copy_(torch.empty(made.weight.shape).normal_(0, 0.01, generator=generator(seed, "ancestor", "head", task)))
    made.bias.zero_()
    return made


def load_trunk(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state dict of the ancestor's VGG, out of an :class:`Accumulated`'s tensors."""
    prefix = "model.trunk."
    return {name[len(prefix) :]: tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def accumulate(
    a: AncestorSettings,
    s: StreamSettings,
    class_ids: Sequence[int],
    resident: Resident,
    seed: int,
    task: int,
    previous: Accumulated | None,
    history: Sequence[Sequence[float]],
    checkpoint: Checkpoint,
    progress: Progress,
    reference: bool = False,
) -> Accumulated:
    """The ancestor after ``task`` tasks, from ``previous``, the ancestor after ``task`` - 1 (joint: from nothing).

    Task 0 is the untrained ancestor and reads no image. ``history`` holds the earlier tasks' rows of accuracies. The state is
    saved in ``checkpoint`` after every epoch, and a call that finds one goes on there, to bit-equal numbers. Global random state
    is left alone. ``reference`` trains by the plain module under autograd. Raises UserError for settings that cannot work, and when the loss is no longer finite.
    """
    if task == 0:
        return Accumulated(_flat(build_ancestor(a, s, class_ids, seed).state_dict(), "model."), {"task": 0, "classes": [], "row": []})
    joint = a.strategy == "joint"
    if task > 1 and previous is None and not joint:
        raise ValueError(f"task {task} needs the ancestor after task {task - 1}")
    tasks = stream_tasks(s, class_ids, resident, seed, task)
    learner = Learner(a, s, class_ids, resident, seed, reference)
    learner.restore(None if joint or task == 1 else previous, task - 1)
    losses = learner.learn(tasks, checkpoint, progress)
    row = accuracies(learner.strategy.model, tasks, a, class_ids, resident)
    tensors, meta = learner.state()
    record: dict[str, Any] = {"task": task, "classes": [list(one.classes) for one in tasks], "head": labelling(a)}
    record |= {"row": row, "train_loss": losses, "average_accuracy": average_accuracy([row]), "strategy": meta}
    known = not joint and len(history) == task - 1
    matrix = [*history, row]
    record["forgetting"] = forgetting(matrix) if known else None
    record["backward_transfer"] = backward_transfer(matrix) if known else None
    return Accumulated(tensors, record)


class Learner:
    """An ancestor and its Avalanche strategy. ``restore`` what earlier tasks left, ``learn`` a task, take the ``state``."""

    def __init__(
        self, a: AncestorSettings, s: StreamSettings, class_ids: Sequence[int], resident: Resident, seed: int, reference: bool = False
    ) -> None:
        arguments = check_strategy(a)
        load_avalanche()
        from evolve.strategies import PLUGINS, ResidentStrategy

        self.a, self.class_ids, self.resident, self.seed = a, class_ids, resident, seed
        model = build_ancestor(a, s, class_ids, seed).to(resident.device)
        model.trunk.fused = not reference
        optimizer = torch.optim.SGD(model.parameters(), lr=a.lr, momentum=a.momentum, weight_decay=a.weight_decay, fused=not reference)
        plugin = PLUGINS[a.strategy](**arguments) if a.strategy in PLUGINS else None
        self.strategy: ResidentStrategy = ResidentStrategy(
            model=model, optimizer=optimizer, plugin=plugin, resident=resident, a=a, seed=seed
        )
        self._losses: list[float] = []

    def restore(self, previous: Accumulated | None, learned: int) -> None:
        """Go on after ``learned`` tasks: from ``previous``, or (joint, first task) from the untrained ancestor."""
        strategy = self.strategy
        strategy.clock.train_exp_counter = learned
        if hasattr(strategy.model, "known_train_tasks_labels"):
            strategy.model.known_train_tasks_labels = set(range(learned))
        if previous is None or learned == 0:
            return
        strategy.model.load_state_dict(_unflat(previous.tensors, "model."))
        if strategy.plugin is not None:
            strategy.plugin.restore(_unflat(previous.tensors, "strategy."), previous.record["strategy"], strategy)

    def learn(self, tasks: Sequence[StreamTask], checkpoint: Checkpoint, progress: Progress) -> list[float]:
        """Train on the last of ``tasks`` (cumulative, joint: on all of them) from the newest checkpoint on; mean loss of every epoch."""
        strategy, number = self.strategy, tasks[-1].number
        needed = tasks if self.a.strategy in ("cumulative", "joint") else tasks[-1:]
        *past, experience = make_benchmark(needed, self.resident, labelling(self.a), self.class_ids).train_stream
        strategy.past, self._losses = past, []
        meter = _Meter(self.a.epochs, number, progress)
        strategy.first_epoch = lambda running: self._resume(checkpoint.load())
        strategy.after_step = meter.step

        def after_epoch(running: ResidentStrategy, epoch: int) -> None:
            self._losses.append(self._finite(meter.take(), number, epoch))
            checkpoint.save(self._running(), {"epoch": epoch + 1, "losses": self._losses})

        strategy.after_epoch = after_epoch
        with isolated_rng(derive_seed(self.seed, "ancestor", number)):
            strategy.train(experience, eval_streams=[])
        return list(self._losses)

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """What the next task needs, and JSON beside it."""
        strategy = self.strategy
        tensors, meta = strategy.plugin.state() if strategy.plugin is not None else ({}, {})
        return _flat(strategy.model.state_dict(), "model.") | _flat(tensors, "strategy."), meta

    def _running(self) -> dict[str, Tensor]:
        """What an epoch leaves to the next one of the same task."""
        strategy = self.strategy
        held = {name: strategy.optimizer.state.get(one, {}).get("momentum_buffer") for name, one in strategy.model.named_parameters()}
        momentum = {name: buffer for name, buffer in held.items() if buffer is not None}
        inside = strategy.plugin.running() if hasattr(strategy.plugin, "running") else {}
        return _flat(strategy.model.state_dict(), "model.") | _flat(momentum, "momentum.") | _flat(inside, "running.")

    def _resume(self, found: tuple[dict[str, Tensor], dict[str, Any]] | None) -> int:
        """Load a checkpoint's state into the strategy, which is ready for the task's first epoch; the epoch to go on with."""
        if found is None:
            return 0
        tensors, meta = found
        strategy = self.strategy
        strategy.model.load_state_dict(_unflat(tensors, "model."))
        parameters = dict(strategy.model.named_parameters())
        for name, tensor in _unflat(tensors, "momentum.").items():
            buffer = torch.empty_like(parameters[name]).detach().copy_(tensor)
            strategy.optimizer.state[parameters[name]] = {"momentum_buffer": buffer}
        if hasattr(strategy.plugin, "resume"):
            strategy.plugin.resume(_unflat(tensors, "running."))
        self._losses = [float(loss) for loss in meta["losses"]]
        return int(meta["epoch"])

    def _finite(self, loss: float, task: int, epoch: int) -> float:
        if not math.isfinite(loss):
            more = " or ancestor.strategy_args" if self.a.strategy in ARGUMENTS else ""
            where = f"task {task}, epoch {epoch + 1}"
            raise UserError(f"ancestor.lr = {self.a.lr:g}: the loss became {loss} in {where}; lower ancestor.lr{more}")
        return loss


class _Meter:
    """The mean training loss of an epoch, kept on the device, and the progress shown while it runs."""

    def __init__(self, epochs: int, task: int, progress: Progress) -> None:
        self.epochs, self.task, self.progress = epochs, task, progress
        self.total: Tensor | float = 0.0
        self.images = self.steps = 0
        self.shown = time.monotonic()

    def step(self, strategy: ResidentStrategy, epoch: int) -> None:
        self.total = self.total + strategy.loss.detach() * len(strategy.mb_y)
        self.images += len(strategy.mb_y)
        self.steps += 1
        last = self.steps == len(strategy.dataloader)
        if last or time.monotonic() - self.shown > 0.5:
            self.shown = time.monotonic()
            share = (epoch + self.steps / len(strategy.dataloader)) / self.epochs
            self.progress(share, f"task {self.task}, epoch {epoch + 1} of {self.epochs}")

    def take(self) -> float:
        mean = float(self.total) / max(1, self.images)
        self.total, self.images, self.steps = 0.0, 0, 0
        return mean


@torch.no_grad()
def accuracies(model: Any, tasks: Sequence[StreamTask], a: AncestorSettings, class_ids: Sequence[int], resident: Resident) -> list[float]:
    """Test accuracy on each of ``tasks``, in [0, 1]; each image passes the trunk once.

    A single head chooses among all ancestor classes; a head a task, or a shared one, among the task's own. So does joint
    training under head = "shared" (see :func:`labelling`), to be comparable with the strategies it controls.
    """
    head = labelling(a)
    mode = model.training
    model.eval()
    index = torch.unique(torch.cat([task.test for task in tasks]))
    embedded = torch.cat([model.trunk.embed(resident.batch(part)) for part in index.split(256)])
    found = []
    for task in tasks:
        rows = embedded[torch.searchsorted(index, task.test).to(embedded.device)]
        layer = model.head(task_label(task, head)) if head == "per-task" else model.trunk.head
        logits, labels = layer(rows), labels_of(task.test, class_labels(task, head, class_ids), resident)
        if head != a.head:
            own = torch.tensor(list(class_labels(task, head, class_ids).values()))
            logits, labels = logits[:, own.to(logits.device)], labels_of(task.test, class_labels(task, a.head, class_ids), resident)
        found.append(int((logits.argmax(1).cpu() == labels).sum()) / len(labels))
    model.train(mode)
    return found


def _flat(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Copies on the CPU, in the layout that files hold, under prefixed names."""
    return {prefix + name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()}


def _unflat(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name[len(prefix) :]: tensor for name, tensor in tensors.items() if name.startswith(prefix)}
