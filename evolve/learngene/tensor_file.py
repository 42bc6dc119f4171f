"""Files of our own: a plain .safetensors with a JSON description and a checksum in its header.

Any reader opens them. Learngenes, ancestors and descendants are such files, told apart by the
header's key ("evolve.learngene", ...). To read one reads tensors and JSON, executes nothing, and
takes no more memory than the file holds.
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
from evolve.core.errors import UserError
from evolve.core.foreign import parse_json, read_bounded
from evolve.core.terminal import printable
from evolve.core.toml import shown_value
from evolve.networks.architecture import Architecture
from evolve.networks.family import from_json

FORMAT = 1
KINDS = ("learngene", "ancestor", "model")
LARGEST = 10**9
"""Numbers in a network that a file may describe (4 GB as float32; VGG16 at width 4 has a quarter of
it).
"""
_MOST_BYTES = 4 * LARGEST + (1 << 30)  # of a file, its records among them
_LARGEST_INT, _LARGEST_DEPTH, _MOST_VALUES, _MOST_LAYERS = 1 << 16, 16, 100_000, 4096


def write(path: Path, kind: str, about: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Write one file, complete or not at all.

    Args:
        path: the file.
        kind: one of :data:`KINDS`.
        about: the description, JSON-able.
        tensors: by name.

    Raises:
        UserError: it cannot be written (full disk).
    """
    signed = {"format": FORMAT, **about}
    signed["sha256"] = digest(signed, tensors)
    write_whole(Path(path), tensors_to_bytes(tensors, {f"evolve.{kind}": canonical(signed)}), kind)


def read(path: Path, kind: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The description and the tensors of a file.

    Args:
        path: the file.
        kind: what it must be, one of :data:`KINDS`.

    Raises:
        UserError: it is missing, foreign, truncated or altered.
    """
    _, about, tensors = _parse(path, (kind,), kind)
    return about, tensors


def read_any(path: Path) -> tuple[str, dict[str, Any], dict[str, Tensor]]:
    """The same of a file of whatever kind: (kind, description, tensors).

    Args:
        path: the file.
    """
    return _parse(path, KINDS, "file")


def _parse(
    path: Path, kinds: Iterable[str], what: str
) -> tuple[str, dict[str, Any], dict[str, Tensor]]:
    """A file's kind, description and tensors; ``what`` is the kind that errors ask for."""
    kind, about, tensors, checksum = _unpacked(path, what)
    if kind not in kinds:
        raise UserError(
            f"{what} {path}: is the file of evolve for "
            f"{'an ancestor' if kind == 'ancestor' else f'a {kind}'}, not {what}; give another file"
        )
    if not isinstance(about, dict) or about.get("format") != FORMAT:
        version = about.get("format") if isinstance(about, dict) else None
        raise UserError(
            f"{what} {path}: has format {shown_value(version)}, this version of evolve reads "
            f"{FORMAT}; write it again with this version"
        )
    if about.pop("sha256", None) != checksum:
        raise UserError(
            f"{what} {path}: its content does not match its checksum, so it was altered or "
            "damaged; get it again"
        )
    if not isinstance(about.get("provenance"), dict):
        raise misfit(path, kind, "it has no provenance")
    return kind, about, tensors


def _unpacked(path: Path, what: str) -> tuple[str, Any, dict[str, Tensor], str]:
    """A file's kind, its description as it stands there, its tensors, and their checksum."""
    try:
        data = read_bounded(Path(path), _MOST_BYTES)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UserError(
            f"{what} {path}: cannot be read ({reason}); give a .safetensors file that evolve wrote"
        ) from error
    try:
        tensors = tensors_from_bytes(data)
        header = note_of(data)
        kind = next(kind for kind in KINDS if f"evolve.{kind}" in header)
        about = parse_json(header[f"evolve.{kind}"].encode())
        checksum = digest(about, tensors) if isinstance(about, dict) else ""
    except Exception as error:  # whatever a foreign file makes the parsers raise
        whole = f"whole {what} file"
        if what not in KINDS:
            whole = "whole file of evolve (a learngene, an ancestor or a model)"
        raise UserError(
            f"{what} {path}: not a {whole}; give a .safetensors file that evolve wrote"
        ) from error
    return kind, about, tensors, checksum


def misfit(path: Path, kind: str, why: object) -> UserError:
    """The error for a file whose checksum is right and whose content is not.

    Args:
        path: the file.
        kind: one of :data:`KINDS`.
        why: the reason.
    """
    return UserError(
        printable(
            f"{kind} {path}: its tensors do not fit its plan ({why}); give a file that evolve wrote"
        )
    )


def digest(about: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    """The checksum of a file: sha256 over its description and its tensors, names and shapes too.

    Args:
        about: the description; its own "sha256" does not count.
        tensors: by name.
    """
    sha = hashlib.sha256(
        canonical({key: value for key, value in about.items() if key != "sha256"}).encode()
    )
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        sha.update(f"\n{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        sha.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return sha.hexdigest()


def canonical(value: Any) -> str:
    """The one text of a description, of which its checksum is taken.

    Args:
        value: JSON-able.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def described(value: Any) -> Architecture:
    """The architecture that a file's JSON describes.

    Args:
        value: what JSON made of it.

    Raises:
        ValueError: it is nonsense, or too large to be built; no memory is taken then.
    """
    numbers = list(_numbers(value, 0, [_MOST_VALUES]))
    if not all(math.isfinite(number) and abs(number) <= _LARGEST_INT for number in numbers):
        raise ValueError(f"a number above {_LARGEST_INT}, or not finite")
    plan = from_json(value)
    if len(plan.all_layers) > _MOST_LAYERS:
        raise ValueError(f"more than {_MOST_LAYERS} layers")
    with Bounded(LARGEST):  # a family may have to build its network to know its shapes
        size = plan.parameters
    if size > LARGEST:
        raise ValueError(f"{size:.3g} weights, more than {LARGEST:.0e}")
    return plan


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
    """Inside it, making tensors of more than ``limit`` numbers in all raises ValueError.

    It does so before their memory is taken.
    """

    def __init__(self, limit: int) -> None:
        super().__init__()
        self.left = limit

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        shape = args[0] if args else None
        # A factory's first argument is its size.
        if isinstance(shape, (list, tuple)) and all(isinstance(side, int) for side in shape):
            self.left -= math.prod(shape)
            if self.left < 0:
                raise ValueError("a network too large to be built")
        return func(*args, **(kwargs or {}))
