"""Fisher sensitivity: how much the ancestor's own predictions depend on each layer's weights.

    s^l = sum over the layer's parameters of  F_i theta_i^2
    F_i = mean over images of ( d log p(y | x) / d theta_i )^2,  y ~ p(. | x)

F is the diagonal of the Fisher information (Kirkpatrick et al. 2017, "Overcoming catastrophic
forgetting"). As its definition says, labels are drawn from the model and not taken from the data.
To second order F theta^2 / 2 is the loss of leaving a weight out (LeCun et al. 1990, "Optimal brain
damage"; Theis et al. 2018, "Faster gaze prediction with dense networks and Fisher pruning"). BN
lets a layer's weights be any multiple of themselves. F alone would change with that multiple; F
theta^2 does not.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call, grad, vmap

from evolve.condensers.batches import evenly
from evolve.condensers.interface import Condensed, Request, ancestor_diverged, scored
from evolve.core.randomness import generator
from evolve.data.resident import Resident
from evolve.networks.architecture import Groups
from evolve.networks.network import Network

IMAGES = 512
"""Meta images that are averaged over, at most."""
CHUNK = 64
"""Images whose gradients are taken at a time, at most,"""
NUMBERS = 2**25
"""and so many numbers in those gradients together."""


def fisher(request: Request) -> Condensed:
    """Keep the ``condense.top_k`` layers with the highest sensitivity on the meta images.

    Alpha is the sensitivity [L, 1]. Labels are among the classes of the ancestor's head, whatever
    the images show; where there is a head a task, they are among the first one's.

    Args:
        request: the condensation to do.

    Raises:
        UserError: the ancestor diverged.
    """
    index = evenly(request.split.meta, IMAGES)
    model, total = request.ancestor(), torch.zeros(len(request.groups), dtype=torch.float64)
    for module in model.modules():
        if hasattr(module, "fused_attn"):  # timm's: vmap knows only the plain formula
            module.fused_attn = False  # type: ignore[assignment]
    labels = drawn_labels(model, request.resident, index, generator(request.seed, "fisher-labels"))
    size = max(1, min(CHUNK, NUMBERS // sum(p.numel() for p in model.layers.parameters())))
    for number, (part, label) in enumerate(zip(index.split(size), labels.split(size), strict=True)):
        request.progress(number * size / len(index), f"image {number * size + 1} of {len(index)}")
        total += sensitivity(model, request.groups, request.resident.batch(part), label)
    return scored(request, (total / len(index))[:, None], {}, "top-k")


@torch.no_grad()
def drawn_labels(
    model: Network, resident: Resident, index: Tensor, draws: torch.Generator
) -> Tensor:
    """Draw a label for each image from the model's own prediction.

    Args:
        model: the ancestor.
        resident: the images.
        index: image indices [N].
        draws: the generator of the draws.

    Returns:
        Labels [N], int64, on the Resident's device.

    Raises:
        UserError: a prediction is not finite.
    """
    chances = torch.cat(
        [model(resident.batch(part)).double().softmax(1).cpu() for part in index.split(CHUNK)]
    )
    if not torch.isfinite(chances).all():
        raise ancestor_diverged("predictions")
    return torch.multinomial(chances, 1, generator=draws)[:, 0].to(resident.device)


def sensitivity(model: Network, groups: Groups, images: Tensor, labels: Tensor) -> Tensor:
    """Sum ( d log p(label) / d theta_i * theta_i )^2 over images and each group's parameters.

    Args:
        model: the ancestor; its mode is kept.
        groups: L groups of layers.
        images: [B, 3, H, W].
        labels: [B], int64.

    Returns:
        [L], float64, on the CPU.
    """
    owner = {layer: place for place, group in enumerate(groups) for layer in group}
    theta = {
        name: p.detach()
        for name, p in model.named_parameters()
        if name.startswith("layers.") and name.split(".")[1] in owner
    }

    def log_likelihood(theta: dict[str, Tensor], image: Tensor, label: Tensor) -> Tensor:
        return -F.cross_entropy(functional_call(model, theta, (image[None],)), label[None])

    gradients = vmap(grad(log_likelihood), in_dims=(None, 0, 0))(theta, images, labels)
    sums = torch.zeros(len(groups), dtype=torch.float64)
    for name, gradient in gradients.items():
        sums[owner[name.split(".")[1]]] += (
            torch.linalg.vector_norm(gradient * theta[name], dtype=torch.float64).square().cpu()
        )
    return sums
