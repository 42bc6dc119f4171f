"""Avalanche's strategies over resident images, with a state that can be stored as tensors.

Importing this imports Avalanche: call :func:`evolve.data.streams.load_avalanche` first, as ``ancestor`` does.
The algorithms are Avalanche's plugins. What is added here: batches by slicing instead of a DataLoader, a generator for every
draw, a loop that can start at any epoch, and ``state``/``restore`` so that the next task may run in another process.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from avalanche.benchmarks.utils.utils import concat_datasets
from avalanche.models.dynamic_modules import MultiTaskModule
from avalanche.training.plugins import EvaluationPlugin, EWCPlugin, LwFPlugin, ReplayPlugin, SynapticIntelligencePlugin
from avalanche.training.storage_policy import ReservoirSamplingBuffer
from avalanche.training.templates import SupervisedTemplate
from avalanche.training.utils import ParamData
from torch import Tensor, nn

from evolve.data.resident import Resident
from evolve.data.streams import make_dataset
from evolve.networks.vgg import VGG
from evolve.randomness import derive_seed, generator, reseed
from evolve.settings import AncestorSettings
from evolve.training.graphed import Graphed
from evolve.training.group import batch_count
from evolve.training.group import batches as group_batches

State = tuple[dict[str, Tensor], dict[str, Any]]  # tensors and what fits JSON


class MultiHeadAncestor(MultiTaskModule):
    """A trunk with one head a task. The first task's head is the trunk's own."""

    def __init__(self, trunk: VGG, heads: Sequence[nn.Linear]) -> None:
        super().__init__()
        self.trunk, self.heads = trunk, nn.ModuleList(heads)
        self.max_class_label = trunk.head.out_features

    def head(self, task_label: int) -> nn.Module:
        return self.trunk.head if task_label == 0 else self.heads[task_label - 1]

    def forward(self, x: Tensor, task_labels: Tensor | None) -> Any:
        """[B, 3, H, W], task labels [B] -> [B, n]; without task labels {task label: [B, n]} for every task trained so far.

        Avalanche's own runs the trunk once for every task in the batch, which splits BN's batch statistics.
        """
        embedded = self.trunk.embed(x)
        if task_labels is None:
            return {label: self.head(label)(embedded) for label in self.known_train_tasks_labels}
        present = torch.unique(task_labels).tolist()
        if len(present) == 1:
            return self.head(present[0])(embedded)
        logits = embedded.new_zeros(len(x), self.max_class_label)
        for label in present:
            rows = task_labels == label
            logits[rows] = self.head(label)(embedded[rows])
        return logits


class EWC(EWCPlugin):
    """Avalanche's EWC, with its penalty in closed form.

    Avalanche sums F_i (theta - theta_i)^2 over all earlier tasks i, so its steps, memory and state grow with the lineage. That sum
    is a parabola A d^2 - 2 B d + C in d = theta - theta_last; a new task only moves its centre and adds F to A. In mode "online"
    A is the decayed sum, B and C are zero. F (``compute_importances``) is Avalanche's.
    """

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.curvature: dict[str, Tensor] = {}  # A, flat, by parameter
        self.shift: dict[str, Tensor] = {}  # B
        self.centre: dict[str, Tensor] = {}  # theta_last
        self.constant = torch.zeros(())  # C

    def before_backward(self, strategy: Any, **kwargs: Any) -> None:
        if self.curvature:
            penalty = self.constant.to(strategy.device)
            for name, parameter in strategy.model.named_parameters():
                penalty = penalty + self._parabola(name, parameter.flatten() - self.centre[name])
            strategy.loss += self.ewc_lambda * penalty

    def _parabola(self, name: str, moved: Tensor) -> Tensor:
        return torch.dot(self.curvature[name] * moved - 2 * self.shift[name], moved)

    @torch.no_grad()
    def after_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        with torch.enable_grad():
            measured = self.compute_importances(
                strategy.model, strategy._criterion, strategy.optimizer, strategy.experience.dataset, strategy.device, strategy.train_mb_size
            )
        for name, parameter in strategy.model.named_parameters():
            here, new = parameter.flatten().clone(), measured[name].data.flatten()
            old, shift = self.curvature.get(name), torch.zeros_like(here)
            if old is not None and self.mode == "online":
                new = self.decay_factor * old + new
            elif old is not None:
                moved = here - self.centre[name]
                self.constant = self.constant.to(here.device) + self._parabola(name, moved)
                new, shift = old + new, self.shift[name] - old * moved
            self.curvature[name], self.shift[name], self.centre[name] = new, shift, here

    def state(self) -> State:
        """The centre is the model itself at the task's end, so it is not stored again."""
        kept = {"curvature": self.curvature, "shift": self.shift}
        tensors = {f"{role}.{name}": value for role, values in kept.items() for name, value in values.items()}
        return tensors | {"constant": self.constant}, {}

    def restore(self, tensors: Mapping[str, Tensor], meta: Mapping[str, Any], strategy: ResidentStrategy) -> None:
        self.constant = tensors["constant"].to(strategy.device)
        for name, parameter in strategy.model.named_parameters():
            self.curvature[name] = tensors[f"curvature.{name}"].to(strategy.device)
            self.shift[name] = tensors[f"shift.{name}"].to(strategy.device)
            self.centre[name] = parameter.detach().flatten().clone()


class SI(SynapticIntelligencePlugin):
    """Avalanche's Synaptic Intelligence, mended.

    On a CPU, Avalanche 0.6 keeps views of contiguous parameters where it means to keep their earlier values: every path
    length and every penalty is then zero. It also needs a gradient for every parameter, which unused heads do not have, and
    looks up the parameters' names by pattern four times an iteration, which takes longer than the step itself.
    """

    _names: list[str] | None = None

    def before_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        super().before_training_exp(strategy, **kwargs)
        self._names = [name for name, _ in self.allowed_parameters(strategy.model, self.excluded_parameters)]
        _unalias(self.ewc_data[0])

    def before_training_iteration(self, strategy: Any, **kwargs: Any) -> None:
        for name, parameter in self._parameters(strategy):
            self.syn_data["old_theta"][name].data = parameter.detach().cpu().flatten().clone()

    def before_backward(self, strategy: Any, **kwargs: Any) -> None:
        task = min(strategy.clock.train_exp_counter, len(self.si_lambda) - 1)
        half = self.si_lambda[task] / 2
        penalty = torch.zeros((), device=strategy.device)
        for name, parameter in self._parameters(strategy):
            start, importance = (data[name].data.to(strategy.device) for data in self.ewc_data)
            penalty = penalty + torch.dot(importance, (parameter.flatten() - start) ** 2) * half
        strategy.loss += penalty

    def after_training_iteration(self, strategy: Any, **kwargs: Any) -> None:
        for name, parameter in self._parameters(strategy):
            if parameter.grad is not None:
                moved = parameter.detach().cpu().flatten() - self.syn_data["old_theta"][name].data
                self.syn_data["trajectory"][name].data += parameter.grad.detach().cpu().flatten() * moved

    def after_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        super().after_training_exp(strategy, **kwargs)
        _unalias(self.ewc_data[0])

    def _parameters(self, strategy: Any) -> list[tuple[str, nn.Parameter]]:
        parameters = dict(strategy.model.named_parameters())
        assert self._names is not None
        return [(name, parameters[name]) for name in self._names]

    def state(self) -> State:
        """What outlasts a task: the summed importances. The values they hold on to are the model's own at the task's end."""
        kept = {"importance": self.ewc_data[1], "path": self.syn_data["cum_trajectory"]}
        return {f"{role}.{name}": value.data for role, values in kept.items() for name, value in values.items()}, {}

    def restore(self, tensors: Mapping[str, Tensor], meta: Mapping[str, Any], strategy: ResidentStrategy) -> None:
        self.create_syn_data(strategy.model, self.ewc_data, self.syn_data, self.excluded_parameters)
        for full, tensor in tensors.items():
            role, name = full.split(".", 1)
            (self.ewc_data[1] if role == "importance" else self.syn_data["cum_trajectory"])[name].data = tensor.clone()

    def running(self) -> dict[str, Tensor]:
        return {name: value.data for name, value in self.syn_data["trajectory"].items()}

    def resume(self, tensors: Mapping[str, Tensor]) -> None:
        for name, tensor in tensors.items():
            self.syn_data["trajectory"][name].data = tensor.clone()


def _unalias(values: Mapping[str, ParamData]) -> None:
    for value in values.values():
        value.data = value.data.clone()


class LwF(LwFPlugin):
    """Avalanche's Learning without Forgetting. The teacher is the ancestor as the last task left it, so it is not stored again."""

    def after_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        super().after_training_exp(strategy, **kwargs)
        self._set_classes({str(task): sorted(classes) for task, classes in self.lwf.prev_classes_by_task.items()})

    def _set_classes(self, classes: Mapping[str, list[int]]) -> None:
        """A set's order depends on how it was filled, and the order of a sum on it: fill it the same way always."""
        for task, labels in classes.items():
            self.lwf.prev_classes_by_task[int(task)] = set(labels)

    def state(self) -> State:
        return {}, {"classes": {str(task): sorted(classes) for task, classes in self.lwf.prev_classes_by_task.items()}}

    def restore(self, tensors: Mapping[str, Tensor], meta: Mapping[str, Any], strategy: ResidentStrategy) -> None:
        self._set_classes(meta["classes"])
        self.lwf.expcount = strategy.clock.train_exp_counter
        self.lwf.prev_model = copy.deepcopy(strategy.model)
        self.lwf.prev_model.train()  # as Avalanche leaves it: a teacher that normalises by the batch


class Replay(ReplayPlugin):
    """Avalanche's experience replay; the memory is stored as indices of the resident images."""

    def before_training_exp(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        groups = [_rows(group.buffer) for group in self.storage_policy.buffer_groups.values() if len(group.buffer)]
        if groups:
            index, label, task = (torch.cat(columns) for columns in zip(*groups, strict=True))
            strategy.dataloader.memory = (index, label, task)

    def after_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        self.storage_policy.post_adapt(strategy, strategy.experience)  # Avalanche's own call prints a deprecation warning

    def state(self) -> State:
        tensors: dict[str, Tensor] = {}
        for group, buffer in self.storage_policy.buffer_groups.items():
            held = [*_rows(buffer.buffer), buffer._buffer_weights] if len(buffer.buffer) else [torch.zeros(0, dtype=torch.int64)] * 3
            tensors |= {f"{group}.{name}": part for name, part in zip(("index", "label", "task", "weight"), held, strict=False)}
        return tensors, {"groups": len(self.storage_policy.buffer_groups)}

    def restore(self, tensors: Mapping[str, Tensor], meta: Mapping[str, Any], strategy: ResidentStrategy) -> None:
        policy = self.storage_policy
        policy._num_exps = meta["groups"]
        for group, size in enumerate(policy.get_group_lengths(meta["groups"])):
            buffer = policy.buffer_groups[group] = ReservoirSamplingBuffer(size)
            index, label, task = (tensors[f"{group}.{name}"] for name in ("index", "label", "task"))
            if len(index):
                buffer.buffer = make_dataset(strategy.resident, index, label, task)
                buffer._buffer_weights = tensors[f"{group}.weight"]


def _rows(dataset: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Resident index, label and task label of every sample, int64 [N] each."""
    columns = (dataset.resident_index, dataset.targets, dataset.targets_task_labels)
    return tuple(torch.tensor(list(column), dtype=torch.int64) for column in columns)  # type: ignore[return-value]


def batches(count: int, size: int, draw: torch.Generator) -> list[Tensor]:
    """A permutation of ``count`` places cut into pieces of ``size``; a last piece of one joins the piece before it (BN needs two)."""
    return group_batches(torch.randperm(count, generator=draw), size)


class ResidentLoader:
    """Batches [images, labels, task labels] of one task, by slicing resident images. The epoch decides every draw."""

    def __init__(self, resident: Resident, rows: tuple[Tensor, Tensor, Tensor], a: AncestorSettings, seed: int, task: int) -> None:
        self.resident, self.rows, self.a, self.seed, self.task = resident, rows, a, seed, task
        self.memory: tuple[Tensor, Tensor, Tensor] | None = None
        self.epoch = 0

    def __len__(self) -> int:
        return batch_count(len(self.rows[0]), self.a.batch)

    def __iter__(self) -> Iterator[list[Tensor]]:
        augment = self._draw("ancestor-augment")
        remembered = self._remembered()
        for places in batches(len(self.rows[0]), self.a.batch, self._draw("ancestor-order")):
            columns = [column[places] for column in self.rows]
            if self.memory is not None:
                more = next(remembered)
                columns = [torch.cat([column, extra[more]]) for column, extra in zip(columns, self.memory, strict=True)]
            yield [self.resident.batch(columns[0], self.a.augment, augment), columns[1], columns[2]]

    def _remembered(self) -> Iterator[Tensor]:
        """Places in the memory, one piece a step: permutations without end, as Avalanche's replay loader serves them."""
        draw = self._draw("ancestor-memory")
        while self.memory is not None:
            yield from torch.randperm(len(self.memory[0]), generator=draw).split(self.a.batch)

    def _draw(self, purpose: str) -> torch.Generator:
        return generator(self.seed, purpose, self.task, self.epoch)


class ResidentStrategy(SupervisedTemplate):
    """Avalanche's training template over resident images: same hooks, same order; resumable to the epoch.

    ``past`` are the experiences whose images join the current one's (cumulative, joint). ``first_epoch(strategy)``, called when
    all plugins are ready for the task, says where to go on and may load the state there; ``after_step`` and ``after_epoch``
    are called with (strategy, epoch).
    """

    def __init__(
        self, *, model: nn.Module, optimizer: torch.optim.Optimizer, plugin: Any, resident: Resident, a: AncestorSettings, seed: int
    ) -> None:
        super().__init__(
            model=model,
            optimizer=optimizer,
            criterion=nn.CrossEntropyLoss(),
            train_mb_size=a.batch,
            train_epochs=a.epochs,
            eval_mb_size=256,
            device=resident.device,
            plugins=[] if plugin is None else [plugin],
            evaluator=_no_evaluator(),
        )
        self.plugin, self.resident, self.a, self.seed = plugin, resident, a, seed
        self.fast = Graphed(self.model)
        # It has no metrics, and Avalanche would ask it eight times an iteration.
        self.plugins.remove(self.evaluator)
        self.past: list[Any] = []
        self.first_epoch: Callable[[ResidentStrategy], int] = lambda strategy: 0
        self.after_epoch: Callable[[ResidentStrategy, int], None] = lambda strategy, epoch: None
        self.after_step: Callable[[ResidentStrategy, int], None] = lambda strategy, epoch: None

    @property
    def task(self) -> int:
        """1-based number of the task being trained."""
        return int(self.clock.train_exp_counter) + 1

    def train_dataset_adaptation(self, **kwargs: Any) -> None:
        self.adapted_dataset = concat_datasets([experience.dataset for experience in [*self.past, self.experience]])

    def make_train_dataloader(self, **kwargs: Any) -> None:
        self.dataloader = ResidentLoader(self.resident, _rows(self.adapted_dataset), self.a, self.seed, self.task)

    def check_model_and_optimizer(self, reset_optimizer_state: bool = False, **kwargs: Any) -> None:
        """The optimizer restarts at every task (SPEC 7); Avalanche does so at its first only."""
        super().check_model_and_optimizer(reset_optimizer_state=True, **kwargs)

    def forward(self) -> Any:
        extra = (self.mb_task_id,) if isinstance(self.model, MultiTaskModule) else ()
        return self.fast.forward(self.mb_x, *extra)

    def _unpack_minibatch(self) -> None:
        """The loader's batches are lists already; only what lies elsewhere moves."""
        if self.device.type != "cpu":
            super()._unpack_minibatch()

    def _train_exp(self, experience: Any, eval_streams: Any = None, **kwargs: Any) -> None:
        for epoch in range(self.first_epoch(self), self.train_epochs):
            reseed(derive_seed(self.seed, "ancestor", self.task, epoch))
            for group in self.optimizer.param_groups:
                group["lr"] = learning_rate(self.a, epoch)
            self.dataloader.epoch = epoch
            self._before_training_epoch(**kwargs)
            self.training_epoch(**kwargs)
            self._after_training_epoch(**kwargs)
            self.after_epoch(self, epoch)

    def _after_training_iteration(self, **kwargs: Any) -> None:
        super()._after_training_iteration(**kwargs)
        self.after_step(self, self.dataloader.epoch)

    def _after_training_exp(self, **kwargs: Any) -> None:
        reseed(derive_seed(self.seed, "ancestor", self.task, "after"))  # replay draws its memory here, from global state
        super()._after_training_exp(**kwargs)


def _no_evaluator() -> EvaluationPlugin:
    """An evaluator without metrics: ``ancestor.accuracies`` measures. Avalanche warns of what is meant here."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="No loggers specified")
        return EvaluationPlugin()


def learning_rate(a: AncestorSettings, epoch: int) -> float:
    """MultiStepLR with milestones as fractions of the task's epochs: lr * gamma^(milestones reached) in 0-based ``epoch``."""
    return a.lr * a.gamma ** sum(epoch >= fraction * a.epochs for fraction in a.milestones)


PLUGINS: dict[str, Callable[..., Any]] = {"ewc": EWC, "si": SI, "lwf": LwF, "replay": Replay}
