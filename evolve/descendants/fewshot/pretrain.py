"""Plain classification: of the ancestor's classes, which Baseline++, MTL and DeepEMD start from,
and of a task's, on frozen features.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from evolve.core.fewshot_settings import FewshotSettings
from evolve.descendants.fewshot.course import Course, Phase
from evolve.descendants.fewshot.episodes import Episodes
from evolve.descendants.fewshot.learner import Progress
from evolve.networks.network import Network

MOMENTUM, WEIGHT_DECAY = 0.9, 5e-4


def tuned(
    start: Tensor,
    scores: Callable[[Tensor, Tensor], Tensor],
    known: Tensor,
    labels: Tensor,
    passes: int,
    size: int,
    draw: torch.Generator,
    **sgd: Any,
) -> Tensor:
    """A classifier's weight after SGD (settings ``sgd``) over the support set, ``passes`` times,
    ``size`` images a step, as both learners' authors do.

    ``scores(known, weight)`` -> [B, ways] of what is known of the support images, ``known`` [S,
    ...].
    """
    weight = start.detach().requires_grad_()
    optimizer = torch.optim.SGD([weight], **sgd)
    for _ in range(passes):
        for chosen in torch.randperm(len(known), generator=draw).to(known.device).split(size):
            optimizer.zero_grad(set_to_none=True)
            F.cross_entropy(scores(known[chosen], weight), labels[chosen]).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    return weight.detach()


def pretrain(
    network: Network,
    head: Callable[[Tensor], Tensor],
    weights: Sequence[Tensor],
    source: Episodes,
    s: FewshotSettings,
    progress: Progress,
    course: Course,
) -> list[float]:
    """Train ``network`` in place, and ``weights``, those of ``head`` ([B, c] -> [B, C]), on all
    ancestor classes: SGD, cosine to zero.

    Gives each epoch's mean loss. The network is left in train mode.
    """
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
    done, steps = source.steps * first, source.steps * s.pretrain_epochs
    for epoch in range(first, s.pretrain_epochs):
        total, seen = 0.0, 0
        for step, (index, labels) in enumerate(source.epoch(epoch)):
            for group in optimizer.param_groups:
                group["lr"] = s.pretrain_lr * (1 + math.cos(math.pi * done / steps)) / 2
            optimizer.zero_grad(set_to_none=True)
            images = source.images(index, epoch, step)
            loss = F.cross_entropy(head(network.embed(images)), labels.to(images.device))
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            total, seen, done = total + loss.item() * len(labels), seen + len(labels), done + 1
        losses[epoch] = total / seen
        course.keep(phase, epoch + 1, losses)
        progress(
            (epoch + 1) / s.pretrain_epochs,
            f"pre-training, epoch {epoch + 1} of {s.pretrain_epochs}",
        )
    return list(losses.tolist())
