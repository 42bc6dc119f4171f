"""Pretrained weights of a ViT out of a local file, timm's (.safetensors or .pth) or DINO's.

DINO (arXiv 2104.14294) gives the backbone alone, or the whole training with "teacher" and "student"
networks. Of these the teacher is taken, as in its own evaluation. Only tensors and plain values are
ever read from a file.
"""

from __future__ import annotations

import argparse
import pickle
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from timm.layers import resample_abs_pos_embed
from torch import Tensor

from evolve.core.durable import file_digest
from evolve.core.errors import UserError
from evolve.networks.vit_plan import ViTPlan

# Where a file may hold the network; the first that is there counts.
NESTS = ("teacher", "student", "state_dict", "model")
PREFIX = re.compile(r"^(module\.|backbone\.)+")
HEADS = ("head.", "fc.", "pre_logits.")  # tensors of the pretraining's own head, which is left out


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
        UserError: the file is absent, holds more than tensors and plain values, or is of another
            network; the message names the first tensor that does not fit.
    """
    held = {
        PREFIX.sub("", name): tensor
        for name, tensor in _network(_loaded(path))
        if not PREFIX.sub("", name).startswith(HEADS)
    }
    wanted = dict(_names(plan))
    taken: dict[str, Tensor] = {}
    for name, (own, shape) in wanted.items():
        tensor = held.get(name)
        if tensor is None:
            raise UserError(f"{_called(path)}: holds no tensor {name}; give {_described(plan)}")
        if name == "pos_embed":
            tensor = _resized(tensor, plan)
        if tuple(tensor.shape) != shape:
            raise UserError(
                f"{_called(path)}: its {name} has shape {tuple(tensor.shape)}, not {shape}; give "
                f"{_described(plan)}"
            )
        taken[own] = tensor.detach().float().contiguous()
    if more := next((name for name in held if name not in wanted), None):
        raise UserError(
            f"{_called(path)}: its {more} has no place in the network; give {_described(plan)}"
        )
    return taken


def _loaded(path: Path) -> Any:
    content(path)  # a file that is not there is said to be so
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        # DINO's full checkpoints keep their command line.
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise UserError(
            f"{_called(path)}: needs code to be unpickled, which is never run; give a file of "
            "tensors alone (a state dict)"
        ) from None
    except Exception as error:  # whatever a damaged file makes the readers raise
        raise UserError(
            f"{_called(path)}: not a whole checkpoint file ({type(error).__name__}); get it again"
        ) from None


def _network(loaded: Any) -> Iterator[tuple[str, Tensor]]:
    """The names and tensors of the network in what a file holds; nothing where there is none."""
    while isinstance(loaded, Mapping) and (
        nest := next((name for name in NESTS if isinstance(loaded.get(name), Mapping)), None)
    ):
        loaded = loaded[nest]
    if isinstance(loaded, Mapping):
        yield from (
            (name, value)
            for name, value in loaded.items()
            if isinstance(name, str) and isinstance(value, Tensor)
        )


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


def _resized(positions: Tensor, plan: ViTPlan) -> Tensor:
    """Positions [1, T, D] for the plan's number of patches, where they are of another square of
    patches.
    """
    patches = positions.shape[1] - 1 if positions.dim() == 3 else 0
    if patches < 1 or round(patches**0.5) ** 2 != patches:
        return positions  # of no ViT with a class token: its shape is refused
    side = plan.size // plan.patch
    return resample_abs_pos_embed(positions, [side, side], num_prefix_tokens=1)


def _described(plan: ViTPlan) -> str:
    return (
        f"a ViT with class token, {len(plan.layer_names)} blocks, dimension {plan.dim} and "
        f"patches of {plan.patch} pixels"
    )


def _called(path: Path) -> str:
    return f'ancestor.checkpoint = "{path}"'
