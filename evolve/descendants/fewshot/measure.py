"""The door of the room: meta-train a learner of Table III, then measure it on downstream tasks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from evolve.core.fewshot_settings import FewshotSettings
from evolve.core.randomness import generator
from evolve.core.registry import find
from evolve.descendants.fewshot.course import Course
from evolve.descendants.fewshot.episodes import Episodes
from evolve.descendants.fewshot.learner import CHUNK, Learner, Progress, Setup
from evolve.descendants.fewshot.methods import LEARNERS
from evolve.descendants.trainers.group import DownstreamTask
from evolve.networks.network import Network

if TYPE_CHECKING:
    from evolve.engine.checkpoint import Checkpoint

TRAINING = 0.8  # of the time, for the progress shown


@dataclass(frozen=True)
class Measured:
    """What a learner did on the tasks.

    Attributes:
        losses: the mean meta-training loss of every outer step or epoch.
        correct: for each task, uint8 [tests] on the CPU, 1 where right.
        undecided: test images without a finite score, which count as wrong: the learner or its
            adapting diverged.
    """

    losses: list[float]
    correct: list[Tensor]
    undecided: int


def make_learner(
    name: str, network: Network, settings: FewshotSettings, ways: int, seed: int
) -> Learner:
    """Make a learner that starts from a network, which stays as it is.

    Args:
        name: the learner's name in Table III's records.
        network: the network to start from.
        settings: the [fewshot] settings.
        ways: classes of a task.
        seed: seed of all draws.

    Raises:
        KeyError: there is no learner of this name.
    """
    learner: Learner = find("learners", name)(Setup(network, settings, ways, seed))
    return learner


def meta_train_and_measure(
    name: str,
    network: Network,
    source: Episodes,
    tasks: Sequence[DownstreamTask],
    progress: Progress,
    checkpoint: Checkpoint,
) -> Measured:
    """Meta-train a learner, then adapt it to each task and predict its test images.

    Episodes have as many classes as the tasks have, all of them. Every task starts from
    the same meta-trained state, and its draws follow from (seed, its place). So neither the tasks'
    order nor their number changes a prediction.

    Args:
        name: the learner's name in Table III's records.
        network: the network to start from; it stays as it is.
        source: what it meta-trains on, with the settings and the seed of all draws.
        tasks: the downstream tasks, at least one.
        progress: told the fraction done and what is being done.
        checkpoint: where an interrupted meta-training goes on.

    Raises:
        UserError: the classes or images are too few for an episode.
    """
    learner = make_learner(name, network, source.settings, source.ways, source.seed)
    if "episodes" in LEARNERS[name].reads:
        source.check()
    losses = learner.meta_train(
        source, lambda done, text: progress(TRAINING * done, f"{name}, {text}"), Course(checkpoint)
    )
    correct, undecided = [], 0
    for number, task in enumerate(tasks):
        predicted = _predicted(learner, task, source, number)
        correct.append((predicted == task.test_labels).byte())
        undecided += int((predicted < 0).sum())
        progress(
            TRAINING + (1 - TRAINING) * (number + 1) / len(tasks),
            f"{name}, task {number + 1} of {len(tasks)}",
        )
    return Measured(losses, correct, undecided)


def thinned(losses: Sequence[float], most: int = 100) -> list[float]:
    """Means of stretches of losses, equally long but the last.

    Args:
        losses: the losses.
        most: how many stretches at most.
    """
    length = -(-len(losses) // most)
    return [
        sum(part) / len(part)
        for part in (losses[n : n + length] for n in range(0, len(losses), max(1, length)))
    ]


def _predicted(learner: Learner, task: DownstreamTask, source: Episodes, number: int) -> Tensor:
    resident, draw = source.resident, generator(source.seed, "fewshot", "adapt", number)
    support, labels = resident.batch(task.train), task.train_labels.to(resident.device)
    queries = (resident.batch(part) for part in task.test.split(CHUNK))
    return learner.predict(support, labels, queries, draw)
