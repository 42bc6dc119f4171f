"""A finished stage as it lies in the store: read, and checked, from its folder."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evolve.core.durable import (
    digest,
    file_digest,
    from_json,
    plain,
    storage_errors,
    tensors_from_bytes,
    to_json,
)
from evolve.core.errors import StoreError
from evolve.engine.stage import WORD, Stage, stage_key
from evolve.engine.store_folder import FORMAT

if TYPE_CHECKING:
    from torch import Tensor

Identity = tuple[tuple[str, int, int, int, int], ...]
# Folders whose files this process has hashed -> what their files were then.
verified: dict[Path, Identity] = {}
RECORD = "result.json"
_FILE = re.compile(rf"{re.escape(RECORD)}|{WORD.pattern}\.safetensors")
_DIGEST = re.compile("[0-9a-f]{64}")
# What reading foreign JSON of any form can raise.
_ODD = (ValueError, TypeError, KeyError, AttributeError, RecursionError)


@dataclass(frozen=True)
class Result:
    """A finished stage: its JSON part ``record``, and its tensor files, by ``tensors(name)``."""

    record: dict[str, Any]
    path: Path
    manifest: dict[str, Any]

    @property
    def thinned(self) -> bool:
        """Whether tensor files have been dropped (:meth:`evolve.engine.store.Store.thin`)."""
        return "thinned" in self.manifest

    def tensors(self, name: str) -> dict[str, Tensor]:
        """Read the tensors of ``<name>.safetensors``, fresh copies.

        Raises:
            Thinned: its tensors were dropped.
            StoreError: the stage wrote no file of that name, or it changed since the result was
                read.
        """
        file = f"{name}.safetensors"
        _refuse_thinned(self.manifest, file)
        if file not in self.manifest["files"]:
            raise StoreError(
                f"store: {self.path}: has no {file}, so it is not what this version writes: remove "
                "that folder and run again, it will be computed anew"
            )
        with storage_errors(self.path / file):
            try:
                data = (self.path / file).read_bytes()
            except FileNotFoundError:
                # It may have been thinned since this result was read.
                manifest = from_json((self.path / "manifest.json").read_bytes())
                _refuse_thinned(manifest, file)
                raise
        if digest(data) != self.manifest["files"][file]["sha256"]:
            raise StoreError(
                f"store: {self.path / file}: changed while it was in use: run again, it will be "
                "computed anew"
            )
        return tensors_from_bytes(data)


class Thinned(StoreError):
    """The tensors asked for were dropped. The line says why, and what that means."""


class Damaged(Exception):
    """A result is not what its manifest says."""


def _refuse_thinned(manifest: Mapping[str, Any], file: str) -> None:
    if file in manifest.get("thinned", {}).get("files", {}):
        raise Thinned(manifest["thinned"]["why"])


def identity_of(path: Path) -> Identity:
    """What changes when a file of a result is written, replaced, added or removed."""
    with os.scandir(path) as entries:
        told = [(entry.name, entry.stat()) for entry in entries]
    return tuple(
        sorted((name, s.st_ino, s.st_size, s.st_mtime_ns, s.st_ctime_ns) for name, s in told)
    )


def seal_of(manifest: Mapping[str, Any]) -> str:
    """Digest of the rest of a manifest, so that a change anywhere in it shows."""
    return digest(to_json({name: value for name, value in manifest.items() if name != "seal"}))


def manifest_of(
    stage: Stage, files: Mapping[str, bytes], provenance: Mapping[str, Any]
) -> dict[str, Any]:
    """What a result's manifest.json holds.

    Args:
        stage: what was computed.
        files: the content by file name.
        provenance: what computed it.
    """
    manifest = {
        "format": FORMAT,
        "kind": stage.kind,
        "key": stage.key,
        "recipe": stage.recipe,
        "provenance": plain(provenance, "provenance"),
        "files": {
            name: {"sha256": digest(data), "bytes": len(data)} for name, data in files.items()
        },
    }
    return manifest | {"seal": seal_of(manifest)}


def read_result(path: Path) -> Result:
    """Read a result and check it.

    Its record is hashed at every reading, like its tensors (:meth:`Result.tensors`). All its files
    are hashed at the first one in a process, and again when one of them has changed.

    Args:
        path: the result's folder.

    Raises:
        Damaged: it is not what its manifest says; the text is the reason.
        FileNotFoundError: the folder is gone.
    """
    if not path.is_dir():
        raise FileNotFoundError(path)
    check = partial(_check, path)
    check((path / "manifest.json").is_file(), "manifest.json is missing")
    identity = identity_of(path)
    manifest = checked_manifest(path.name, (path / "manifest.json").read_bytes())
    if verified.get(path) != identity:
        for name, expected in manifest["files"].items():
            file = path / name
            check(file.is_file(), f"{name} is missing")
            check(
                file.stat().st_size == expected["bytes"],
                f"{name} has {file.stat().st_size} bytes, not {expected['bytes']}",
            )
            check(file_digest(file) == expected["sha256"], f"{name} was changed")
        verified[path] = identity
    try:
        data = (path / RECORD).read_bytes()
        check(digest(data) == manifest["files"][RECORD]["sha256"], f"{RECORD} was changed")
        return Result(from_json(data), path, manifest)
    except (*_ODD, FileNotFoundError):
        raise Damaged(f"{RECORD} cannot be read") from None


def checked_manifest(key: str, data: bytes) -> dict[str, Any]:
    """Read a manifest, which may come from anywhere.

    Its file names are "result.json" and "<word>.safetensors", and nothing else: they are joined to
    a folder.

    Args:
        key: the result's.
        data: the content of manifest.json.

    Raises:
        Damaged: it is no manifest of ours, or another key's; the text is the reason.
    """
    try:
        manifest: dict[str, Any] = from_json(data)
        whole = manifest["seal"] == seal_of(manifest) and WORD.fullmatch(manifest["kind"])
        if not whole or not manifest["key"] == key == stage_key(
            manifest["kind"], manifest["recipe"]
        ):
            raise Damaged("manifest.json was changed")
        thinned = manifest.get("thinned", {"files": {}, "why": ""})
        good = RECORD in manifest["files"] and isinstance(thinned["why"], str)
        for files in (manifest["files"], thinned["files"]):
            good = good and all(
                _FILE.fullmatch(name)
                and _DIGEST.fullmatch(told["sha256"])
                and type(told["bytes"]) is int
                for name, told in files.items()
            )
    except _ODD:
        raise Damaged("manifest.json cannot be read") from None
    if not good:
        raise Damaged("manifest.json names other files than a result has")
    return manifest


def _check(path: Path, good: bool, reason: str) -> None:
    if not good and path.is_dir():
        raise Damaged(reason)
    if not good:
        raise FileNotFoundError(path)
