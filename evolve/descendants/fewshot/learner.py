"""What every few-shot learner is.

It is meta-trained once, then it predicts each downstream task from the same state.
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
        """Learn from episodes or plain batches.

        Args:
            source: the images.
            progress: told the fraction done and what is being done.
            course: where an interrupted meta-training goes on.

        Returns:
            The mean loss of every outer step.
        """

    @abstractmethod
    def predict(
        self, support: Tensor, labels: Tensor, queries: Iterable[Tensor], draw: torch.Generator
    ) -> Tensor:
        """Adapt to a task and classify its queries.

        No query changes what is predicted of another, and the meta-trained state stays as it is.

        Args:
            support: images [S, 3, H, W].
            labels: their classes 0..N-1, int64 [S].
            queries: images in parts [B, 3, H, W].
            draw: the generator of all draws, on the CPU.

        Returns:
            The class of every query, int64 [Q] on the CPU; -1 where no score is finite.
        """


def descend_episodes(
    source: Episodes,
    state: Mapping[str, Tensor],
    weights: Iterable[Tensor],
    per_step: int,
    loss: Callable[[Episode], Tensor],
    progress: Progress,
    course: Course,
) -> list[float]:
    """Descend episodes' mean loss by Adam: the outer loop of all episodic learners but Reptile.

    Args:
        source: the episodes; ``settings.episodes`` of them.
        state: all tensors that change, weights and running statistics, by name.
        weights: what Adam moves.
        per_step: episodes a step.
        loss: an episode's loss.
        progress: told the fraction done and what is being done.
        course: where an interrupted training goes on.

    Returns:
        The mean loss of every step.
    """
    s = source.settings
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
    """0..count-1 in ranges; the last may be shorter.

    Args:
        count: how many numbers.
        size: numbers of a range.
    """
    for start in range(0, count, size):
        yield range(start, min(count, start + size))


@torch.no_grad()
def classes_of(scores: Callable[[Tensor], Tensor], queries: Iterable[Tensor]) -> Tensor:
    """The class with the highest score for every query.

    Args:
        scores: images [B, 3, H, W] -> [B, ways].
        queries: images in parts.

    Returns:
        int64 [Q] on the CPU; -1 where that score is not finite.
    """
    best = [scores(part).max(1) for part in queries]
    return torch.cat([torch.where(top.values.isfinite(), top.indices, -1).cpu() for top in best])


def means(x: Tensor, labels: Tensor, ways: int) -> Tensor:
    """Class means: prototypes (Snell et al. 2017, Eq. 1).

    Args:
        x: [S, ...].
        labels: classes [S].
        ways: how many classes.

    Returns:
        [ways, ...].
    """
    share = torch.nn.functional.one_hot(labels, ways).to(x.dtype)
    share = share / share.sum(0, keepdim=True)
    return (share.T @ x.flatten(1)).view(ways, *x.shape[1:])
