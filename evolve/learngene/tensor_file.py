"""Files of our own: a plain .safetensors any reader opens, with a JSON description and a checksum
in its header.

Learngenes, ancestors and descendants are such files, told apart by the header's key
("evolve.learngene", ...). Reading one reads tensors and JSON, executes nothing, and takes no more
memory than the file holds.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from evolve.core.durable import note_of, tensors_from_bytes, tensors_to_bytes, write_whole
from evolve.core.errors import UserError, printable
from evolve.networks.architecture import Architecture
from evolve.networks.family import from_json

FORMAT = 1
KINDS = ("learngene", "ancestor", "model")
LARGEST = 10**9
"""Numbers in a network that a file may describe (4 GB as float32; VGG16 at width 4 has a quarter of
it).
"""
_LARGEST_INT, _LARGEST_DEPTH, _MOST_VALUES, _MOST_LAYERS = 1 << 16, 16, 100_000, 4096


def write(path: Path, kind: str, about: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Write one file, complete or not at all.

    Raises UserError where that is impossible (full disk).
    """
    signed = {"format": FORMAT, **about}
    signed["sha256"] = digest(signed, tensors)
    write_whole(Path(path), tensors_to_bytes(tensors, {f"evolve.{kind}": canonical(signed)}), kind)


def read(path: Path, kind: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The description and the tensors of a file of ``kind``.

    Raises UserError, one line, for a file that is missing, foreign, truncated or altered.
    """
    _, about, tensors = _parse(path, (kind,), kind)
    return about, tensors


def read_any(path: Path) -> tuple[str, dict[str, Any], dict[str, Tensor]]:
    """The same of a file of whatever kind: (kind, description, tensors)."""
    return _parse(path, KINDS, "file")


def _parse(
    path: Path, kinds: Iterable[str], what: str
) -> tuple[str, dict[str, Any], dict[str, Tensor]]:
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(
            f"{what} {path}: cannot be read ({reason}); give a .safetensors file that evolve wrote"
        ) from error
    try:
        tensors = tensors_from_bytes(data)
        header = note_of(data)
        kind = next(kind for kind in KINDS if f"evolve.{kind}" in header)
        about = json.loads(header[f"evolve.{kind}"])
        checksum = digest(about, tensors) if isinstance(about, dict) else ""
    except Exception as error:  # whatever a foreign file makes the parsers raise
        wanted = (
            f"whole {what} file"
            if what in KINDS
            else "whole file of evolve (a learngene, an ancestor or a model)"
        )
        raise UserError(
            f"{what} {path}: not a {wanted}; give a .safetensors file that evolve wrote"
        ) from error
    if kind not in kinds:
        raise UserError(
            f"{what} {path}: is the file of evolve for "
            f"{'an ancestor' if kind == 'ancestor' else f'a {kind}'}, not {what}; give another file"
        )
    if not isinstance(about, dict) or about.get("format") != FORMAT:
        found = about.get("format") if isinstance(about, dict) else None
        raise UserError(
            f"{what} {path}: has format {found}, this version of evolve reads {FORMAT}; write it "
            "again with this version"
        )
    if about.pop("sha256", None) != checksum:
        raise UserError(
            f"{what} {path}: its content does not match its checksum, so it was altered or "
            "damaged; get it again"
        )
    if not isinstance(about.get("provenance"), dict):
        raise misfit(path, kind, "it has no provenance")
    return kind, about, tensors


def misfit(path: Path, kind: str, why: object) -> UserError:
    """The error for a file whose checksum is right and whose content is not."""
    return UserError(
        printable(
            f"{kind} {path}: its tensors do not fit its plan ({why}); give a file that evolve wrote"
        )
    )


def digest(about: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    """sha256 over the description and every tensor's name, dtype, shape and bytes."""
    found = hashlib.sha256(
        canonical({key: value for key, value in about.items() if key != "sha256"}).encode()
    )
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        found.update(f"\n{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        found.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def canonical(value: Any) -> str:
    """The one text of a description that its checksum is taken of."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def described(value: Any) -> Architecture:
    """The architecture that a file's JSON describes.

    ValueError for nonsense, and for one too large to be built, before any memory is taken.
    """
    numbers = list(_numbers(value, 0, [_MOST_VALUES]))
    if not all(math.isfinite(number) and abs(number) <= _LARGEST_INT for number in numbers):
        raise ValueError(f"a number above {_LARGEST_INT}, or not finite")
    made = from_json(value)
    if len(made.all_layers) > _MOST_LAYERS:
        raise ValueError(f"more than {_MOST_LAYERS} layers")
    with Bounded(LARGEST):  # a family may have to build its network to know its shapes
        size = made.parameters
    if size > LARGEST:
        raise ValueError(f"{size:.3g} weights, more than {LARGEST:.0e}")
    return made


def _numbers(value: Any, depth: int, left: list[int]) -> Iterator[float]:
    left[0] -= 1
    if depth > _LARGEST_DEPTH or left[0] < 0:
        raise ValueError("an architecture of more values than any network needs")
    if isinstance(value, (int, float)):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _numbers(item, depth + 1, left)
    elif isinstance(value, list):
        for item in value:
            yield from _numbers(item, depth + 1, left)


class Bounded(TorchDispatchMode):
    """Inside it, making tensors of more than ``limit`` numbers in all raises ValueError before
    their memory is taken.
    """

    def __init__(self, limit: int) -> None:
        super().__init__()
        self.left = limit

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if (
            args
            and isinstance(args[0], (list, tuple))
            and all(isinstance(side, int) for side in args[0])
        ):  # a factory's size
            self.left -= math.prod(args[0])
            if self.left < 0:
                raise ValueError("a network too large to be built")
        return func(*args, **(kwargs or {}))
