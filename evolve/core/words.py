"""Names that stages, results and reports share."""

PAPERS = "paper's descendant"
WHOLE = "whole ancestor"
"""Architectures that have a from-scratch control of their own.

The second is also what condenser "trial" always tries: every layer inherited, extras too, as
control full-ancestor does.
"""
