"""Grad-CAM: which places of an image a layer's evidence for a class comes from.

Selvaraju et al., "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization"
(ICCV 2017), by Captum (https://captum.ai).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from evolve.core.errors import UserError
from evolve.networks.network import Network

BATCH = 64


class Grid(nn.Module):
    """A LayerNorm whose patch tokens pass ``maps`` as maps [B, D, h, w], without the class token.

    A ViT's tokens are looked at where a block's attention reads them. What a block puts out is no
    place for it: behind the last block only the class token is read, so the others have no
    gradient.
    """

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm, self.maps = norm, nn.Identity()

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens [B, T, D], the class token first -> the same, normalised."""
        normed = self.norm(tokens)
        side = math.isqrt(normed.shape[1] - 1)
        maps = self.maps(normed[:, 1:].transpose(1, 2).unflatten(2, (side, side)))
        return torch.cat([normed[:, :1], maps.flatten(2).transpose(1, 2)], 1)


def grad_cam(model: Network, layer: str, images: Tensor, targets: Tensor) -> Tensor:
    """Grad-CAM's maps: max(0, sum over channels of (mean gradient of the logit) * activation).

    Args:
        model: the network, in eval mode.
        layer: an integral layer. Its output is read; of a ViT's block what its attention reads, see
            :class:`Grid`.
        images: normalised, [B, 3, H, W].
        targets: the class of each image, int64 [B].

    Returns:
        [B, h, w], not negative, in the layer's own resolution.

    Raises:
        UserError: Captum is not installed.
    """
    attribute = captum().LayerGradCam(model, _maps(model, layer)).attribute
    parts = [
        attribute(part, target, relu_attributions=True).detach()[:, 0]
        for part, target in zip(images.split(BATCH), targets.split(BATCH), strict=True)
    ]
    return torch.cat(parts)


def captum() -> Any:
    """Captum's attribution methods.

    Raises:
        UserError: it is not installed.
    """
    try:
        import captum.attr
    except ModuleNotFoundError:
        raise UserError(
            "evolve explain needs captum: pip install -e '.[explain]' in evolve's folder, or "
            "pip install captum"
        ) from None
    return captum.attr


def _maps(model: Network, layer: str) -> nn.Module:
    """The module that puts out a layer's maps [B, C, h, w]."""
    module = model.layers[layer]
    norm = getattr(module, "norm1", None)  # of timm's encoder blocks
    if norm is None:
        return module
    if not isinstance(norm, Grid):
        norm = module.norm1 = Grid(norm)
    return norm.maps


@torch.no_grad()
def map_sides(model: Network, size: int) -> dict[str, int]:
    """How many pixels a side of each integral layer's maps has.

    Args:
        model: the network.
        size: pixels a side of the images.
    """
    parameter = next(model.parameters())
    outputs = model.features(parameter.new_zeros(1, 3, size, size))
    sides = [out.shape[-1] if out.ndim == 4 else math.isqrt(out.shape[1] - 1) for out in outputs]
    return dict(zip(model.architecture.layer_names, sides, strict=True))
