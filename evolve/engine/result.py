"""A finished stage as it lies in the store: read, and checked, from its folder."""

from __future__ import annotations

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
from evolve.engine.stage import Stage, stage_key
from evolve.engine.store_folder import FORMAT

if TYPE_CHECKING:
    from torch import Tensor

# Folders whose files this process has hashed -> the manifest's identity then. Only thinning changes
# a result, and it writes the manifest anew.
verified: dict[Path, tuple[int, int]] = {}


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
            KeyError: the stage wrote no file of that name.
            Thinned: its tensors were dropped.
            StoreError: the file changed since the result was read.
        """
        file = f"{name}.safetensors"
        _refuse_thinned(self.manifest, file)
        if file not in self.manifest["files"]:
            raise KeyError(f"{self.path} has no {file}")
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


def identity_of(path: Path) -> tuple[int, int]:
    """What changes when a result's manifest is written again: its inode, its time in ns."""
    status = (path / "manifest.json").stat()
    return status.st_ino, status.st_mtime_ns


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
    """Read a result and check it; its files are hashed once per process.

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
    try:
        identity = identity_of(path)
        manifest = from_json((path / "manifest.json").read_bytes())
        seal = manifest["seal"] == seal_of(manifest)
    except (ValueError, TypeError, KeyError):
        raise Damaged("manifest.json cannot be read") from None
    check(
        seal and manifest["key"] == path.name == stage_key(manifest["kind"], manifest["recipe"]),
        "manifest.json was changed",
    )
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
        record = from_json((path / "result.json").read_bytes())
    except (ValueError, FileNotFoundError):
        raise Damaged("result.json cannot be read") from None
    return Result(record, path, manifest)


def _check(path: Path, good: bool, reason: str) -> None:
    if not good and path.is_dir():
        raise Damaged(reason)
    if not good:
        raise FileNotFoundError(path)
