"""Grad-CAM by Captum, held to the formula of Selvaraju et al. written out."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from evolve.networks.family import architecture
from evolve.networks.gradcam import grad_cam, map_sides
from evolve.networks.network import Network

pytest.importorskip("captum")

SIZE = 16


def network(name: str, width: float) -> Network:
    """In eval mode and float64, its BN statistics those of some images."""
    draw = torch.Generator().manual_seed(1)
    model = architecture(name, width, SIZE).build(5).double()
    with torch.no_grad():
        model.train()(torch.randn(16, 3, SIZE, SIZE, generator=draw, dtype=torch.float64))
        model.head.weight.copy_(torch.randn(model.head.weight.shape, generator=draw))
    return model.eval()


def written_out(model: Network, layer: str, images: Tensor, targets: Tensor) -> Tensor:
    """max(0, sum_k mean_ij(dy/dA_kij) A_k); a ViT's A: what the block's attention reads of its
    patches, as maps.
    """
    block, seen = model.layers[layer], list[Tensor]()
    tokens = hasattr(block, "norm1")
    (block.norm1 if tokens else block).register_forward_hook(lambda _, __, out: seen.append(out))
    logits = model(images)[torch.arange(len(images)), targets]
    (slopes,) = torch.autograd.grad(logits.sum(), seen)
    maps = seen[0]
    if tokens:
        side = SIZE // 4
        maps, slopes = (
            t[:, 1:].reshape(len(t), side, side, -1).permute(0, 3, 1, 2) for t in (maps, slopes)
        )
    return (slopes.mean((2, 3), keepdim=True) * maps).sum(1).clamp_min(0).detach()


@pytest.mark.parametrize(
    ("name", "width", "layers"),
    [
        ("vgg16", 0.0625, ("conv2", "conv5")),
        ("resnet18", 0.0625, ("conv2", "conv5")),
        ("vit-small4", 0.125, ("block1", "block7", "block12")),
    ],
)
def test_maps_are_grad_cams_of_every_family(
    name: str, width: float, layers: tuple[str, ...]
) -> None:
    images = torch.randn(
        3, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(2), dtype=torch.float64
    )
    targets = torch.tensor([4, 0, 2])
    expected = {
        layer: written_out(network(name, width), layer, images, targets) for layer in layers
    }
    model = network(name, width)
    for layer in layers:
        maps = grad_cam(model, layer, images, targets)
        side = map_sides(model, SIZE)[layer]
        assert maps.shape == (3, side, side)
        assert maps.any(), layer
        torch.testing.assert_close(maps, expected[layer], rtol=1e-10, atol=1e-14)
