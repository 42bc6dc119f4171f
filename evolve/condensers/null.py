"""The null test of a condensation: what the condenser would choose of features that mean nothing.

A choice that a condenser makes as well of the ancestor's features of *other* images, or of an
ancestor that has learned nothing, does not come from what the ancestor knows about these images,
however often it is repeated.
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

METHODS = (
    "meta-network",
    "similarity",
)  # those that look at an ancestor's and a descendant's features of the same images
KINDS = {
    "other pseudo-descendants": "the same ancestor and images",
    "wrong images": "each image gets another one's ancestor features",
    "untrained ancestor": "the same network before it learned anything",
}


@dataclass(frozen=True)
class Row:
    """``count`` condensations of one kind: how many ``decided`` something at all, how many chose
    the ``same`` set as the true one; the mean Jaccard ``overlap`` (shared layers / layers in
    either) with that set and the mean ``moved``, |1 - alpha|, over all of them; None where there is
    no alpha to move.
    """

    kind: str
    count: int
    decided: int
    same: int
    overlap: float
    moved: float | None


def check_method(method: str) -> None:
    """Raises UserError for a condenser whose choice the null test cannot question."""
    if method not in METHODS:
        raise UserError(
            f"--null: condense.method = {method!r} compares no features image by image; allowed "
            f"are {', '.join(METHODS)}"
        )


def null_test(request: Request, count: int) -> tuple[Condensed, list[Row]]:
    """The true condensation and ``count`` of each of KINDS, on the same split of the same images.

    UserError for a method not among METHODS.
    """
    check_method(request.c.method)
    once = replace(request, c=replace(request.c, repeats=1))
    total, done = 1 + count * len(KINDS), 0

    def condensed(one: Request) -> Condensed:
        nonlocal done
        before = done
        done += 1
        return condense_ancestor(
            replace(
                one,
                progress=lambda part, text: request.progress(
                    (before + part) / total, f"null test {before + 1} of {total}, {text}"
                ),
            )
        )

    true = condensed(once)
    return true, [
        _row(kind, request.c.method, true, [condensed(one) for one in requests(once, kind, count)])
        for kind in KINDS
    ]


def requests(request: Request, kind: str, count: int) -> Iterator[Request]:
    """``count`` requests of one of KINDS, each with draws of its own, on the same split of the same
    images.
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
    found = [moved(method, run) for run in runs]
    mean = sum(one for one in found if one is not None) / len(found) if None not in found else None
    return Row(
        kind,
        len(runs),
        len(decided),
        same,
        sum(overlaps) / len(overlaps) if overlaps else float("nan"),
        mean,
    )


def moved(method: str, run: Condensed) -> float | None:
    """How far alpha moved; None for a method whose scores are no alpha (similarity's are
    distances).
    """
    return movement(run.alpha) if method == "meta-network" else None


def overlap(one: Sequence[Hashable], other: Sequence[Hashable]) -> float:
    """Jaccard's index of two sets, at least one of them not empty: 1 for equal ones, 0 where they
    share nothing.
    """
    return len(set(one) & set(other)) / len(set(one) | set(other))
