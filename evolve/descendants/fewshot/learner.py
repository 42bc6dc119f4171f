"""What every few-shot learner is: meta-trained once, then it predicts each downstream task from the
same state.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from evolve.core.fewshot_settings import FewshotSettings
from evolve.core.spent import Progress as Progress
from evolve.descendants.fewshot.course import Course, Phase
from evolve.descendants.fewshot.episodes import Episode, Episodes
from evolve.networks.network import Network

CHUNK = 256  # test images at a time: memory, no number


@dataclass(frozen=True)
class Setup:
    """What a learner starts from.

    ``network`` is on the device and stays as it is: learners train copies.
    """

    network: Network
    settings: FewshotSettings
    ways: int
    seed: int


class Learner(ABC):
    """One learner of Table III."""

    @abstractmethod
    def meta_train(self, source: Episodes, progress: Progress, course: Course) -> list[float]:
        """Learn from ``source``, from where ``course`` got to; the mean loss of every outer step."""

    @abstractmethod
    def predict(
        self, support: Tensor, labels: Tensor, queries: Iterable[Tensor], draw: torch.Generator
    ) -> Tensor:
        """Adapt to support images [S, 3, H, W] with labels 0..N-1 [S] (int64) and give the class of
        every query image: int64 [Q], CPU; -1 where no score is finite.

        Queries come in parts [B, 3, H, W]; no query changes what is predicted of another, nor is
        the meta-trained state changed. All draws come from ``draw`` (CPU).
        """


def descend_episodes(
    s: FewshotSettings,
    source: Episodes,
    state: Mapping[str, Tensor],
    weights: Iterable[Tensor],
    per_step: int,
    loss: Callable[[Episode], Tensor],
    progress: Progress,
    course: Course,
) -> list[float]:
    """Adam on the mean ``loss`` of ``per_step`` episodes at a time, over ``s.episodes``: the outer
    loop of all episodic learners but Reptile.

    ``state``: all tensors that change, ``weights`` and running statistics, by name. Gives the mean
    loss of every step.
    """
    optimizer = torch.optim.Adam(weights, lr=s.lr)
    steps = list(grouped(s.episodes, per_step))
    phase = Phase("episodes", len(steps), state, optimizer)
    first, losses = course.resume(phase)
    for step, numbers in enumerate(steps[first:], start=first):
        optimizer.zero_grad(set_to_none=True)
        total = 0.0
        for number in numbers:
            part = loss(source.episode(number)) / len(numbers)
            part.backward()  # type: ignore[no-untyped-call]
            total += part.item()
        optimizer.step()
        losses[step] = total
        course.keep(phase, step + 1, losses)
        progress(numbers.stop / s.episodes, f"episode {numbers.stop} of {s.episodes}")
    return list(losses.tolist())


def grouped(count: int, size: int) -> Iterator[range]:
    """0..count-1 in ranges of ``size``; the last may be shorter."""
    for start in range(0, count, size):
        yield range(start, min(count, start + size))


@torch.no_grad()
def classes_of(scores: Callable[[Tensor], Tensor], queries: Iterable[Tensor]) -> Tensor:
    """The class with the highest score for every query: int64 [Q] on the CPU; -1 where that score
    is not finite.
    """
    best = [scores(part).max(1) for part in queries]
    return torch.cat(
        [torch.where(found.values.isfinite(), found.indices, -1).cpu() for found in best]
    )


def means(x: Tensor, labels: Tensor, ways: int) -> Tensor:
    """Class means [ways, ...] of ``x`` [S, ...]: prototypes (Snell et al. 2017, Eq. 1)."""
    share = torch.nn.functional.one_hot(labels, ways).to(x.dtype)
    share = share / share.sum(0, keepdim=True)
    return (share.T @ x.flatten(1)).view(ways, *x.shape[1:])
