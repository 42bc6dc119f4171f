"""Where an interrupted meta-training goes on.

Every draw follows from an episode's or epoch's number. So weights, optimizer and number are enough.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from evolve.networks.optimizers import restore_state, state_of

if TYPE_CHECKING:
    from evolve.engine.checkpoint import Checkpoint


@dataclass(frozen=True)
class Phase:
    """A stretch of ``steps`` steps (or epochs).

    ``state`` holds all tensors that it changes, by name, as they are in use: they are read and
    written in place.
    """

    name: str
    steps: int
    state: Mapping[str, Tensor]
    optimizer: torch.optim.Optimizer | None = None

    def optimized(self) -> dict[str, Tensor]:
        """The optimizer's parameters by their place."""
        return (
            {str(place): p for place, p in enumerate(self.optimizer.param_groups[0]["params"])}
            if self.optimizer
            else {}
        )


class Course:
    """A meta-training's way through its phases, one after another, in a checkpoint.

    A finished phase's tensors stay beside those of the phase under way, which may build on them
    without changing them (MTL). The checkpoint is a :class:`evolve.engine.checkpoint.Checkpoint`.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint
        self._tensors, meta = checkpoint.load() or ({}, {})
        self._done: dict[str, int] = meta.get("done", {})

    def resume(self, phase: Phase) -> tuple[int, Tensor]:
        """Put what was kept of ``phase`` into its tensors and optimizer.

        Returns:
            Its next step, and its losses, float64 [steps], of which those before that step are
            filled.
        """
        losses, done = torch.zeros(phase.steps, dtype=torch.float64), self._done.get(phase.name, 0)
        if done:
            with torch.no_grad():
                for name, tensor in self._kept(phase, "state").items():
                    phase.state[name].copy_(tensor)
            losses[:done] = self._kept(phase, "losses")[""]
            if phase.optimizer:
                restore_state(phase.optimizer, phase.optimized(), self._kept(phase, "optimizer"))
        return done, losses

    def keep(self, phase: Phase, done: int, losses: Tensor) -> None:
        """Keep a phase.

        Args:
            phase: what is under way.
            done: how many of its steps are done.
            losses: its losses, float64 [steps].
        """
        held = {f"{phase.name}.state.{name}": tensor for name, tensor in phase.state.items()} | {
            f"{phase.name}.losses.": losses[:done]
        }
        if done == phase.steps:
            # what comes next may go on with these very tensors, and needs no optimizer of the past
            self._tensors = {
                key: tensor
                for key, tensor in self._tensors.items()
                if not key.startswith(f"{phase.name}.")
            }
            self._tensors |= {key: tensor.detach().clone() for key, tensor in held.items()}
            self._done[phase.name] = done
        elif phase.optimizer:
            held |= {
                f"{phase.name}.optimizer.{key}": tensor
                for key, tensor in state_of(phase.optimizer, phase.optimized()).items()
            }
        self._checkpoint.save(self._tensors | held, {"done": self._done | {phase.name: done}})

    def _kept(self, phase: Phase, part: str) -> dict[str, Tensor]:
        start = f"{phase.name}.{part}."
        return {
            key.removeprefix(start): tensor
            for key, tensor in self._tensors.items()
            if key.startswith(start)
        }
