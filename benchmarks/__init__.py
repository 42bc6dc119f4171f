"""Measurements of `evolve` against what a user would otherwise run.

Installed as ``evolve.benchmarks``.
"""
