"""Strategies that turn a step's gradient until it hurts no earlier task's images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from avalanche.models.utils import avalanche_forward
from avalanche.training.plugins import AGEMPlugin, GEMPlugin
from scipy.optimize import nnls
from torch import Tensor

from evolve.ancestor.strategies.loader import Rows, rows_of
from evolve.ancestor.strategies.template import ResidentStrategy, State, Stored


class Patterns(Stored):
    """``patterns``: for every task some of its images, drawn once at its end."""

    patterns_per_experience: int

    def attach(self, strategy: ResidentStrategy) -> None:
        """Start without any."""
        self.patterns: list[Rows] = []

    def state(self) -> State:
        """The patterns of every task, int64 [n] each."""
        tensors = {
            f"{task}.{name}": part
            for task, rows in enumerate(self.patterns)
            for name, part in zip(("index", "label", "task"), rows, strict=True)
        }
        return tensors, {"tasks": len(self.patterns)}

    def restore(
        self, tensors: Mapping[str, Tensor], meta: Mapping[str, Any], strategy: ResidentStrategy
    ) -> None:
        """Take up what :meth:`state` returned, see :meth:`Stored.restore`."""
        for task in range(meta["tasks"]):
            index, label, head = (tensors[f"{task}.{name}"] for name in ("index", "label", "task"))
            self.patterns.append((index, label, head))

    def after_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        """Keep as many images as Avalanche keeps, drawn as it draws them: without repeats, of any
        class.
        """
        index, label, task = rows_of(strategy.experience.dataset)
        kept = torch.randperm(len(index))[: self.patterns_per_experience]
        self.patterns.append((index[kept], label[kept], task[kept]))


class GEM(Patterns, GEMPlugin):
    """Avalanche's Gradient Episodic Memory.

    Its quadratic programme is solved by non-negative least squares (scipy) instead of a solver
    package that Avalanche only suggests. Images are gathered when needed; Avalanche keeps them.
    Holds one gradient a task: tasks x parameters floats.
    """

    def before_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        """Gather the images of all patterns."""
        for task, (index, label, head) in enumerate(self.patterns):
            self.memory_x[task] = strategy.resident.batch(index)
            self.memory_y[task], self.memory_tid[task] = label, head.to(strategy.device)

    def solve_quadprog(self, g: Tensor) -> Tensor:
        """Solve GEM's quadratic programme (Eq. 11).

        It is min_v |M'v + g|^2 / 2 (+ 1e-3 |v|^2 / 2) with v >= memory_strength. With P = MM' +
        1e-3 = LL' and v = strength + u that is min |L'u + L^-1 (Mg + P strength)|^2 over u >= 0.

        Args:
            g: the step's gradient, [parameters].

        Returns:
            M'v + g, the new gradient, [parameters].
        """
        memories, gradient = self.G.cpu().double().numpy(), g.cpu().double().numpy()
        product = memories @ memories.T + 1e-3 * np.eye(len(memories))
        least = np.full(len(memories), float(self.memory_strength))
        lower = np.linalg.cholesky(product)
        above, _ = nnls(lower.T, -np.linalg.solve(lower, memories @ gradient + product @ least))
        return torch.from_numpy((least + above) @ memories + gradient).float()


class AGEM(Patterns, AGEMPlugin):
    """Avalanche's Averaged GEM.

    The reference gradient is that of a fresh sample of all tasks' patterns, equally many of each
    task. Avalanche 0.6 takes gradients for contiguous tensors, which those of weights in
    channels_last are not; the two hooks that do are written anew.
    """

    def before_training_epoch(self, strategy: Any, **kwargs: Any) -> None:
        """Begin to draw samples of the patterns."""
        self.buffers = self.patterns  # Avalanche asks whether there are any
        each = max(1, self.sample_size // max(1, len(self.patterns)))
        streams = [
            strategy.remembered(rows, each, f"ancestor-memory-{task}")
            for task, rows in enumerate(self.patterns)
        ]
        parts = zip(*streams, strict=True)
        self.buffer_dliter = (
            [torch.cat(columns) for columns in zip(*step, strict=True)][:3] for step in parts
        )

    def before_training_iteration(self, strategy: Any, **kwargs: Any) -> None:
        """Take the reference gradient of a sample."""
        if self.patterns:
            strategy.optimizer.zero_grad()
            images, labels, task = self.sample_from_memory()
            strategy._criterion(avalanche_forward(strategy.model, images, task), labels).backward()
            self.reference_gradients = _gradient(strategy.model)

    @torch.no_grad()
    def after_backward(self, strategy: Any, **kwargs: Any) -> None:
        """Turn the step's gradient g where it is against the reference r: g - r (g.r) / (r.r)."""
        if not self.patterns:
            return
        gradient = _gradient(strategy.model)
        along = torch.dot(gradient, self.reference_gradients)
        if along < 0:
            gradient = gradient - self.reference_gradients * (
                along / torch.dot(self.reference_gradients, self.reference_gradients)
            )
            parameters = list(strategy.model.parameters())
            for parameter, part in zip(
                parameters,
                gradient.split([parameter.numel() for parameter in parameters]),
                strict=True,
            ):
                if parameter.grad is not None:
                    parameter.grad.copy_(part.view_as(parameter))


def _gradient(model: Any) -> Tensor:
    """All parameters' gradients as one vector; zero where there is none (other tasks' heads)."""
    parts = [
        torch.zeros_like(parameter).flatten()
        if parameter.grad is None
        else parameter.grad.flatten()
        for parameter in model.parameters()
    ]
    return torch.cat(parts)
