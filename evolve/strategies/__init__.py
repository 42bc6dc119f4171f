"""Avalanche's strategies over resident images, with a state that can be stored as tensors.

Importing this imports Avalanche: call :func:`evolve.data.streams.load_avalanche` first, as ``ancestor`` does.
The algorithms are Avalanche's. What is added here: batches by slicing instead of a DataLoader, a generator for every
draw, a loop that can start at any epoch, and ``state``/``restore`` so that the next task may run in another process.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from evolve.strategies.loader import ResidentLoader, batches
from evolve.strategies.regularisers import EWC, SI, LwF
from evolve.strategies.rehearsal import Replay
from evolve.strategies.template import MultiHeadAncestor, ResidentStrategy, State, learning_rate

PLUGINS: dict[str, Callable[..., Any]] = {"ewc": EWC, "si": SI, "lwf": LwF, "replay": Replay}

__all__ = ["PLUGINS", "EWC", "SI", "LwF", "MultiHeadAncestor", "Replay", "ResidentLoader", "ResidentStrategy", "State", "batches", "learning_rate"]
