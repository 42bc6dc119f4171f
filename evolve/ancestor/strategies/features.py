"""Feature replay: embeddings of earlier tasks' images are remembered and replayed to the head."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from avalanche.benchmarks.utils import _taskaware_classification_subset
from avalanche.training.losses import MaskedCrossEntropy
from avalanche.training.storage_policy import ReservoirSamplingBuffer
from avalanche.training.supervised import FeatureReplay as AvalancheFeatureReplay
from avalanche.training.supervised.feature_replay import FeatureDataset
from torch import Tensor, nn
from torch.nn.functional import linear

from evolve.ancestor.strategies.distillation import Catch
from evolve.ancestor.strategies.memory import settle
from evolve.ancestor.strategies.template import ResidentStrategy, State


class _Seen(MaskedCrossEntropy):
    """Avalanche's cross-entropy among the classes seen so far, always in the same order."""

    def current_mask(self, logit_shape: int) -> list[int]:
        return sorted(self.current_classes | self.old_classes)

    def before_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        """Avalanche's own prints a deprecation warning."""
        self._adaptation(strategy.experience.classes_in_this_experience)


class FeatureReplay(ResidentStrategy, AvalancheFeatureReplay):
    """Avalanche's Feature Replay.

    What is remembered are embeddings as the network made them when their task ended, not images.

    Avalanche 0.6 waits forever where it has fewer than ``batch_size_mem`` of them; here a batch is
    then all there are.
    """

    def __init__(self, *, model: Any, arguments: Mapping[str, Any], **common: Any) -> None:
        head: nn.Linear = model.trunk.head
        # Avalanche takes the last layer away. The ancestor needs it, so it gets a second name that
        # Avalanche may take.
        model.__dict__["last"] = head
        super().__init__(
            model=model,
            arguments={**arguments, "last_layer_name": "last", "criterion": _Seen()},
            **common,
        )
        model.__dict__["feature_extractor"] = model.trunk.embed
        model.__dict__["train_classifier"] = lambda embedded: linear(
            embedded, head.weight, head.bias
        )
        head.register_forward_pre_hook(Catch(model))

    def _before_training_exp(self, **kwargs: Any) -> None:
        self.experience.current_experience = self.task - 1  # the weight of the new task's images
        super()._before_training_exp(**kwargs)

    def _before_training_epoch(self, **kwargs: Any) -> None:
        groups = [
            group.buffer
            for group in self.storage_policy.buffer_groups.values()
            if len(group.buffer)
        ]
        self.replay_loader = (
            self._batches(*map(torch.cat, zip(*map(_columns, groups), strict=True)))
            if groups
            else None
        )
        super()._before_training_epoch(**kwargs)

    def _batches(self, embedded: Tensor, labels: Tensor) -> Iterator[tuple[Tensor, Tensor, None]]:
        order, size = self.draw("ancestor-memory"), min(self.batch_size_mem, len(labels))
        while True:
            for places in torch.randperm(len(labels), generator=order).split(size):
                if len(places) == size:
                    yield embedded[places], labels[places], None

    def _after_training_exp(self, **kwargs: Any) -> None:
        super()._after_training_exp(**kwargs)
        settle(self.storage_policy)

    def state(self) -> State:
        """The remembered embeddings, float32 [n, c], and draws by class, and the classes seen so
        far.
        """
        groups = self.storage_policy.buffer_groups
        tensors = {f"{label}.weight": group._buffer_weights for label, group in groups.items()}
        tensors |= {
            f"{label}.embedded": _columns(group.buffer)[0]
            for label, group in groups.items()
            if len(group.buffer)
        }
        return tensors, {
            "groups": [[label, group.max_size] for label, group in groups.items()],
            "seen": self._criterion.current_mask(0),
        }

    def restore(self, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
        """Take up what :meth:`state` returned, see :meth:`Stored.restore`."""
        self._criterion.old_classes = set(meta["seen"])
        for label, size in meta["groups"]:
            group = self.storage_policy.buffer_groups[label] = ReservoirSamplingBuffer(size)
            group._buffer_weights = tensors[f"{label}.weight"]
            if len(group._buffer_weights):
                embedded = tensors[f"{label}.embedded"]
                dataset = FeatureDataset(embedded, torch.full((len(embedded),), label))
                group.buffer = _taskaware_classification_subset(
                    dataset, indices=list(range(len(embedded)))
                )
        settle(self.storage_policy)


def _columns(dataset: Any) -> tuple[Tensor, Tensor]:
    """Embeddings float32 [N, c] and labels int64 [N]."""
    embedded, labels, *_ = zip(*(dataset[place] for place in range(len(dataset))), strict=True)
    return torch.stack(embedded), torch.tensor([int(label) for label in labels])
