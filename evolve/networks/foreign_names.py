"""Our networks as others write them: names, and the lines that build them.

torchvision's VGG layers in a Sequential, timm's VisionTransformer.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from evolve.core.registry import loaded
from evolve.networks.architecture import Architecture

if TYPE_CHECKING:
    from evolve.networks.resnet_plan import ResNetPlan
    from evolve.networks.vgg_plan import VggPlan
    from evolve.networks.vit_plan import ViTPlan

PARTS = ("weight", "bias")
STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


def plain_names(plan: Architecture) -> dict[str, str]:
    """Our tensors' names -> those of torchvision or timm.

    They are as in vgg16_bn ("features.0.weight"), resnet18 ("layer1.0.conv1.weight") and timm's ViT
    ("blocks.0.norm1.weight"). Empty for a plug-in's network. A VGG's head is not named:
    torchvision's is another one.

    Args:
        plan: the network's architecture.
    """
    return _foreign(plan).plain()


def sequential_names(plan: Architecture) -> dict[str, str]:
    """Our tensors' names -> those of what :func:`build_lines` builds, with the head.

    Empty for a network that cannot be had without evolve, as ResNet12.

    Args:
        plan: the network's architecture.
    """
    return _foreign(plan).sequential()


def build_lines(plan: Architecture, classes: int, file: str) -> str:
    """Python that builds the network without evolve and loads a file into it.

    Images of a VGG must be of at least 32 pixels, as its poolings want.

    Args:
        plan: the network's architecture.
        classes: outputs of its head.
        file: the file's name.
    """
    load = f"model.load_state_dict(load_file({file!r}))"
    body = _foreign(plan).body(classes)
    return "\n".join(["from safetensors.torch import load_file", *body, load])


def _foreign(plan: Architecture) -> Foreign:
    foreign: Foreign = loaded(plan.foreign)(plan)
    return foreign


class Foreign:
    """An architecture in others' words; this one for those that nobody else has."""

    def __init__(self, plan: Any) -> None:
        self.plan = plan

    def plain(self) -> dict[str, str]:
        """See :func:`plain_names`."""
        return {}

    def sequential(self) -> dict[str, str]:
        """See :func:`sequential_names`."""
        return {}

    def body(self, classes: int) -> list[str]:
        """Lines that leave the network as ``model``."""
        raise ValueError("neither torchvision nor timm has this network")


class ForeignVgg(Foreign):
    """torchvision's ``make_layers``."""

    plan: VggPlan

    def plain(self) -> dict[str, str]:
        return {name: f"features.{theirs}" for name, theirs in self._features().items()}

    def sequential(self) -> dict[str, str]:
        layers = {name: f"0.{theirs}" for name, theirs in self._features().items()}
        return layers | {f"head.{part}": f"3.{part}" for part in PARTS}

    def body(self, classes: int) -> list[str]:
        layers: list[int | str] = []
        for block in self.plan:
            layers += [spec.c_out for spec in block] + ["M"]
        head = f"nn.Linear({self.plan[-1][-1].c_out}, {classes})"
        return [
            "from torch import nn",
            "from torchvision.models.vgg import make_layers",
            f"features = make_layers({layers}, batch_norm=True)",
            f"model = nn.Sequential(features, nn.AdaptiveAvgPool2d(1), nn.Flatten(), {head})",
        ]

    def _features(self) -> dict[str, str]:
        """Convolution, BN and ReLU take a number each, and the pooling after a block one."""
        names: dict[str, str] = {}
        number = 0
        for block in self.plan:
            for spec in block:
                ours = f"layers.{spec.name}"
                names |= {f"{ours}.conv.{part}": f"{number}.{part}" for part in PARTS}
                bn = (*PARTS, *STATISTICS)
                names |= {f"{ours}.bn.{part}": f"{number + 1}.{part}" for part in bn}
                number += 3
            number += 1
        return names


class ForeignResNet(Foreign):
    """torchvision's names. Nobody else builds a ResNet12, so it cannot be had without evolve."""

    plan: ResNetPlan

    def plain(self) -> dict[str, str]:
        """The stem is "conv1"; a stage's residual blocks count from 0, a block's convolutions from
        1.
        """
        layers: dict[str, tuple[str, str]] = {}
        blocks: Counter[int] = Counter()
        for block in self.plan.blocks:
            place = ""
            if block.residual:
                place = f"layer{block.stage}.{blocks[block.stage]}."
                blocks[block.stage] += 1
            for number, conv in enumerate(block.convs, start=1):
                layers[conv.name] = f"{place}conv{number}", f"{place}bn{number}"
            if block.shortcut is not None:
                layers[block.shortcut.name] = f"{place}downsample.0", f"{place}downsample.1"
        names = {
            f"layers.{name}.{own}.{part}": f"{theirs}.{part}"
            for name, both in layers.items()
            for own, theirs in zip(("conv", "bn"), both, strict=True)
            for part in (("weight",) if own == "conv" else (*PARTS, *STATISTICS))
        }
        return names | {f"head.{part}": f"fc.{part}" for part in PARTS}


class ForeignViT(Foreign):
    """timm's VisionTransformer."""

    plan: ViTPlan

    def plain(self) -> dict[str, str]:
        plan = self.plan
        names = {f"layers.embed.{part}": part for part in plan.shapes("embed")}
        for number, name in enumerate(plan.layer_names):
            parts = plan.shapes(name)
            names |= {f"layers.{name}.{part}": f"blocks.{number}.{part}" for part in parts}
        names |= {f"layers.norm.{part}": f"norm.{part}" for part in plan.shapes("norm")}
        return names | {f"head.{part}": f"head.{part}" for part in PARTS}

    def sequential(self) -> dict[str, str]:
        return self.plain()

    def body(self, classes: int) -> list[str]:
        plan = self.plan
        sizes = f"img_size={plan.size}, patch_size={plan.patch}, embed_dim={plan.dim}"
        depth = f"depth={len(plan.blocks)}, num_heads={plan.heads}"
        return [
            "from timm.models.vision_transformer import VisionTransformer",
            f"model = VisionTransformer({sizes}, {depth}, num_classes={classes})",
        ]
