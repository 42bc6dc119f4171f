"""Condensers that decide without looking: what the others have to beat."""

from __future__ import annotations

from evolve.condensers.interface import Condensed, Request, fixed_condensation


def fixed(request: Request) -> Condensed:
    """The layers of ``condense.fixed_set``, or those numbered in ``condense.fixed``."""
    return fixed_condensation(request, "fixed set")
