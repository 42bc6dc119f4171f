"""Reptile (Nichol, Achiam, Schulman 2018), which has no queries.

An episode's support and query images are all training images. BN uses the statistics of each inner
batch, and those of the support images for predictions (the paper's non-transductive variant,
section 6.1). So no query sees another.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor

from evolve.core.randomness import generator
from evolve.data.batches import batches
from evolve.descendants.fewshot.course import Course, Phase
from evolve.descendants.fewshot.episodes import Episodes
from evolve.descendants.fewshot.learner import Learner, Progress, Setup, classes_of, grouped
from evolve.descendants.fewshot.trunk import (
    Functional,
    Parameters,
    as_head,
    fresh_head,
    linear,
    width,
)


class Reptile(Learner):
    """Initial weights moved towards those that each task's own training reaches.

    A step takes meta_batch tasks.
    """

    def __init__(self, setup: Setup) -> None:
        self.settings, self.seed = setup.settings, setup.seed
        self.trunk = Functional(setup.network, support_norm=True)
        weights = self.trunk.weights()
        device = next(iter(weights.values())).device
        weights |= as_head(*fresh_head(setup.ways, width(setup.network), device, setup.seed))
        self.weights = {name: p.detach() for name, p in weights.items()}

    def logits(self, weights: Parameters, x: Tensor, support: int) -> Tensor:
        """Classify images.

        Args:
            weights: the weights to use.
            x: images [B, 3, H, W].
            support: how many of the first ones are the support set.

        Returns:
            [B, ways].
        """
        return linear(weights, self.trunk.embed(weights, x, support))

    def trained(
        self, images: Tensor, labels: Tensor, steps: int, draw: torch.Generator
    ) -> tuple[Parameters, float]:
        """Train on a task's images: Adam with beta_1 = 0 (appendix A) over shuffled batches.

        Args:
            images: [S, 3, H, W].
            labels: their classes [S].
            steps: steps of Adam.
            draw: the generator of the batches.

        Returns:
            The weights, and the mean loss on the way.
        """
        weights = {name: p.clone().requires_grad_() for name, p in self.weights.items()}
        optimizer = torch.optim.Adam(
            weights.values(), lr=self.settings.reptile_lr, betas=(0.0, 0.999)
        )
        total, pending = 0.0, list[Tensor]()
        for _ in range(steps):
            pending = pending or batches(
                torch.randperm(len(images), generator=draw).to(images.device),
                self.settings.reptile_batch,
            )
            chosen = pending.pop(0)
            optimizer.zero_grad(set_to_none=True)
            loss = F.cross_entropy(
                self.logits(weights, images[chosen], len(chosen)), labels[chosen]
            )
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            total += loss.item()
        return {name: p.detach() for name, p in weights.items()}, total / max(1, steps)

    def meta_train(self, source: Episodes, progress: Progress, course: Course) -> list[float]:
        """Repeat phi <- phi + epsilon * mean_i(W_i - phi) (Algorithm 2, appendix A).

        Epsilon falls linearly to 0. See :class:`Learner`.
        """
        s = self.settings
        steps = list(grouped(s.episodes, s.meta_batch))
        phase = Phase("episodes", len(steps), self.weights)
        first, losses = course.resume(phase)
        for step, numbers in enumerate(steps[first:], start=first):
            reached = [self._task(source, number) for number in numbers]
            share = s.reptile_step * (1 - numbers.start / s.episodes)
            for name, p in self.weights.items():
                goal = torch.stack([weights[name] for weights, _ in reached]).mean(0)
                self.weights[name] = torch.lerp(p, goal, share)
            losses[step] = sum(loss for _, loss in reached) / len(reached)
            course.keep(phase, step + 1, losses)
            progress(numbers.stop / s.episodes, f"episode {numbers.stop} of {s.episodes}")
        return list(losses.tolist())

    def _task(self, source: Episodes, number: int) -> tuple[Parameters, float]:
        episode = source.episode(number)
        images, labels = (
            torch.cat([episode.support, episode.query]),
            torch.cat([episode.support_labels, episode.query_labels]),
        )
        return self.trained(
            images,
            labels,
            self.settings.reptile_steps,
            generator(self.seed, "fewshot", "reptile", number),
        )

    def predict(
        self, support: Tensor, labels: Tensor, queries: Iterable[Tensor], draw: torch.Generator
    ) -> Tensor:
        """See :class:`Learner`."""
        adapted, _ = self.trained(support, labels, self.settings.reptile_test_steps, draw)
        return classes_of(
            lambda part: self.logits(adapted, torch.cat([support, part]), len(support))[
                len(support) :
            ],
            queries,
        )
