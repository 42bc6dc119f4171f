"""From alpha to layers: Eq. 9 and 10, and what happens when alpha decides nothing.

All functions are pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

COLLAPSED_BELOW = 0.05
"""Alpha starts at 1 everywhere; a pair with less than a twentieth of that is no longer matched, and
at 0 it gets no gradient and cannot come back.
"""
COLLAPSED_SHARE = 0.5
"""Share of such pairs above which alpha has collapsed: what is left says which pairs fall last, not
which are alike.
"""
TIE_SPREAD = 1e-4
"""max_l alpha^l - min_l alpha^l below which the layers count as equal."""
HARDLY = 0.25
"""Where alpha was asked to move a certain way: the part of it below which nothing was decided."""
TIE_GAP = 1e-6
"""Top-k: gap of the softmax weights at the cut below which the cut is rounding."""

SCORE_TIE = 1e-6
"""Scores of other condensers that differ by less than this part of the larger one are equal up to
float32's rounding.
"""


@dataclass(frozen=True)
class Selection:
    """Which layers are kept, and how sure that is.

    Attributes:
        scores: alpha^l [L].
        weights: a~^l [L].
        selected: 0-based positions, ascending.
        margin: how far the selection is from another one.
        status: "selected", "tied" or "collapsed".
        selected_by: the rule, in words.
    """

    scores: Tensor
    weights: Tensor
    selected: tuple[int, ...]
    margin: float
    status: str
    selected_by: str


def layer_scores(alpha: Tensor) -> tuple[Tensor, Tensor]:
    """Scores and weights of the layers (paper, Eq. 9), in float64.

        alpha^l = max_k alpha^{l,k},      a~ = softmax over layers of alpha^l

    Args:
        alpha: [L, K].

    Returns:
        (alpha^l [L], a~ [L]).
    """
    scores = alpha.detach().to("cpu", torch.float64).max(dim=1).values
    return scores, torch.softmax(scores, dim=0)


def movement(alpha: Tensor) -> float:
    """How far alpha [L, K] has come from its start: the mean over pairs of |1 - alpha|.

    It is 1 where every pair has fallen to 0.

    Args:
        alpha: the pairs' weights.
    """
    return float((1 - alpha.detach().double()).abs().mean())


def select(
    alpha: Tensor, selection: str, top_k: int, fallback: Sequence[int], reach: float = 0.0
) -> Selection:
    """Choose the learngene's layers by alpha (paper, Eq. 9 and 10).

    "threshold" keeps layer l iff a~^l > 1/L (Eq. 10); its margin is min_l |a~^l - 1/L|. "top-k"
    keeps the ``top_k`` largest a~^l; its margin is a~ of the k-th less a~ of the next, or less 0
    where all are kept.

    Status "collapsed": more than COLLAPSED_SHARE of the pairs are below COLLAPSED_BELOW. Status
    "tied": the spread of alpha^l is below TIE_SPREAD; or alpha moved less than HARDLY of ``reach``;
    or the threshold keeps no layer or all of them; or top-k cuts between weights less than TIE_GAP
    apart. In both, ``fallback`` is selected and ``selected_by`` says why.

    Args:
        alpha: [L, K], each pair's mean over the meta-data.
        selection: "threshold" or "top-k".
        top_k: layers that "top-k" keeps.
        fallback: 0-based positions.
        reach: the :func:`movement` that was asked for; 0: any will do.

    Raises:
        ValueError: ``selection`` is another word, ``top_k`` is outside 1..L, or alpha is not
            finite.
    """
    if not torch.isfinite(alpha).all():
        raise ValueError("alpha is not finite")
    scores, weights = layer_scores(alpha)
    kept, margin = _cut(weights, selection, top_k)
    status, why = _judge(alpha, scores, kept, selection, margin, reach)
    if status != "selected":
        kept = tuple(sorted(set(fallback)))
        why = f"fixed set, because {why}"
    return Selection(scores, weights, kept, margin, status, why)


def select_scores(scores: Tensor, selection: str, top_k: int, fallback: Sequence[int]) -> Selection:
    """Choose the learngene's layers by scores that are no alpha.

    "threshold" is Eq. 9 and 10 with the scores in alpha's place. "top-k" keeps the ``top_k``
    highest. Its ``weights`` are the softmax of the standardised scores, which shows their order
    whatever their unit. Margins and fallback are those of :func:`select`.

    Status "collapsed": a score is not finite; all are then returned as 0. Status "tied": all
    scores, or those on both sides of the cut, are equal (SCORE_TIE), or the threshold keeps no
    layer or all of them.

    Args:
        scores: [L], of any unit and sign, the higher the better.
        selection: "threshold" or "top-k".
        top_k: layers that "top-k" keeps.
        fallback: 0-based positions.

    Raises:
        ValueError: ``selection`` is another word, or ``top_k`` is outside 1..L.
    """
    values = scores.detach().to("cpu", torch.float64)
    if wild := int((~torch.isfinite(values)).sum()):
        zeros = torch.zeros_like(values)
        why = f"fixed set, because the scores of {wild} of {len(values)} layers are not finite"
        return Selection(
            zeros, zeros + 1 / len(values), tuple(sorted(set(fallback))), 0.0, "collapsed", why
        )
    weights = torch.softmax(values if selection == "threshold" else standardised(values), dim=0)
    kept, margin = _cut(weights, selection, top_k, by=values)
    status, why = _judge_scores(values, kept, selection)
    if status != "selected":
        kept = tuple(sorted(set(fallback)))
        why = f"fixed set, because {why}"
    return Selection(values, weights, kept, margin, status, why)


def standardised(scores: Tensor) -> Tensor:
    """Scores [L] less their mean, over their standard deviation; zeros where they are all equal.

    Args:
        scores: a number a layer.
    """
    spread = scores.std(correction=0)
    return (scores - scores.mean()) / spread if spread > 0 else torch.zeros_like(scores)


def _judge_scores(scores: Tensor, kept: tuple[int, ...], selection: str) -> tuple[str, str]:
    """(status, reason in words)."""
    rest = sorted(set(range(len(scores))).difference(kept))
    if len(scores) > 1 and _equal(float(scores.min()), float(scores.max())):
        return "tied", f"the layers are tied: all scores are {float(scores[0]):.3g}"
    if selection == "threshold":
        return (
            ("selected", "threshold (Eq. 10)")
            if kept and rest
            else ("tied", f"the layers are tied: Eq. 10 keeps {len(kept)} of {len(scores)}")
        )
    if rest and _equal(float(scores[list(kept)].min()), float(scores[rest].max())):
        return "tied", f"the layers are tied at the cut after {len(kept)}"
    return "selected", f"top-{len(kept)}"


def _equal(a: float, b: float) -> bool:
    return abs(a - b) <= SCORE_TIE * max(abs(a), abs(b))


def _cut(
    weights: Tensor, selection: str, top_k: int, by: Tensor | None = None
) -> tuple[tuple[int, ...], float]:
    """(layers kept, margin); the highest are those of ``by``, where rounding may have made weights
    equal.
    """
    layers = len(weights)
    if selection == "threshold":
        distance = weights - 1 / layers
        return tuple(torch.nonzero(distance > 0).flatten().tolist()), float(distance.abs().min())
    if selection != "top-k":
        raise ValueError(f"unknown selection {selection!r}; known: threshold, top-k")
    if not 1 <= top_k <= layers:
        raise ValueError(f"top_k = {top_k}: from 1 to {layers}, the number of layers")
    order = torch.argsort(weights if by is None else by, descending=True, stable=True)
    ordered = weights[order]
    following = float(ordered[top_k]) if top_k < layers else 0.0
    return tuple(sorted(order[:top_k].tolist())), float(ordered[top_k - 1]) - following


def _judge(
    alpha: Tensor,
    scores: Tensor,
    kept: tuple[int, ...],
    selection: str,
    margin: float,
    reach: float,
) -> tuple[str, str]:
    """(status, reason in words)."""
    gone, moved = float((alpha < COLLAPSED_BELOW).double().mean()), movement(alpha)
    if gone > COLLAPSED_SHARE:
        return "collapsed", f"alpha collapsed: {gone:.0%} of the pairs are below {COLLAPSED_BELOW}"
    if moved < HARDLY * reach:
        return "tied", f"alpha hardly moved (mean |1 - alpha| = {moved:.2g})"
    spread = float(scores.max() - scores.min())
    if len(scores) > 1 and spread < TIE_SPREAD:
        return "tied", f"the layers are tied: alpha^l spreads over {spread:.2g}, below {TIE_SPREAD}"
    if selection == "threshold":
        if len(kept) in (0, len(scores)):
            return "tied", f"the layers are tied: Eq. 10 keeps {len(kept)} of {len(scores)}"
        return "selected", "threshold (Eq. 10)"
    if margin < TIE_GAP:
        return "tied", f"the layers are tied at the cut after {len(kept)}"
    return "selected", f"top-{len(kept)}"
