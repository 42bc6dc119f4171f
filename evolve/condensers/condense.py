"""Condense by a method's name, once or several times with other draws."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from evolve.condensers.interface import Condensed, Request, condensed
from evolve.condensers.plugin_check import checked
from evolve.condensers.selection import select
from evolve.core.randomness import derive_seed
from evolve.core.registry import blamed, find


def condense_ancestor(request: Request) -> Condensed:
    """Condense by the request's method, ``condense.repeats`` times with other draws.

    Args:
        request: the condensation to do.

    Raises:
        UserError: the settings ask for more images or layers than there are.
    """
    repeats = request.c.repeats
    if repeats == 1:
        return _condense(request)

    def again(number: int) -> Request:
        def part(fraction: float, text: str) -> None:
            request.progress(
                (number + fraction) / repeats, f"repeat {number + 1} of {repeats}, {text}"
            )

        return request.again(
            derive_seed(request.seed, "repeat", number) if number else request.seed, part
        )

    return agreed([_condense(again(number)) for number in range(repeats)], request)


def _condense(request: Request) -> Condensed:
    method: Callable[[Request], Condensed] = find("condensers", request.c.method)
    with blamed("condensers", request.c.method):
        condensation = method(request)
    return checked(condensation, request)


def agreed(runs: Sequence[Condensed], request: Request) -> Condensed:
    """Make one condensation of several.

    The selection follows from their mean alpha, by the method's rule. Its ``agreement`` is the
    share of the condensations that chose just these layers; the paper claims 10 of 10. Those that
    collapsed or diverged do not enter the mean; those that were tied do. Neither of them chose
    anything, so they never count as agreeing. Where the mean decides nothing, there is nothing to
    agree on.

    Args:
        runs: the condensations, at least one.
        request: the request that they answer.
    """
    good = [run for run in runs if run.status in ("selected", "tied")]
    repeats = tuple(run.selected for run in runs)
    if not good:
        return replace(runs[0], repeats=repeats)
    pooled = _pooled(good, runs[0].history, request)
    return replace(
        pooled,
        repeats=repeats,
        effort={
            name: [number for run in runs for number in run.effort.get(name, [])]
            for name in good[0].effort
        },
        agreement=sum(run.status == "selected" and run.selected == pooled.selected for run in runs)
        / len(runs)
        if pooled.status == "selected"
        else None,
    )


def _pooled(
    runs: Sequence[Condensed], history: dict[str, list[float]], request: Request
) -> Condensed:
    if runs[0].pool is not None:
        return runs[0].pool(runs)
    c, alpha = request.c, torch.stack([run.alpha for run in runs]).mean(0)
    condensation = condensed(
        alpha,
        history,
        runs[0].choose or (lambda alpha: select(alpha, c.selection, c.top_k, request.fallback)),
    )
    return replace(
        condensation,
        selected_by=f"{condensation.selected_by}, mean alpha of {len(runs)} condensations",
    )
