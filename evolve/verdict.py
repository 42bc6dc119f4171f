"""What a lineage's numbers support, in plain words, with the effect that could have been seen (SPEC 8)."""

from __future__ import annotations

import math

from evolve.curves import SEEDS_WANTED, Summary
from evolve.trends import LEAST_POINTS, RANKED_POINTS, Trend


def verdict(summary: Summary) -> str:
    """What the data support, in plain words, with the effect size that could have been seen."""
    if len(summary.lengths) < LEAST_POINTS:
        return f"Too few generations for a trend: {len(summary.lengths)} measured, at least {LEAST_POINTS} needed.{_few_seeds(summary)}"
    accuracy, gain = _slope(summary.accuracy), _slope(summary.gain)
    if math.isnan(summary.gain.slope):
        return (
            f"Accuracy changes by {accuracy} with lineage length. The from-scratch control was off (controls.from_scratch), "
            f"so the data cannot say whether what is inherited gets better.{_few_seeds(summary)}"
        )
    rises, falls = summary.accuracy.rises and summary.gain.rises, summary.accuracy.falls and summary.gain.falls
    if (rises or falls) and len(summary.seeds) < SEEDS_WANTED:
        return _trend_of_few(summary, "rise" if rises else "fall", f"accuracy {accuracy}, gain over from-scratch {gain}") + _diverged(summary)
    if rises:
        text = f"The data support a rise with lineage length: accuracy {accuracy}, gain over from-scratch {gain}."
    elif falls:
        text = f"The data support a fall with lineage length, not a rise: accuracy {accuracy}, gain over from-scratch {gain}."
    else:
        text = f"The data do not support a rise with lineage length: {_halfway(summary)}accuracy {accuracy}, gain over from-scratch {gain}."
        text += _resolution(summary.gain)
    return text + _few_seeds(summary) + _diverged(summary)


def _trend_of_few(summary: Summary, verb: str, numbers: str) -> str:
    """Simulated random-walk drift without a trend passes both tests for a rise in 37 % of single lineages, 19 % of pairs, 10 % of threes."""
    count = len(summary.seeds)
    who = f"The curve of this one lineage {verb}s" if count == 1 else f"The curves of these {count} lineages {verb}"
    share = {1: "more than a third", 2: "about one in five", 3: "about one in ten"}.get(count, "about one in twenty")
    return (
        f"{who} with length: {numbers}. That is not yet evidence that longer lineages are {'better' if verb == 'rise' else 'worse'}: {share} "
        f"of such samples {verb} as much by the drift of their ancestors alone; pool {SEEDS_WANTED} seeds with `evolve summary`."
    )


def _diverged(summary: Summary) -> str:
    if not summary.diverged:
        return ""
    who = "1 descendant" if summary.diverged == 1 else f"{summary.diverged} descendants"
    return f" {who} diverged (the loss was not finite): such an accuracy is chance and stands in the means; lower descend.lr."


def gain_sentence(summary: Summary) -> str:
    """Inheriting against from-scratch, averaged over the lineage."""
    effect = summary.effect("from-scratch")
    if effect is None:
        return "The from-scratch control was off: no gain." if summary.measured else "No generation has been measured yet."
    interval = effect.interval
    start = f"Inheriting gives {interval.mean:+.2f} points over from-scratch"
    if math.isnan(interval.low):
        return f"{start} (one pair: no interval)."
    held = "above" if interval.low > 0 else "below" if interval.high < 0 else "not distinguishable from"
    return f"{start} [{interval.low:+.2f}, {interval.high:+.2f}] ({interval.n} pairs), {held} 0."


def _slope(t: Trend) -> str:
    start = f"{t.slope:+.2f} points per 10 tasks"
    bounds = "no interval" if math.isnan(t.low) else f"95 % {t.low:+.2f} to {t.high:+.2f}"
    p = "p < 0.001" if t.p < 0.001 else f"p {t.p:.2g}"
    order = "constant" if math.isnan(t.rho) else f"rho {t.rho:+.2f}, {p}"
    return f"{start} ({bounds}; {order})"


def _halfway(summary: Summary) -> str:
    if summary.accuracy.rises:
        return "accuracy rises, but the gain over from-scratch of the same architectures is not shown to; "
    if summary.gain.rises:
        return "the gain over from-scratch rises, but accuracy itself is not shown to; "
    return ""


def _resolution(t: Trend) -> str:
    if t.points < RANKED_POINTS:
        return f" {t.points} generations are too few for the rank test: it cannot reach p < 0.05."
    if math.isnan(t.resolvable):
        return " One task gives no interval, so no effect could have been resolved."
    return f" A change of the gain below about {t.resolvable:.2f} points per 10 tasks could easily have been missed."


def _few_seeds(summary: Summary) -> str:
    """Simulated lineages without a trend whose ancestors drift (random walks) were called a rise in 20 % of trials
    with two seeds, 10 % with three, 3 % with five."""
    if len(summary.seeds) == 1:
        return " This is one lineage (one seed): it cannot speak for others, nor tell a trend from the drift of this ancestor."
    if len(summary.seeds) < SEEDS_WANTED:
        return f" {len(summary.seeds)} seeds are few: chance drift of their ancestors can look like a trend; use {SEEDS_WANTED}."
    return ""
