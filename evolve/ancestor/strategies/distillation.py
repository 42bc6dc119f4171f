"""Strategies that hold outputs or embeddings near those of the last task's ancestor.

They keep no image.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from avalanche.training.plugins import LFLPlugin, LwFPlugin
from avalanche.training.plugins.feature_distillation import FeatureDistillationPlugin
from torch import Tensor, nn

from evolve.ancestor.strategies.template import ResidentStrategy, State, Stored


class LwF(Stored, LwFPlugin):
    """Avalanche's Learning without Forgetting.

    The teacher is the ancestor as the last task left it, so it is not stored again.
    """

    def after_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        """Make the ancestor as it is now the next task's teacher."""
        super().after_training_exp(strategy, **kwargs)
        self._set_classes(
            {str(task): sorted(classes) for task, classes in self.lwf.prev_classes_by_task.items()}
        )

    def _set_classes(self, classes: Mapping[str, list[int]]) -> None:
        """Fill the sets in one order: a set's order depends on how it was filled, and a sum on that
        order.
        """
        for task, labels in classes.items():
            self.lwf.prev_classes_by_task[int(task)] = set(labels)

    def state(self) -> State:
        """The classes seen so far, by task."""
        return {}, {
            "classes": {
                str(task): sorted(classes)
                for task, classes in self.lwf.prev_classes_by_task.items()
            }
        }

    def restore(
        self, tensors: Mapping[str, Tensor], meta: Mapping[str, Any], strategy: ResidentStrategy
    ) -> None:
        """Take up what :meth:`state` returned; the teacher is the ancestor itself."""
        self._set_classes(meta["classes"])
        self.lwf.expcount = strategy.clock.train_exp_counter
        self.lwf.prev_model = copy.deepcopy(strategy.model)
        # as Avalanche leaves it: a teacher that normalises by the batch
        self.lwf.prev_model.train()


class LFL(Stored, LFLPlugin):
    """Avalanche's Less-Forgetful Learning: the head freezes after the first task, embeddings stay
    near.

    They stay near the last task's. Avalanche 0.6 leaves the network in eval mode after its first
    penalty, so BN would learn neither statistics nor by the batch.
    """

    def before_training(self, strategy: Any, **kwargs: Any) -> None:
        """Avalanche asks here for a model class of its own; ours embeds by its trunk."""

    def compute_features(self, model: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        """Embeddings [B, c] of the images by the ancestor and by its teacher, in eval mode."""
        assert self.prev_model is not None
        self.prev_model.eval()
        model.eval()
        features = model.trunk.embed(x), self.prev_model.trunk.embed(x)
        model.train()
        return features

    def restore(
        self, tensors: Mapping[str, Tensor], meta: Mapping[str, Any], strategy: ResidentStrategy
    ) -> None:
        """The teacher is the ancestor as the last task left it, so it is not stored again."""
        self.after_training_exp(strategy)


class FeatureDistillation(Stored, FeatureDistillationPlugin):
    """Avalanche's distillation of features.

    Its loss is 1 - cosine between the head's inputs now and under the last task's ancestor.
    Avalanche wants a model that remembers its features; here the heads' inputs are caught. The
    teacher normalises by the batch, as Avalanche leaves it.
    """

    def attach(self, strategy: ResidentStrategy) -> None:
        """Catch what goes into the heads."""
        catch = Catch(strategy.model)
        for head in (strategy.model.trunk.head, *getattr(strategy.model, "heads", ())):
            head.register_forward_pre_hook(catch)

    def restore(
        self, tensors: Mapping[str, Tensor], meta: Mapping[str, Any], strategy: ResidentStrategy
    ) -> None:
        """The teacher is the ancestor as the last task left it, so it is not stored again."""
        self.prev_model = copy.deepcopy(strategy.model)
        self.prev_model.train()


class Catch:
    """A hook of the heads that leaves their input in ``model.features``.

    A deep copy of the model has a copy that catches for it.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def __call__(self, head: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self.model.__dict__["features"] = inputs[0]
