"""Plain classification: of the ancestor's classes, and of a task's on frozen features.

Baseline++, MTL and DeepEMD start from the first.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from evolve.descendants.fewshot.course import Course, Phase
from evolve.descendants.fewshot.episodes import Episodes
from evolve.descendants.fewshot.learner import Progress
from evolve.networks.network import Network

MOMENTUM, WEIGHT_DECAY = 0.9, 5e-4


def tuned(
    start: Tensor,
    scores: Callable[[Tensor, Tensor], Tensor],
    inputs: Tensor,
    labels: Tensor,
    passes: int,
    size: int,
    draw: torch.Generator,
    **sgd: Any,
) -> Tensor:
    """Train a classifier's weight on the support set by SGD, as both learners' authors do.

    Args:
        start: the weight to begin with; it stays as it is.
        scores: (inputs, weight) -> [B, ways].
        inputs: what the classifier sees of the support images, [S, ...].
        labels: their classes [S].
        passes: how often SGD passes over the support set.
        size: images a step.
        draw: the generator of the batches.
        sgd: settings of torch's SGD.

    Returns:
        The trained weight.
    """
    weight = start.detach().requires_grad_()
    optimizer = torch.optim.SGD([weight], **sgd)
    for _ in range(passes):
        for chosen in torch.randperm(len(inputs), generator=draw).to(inputs.device).split(size):
            optimizer.zero_grad(set_to_none=True)
            loss = F.cross_entropy(scores(inputs[chosen], weight), labels[chosen])
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    return weight.detach()


def pretrain(
    network: Network,
    head: Callable[[Tensor], Tensor],
    weights: Sequence[Tensor],
    source: Episodes,
    progress: Progress,
    course: Course,
) -> list[float]:
    """Train a network and a head on all ancestor classes: SGD, with a cosine to zero.

    Both are trained in place. The network is left in train mode.

    Args:
        network: the backbone.
        head: embeddings [B, c] -> logits [B, C].
        weights: the head's weights.
        source: the images, and the settings.
        progress: told the fraction done and what is being done.
        course: what an interrupted training kept.

    Returns:
        Each epoch's mean loss.
    """
    s = source.settings
    network.train()
    optimizer = torch.optim.SGD(
        [*network.parameters(), *weights],
        lr=s.pretrain_lr,
        momentum=MOMENTUM,
        weight_decay=WEIGHT_DECAY,
    )
    state = network.state_dict() | {
        f"new head {place}": weight for place, weight in enumerate(weights)
    }
    phase = Phase("pretrain", s.pretrain_epochs, state, optimizer)
    first, losses = course.resume(phase)
    for epoch in range(first, s.pretrain_epochs):
        losses[epoch] = _epoch(network, head, optimizer, source, epoch)
        course.keep(phase, epoch + 1, losses)
        progress(
            (epoch + 1) / s.pretrain_epochs,
            f"pre-training, epoch {epoch + 1} of {s.pretrain_epochs}",
        )
    return list(losses.tolist())


def _epoch(
    network: Network,
    head: Callable[[Tensor], Tensor],
    optimizer: torch.optim.Optimizer,
    source: Episodes,
    epoch: int,
) -> float:
    """One epoch of :func:`pretrain`; its mean loss."""
    s = source.settings
    total, seen, steps = 0.0, 0, source.steps * s.pretrain_epochs
    for step, (index, labels) in enumerate(source.epoch(epoch)):
        done = (source.steps * epoch + step) / steps
        for group in optimizer.param_groups:
            group["lr"] = s.pretrain_lr * (1 + math.cos(math.pi * done)) / 2
        optimizer.zero_grad(set_to_none=True)
        images = source.images(index, epoch, step)
        loss = F.cross_entropy(head(network.embed(images)), labels.to(images.device))
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        total, seen = total + loss.item() * len(labels), seen + len(labels)
    return total / seen
