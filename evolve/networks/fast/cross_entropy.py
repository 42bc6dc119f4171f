"""The loss that all learners descend, written out."""

from __future__ import annotations

import torch
from torch import Tensor


def cross_entropy(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The mean cross-entropy and its gradient.

    Args:
        logits: [B, classes].
        labels: [B].

    Returns:
        The loss, float64, and its gradient with respect to the logits.
    """
    scores, truth = torch.log_softmax(logits, 1), labels.unsqueeze(1)
    gradient = scores.exp().scatter_add_(1, truth, torch.full_like(scores[:, :1], -1))
    return -scores.gather(1, truth).double().mean(), gradient.div_(len(labels))
