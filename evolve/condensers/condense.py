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

    Raises UserError where the settings ask for more images or layers than there are.
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
        found = method(request)
    return checked(found, request)


def agreed(runs: Sequence[Condensed], request: Request) -> Condensed:
    """Several condensations as one: the selection from their mean alpha by the method's rule, and
    the share of them that chose just these layers.

    (The paper claims 10 of 10.) Condensations that collapsed or diverged do not enter the mean;
    those that were tied do. Neither of them chose anything, so they never count as agreeing, and
    where the mean decides nothing there is nothing to agree on.
    """
    good = [run for run in runs if run.status in ("selected", "tied")]
    repeats = tuple(run.selected for run in runs)
    if not good:
        return replace(runs[0], repeats=repeats)
    found = _pooled(good, runs[0].history, request)
    return replace(
        found,
        repeats=repeats,
        effort={
            name: [number for run in runs for number in run.effort.get(name, [])]
            for name in good[0].effort
        },
        agreement=sum(run.status == "selected" and run.selected == found.selected for run in runs)
        / len(runs)
        if found.status == "selected"
        else None,
    )


def _pooled(
    runs: Sequence[Condensed], history: dict[str, list[float]], request: Request
) -> Condensed:
    if runs[0].pool is not None:
        return runs[0].pool(runs)
    c, alpha = request.c, torch.stack([run.alpha for run in runs]).mean(0)
    found = condensed(
        alpha,
        history,
        runs[0].choose or (lambda alpha: select(alpha, c.selection, c.top_k, request.fallback)),
    )
    return replace(
        found, selected_by=f"{found.selected_by}, mean alpha of {len(runs)} condensations"
    )
