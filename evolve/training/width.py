"""How many descendants pass at once on a CPU. Needs no torch, so that a process that only plans starts fast."""

from __future__ import annotations

from evolve.networks.architecture import Architecture
from evolve.networks.plan import Plan, VggPlan

SMALL = 64
"""Channels up to which descendants share one pass: there it is 1.5 times as fast; above, their maps drive each other out of the cache."""


def together(plan: Plan | Architecture, members: int) -> int:
    """How many of ``members`` descendants of ``plan`` pass at once: all or one, by the plan alone. Only VGGs share passes."""
    if not isinstance(plan, (tuple, VggPlan)):
        return 1
    return members if max(spec.c_out for block in plan for spec in block) <= SMALL else 1
