"""What a condensation costs on one core, in seconds, method by method.

Nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from evolve.condensers.candidates import Choice, candidates, trial_settings
from evolve.core.settings import CondenseSettings, DescendSettings, InheritSettings
from evolve.networks.architecture import Architecture
from evolve.networks.cost import CURVATURE, Work, rates_of

FISHER_IMAGES = 512  # at most so many meta images enter evolve.condensers.fisher
ATTEMPTS = 2  # condensations, mostly, where alpha is to move a certain way


@dataclass(frozen=True)
class Asked:
    """A condensation whose cost is asked for.

    Attributes:
        c: its settings.
        ancestor: the ancestor's architecture.
        size: pixels of an image's side.
        images: condensing images.
        inherit, descend: how trial descendants inherit and learn.
        learn: seconds that the descendants of an architecture take, learning as these settings say.
        lengths: how many lineage lengths are measured.
    """

    c: CondenseSettings
    ancestor: Architecture
    size: int
    images: int
    inherit: InheritSettings
    descend: DescendSettings
    learn: Callable[[DescendSettings, Architecture], float]
    lengths: int

    @property
    def iterations(self) -> float:
        """Steps of the pseudo-descendants of all repeats."""
        c = self.c
        return c.repeats * c.epochs * max(1, self.images * (1 - c.meta_fraction) // c.batch)

    def trained(
        self, own: float, matched: float, steps: int, seen: float, attempts: int = 1
    ) -> float:
        """Seconds of training pseudo-descendants and of passing images through the ancestor.

        Args:
            own: training images of an iteration.
            matched: images of an iteration whose features are matched.
            steps: optimizer steps of an iteration.
            seen: images that pass the ancestor, altogether.
            attempts: how often the whole training is done.
        """
        images = own + rates_of(self.ancestor).matching * matched * 2
        work = Work(self.ancestor.paper_descendant(), self.size, images, steps)
        passed = Work(self.ancestor, self.size, 0, 0, seen)
        return attempts * self.iterations * work.seconds() + passed.seconds()


def at_once(asked: Asked) -> float:
    """A method that trains nothing and looks at no image.

    Args:
        asked: the condensation whose cost is asked for.
    """
    return 0.1


def fisher(asked: Asked) -> float:
    """Seconds of one gradient an image.

    Args:
        asked: the condensation whose cost is asked for.
    """
    single = min(FISHER_IMAGES, asked.images * asked.c.meta_fraction)
    return asked.c.repeats * Work(asked.ancestor, asked.size, single, single).seconds()


def cka(asked: Asked) -> float:
    """Seconds of training on each batch once, without matching.

    Args:
        asked: the condensation whose cost is asked for.
    """
    return asked.trained(asked.c.batch, 0, 1, asked.images * asked.c.meta_fraction)


def similarity(asked: Asked) -> float:
    """Seconds of training on each batch once and of matching a meta batch.

    Args:
        asked: the condensation whose cost is asked for.
    """
    c = asked.c
    return asked.trained(c.batch, c.meta_batch, 2, asked.images * c.meta_fraction)


def meta_network(asked: Asked) -> float:
    """Seconds of the meta-network's condensation.

    Under Eq. 16 an iteration trains on a batch once, passes it through the ancestor, too, and looks
    at a meta batch. Bilevel, it trains on a batch twice and on a meta batch 2 + T times. All its T
    + 1 look-ahead steps but the first need a Hessian product.

    Args:
        asked: the condensation whose cost is asked for.
    """
    c, meta = asked.c, asked.images * asked.c.meta_fraction
    if c.objective == "bilevel":
        ahead = c.lookahead
        own = 2.0 * c.batch + (2 + ahead) * c.meta_batch
        own += CURVATURE * (c.batch + (ahead - 1) * c.meta_batch)
        return asked.trained(own, (1 + 2 * ahead) * c.meta_batch, 4 + 3 * ahead, meta)
    # The training images pass the ancestor once, or in every epoch anew.
    seen = asked.images * (1 - c.meta_fraction) * (c.repeats * c.epochs if c.augment else 1)
    attempts = ATTEMPTS if c.meta_reach and c.meta_optimizer == "sgd" else 1
    return asked.trained(c.batch, c.batch + c.meta_batch, 3, meta + seen, attempts)


def trial(asked: Asked) -> float:
    """Seconds of the descendants of every candidate, and of this generation's part of those from
    scratch.

    A process trains those from scratch once for all measured lengths. What rivals choose is taken
    for one of the candidates.

    Args:
        asked: the condensation whose cost is asked for.
    """
    c = asked.c
    tried = candidates(Choice(asked.ancestor, c.granularity, asked.inherit, c.budget), {})
    learning = trial_settings(asked.descend, c.trial_tasks)
    heirs = sum(asked.learn(learning, plan) for plan in {candidate.plan for candidate in tried})
    anonymous = {candidate.plan.anonymous() for candidate in tried}
    fresh = sum(asked.learn(learning, plan) for plan in anonymous)
    return c.repeats * (heirs + fresh / asked.lengths)
