"""How sure a pooled gain is, and what it takes to be surer.

A lineage's gain, averaged over its lengths, is a mean over tasks (descendants); a task's gain is
what was inherited less the mean of some from-scratch draws:

    gain of lineage s, task i = m + b_s + t_si - mean over D draws of e_sid

with variances B between lineages, T between tasks (the noise of inherited descendants included) and
E between draws. With w = T + E / D the means of n lineages of K tasks spread by B + w / K. The
verdict resamples lineages, then tasks (:func:`evolve.report.trends.bootstrap`); its interval's half
width is about

    t(n - 1) sqrt( (B + w / K) / n  +  n / (n - 1) (K - 1) / K  w / (K n) )

with Student's two-sided 95 % quantile t. The second part is what resampling tasks adds; without it
this is Student's interval over the lineages' means. For a given budget the best number of draws is
that of two-stage sampling (Neyman's allocation; Cochran 1977, 10.6),

    D = sqrt(E / T) sqrt(cost of a task / cost of a draw)
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from evolve.report.curves import pooled_interval
from evolve.report.trends import t_quantile

from .evidence import Array, Finished

WANTED = 1.5  # points, half the width of a 95 % interval
SEEDS = 5  # the protocol's
MOST_SEEDS, MOST_TASKS, MOST_DRAWS = 100, 400, 12


@dataclass(frozen=True)
class Design:
    """So many seeds, tasks (descendants) a lineage, and from-scratch draws."""

    seeds: int
    tasks: int
    draws: int


@dataclass(frozen=True)
class Variance:
    """What the gains of finished lineages spread by, points squared; ``design`` is theirs.

    Attributes:
        mean: the pooled gain, in points.
        printed: half the width of the interval that `evolve summary` prints of them.
    """

    lineage: float
    task: float
    draw: float
    design: Design
    mean: float
    printed: float

    @staticmethod
    def of(lineages: Sequence[Finished]) -> Variance:
        """Components by the method of moments, none below 0.

        Args:
            lineages: two or more, of equal settings.
        """
        gains: list[Array] = []
        noise: list[float] = []
        for lineage in lineages:
            inherited, scratch = lineage.gains()
            gains.append(inherited - scratch.mean(0))
            noise.append(float(scratch.var(0, ddof=1).mean()) if len(scratch) > 1 else 0.0)
            design = Design(len(lineages), len(inherited), len(scratch))
        draw = float(np.mean(noise))
        within = float(np.mean([gain.var(ddof=1) for gain in gains]))
        between = float(np.var([gain.mean() for gain in gains], ddof=1))
        pooled = pooled_interval(gains)
        return Variance(
            max(0.0, between - within / design.tasks),
            max(0.0, within - draw / design.draws),
            draw,
            design,
            pooled.mean,
            pooled.half,
        )

    def half(self, design: Design) -> float:
        """Half the width of the verdict's interval, in points, as this module's text has it."""
        n, k = design.seeds, design.tasks
        task = (self.task + self.draw / design.draws) / k
        return t_quantile(n - 1) * math.sqrt(
            (self.lineage + task) / n + n / (n - 1) * (k - 1) / k * task / n
        )

    def student(self, design: Design) -> float:
        """The same of Student's interval over the lineages' means."""
        task = (self.task + self.draw / design.draws) / design.tasks
        n = design.seeds
        return t_quantile(n - 1) * math.sqrt((self.lineage + task) / n)

    def best_draws(self, task_cost: float, draw_cost: float) -> float:
        """The number of draws that buys most precision for its cost.

        Args:
            task_cost: of one task's descendants, from-scratch ones left out.
            draw_cost: of one draw of one task's from-scratch descendants.
        """
        if self.task == 0:
            return math.inf
        return math.sqrt(self.draw / self.task * task_cost / draw_cost)


@dataclass(frozen=True)
class Cost:
    """CPU seconds of one lineage.

    Attributes:
        chain: what does not depend on the number of descendants.
        task: a descendant's part, from-scratch ones left out.
        draw: one draw of a descendant's from-scratch part.
    """

    chain: float
    task: float
    draw: float

    def of(self, design: Design) -> float:
        """CPU seconds of all lineages of a design."""
        each = self.chain + design.tasks * (self.task + design.draws * self.draw)
        return design.seeds * each


def designs(variance: Variance, cost: Cost) -> dict[str, Design | None]:
    """The ways to an interval of WANTED points, by name; None where one does not lead there.

    Args:
        variance: of finished lineages.
        cost: by which the cheapest is chosen.
    """
    shipped = variance.design
    here = Design(SEEDS, shipped.tasks, shipped.draws)
    more_seeds = (Design(n, shipped.tasks, shipped.draws) for n in range(2, MOST_SEEDS + 1))
    more_tasks = [_tasks_for(variance, draws) for draws in range(1, MOST_DRAWS + 1)]
    return {
        "as shipped": here,
        "as many seeds as it takes": _first(variance, more_seeds),
        "five seeds, more tasks": more_tasks[shipped.draws - 1],
        "five seeds, tasks and draws": min(
            (design for design in more_tasks if design), key=cost.of, default=None
        ),
    }


def answering(variance: Variance, ways: dict[str, Design | None]) -> Design | None:
    """The five-seed protocol that answers: the shipped one if it does, else the cheapest."""
    shipped = ways["as shipped"]
    assert shipped is not None
    return shipped if variance.half(shipped) <= WANTED else ways["five seeds, tasks and draws"]


def _tasks_for(variance: Variance, draws: int) -> Design | None:
    more = (Design(SEEDS, tasks, draws) for tasks in range(2, MOST_TASKS + 1))
    return _first(variance, more)


def _first(variance: Variance, candidates: Iterable[Design]) -> Design | None:
    return next((design for design in candidates if variance.half(design) <= WANTED), None)
