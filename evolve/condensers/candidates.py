"""Which sets of layers condenser "trial" tries, and what their descendants are.

Nothing here loads torch until weights are counted.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import accumulate

from evolve.core.errors import UserError
from evolve.core.settings import DescendSettings, InheritSettings
from evolve.core.words import WHOLE
from evolve.learngene.inheritors import descendant
from evolve.networks.architecture import Architecture, Groups, holders

PAPER = "paper's set"
SLACK = 1e-9  # a share computed in two ways


@dataclass(frozen=True)
class Candidate:
    """A set of an ancestor's layer groups to try.

    Attributes:
        groups: 0-based layer groups, ascending.
        plan: the descendant, which says what it inherits.
        share, within, origins: as in :class:`evolve.condensers.interface.Trial`.
    """

    groups: tuple[int, ...]
    plan: Architecture
    share: float
    within: bool
    origins: tuple[str, ...]


@dataclass(frozen=True)
class Choice:
    """What is chosen from, and how it is inherited.

    Attributes:
        ancestor: the ancestor's architecture.
        granularity: "conv" or "stage".
        inherit: how descendants inherit.
        budget: as ``condense.budget``; 0 stands for the share of the paper's set.
    """

    ancestor: Architecture
    granularity: str
    inherit: InheritSettings
    budget: float

    @property
    def groups(self) -> Groups:
        """The L layer groups."""
        return self.ancestor.integral_layers(self.granularity)

    def share(self, chosen: tuple[int, ...]) -> float:
        """The share of the ancestor's weights that a descendant of these groups inherits."""
        return self.ancestor.share([*self.layers(chosen), *self._carried])

    def layers(self, chosen: tuple[int, ...]) -> list[str]:
        """The names of the groups' layers."""
        return [name for group in chosen for name in self.groups[group]]

    @property
    def paper(self) -> tuple[int, ...]:
        """The groups that hold the paper's set."""
        return holders(self.groups, self.ancestor.named_set("paper", 0))

    @property
    def limit(self) -> float:
        """The budget as a share."""
        return (self.budget or self.share(self.paper)) + SLACK

    @property
    def _carried(self) -> tuple[str, ...]:
        return self.ancestor.carried if self.inherit.embeddings == "inherited" else ()


def trial_settings(d: DescendSettings, tasks: int) -> DescendSettings:
    """How trial descendants learn: as the lineage's do, on ``tasks`` tasks.

    Only the last epoch's accuracy is read, so nothing is tested before.

    Args:
        d: the lineage's descendants' settings.
        tasks: how many tasks, a descendant each.
    """
    return replace(d, descendants=tasks, test_every=0)


def candidates(choice: Choice, rivals: Mapping[str, tuple[int, ...]]) -> list[Candidate]:
    """List every set to try, each once, from the smallest share to the whole ancestor.

    These are the sets: the first group alone; the prefixes that end where a stage does; the longest
    prefix within the budget; the prefixes that end with a stage, together with the last stage; the
    paper's set; what the rivals chose; and the whole ancestor. The whole ancestor is within a
    budget of 1 only where inheriting all layers in the scenario's way is the same.

    Args:
        choice: what is chosen from.
        rivals: 0-based groups that other condensers chose, by their names.

    Raises:
        UserError: no set is within the budget.
    """
    origins: dict[tuple[int, ...], list[str]] = {}
    for origin, chosen in _sets(choice, rivals):
        origins.setdefault(chosen, []).append(origin)
    tried = sorted(
        (candidate(choice, chosen, tuple(named)) for chosen, named in origins.items()),
        key=lambda c: (c.share, c.groups),
    )
    if not tried[0].within:
        least, size = tried[0].origins[0], tried[0].share
        raise UserError(
            f"condense.budget = {choice.budget:g}: the smallest set that is tried, {least}, "
            f"holds {size:.3g} of the ancestor's weights; give more"
        )
    return _with_whole(choice, tried)


def candidate(choice: Choice, chosen: tuple[int, ...], origins: tuple[str, ...]) -> Candidate:
    """Make a set to try.

    Args:
        choice: what the set is chosen from, and the budget.
        chosen: 0-based groups.
        origins: the names of where they come from.
    """
    share = choice.share(chosen)
    plan = descendant(choice.ancestor, choice.layers(chosen), choice.inherit)
    return Candidate(chosen, plan, share, share <= choice.limit, origins)


def _with_whole(choice: Choice, tried: list[Candidate]) -> list[Candidate]:
    """The last, all layers in the scenario's way, is the whole ancestor (VGGs, stacked), or the
    whole ancestor stands behind it.
    """
    whole, last = choice.ancestor.whole(), tried[-1]
    if last.plan == whole:
        return [*tried[:-1], replace(last, origins=(*last.origins, WHOLE))]
    return [*tried, Candidate(tuple(range(len(choice.groups))), whole, 1.0, False, (WHOLE,))]


def _sets(
    choice: Choice, rivals: Mapping[str, tuple[int, ...]]
) -> Iterator[tuple[str, tuple[int, ...]]]:
    """(origin, 0-based groups) of all candidates; some stand there twice. Origins count layers,
    whatever the groups.
    """
    groups = choice.groups
    ends, last = _stage_ends(choice)
    sizes = list(accumulate(map(len, groups)))
    fitting = [
        length
        for length in range(1, len(groups) + 1)
        if choice.share(tuple(range(length))) <= choice.limit
    ]
    for length in sorted({1, *ends, *fitting[-1:]}):
        yield f"front {sizes[length - 1]}", tuple(range(length))
    for length in ends:
        if length < last[0]:
            count = sum(len(groups[group]) for group in last)
            yield f"front {sizes[length - 1]} and last {count}", (*range(length), *last)
    yield PAPER, choice.paper
    yield from rivals.items()


def _stage_ends(choice: Choice) -> tuple[list[int], tuple[int, ...]]:
    """(how many groups the prefixes have that end with a stage, the groups of the last stage)."""
    stages = choice.ancestor.integral_layers("stage")
    layers = set(accumulate(map(len, stages)))
    sizes = list(accumulate(map(len, choice.groups)))
    ends = [length for length, size in enumerate(sizes, start=1) if size in layers]
    before = ends[-2] if len(ends) > 1 else 0
    return ends, tuple(range(before, len(sizes)))
