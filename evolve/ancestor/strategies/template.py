"""Avalanche's training template over resident images, and the ancestor with a head a task."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from avalanche.benchmarks.utils.utils import concat_datasets
from avalanche.models.dynamic_modules import MultiTaskModule
from avalanche.training.plugins import EvaluationPlugin
from avalanche.training.templates import SupervisedTemplate
from torch import Tensor, nn

from evolve.ancestor.strategies.loader import ResidentLoader, Rows, rows_of
from evolve.core.randomness import derive_seed, generator, reseed
from evolve.core.settings import AncestorSettings
from evolve.data.resident import Resident
from evolve.networks.fast import Graphed

State = tuple[dict[str, Tensor], dict[str, Any]]  # tensors and what fits JSON


if TYPE_CHECKING:
    from avalanche.training.templates import SupervisedTemplate as _Template
else:
    _Template = object  # templates for meta-learning have another base


class Stored:
    """What every strategy's plugin offers beside Avalanche's hooks.

    These defaults are for a plugin that keeps nothing. A plugin is made anew for every task, around
    an untrained ancestor; what it knows of earlier tasks comes from :meth:`restore`.
    """

    def attach(self, strategy: ResidentStrategy) -> None:
        """Take up the strategy; called once, when ``strategy.model`` is still untrained."""

    def state(self) -> State:
        """What the next task needs beside the model, after a task."""
        return {}, {}

    def restore(
        self, tensors: Mapping[str, Tensor], meta: Mapping[str, Any], strategy: ResidentStrategy
    ) -> None:
        """Take up what :meth:`state` returned.

        Args:
            tensors: on the CPU.
            meta: plain values.
            strategy: its model is already as the last task left it.
        """

    def running(self) -> dict[str, Tensor]:
        """What an epoch leaves to the next one of the same task, beside model and momentum."""
        return {}

    def resume(self, tensors: Mapping[str, Tensor]) -> None:
        """Take up what :meth:`running` returned, once all is ready for the task's first epoch."""


class Restarting(Stored):
    """Keeps ``untrained``, the ancestor before its first task, which may be a pretrained one."""

    def attach(self, strategy: ResidentStrategy) -> None:
        """Keep the untrained weights."""
        self.untrained = {
            name: tensor.clone() for name, tensor in strategy.model.state_dict().items()
        }

    def state(self) -> State:
        """The untrained weights."""
        return {f"untrained.{name}": tensor for name, tensor in self.untrained.items()}, {}

    def restore(
        self, tensors: Mapping[str, Tensor], meta: Mapping[str, Any], strategy: ResidentStrategy
    ) -> None:
        """Take up what :meth:`state` returned."""
        self.untrained = {name: tensors[f"untrained.{name}"] for name in self.untrained}


class MultiHeadAncestor(MultiTaskModule):
    """A trunk with one head a task. The first task's head is the trunk's own."""

    def __init__(self, trunk: Any, heads: Sequence[nn.Linear]) -> None:
        super().__init__()
        self.trunk, self.heads = trunk, nn.ModuleList(heads)
        self.max_class_label = trunk.head.out_features

    def head(self, task_label: int) -> nn.Module:
        """The head of a task label."""
        return self.trunk.head if task_label == 0 else self.heads[task_label - 1]

    def forward(self, x: Tensor, task_labels: Tensor | None) -> Any:
        """Classify by each image's own head.

        Avalanche's own runs the trunk once for every task in the batch, which splits BN's batch
        statistics.

        Args:
            x: images, [B, 3, H, W].
            task_labels: [B], or None.

        Returns:
            Logits [B, n]; without task labels {task label: [B, n]} for every task trained so far.
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


class ResidentStrategy(_Template):
    """Makes an Avalanche template train over resident images: same hooks, same order.

    It can be resumed to the epoch. A strategy inherits from this, then from the template, whose
    loop and loss stay. ``past`` are the experiences whose images join the current one's
    (cumulative, joint). ``first_epoch(strategy)``, called when all plugins are ready for the task,
    says where to go on and may load the state there; ``after_step`` and ``after_epoch`` are called
    with (strategy, epoch). ``arguments`` are the template's own (in one mapping, since Avalanche
    refuses keywords that a class and its bases do not name).
    """

    model: Any
    # What tells classes apart, embeddings [N, c] -> scores [N, classes], where it is not the head.
    classify: Callable[[Tensor], Tensor] | None = None

    def __init__(
        self,
        *,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        plugin: Any,
        resident: Resident,
        a: AncestorSettings,
        seed: int,
        arguments: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(
            model=model,
            optimizer=optimizer,
            **{"criterion": nn.CrossEntropyLoss()} | dict(arguments or {}),
            train_mb_size=a.batch,
            train_epochs=a.epochs,
            eval_mb_size=256,
            device=resident.device,
            plugins=[] if plugin is None else [plugin],
            evaluator=no_evaluator(),
        )
        self.plugin, self.resident, self.a, self.seed = plugin, resident, a, seed
        self.model = model  # some templates wrap it
        self.fast = Graphed(model)
        # It has no metrics, and Avalanche would ask it eight times an iteration.
        self.plugins.remove(self.evaluator)
        if plugin is not None:
            plugin.attach(self)
        self.past: list[Any] = []
        self.first_epoch: Callable[[ResidentStrategy], int] = lambda strategy: 0
        self.after_epoch: Callable[[ResidentStrategy, int], None] = lambda strategy, epoch: None
        self.after_step: Callable[[ResidentStrategy, int], None] = lambda strategy, epoch: None

    @property
    def task(self) -> int:
        """The number of the task being trained, from 1."""
        return int(self.clock.train_exp_counter) + 1

    def state(self) -> State:
        """What the next task needs, see :class:`Stored`; a template that keeps something overrides
        these four.
        """
        return ({}, {}) if self.plugin is None else self.plugin.state()

    def restore(self, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
        """Take up what :meth:`state` returned."""
        if self.plugin is not None:
            self.plugin.restore(tensors, meta, self)

    def running(self) -> dict[str, Tensor]:
        """What an epoch leaves to the next one of the same task."""
        return {} if self.plugin is None else self.plugin.running()

    def resume(self, tensors: Mapping[str, Tensor]) -> None:
        """Take up what :meth:`running` returned."""
        if self.plugin is not None:
            self.plugin.resume(tensors)

    def draw(self, purpose: str) -> torch.Generator:
        """The generator for one purpose in the epoch that runs."""
        return generator(self.seed, purpose, self.task, self.dataloader.epoch)

    def remembered(
        self, rows: Rows, size: int, purpose: str = "ancestor-memory"
    ) -> Iterator[list[Tensor]]:
        """Serve batches of remembered images, augmented as the task's own.

        They are permutations without end, anew every epoch; a permutation's incomplete rest is left
        out.

        Args:
            rows: what is remembered.
            size: images a batch; fewer where there are fewer rows.
            purpose: names the draws.

        Returns:
            Batches [images, labels, task labels, places in ``rows``].
        """
        order, augment = self.draw(purpose), self.draw(f"{purpose}-augment")
        size = min(size, len(rows[0]))
        while True:
            for places in torch.randperm(len(rows[0]), generator=order).split(size):
                if len(places) == size:
                    images = self.resident.batch(rows[0][places], self.a.augment, augment)
                    yield [
                        images,
                        rows[1][places].to(self.device),
                        rows[2][places].to(self.device),
                        places,
                    ]

    def train_dataset_adaptation(self, **kwargs: Any) -> None:
        """Join the current task's images and those of ``past``."""
        self.adapted_dataset = concat_datasets(
            [experience.dataset for experience in [*self.past, self.experience]]
        )

    def make_train_dataloader(self, **kwargs: Any) -> None:
        """Serve them by slicing resident images."""
        self.dataloader = ResidentLoader(
            self.resident, rows_of(self.adapted_dataset), self.a, self.seed, self.task
        )

    def check_model_and_optimizer(self, reset_optimizer_state: bool = False, **kwargs: Any) -> None:
        """Restart the optimizer at every task; Avalanche does so at its first only."""
        super().check_model_and_optimizer(reset_optimizer_state=True, **kwargs)

    def forward(self) -> Any:
        """Logits of the batch.

        The last step's are let go first, with their graph: what its passes hold can be used again
        while it is still in the cache.
        """
        self.mb_output = None
        extra = (self.mb_task_id,) if isinstance(self.model, MultiTaskModule) else ()
        return self.fast.forward(self.mb_x, *extra)

    def optimizer_step(self) -> None:
        """Step, but leave the heads of tasks to come as they are.

        A penalty over all parameters has a gradient of zero for them, by which SGD would decay
        them.
        """
        if isinstance(self.model, MultiHeadAncestor):
            for label in range(self.task, len(self.model.heads) + 1):
                for parameter in self.model.head(label).parameters():
                    parameter.grad = None
        super().optimizer_step()

    def _unpack_minibatch(self) -> None:
        """The loader's batches are lists already; only what lies elsewhere moves."""
        if self.device.type != "cpu":
            super()._unpack_minibatch()

    def _train_exp(self, experience: Any, eval_streams: Any = None, **kwargs: Any) -> None:
        first = self.first_epoch(self)
        self.clock.train_exp_epochs, steps = first, first * len(self.dataloader)
        # Counted from the task's start.
        self.clock.train_iterations = self.clock.train_exp_iterations = steps
        for epoch in range(first, self.train_epochs):
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
        # Replay draws its memory here, from global state.
        reseed(derive_seed(self.seed, "ancestor", self.task, "after"))
        super()._after_training_exp(**kwargs)


class PlainStrategy(ResidentStrategy, SupervisedTemplate):
    """Cross-entropy and a plugin, if any."""


def no_evaluator() -> EvaluationPlugin:
    """An evaluator without metrics: ``ancestor.accuracies`` measures.

    Avalanche warns of what is meant here.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="No loggers specified")
        return EvaluationPlugin()


def learning_rate(a: AncestorSettings, epoch: int) -> float:
    """The learning rate in an epoch of a task.

    "milestones" is MultiStepLR with fractions of the epochs, lr * gamma^(milestones reached).
    "cosine" falls to zero after the last epoch. Under ``warmup`` the rate is less at first, in
    proportion to the middle of the epoch.

    Args:
        a: the scenario's [ancestor].
        epoch: from 0.
    """
    warm = min(1.0, (epoch + 0.5) / (a.warmup * a.epochs)) if a.warmup else 1.0
    if a.schedule == "cosine":
        return a.lr * warm * (1 + math.cos(math.pi * epoch / a.epochs)) / 2
    return a.lr * warm * a.gamma ** sum(epoch >= fraction * a.epochs for fraction in a.milestones)
