"""Strategies that tell classes apart by the nearest prototype instead of a head: SCR and CoPE.

The head projects what they compare.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from avalanche.models import NCMClassifier, SCRModel
from avalanche.training.plugins import CoPEPlugin
from avalanche.training.supervised import SCR as AvalancheSCR
from torch import Tensor, nn
from torch.nn.functional import normalize

from evolve.ancestor.strategies.memory import ClassMemory, check_memory, memory_rows
from evolve.ancestor.strategies.rehearsal import Remembering, Replay
from evolve.ancestor.strategies.template import ResidentStrategy, State
from evolve.core.randomness import derive_seed, isolated_rng


class _Contrastive(SCRModel):
    """The ancestor as Avalanche's SCR wants it.

    Prototypes are kept out of its state dict, which thus stays the ancestor's.
    """

    def __init__(self, trunk: Any) -> None:
        nn.Module.__init__(self)
        self.trunk = trunk
        self.__dict__["eval_classifier"] = NCMClassifier(normalize=False)

    @property
    def feature_extractor(self) -> Any:
        """What embeds images."""
        return self.trunk.embed

    @property
    def train_classifier(self) -> Any:
        """What projects embeddings."""
        return self.trunk.head


class SCR(ResidentStrategy, AvalancheSCR):
    """Avalanche's Supervised Contrastive Replay.

    Two views of the task's and of remembered images are drawn together by class. The second view is
    another draw of ``ancestor.augment``. A batch is joined by as many remembered images.
    """

    replay_plugin: Any

    def __init__(self, *, model: Any, arguments: Mapping[str, Any], **common: Any) -> None:
        check_memory("scr", arguments["mem_size"], model)
        super().__init__(model=_Contrastive(model.trunk), arguments=arguments, **common)
        memory = Replay(arguments["mem_size"], "class-balanced")
        self.plugins[self.plugins.index(self.replay_plugin)] = memory
        self.replay_plugin = memory
        self.augmentations = self._second_view

    def _before_training_epoch(self, **kwargs: Any) -> None:
        self._views = self.draw("ancestor-second-view")
        super()._before_training_epoch(**kwargs)

    def _second_view(self, images: Tensor) -> Tensor:
        return self.resident.batch(self.dataloader.index, self.a.augment, self._views)

    def classify(self, embedded: Tensor) -> Tensor:
        """Embeddings [N, c] -> scores [N, classes]: the nearest class mean has the highest."""
        scores: Tensor = self.model.eval_classifier(normalize(embedded))
        return scores

    def state(self) -> State:
        """The memory, and the mean embedding of every class."""
        tensors, meta = self.replay_plugin.state()
        means = self.model.eval_classifier.class_means_dict
        return tensors | {f"mean.{label}": mean for label, mean in means.items()}, meta | {
            "means": list(means)
        }

    def restore(self, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
        """Take up what :meth:`state` returned, see :meth:`Stored.restore`."""
        self.replay_plugin.restore(tensors, meta, self)
        self.model.eval_classifier.replace_class_means_dict(
            {label: tensors[f"mean.{label}"] for label in meta["means"]}
        )


class CoPE(Remembering, CoPEPlugin):
    """Avalanche's Continual Prototype Evolution.

    Avalanche's is made for tasks of one batch: it ends a task after one update and moves the
    prototypes then. Here every batch moves them, and only the memory waits for the task's end.
    """

    def __init__(self, **arguments: Any) -> None:
        self.arguments = arguments

    def attach(self, strategy: ResidentStrategy) -> None:
        """Draw the first prototypes, and classify by the nearest one."""
        classes = strategy.model.trunk.head.out_features
        super().__init__(n_classes=classes, p_size=classes, **self.arguments)
        self.storage_policy = ClassMemory(self.mem_size)
        with isolated_rng(derive_seed(strategy.seed, "ancestor", "prototypes")):
            self._init_new_prototypes(torch.arange(classes, device=strategy.device))
        strategy.classify = lambda embedded: (
            normalize(strategy.model.trunk.head(embedded)) @ self._prototypes().T
        )

    def _prototypes(self) -> Tensor:
        """[classes, c]."""
        return torch.cat([self.p_mem[label] for label in range(self.n_classes)])

    def before_training(self, strategy: Any, **kwargs: Any) -> None:
        """Set the loss.

        Avalanche puts a normalising layer behind the head here; ours normalises the output, so the
        head stays a head.
        """
        strategy._criterion = self.ppp_loss

    def before_training_exp(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        """Let remembered images join every batch."""
        strategy.dataloader.memory = memory_rows(self.storage_policy)

    def after_forward(self, strategy: Any, **kwargs: Any) -> None:
        """Normalise the output."""
        strategy.mb_output = normalize(strategy.mb_output)
        super().after_forward(strategy, **kwargs)

    def after_training_iteration(self, strategy: Any, **kwargs: Any) -> None:
        """Move the prototypes."""
        self._update_prototypes()

    def after_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        """Take up images of the task."""
        self.storage_policy.post_adapt(strategy, strategy.experience)

    def state(self) -> State:
        """The memory and the prototypes."""
        tensors, meta = super().state()
        return tensors | self.running(), meta

    def restore(
        self, tensors: Mapping[str, Tensor], meta: Mapping[str, Any], strategy: ResidentStrategy
    ) -> None:
        """Take up what :meth:`state` returned, see :meth:`Stored.restore`."""
        super().restore(tensors, meta, strategy)
        self.resume(tensors)

    def running(self) -> dict[str, Tensor]:
        """The prototypes, [classes, c]."""
        return {"prototypes": self._prototypes()}

    def resume(self, tensors: Mapping[str, Tensor]) -> None:
        """Take up what :meth:`running` returned."""
        device = self.p_mem[0].device
        for label, prototype in enumerate(tensors["prototypes"].to(device).split(1)):
            self.p_mem[label] = prototype
