"""Our networks as others write them: torchvision's VGG layers in a Sequential, timm's VisionTransformer. Names, and the lines that build them."""

from __future__ import annotations

from collections import Counter

from evolve.networks.architecture import Architecture
from evolve.networks.resnet_plan import ResNetPlan
from evolve.networks.vgg_plan import VggPlan
from evolve.networks.vit_plan import ViTPlan

PARTS = ("weight", "bias")
STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


def plain_names(made: Architecture) -> dict[str, str]:
    """Our tensors' names -> those of torchvision (vgg16_bn: "features.0.weight"; resnet18: "layer1.0.conv1.weight") or timm (ViT:
    "blocks.0.norm1.weight").

    Empty for a plug-in's network. A VGG's head is not named: torchvision's is another one.
    """
    if isinstance(made, VggPlan):
        return {name: f"features.{theirs}" for name, theirs in _vgg(made).items()}
    if isinstance(made, ViTPlan):
        return _vit(made) | {f"head.{part}": f"head.{part}" for part in PARTS}
    if isinstance(made, ResNetPlan):
        return _resnet(made) | {f"head.{part}": f"fc.{part}" for part in PARTS}
    return {}


def sequential_names(made: Architecture) -> dict[str, str]:
    """The same for what :func:`build_lines` builds, with the head. Empty for a network that cannot be had without evolve, as ResNet12."""
    if isinstance(made, VggPlan):
        return {name: f"0.{theirs}" for name, theirs in _vgg(made).items()} | {
            f"head.{part}": f"3.{part}" for part in PARTS
        }
    return plain_names(made) if isinstance(made, ViTPlan) else {}


def build_lines(made: Architecture, classes: int, file: str) -> str:
    """Python that builds the network without evolve and loads ``file``. Images of a VGG must be of at least 32 pixels, as its poolings want."""
    load = ["from safetensors.torch import load_file"]
    if isinstance(made, VggPlan):
        layers: list[int | str] = []
        for block in made:
            layers += [spec.c_out for spec in block] + ["M"]
        body = [
            "from torch import nn",
            "from torchvision.models.vgg import make_layers",
            f"features = make_layers({layers}, batch_norm=True)",
        ]
        body += [
            f"model = nn.Sequential(features, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear({made[-1][-1].c_out}, {classes}))"
        ]
    elif isinstance(made, ViTPlan):
        sizes = f"img_size={made.size}, patch_size={made.patch}, embed_dim={made.dim}, depth={len(made.blocks)}, num_heads={made.heads}"
        body = [
            "from timm.models.vision_transformer import VisionTransformer",
            f"model = VisionTransformer({sizes}, num_classes={classes})",
        ]
    else:
        raise ValueError("neither torchvision nor timm has this network")
    return "\n".join([*load, *body, f"model.load_state_dict(load_file({file!r}))"])


def _vgg(made: VggPlan) -> dict[str, str]:
    """Convolution, BN and ReLU take a number each, and the pooling after a block one."""
    found: dict[str, str] = {}
    number = 0
    for block in made:
        for spec in block:
            ours = f"layers.{spec.name}"
            found |= {f"{ours}.conv.{part}": f"{number}.{part}" for part in PARTS}
            found |= {f"{ours}.bn.{part}": f"{number + 1}.{part}" for part in (*PARTS, *STATISTICS)}
            number += 3
        number += 1
    return found


def _resnet(made: ResNetPlan) -> dict[str, str]:
    """The stem is "conv1"; a stage's residual blocks are numbered from 0, a block's convolutions from 1."""
    found: dict[str, tuple[str, str]] = {}
    blocks: Counter[int] = Counter()
    for block in made.blocks:
        place = ""
        if block.residual:
            place = f"layer{block.stage}.{blocks[block.stage]}."
            blocks[block.stage] += 1
        found |= {
            conv.name: (f"{place}conv{number}", f"{place}bn{number}")
            for number, conv in enumerate(block.convs, start=1)
        }
        if block.shortcut is not None:
            found[block.shortcut.name] = f"{place}downsample.0", f"{place}downsample.1"
    return {
        f"layers.{name}.{own}.{part}": f"{theirs}.{part}"
        for name, both in found.items()
        for own, theirs in zip(("conv", "bn"), both, strict=True)
        for part in (("weight",) if own == "conv" else (*PARTS, *STATISTICS))
    }


def _vit(made: ViTPlan) -> dict[str, str]:
    found = {f"layers.embed.{part}": part for part in made.shapes("embed")}
    for number, name in enumerate(made.layer_names):
        found |= {f"layers.{name}.{part}": f"blocks.{number}.{part}" for part in made.shapes(name)}
    return found | {f"layers.norm.{part}": f"norm.{part}" for part in made.shapes("norm")}
