"""The one reader of checkpoints that others wrote: .safetensors, or what ``torch.save`` wrote.

What a file is follows from its content, not from its suffix. Only tensors and plain values are ever
read. ``ancestor.checkpoint`` and ``evolve condense --ancestor`` read by these rules:

* The network lies at the top, or below one of :data:`NESTS`; of a teacher and a student the teacher
  is taken, as in DINO's own evaluation (arXiv 2104.14294).
* What compiling and wrapping put before the names is taken off (:data:`WRAPPERS`).
* Numbers are read as float32, whatever their precision. NaN and infinity are refused.
"""

from __future__ import annotations

import argparse
import pickle
import re
import stat
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from evolve.core.errors import UserError
from evolve.core.terminal import printable

if TYPE_CHECKING:
    from evolve.networks.vit_plan import ViTPlan

NESTS = ("teacher", "student", "state_dict", "model_state_dict", "model")
# torch.compile, DataParallel, DINO's multi-crop wrapper
WRAPPERS = re.compile(r"^((_orig_mod|module|backbone)\.)+")
# The pretraining's own head, which nobody inherits; under "head." ours is looked for first.
HEADS = ("head.", "fc.", "classifier.", "pre_logits.")
LARGEST = 16 << 30  # bytes of a file; a ViT-G with its optimizer takes 15 GB
_START = 1024  # bytes by which a file is told


def read_checkpoint(path: Path, called: str) -> dict[str, Tensor]:
    """The tensors of the network in a file, under their names without wrappers.

    Args:
        path: the file.
        called: what begins the line of an error, such as "ancestor FILE".

    Returns:
        Floating point as float32, integers (BatchNorm's counters) as they are; empty where the file
        holds plain values alone.

    Raises:
        UserError: the file is absent, too large, damaged, something else, holds more than tensors
            and plain values, or a number that is not finite.
    """
    content = _loaded(Path(path), called)
    named: dict[str, Tensor] = {}
    for full, tensor in _network(content):
        name = WRAPPERS.sub("", full)
        if name in named:
            raise UserError(
                printable(f"{called}: holds {name} twice, once as {full}; give one network's file")
            )
        named[name] = tensor
    return {name: _plain(tensor, name, called) for name, tensor in named.items()}


def resized_positions(positions: Tensor, plan: ViTPlan) -> Tensor:
    """A ViT's positions for the plan's number of patches, by bicubic interpolation as timm does.

    Args:
        positions: [1, 1 + patches, dimension], the class token's first.
        plan: the network that they are for.

    Returns:
        [1, 1 + the plan's patches, dimension]; those of no square of patches stay as they are: they
        are of another ViT, whose shape does not fit.
    """
    from timm.layers import resample_abs_pos_embed

    patches = positions.shape[1] - 1 if positions.dim() == 3 else 0
    if patches < 1 or round(patches**0.5) ** 2 != patches:
        return positions
    side = plan.size // plan.patch
    return resample_abs_pos_embed(positions, [side, side], num_prefix_tokens=1)


def _loaded(path: Path, called: str) -> Any:
    """What the file holds, once it is known to be a checkpoint of a size that can be read."""
    try:
        info = path.stat()
        if not stat.S_ISREG(info.st_mode):
            raise UserError(f"{called}: no regular file; give a .safetensors or .pth file")
        if info.st_size > LARGEST:
            raise UserError(
                f"{called}: has {info.st_size} bytes, more than {LARGEST}; save the state dict alone"
            )
        with path.open("rb") as file:
            start = file.read(_START)
    except OSError as error:
        reason = (
            "no such file"
            if isinstance(error, FileNotFoundError)
            else f"cannot be read ({error.strerror or error})"
        )
        raise UserError(f"{called}: {reason}; give a local .safetensors or .pth file") from None
    if problem := _other(start):
        raise UserError(f"{called}: {problem}")
    try:
        with warnings.catch_warnings():  # the error's line says all
            warnings.simplefilter("ignore")
            return _parsed(path, start, info.st_size)
    except pickle.UnpicklingError:
        raise UserError(
            f"{called}: needs code to be unpickled, which is never run; give a file of tensors "
            "alone, as torch.save(model.state_dict(), FILE) writes it"
        ) from None
    except Exception as error:  # whatever a damaged file makes the readers raise
        raise UserError(
            f"{called}: not a whole checkpoint file ({type(error).__name__}); get it again, or "
            "write it with torch.save(model.state_dict(), FILE)"
        ) from None


def _other(start: bytes) -> str:
    """What a file is that begins so, where it is no checkpoint, and what to do; else ""."""
    text = start.lstrip().lower()
    if text.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer, not the file itself; get it with `git lfs pull`"
    if text.startswith((b"<!doctype html", b"<html", b"<?xml")):
        return "a web page, not a checkpoint; download the file that the page links to"
    if not start:
        return "an empty file; get it again"
    if start.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")):
        return "a compressed file; unpack it first"
    if start.startswith(b"\x89HDF"):
        return "an HDF5 file (Keras, TensorFlow); give PyTorch's weights"
    return ""


def is_safetensors(start: bytes) -> bool:
    """Whether a file that begins so is one: 8 bytes of length (little endian), then JSON.

    Args:
        start: its first bytes, at least nine.
    """
    return start[8:9] == b"{" and int.from_bytes(start[:8], "little") < LARGEST


def _parsed(path: Path, start: bytes, size: int) -> Any:
    if is_safetensors(start):
        from safetensors.torch import load_file

        return load_file(path)
    if start.startswith(b"PK"):
        with zipfile.ZipFile(path) as archive:
            # torch.save compresses nothing, so a member cannot be larger than its file.
            if sum(member.file_size for member in archive.infolist()) > size:
                raise ValueError("members that are larger than the file")
    # DINO's full checkpoints keep their command line.
    with torch.serialization.safe_globals([argparse.Namespace]), path.open("rb") as file:
        return torch.load(file, map_location="cpu", weights_only=True)  # a path's suffix counts


def _network(content: Any) -> Iterator[tuple[str, Tensor]]:
    """The names and tensors of the network in what a file holds; nothing where there is none."""
    while isinstance(content, Mapping) and (
        nest := next((name for name in NESTS if isinstance(content.get(name), Mapping)), None)
    ):
        content = content[nest]
    if not isinstance(content, Mapping):
        return
    named = {
        name: value
        for name, value in content.items()
        if isinstance(name, str) and isinstance(value, Tensor)
    }
    for whose in ("teacher.", "student."):  # both in one flat state dict
        if own := {n.removeprefix(whose): t for n, t in named.items() if n.startswith(whose)}:
            named = own
            break
    yield from named.items()


def _plain(tensor: Tensor, name: str, called: str) -> Tensor:
    """A dense tensor of finite numbers that its file holds one by one."""
    problem = ""
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_complex():
        problem = f"is {tensor.dtype} ({tensor.layout}); save it as dense float32"
    elif tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        problem = f"has shape {tuple(tensor.shape)}, more numbers than the file holds of it"
    elif tensor.is_floating_point():
        tensor = tensor.detach().float().contiguous()
        if not bool(torch.isfinite(tensor).all()):
            problem = "holds NaN or infinity, so its training diverged; give another checkpoint"
    if problem:
        raise UserError(printable(f"{called}: its {name} {problem}"))
    return tensor
