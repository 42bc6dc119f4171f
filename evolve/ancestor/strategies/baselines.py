"""Strategies without a penalty or images.

One starts afresh for every task, the other consolidates weights of the head.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from avalanche.training.plugins import CWRStarPlugin, FromScratchTrainingPlugin
from torch import Tensor

from evolve.ancestor.strategies.template import ResidentStrategy, Restarting, State, Stored


class FromScratch(Restarting, FromScratchTrainingPlugin):
    """Avalanche's training from scratch: every task starts from the untrained ancestor.

    Avalanche 0.6 sets the parameters back but not BN's statistics, which then stem from all tasks.
    The optimizer starts anew in any case.
    """

    def __init__(self) -> None:
        super().__init__(reset_optimizer=False)

    def before_training_exp(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        """Return to the untrained ancestor."""
        strategy.model.load_state_dict(self.untrained)


class CWRStar(Stored, CWRStarPlugin):
    """Avalanche's CWR*: a class's row of the head is averaged over the tasks that showed it.

    By ``freeze`` only the head learns after the first task.
    """

    def __init__(self, freeze: bool) -> None:
        self.freeze = freeze  # Avalanche wants the model here, which attach brings

    def attach(self, strategy: ResidentStrategy) -> None:
        """Make Avalanche's plugin, which wants the model."""
        super().__init__(strategy.model, "trunk.head", self.freeze)

    def state(self) -> State:
        """The head's rows, float32 [classes seen, c] in the order of ``meta``, and each class's
        images.
        """
        rows = self.model.saved_weights
        tensors = {"rows": torch.stack([torch.from_numpy(row) for row in rows.values()])}
        return tensors, {
            "classes": list(rows),
            "images": [int(self.model.past_j[label]) for label in rows],
        }

    def restore(
        self, tensors: Mapping[str, Tensor], meta: Mapping[str, Any], strategy: ResidentStrategy
    ) -> None:
        """Take up what :meth:`state` returned, see :meth:`Stored.restore`."""
        for label, row, images in zip(
            meta["classes"], tensors["rows"], meta["images"], strict=True
        ):
            self.model.saved_weights[label], self.model.past_j[label] = row.numpy().copy(), images
