"""The network of a :class:`ViTPlan`, made of timm's own modules.

It computes what timm's VisionTransformer computes
(https://github.com/huggingface/pytorch-image-models). The model is that of "An Image is Worth 16x16
Words" (arXiv 2010.11929) in DeiT's sizes.
"""

from __future__ import annotations

import math

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from evolve.core.randomness import generator
from evolve.networks.fast.encoder import ViTTrunk
from evolve.networks.fast.node import embedded
from evolve.networks.network import Network, draw_normal, initialise
from evolve.networks.vit_plan import ViTPlan

STD = 0.02
"""Of timm's linear layers and positions.

Its truncation at +-2, a hundred times that, cuts nothing off; by rounding it now and then (one
number in 2^24) makes a -2 of an infinite draw, which a plain normal does not.
"""
CLASS_STD = 1e-6  # of timm's class token


class Embeddings(nn.Module):
    """Patch projection, class token and positions, as one layer."""

    def __init__(self, model: VisionTransformer) -> None:
        super().__init__()
        assert model.cls_token is not None and model.pos_embed is not None
        self.patch_embed, self.cls_token, self.pos_embed = (
            model.patch_embed,
            model.cls_token,
            model.pos_embed,
        )

    def forward(self, x: Tensor) -> Tensor:
        """Images [B, 3, size, size] -> tokens [B, T, D], the class token first."""
        patches = self.patch_embed(x)
        return torch.cat([self.cls_token.expand(len(x), -1, -1), patches], 1) + self.pos_embed


class ViT(Network):
    """The network of ``plan`` for ``classes`` classes.

    ``layers`` holds "embed", the encoder blocks by name, and "norm". The ``head`` reads the class
    token. A new network is initialised from seed 0. It has no dropout. ``fused`` embeds by
    :mod:`evolve.networks.fast.node` on a CPU, and elsewhere computes attention by torch's fused
    kernels; neither has a second derivative.
    """

    def __init__(self, plan: ViTPlan, classes: int) -> None:
        super().__init__()
        self.architecture = plan
        model = _timm(plan)
        blocks = dict(zip(plan.layer_names, model.blocks, strict=True))
        self.layers = nn.ModuleDict({"embed": Embeddings(model), **blocks, "norm": model.norm})
        self.head = nn.utils.skip_init(nn.Linear, plan.dim, classes)
        self.fused = False
        initialise(self, 0)

    @property
    def fused(self) -> bool:
        return self._fused

    @fused.setter
    def fused(self, value: bool) -> None:
        self._fused = value
        for name in self.architecture.layer_names:
            self.layers[name].attn.fused_attn = value  # type: ignore[union-attr]

    def embed(self, x: Tensor) -> Tensor:
        """Images [B, 3, size, size] -> the class token after the last LayerNorm, [B, D]."""
        if (written := embedded(ViTTrunk, self, x)) is not None:
            return written
        normed: Tensor = self.layers["norm"](self.features(x)[-1])
        return normed[:, 0]

    def features(self, x: Tensor) -> list[Tensor]:
        """Every block's tokens of images [B, 3, size, size], not normalised.

        Returns:
            [B, T, D] a block, in order, the class token among them.
        """
        tokens = [self.layers["embed"](x)]
        for name in self.architecture.layer_names:
            tokens.append(self.layers[name](tokens[-1]))
        return tokens[1:]

    def draw(self, layer: str, seed: int, *purpose: str | int) -> None:
        """Draw a layer as timm does; see :meth:`Network.draw`.

        Linear layers and positions are N(0, 0.02), biases 0, the class token is N(0, 1e-6), and
        LayerNorms are the identity. The patch projection is drawn as torch draws convolutions.
        """
        for name, module in self.layers[layer].named_modules():
            if isinstance(module, nn.LayerNorm):
                module.reset_parameters()
            elif isinstance(module, nn.Linear):
                draw_normal(module.weight, STD, seed, *purpose, name)
                module.bias.zero_()
            elif isinstance(module, nn.Conv2d):
                bound = 1 / math.sqrt(module.weight[0].numel())
                for part, tensor in module.named_parameters():
                    draws = generator(seed, *purpose, part, *tensor.shape)
                    tensor.copy_(
                        torch.empty(tensor.shape, dtype=torch.float32).uniform_(
                            -bound, bound, generator=draws
                        )
                    )
            elif isinstance(module, Embeddings):
                draw_normal(module.cls_token, CLASS_STD, seed, *purpose, "cls_token")
                draw_normal(module.pos_embed, STD, seed, *purpose, "pos_embed")


def _timm(plan: ViTPlan) -> VisionTransformer:
    """timm's model without a head, with whatever weights: it draws from global random state, which
    is put back.
    """
    with torch.random.fork_rng(devices=[]):
        return VisionTransformer(
            img_size=plan.size,
            patch_size=plan.patch,
            embed_dim=plan.dim,
            depth=len(plan.blocks),
            num_heads=plan.heads,
            num_classes=0,
            weight_init="skip",
        )
