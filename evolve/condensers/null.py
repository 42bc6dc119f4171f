"""The null test of a condensation: what the condenser would choose of features that mean nothing.

Two choices are compared with the true one: that of the ancestor's features of *other* images, and
that of an ancestor that has learned nothing. A condenser that chooses the same there does not
choose by what the ancestor knows about these images, however often it is repeated.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, replace

from evolve.condensers.condense import condense_ancestor
from evolve.condensers.interface import Condensed, Request
from evolve.condensers.selection import movement
from evolve.core.errors import UserError
from evolve.core.randomness import derive_seed
from evolve.networks.network import initialise

# Those that look at an ancestor's and a descendant's features of the same images.
METHODS = ("meta-network", "similarity")
KINDS = {
    "other pseudo-descendants": "the same ancestor and images",
    "wrong images": "each image gets another one's ancestor features",
    "untrained ancestor": "the same network before it learned anything",
}


@dataclass(frozen=True)
class Row:
    """The condensations of one kind.

    Attributes:
        kind: one of KINDS.
        count: how many there are.
        decided: how many decided something at all.
        same: how many chose the same set as the true one.
        overlap: mean Jaccard index with that set: shared layers / layers in either.
        moved: mean |1 - alpha| over all of them; None where there is no alpha to move.
    """

    kind: str
    count: int
    decided: int
    same: int
    overlap: float
    moved: float | None


def check_method(method: str) -> None:
    """Refuse a condenser whose choice the null test cannot question.

    Args:
        method: its name.

    Raises:
        UserError: the method is not among METHODS.
    """
    if method not in METHODS:
        raise UserError(
            f"--null: condense.method = {method!r} compares no features image by image; allowed "
            f"are {', '.join(METHODS)}"
        )


def null_test(request: Request, count: int) -> tuple[Condensed, list[Row]]:
    """Condense truly once, and ``count`` times in each of KINDS.

    All use the same split of the same images.

    Args:
        request: the true condensation; its ``repeats`` are left aside.
        count: condensations of each kind.

    Returns:
        The true condensation and a row for each kind.

    Raises:
        UserError: the method is not among METHODS.
    """
    check_method(request.c.method)
    once = replace(request, c=replace(request.c, repeats=1))
    total, done = 1 + count * len(KINDS), 0

    def condensed(variant: Request) -> Condensed:
        nonlocal done
        number, done = done, done + 1

        def part(fraction: float, text: str) -> None:
            words = f"null test {number + 1} of {total}, {text}"
            request.progress((number + fraction) / total, words)

        return condense_ancestor(replace(variant, progress=part))

    true, rows = condensed(once), []
    for kind in KINDS:
        runs = [condensed(variant) for variant in requests(once, kind, count)]
        rows.append(_row(kind, request.c.method, true, runs))
    return true, rows


def requests(request: Request, kind: str, count: int) -> Iterator[Request]:
    """Give ``count`` requests of one kind, each with draws of its own.

    All use the same split of the same images.

    Args:
        request: the true condensation.
        kind: one of KINDS.
        count: how many.
    """
    for number in range(count):
        seed = derive_seed(request.seed, "null", number)
        other = request.again(seed, request.progress)
        if kind == "wrong images":
            other = replace(other, wrong_images=seed)
        elif kind == "untrained ancestor":
            fresh = request.architecture.build(len(request.state["head.weight"]))
            initialise(fresh, seed, "null-ancestor")
            other = replace(other, state=fresh.state_dict())
        yield other


def _row(kind: str, method: str, true: Condensed, runs: Sequence[Condensed]) -> Row:
    decided = [run for run in runs if run.status == "selected"]
    same = sum(run.selected == true.selected for run in decided) if true.status == "selected" else 0
    overlaps = [overlap(true.selected, run.selected) for run in decided]
    distances = [moved(method, run) for run in runs]
    mean = (
        sum(distance for distance in distances if distance is not None) / len(distances)
        if None not in distances
        else None
    )
    return Row(
        kind,
        len(runs),
        len(decided),
        same,
        sum(overlaps) / len(overlaps) if overlaps else float("nan"),
        mean,
    )


def moved(method: str, run: Condensed) -> float | None:
    """How far alpha moved; None for a method whose scores are no alpha.

    The scores of "similarity" are distances.

    Args:
        method: the condenser's name.
        run: its condensation.
    """
    return movement(run.alpha) if method == "meta-network" else None


def overlap(left: Sequence[Hashable], right: Sequence[Hashable]) -> float:
    """Jaccard's index of two sets: 1 for equal sets, 0 where they share nothing.

    At least one of them is not empty.

    Args:
        left, right: the sets.
    """
    return len(set(left) & set(right)) / len(set(left) | set(right))
