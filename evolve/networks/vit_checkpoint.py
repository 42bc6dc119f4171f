"""Pretrained weights of a ViT out of a local file, timm's or DINO's, by the rules of
:mod:`evolve.networks.checkpoint_file`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from torch import Tensor

from evolve.core.durable import file_digest
from evolve.core.errors import UserError
from evolve.core.terminal import printable
from evolve.networks.checkpoint_file import HEADS, read_checkpoint, resized_positions
from evolve.networks.vit_plan import ViTPlan


def content(path: Path) -> str:
    """The sha256 of a checkpoint file.

    Args:
        path: the file.

    Raises:
        UserError: the file cannot be read.
    """
    try:
        return file_digest(path)
    except OSError as error:
        reason = (
            "no such file"
            if isinstance(error, FileNotFoundError)
            else f"cannot be read ({error.strerror or error})"
        )
        raise UserError(
            f'{_called(path)}: {reason}; give a local .safetensors or .pth file, or "" to start '
            "from random weights"
        ) from None


def read(path: Path, plan: ViTPlan) -> dict[str, Tensor]:
    """The weights of a plan's layers out of a file, float32.

    The head is not among them. Positions for another image size are resized as timm does (bicubic).

    Args:
        path: the file.
        plan: the network that it is for.

    Returns:
        Tensors named as in the network's state dict ("layers.block1.attn.qkv.weight").

    Raises:
        UserError: the file cannot be read by those rules, or is of another network; the message
            names the first tensor that does not fit.
    """
    content(path)  # a file that is not there is said to be so
    read = read_checkpoint(path, _called(path))
    held = {name: tensor for name, tensor in read.items() if not name.startswith(HEADS)}
    names = dict(_names(plan))
    taken: dict[str, Tensor] = {}
    for name, (own, shape) in names.items():
        tensor = held.get(name)
        if tensor is None:
            raise UserError(f"{_called(path)}: holds no tensor {name}; give {_described(plan)}")
        if name == "pos_embed":
            tensor = resized_positions(tensor, plan)
        if tuple(tensor.shape) != shape:
            raise UserError(
                f"{_called(path)}: its {name} has shape {tuple(tensor.shape)}, not {shape}; give "
                f"{_described(plan)}"
            )
        taken[own] = tensor.contiguous()
    if more := next((name for name in held if name not in names), None):
        line = f"{_called(path)}: its {more} has no place in the network; give {_described(plan)}"
        raise UserError(printable(line))
    return taken


def _names(plan: ViTPlan) -> Iterator[tuple[str, tuple[str, tuple[int, ...]]]]:
    """timm's and DINO's name of every tensor -> (ours in the state dict, its shape)."""
    theirs = {
        "embed": "",
        **{name: f"blocks.{number}." for number, name in enumerate(plan.layer_names)},
        "norm": "norm.",
    }
    for layer, prefix in theirs.items():
        for part, shape in plan.shapes(layer).items():
            yield prefix + part, (f"layers.{layer}.{part}", shape)


def _described(plan: ViTPlan) -> str:
    return (
        f"a ViT with class token, {len(plan.layer_names)} blocks, dimension {plan.dim} and "
        f"patches of {plan.patch} pixels"
    )


def _called(path: Path) -> str:
    return f'ancestor.checkpoint = "{path}"'
