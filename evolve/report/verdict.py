"""What a lineage's numbers support, in plain words, with the effect that would have been seen.

One test decides: the interval of the slope of the paired gain over from-scratch
(:func:`evolve.report.trends.trend`). Every other number only describes.
"""

from __future__ import annotations

import math

from evolve.report.curves import Interval, Summary
from evolve.report.trends import LEAST_POINTS, SEEDS_AS_UNITS, Trend, side


def verdict(summary: Summary) -> str:
    """What the data support, in plain words, with the effect that they could resolve.

    Args:
        summary: one run, or several seeds pooled.
    """
    if len(summary.lengths) < LEAST_POINTS:
        count = len(summary.lengths)
        start = (
            f"Too few generations for a trend: {count} measured, at least {LEAST_POINTS} needed."
        )
    elif math.isnan(summary.gain.slope):
        start = (
            f"Accuracy changes by {slope_words(summary.accuracy)} with lineage length. "
            "The from-scratch control was off "
            "(controls.from_scratch), so the data cannot say whether what is inherited gets better."
        )
    else:
        start = _of_gain(summary)
    return start + _few_seeds(summary) + _diverged(summary)


def finding(summary: Summary, length: int, last: Interval | None) -> str:
    """The title of the evolution curve: what was gained at the end, and the trend.

    Args:
        summary: one run, or several seeds pooled.
        length: the last lineage length.
        last: the gain over from-scratch there, in points; None where that control was off.
    """
    if last is None:
        return "The evolution curve, without a from-scratch control"
    after = "" if summary.tasks == 0 else f" after {length} task{'s' if length > 1 else ''}"
    start = _gained(last) + after
    if math.isnan(summary.gain.slope) or len(summary.lengths) < LEAST_POINTS:
        return start
    gain = summary.gain
    if gain.rises or gain.falls:
        return f"{start}; {'rising' if gain.rises else 'falling'} with lineage length"
    return f"{start}; no trend shown"


def _gained(gain: Interval) -> str:
    if gain.high < 0:
        return f"Inheriting loses {-gain.mean:.1f} points [{-gain.high:.1f}, {-gain.low:.1f}]"
    bounds = "" if math.isnan(gain.low) else f" [{gain.low:+.1f}, {gain.high:+.1f}]"
    shown = "No gain shown:" if gain.low <= 0 <= gain.high else "Inheriting gains"
    return f"{shown} {gain.mean:+.1f} points{bounds}"


def slope_words(t: Trend) -> str:
    """A slope with its interval, in words.

    An example: "+2.31 points per doubling of length (95 % +0.52 to +4.10)".
    """
    bounds = "no interval" if math.isnan(t.low) else f"95 % {t.low:+.2f} to {t.high:+.2f}"
    return f"{t.slope:+.2f} {t.unit} ({bounds})"


def _of_gain(summary: Summary) -> str:
    gain = summary.gain
    numbers = (
        f"gain over from-scratch {slope_words(gain)}, accuracy {slope_words(summary.accuracy)}"
    )
    if gain.rises:
        return f"The data support a rise of the gain with lineage length: {numbers}."
    if gain.falls:
        return f"The data support a fall of the gain with lineage length, not a rise: {numbers}."
    return (
        "The data do not support a rise with lineage length: "
        f"{_halfway(summary)}{numbers}.{_resolution(gain)}"
    )


def _halfway(summary: Summary) -> str:
    if summary.accuracy.rises:
        return (
            "accuracy rises, but the gain over from-scratch of the same architectures is not "
            "shown to; "
        )
    return ""


def _resolution(t: Trend) -> str:
    if math.isnan(t.resolvable):
        return " Without spread there is no interval, so no effect could have been resolved."
    return (
        f" A change of the gain of {t.resolvable:.2f} {t.unit} would have been found 8 times in 10."
    )


def _few_seeds(summary: Summary) -> str:
    count = len(summary.seeds)
    if count >= SEEDS_AS_UNITS:
        return ""
    start = (
        "This is one lineage (one seed): it speaks"
        if count == 1
        else f"These are {count} seeds: they speak"
    )
    which = "this ancestor and its" if count == 1 else "these ancestors and their"
    return (
        f" {start} of {which} tasks alone; pool {SEEDS_AS_UNITS} seeds or more with `evolve "
        "summary`."
    )


def _diverged(summary: Summary) -> str:
    if not summary.diverged:
        return ""
    who = "1 descendant" if summary.diverged == 1 else f"{summary.diverged} descendants"
    return (
        f" {who} diverged (the loss was not finite): such an accuracy is chance and stands in the "
        "means; lower descend.lr."
    )


def gain_sentence(summary: Summary) -> str:
    """Inheriting against from-scratch, averaged over the lineage."""
    effect = summary.effect("from-scratch")
    if effect is None:
        return (
            "The from-scratch control was off: no gain."
            if summary.measured
            else "No generation has been measured yet."
        )
    interval = effect.interval
    start = f"Inheriting gives {interval.mean:+.2f} points over from-scratch"
    if math.isnan(interval.low):
        return f"{start} (one pair: no interval)."
    held = ("not distinguishable from", "above", "below")[side(interval.low, interval.high)]
    return f"{start} [{interval.low:+.2f}, {interval.high:+.2f}] ({interval.n} pairs), {held} 0."
