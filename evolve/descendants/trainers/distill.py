"""Feature distillation (paper, Table II).

A descendant from scratch is also held to what the ancestor's layers put out.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from evolve.core.errors import UserError
from evolve.descendants.trainers.group import Group
from evolve.descendants.trainers.plain import PlainTrainer
from evolve.networks.architecture import Mixture
from evolve.networks.network import Network


@dataclass(frozen=True)
class Teacher:
    """The ancestor, frozen and in eval mode, on the descendants' device and in their dtype.

    ``weight`` multiplies its hints.
    """

    ancestor: Network
    weight: float


class DistillTrainer(PlainTrainer):
    """A :class:`evolve.descendants.trainers.group.Trainer` whose models descend

        cross-entropy + weight * sum over positions of mean((z - Z)^2)

    A position is an integral layer that the model's architecture would inherit; z is its feature, Z
    the ancestor's, on the same augmented batch, at the layer that it would inherit (of a mixture:
    the features in the mixture's shares). These are the hints of FitNets (Romero et al., arXiv
    1412.6550) at every position and in every step, without its regressor: a layer that could be
    inherited puts out as many channels. The training loss that it reports is the whole sum.

    Args:
        models: the group's.
        group: their tasks, images and settings.
        teacher: the ancestor.

    Raises:
        UserError: a feature and its hint differ in shape.
    """

    def __init__(self, models: Sequence[Network], group: Group, teacher: Teacher) -> None:
        super().__init__(models, group)
        self.teacher = teacher
        self.positions = [positions(model) for model in models]

    def loss(self, member: int, images: Tensor, labels: Tensor) -> Tensor:
        """What the member descends: the whole sum.

        Args:
            member: its place in the group.
            images: [B, 3, S, S].
            labels: [B].
        """
        mixtures = self.positions[member]
        logits, felt = listened(self.models[member], mixtures, images)
        return F.cross_entropy(logits, labels) + self.teacher.weight * gap(
            felt, self._hints(mixtures, images)
        )

    @torch.no_grad()
    def _hints(self, mixtures: dict[str, Mixture], images: Tensor) -> dict[str, Tensor]:
        """Z of every position."""
        ancestor = self.teacher.ancestor
        shown = dict(zip(ancestor.architecture.layer_names, ancestor.features(images), strict=True))
        return {
            name: torch.stack([share * shown[given] for given, share in mixture.items()]).sum(0)
            for name, mixture in mixtures.items()
        }


def positions(model: Network) -> dict[str, Mixture]:
    """The integral layers that an architecture would inherit, and what; the extras have no feature.

    Args:
        model: a network of the architecture.
    """
    given = model.architecture.inherits()
    return {name: given[name] for name in model.architecture.layer_names if name in given}


def listened(
    model: Network, names: Iterable[str], images: Tensor
) -> tuple[Tensor, dict[str, Tensor]]:
    """What layers put out in one forward pass: two would move BN's statistics twice.

    Args:
        model: the network.
        names: the layers'.
        images: [B, 3, S, S].

    Returns:
        (logits, features by name).
    """
    felt: dict[str, Tensor] = {}

    def hear(name: str) -> torch.utils.hooks.RemovableHandle:
        def keep(module: nn.Module, arguments: object, output: Tensor) -> None:
            felt[name] = output

        return model.layers[name].register_forward_hook(keep)

    handles = [hear(name) for name in names]
    try:
        logits: Tensor = model(images)
    finally:
        for handle in handles:
            handle.remove()
    return logits, felt


def gap(felt: dict[str, Tensor], hints: dict[str, Tensor]) -> Tensor:
    """Sum over the positions of mean((z - Z)^2); 0 without positions.

    Args:
        felt: the model's features, by position.
        hints: the ancestor's.

    Raises:
        UserError: a feature and its hint differ in shape.
    """
    for name, hint in hints.items():
        shape = tuple(felt[name].shape[1:]) if name in felt else None
        if shape != tuple(hint.shape[1:]):
            raise UserError(
                f"controls.distilled: layer {name} puts out {shape}, "
                f"its hint is {tuple(hint.shape[1:])}; this network or inheritor cannot be "
                "distilled, set controls.distilled = 0"
            )
    return sum((F.mse_loss(felt[name], hint) for name, hint in hints.items()), torch.zeros(()))
