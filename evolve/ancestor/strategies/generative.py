"""Generative replay: a variational autoencoder stands in for earlier tasks' images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from avalanche.models.generator import MlpVAE, VAE_loss
from avalanche.training.plugins import GenerativeReplayPlugin
from avalanche.training.supervised import VAETraining
from torch import Tensor

from evolve.ancestor.strategies.template import ResidentStrategy, State, Stored, no_evaluator
from evolve.core.randomness import derive_seed, isolated_rng


class GenerativeReplay(Stored, GenerativeReplayPlugin):
    """Avalanche's generative replay with its fully connected VAE.

    A batch is joined by as many generated images, labelled by the last task's ancestor. The
    generator learns each task after the ancestor, with replay of its own, for ``ancestor.epochs``.
    Avalanche's decoder ends in MNIST's normalisation; here it ends in that of the images.
    """

    generator_strategy: Any

    def __init__(self, nhid: int, lr: float, increasing_replay_size: bool) -> None:
        super().__init__(increasing_replay_size=increasing_replay_size)
        self.nhid, self.lr = nhid, lr

    def attach(self, strategy: ResidentStrategy) -> None:
        """Make the generator and the strategy that trains it."""
        resident, a = strategy.resident, strategy.a
        with isolated_rng(derive_seed(strategy.seed, "ancestor", "generator")):
            self.generator = MlpVAE(
                (3, resident.size, resident.size), self.nhid, device=strategy.device
            ).to(strategy.device)
        self.generator.decoder.invTrans = lambda images: (images - resident.mean) / resident.std
        self.inner = GenerativeReplayPlugin(increasing_replay_size=self.increasing_replay_size)
        self.generator_strategy = VAETraining(
            model=self.generator,
            # The decay is Avalanche's.
            optimizer=torch.optim.Adam(self.generator.parameters(), lr=self.lr, weight_decay=1e-4),
            criterion=VAE_loss,
            train_mb_size=a.batch,
            train_epochs=a.epochs,
            device=strategy.device,
            plugins=[self.inner],
            evaluator=no_evaluator(),
        )

    def before_training_exp(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        # Avalanche replays by this number, where the amount increases.
        """Tell Avalanche how many images are replayed."""
        strategy.experience.current_experience = strategy.task - 1
        super().before_training_exp(strategy, **kwargs)

    def after_training_exp(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        """Train the generator on the task."""
        rest = len(strategy.experience.dataset) % strategy.train_mb_size
        # A last batch of one image is dropped: BN needs two.
        self.generator_strategy.train(
            strategy.experience, eval_streams=[], reset_optimizer_state=True, drop_last=rest == 1
        )
        super().after_training_exp(strategy, **kwargs)

    def state(self) -> State:
        """The generator's state dict."""
        return dict(self.generator.state_dict()), {}

    def restore(
        self, tensors: Mapping[str, Tensor], meta: Mapping[str, Any], strategy: ResidentStrategy
    ) -> None:
        """Take up what :meth:`state` returned, see :meth:`Stored.restore`."""
        self.generator.load_state_dict(tensors)
        self.untrained_solver = self.inner.untrained_solver = False
