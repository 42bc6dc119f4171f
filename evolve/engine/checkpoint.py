"""Where a stage that was interrupted goes on: the newest good checkpoint of one key."""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from evolve.core.durable import (
    digest,
    from_json,
    make_folder,
    note_of,
    storage_errors,
    sync_folder,
    tensors_from_bytes,
    tensors_to_bytes,
    to_json,
    write_file,
)

if TYPE_CHECKING:
    from torch import Tensor

_NAME = re.compile(r"(\d{8})-([0-9a-f]{64})\.safetensors")


@dataclass(frozen=True)
class FolderCheckpoint:
    """Files ``<number>-<sha256>.safetensors`` in one folder: the name says what the content is.

    A new file is complete and in place before the older one goes, so a kill at any moment leaves a
    good one. Hold the stage's lock while you use it: two writers would be two computations of the
    same stage.
    """

    folder: Path
    scratch: Callable[[], AbstractContextManager[Path]]

    def save(self, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
        """Keep tensors and notes instead of what was kept before.

        Args:
            tensors: by name.
            meta: JSON-able notes that belong to them.

        Raises:
            StoreError: it cannot be written (full disk).
        """
        with storage_errors(self.folder):
            data = tensors_to_bytes(tensors, {"note": to_json(meta).decode()})
            older = list(self._files())
            number = 1 + max((number for number, _, _ in older), default=0)
            with self.scratch() as folder:
                new = folder / f"{number:08d}-{digest(data)}.safetensors"
                write_file(new, data)
                make_folder(self.folder)
                os.replace(new, self.folder / new.name)
            sync_folder(self.folder)
            for _, _, path in older:
                path.unlink(missing_ok=True)

    def load(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """The newest checkpoint that is whole; damaged ones are passed over.

        Returns:
            The tensors and the notes; None where there is no whole checkpoint.
        """
        with storage_errors(self.folder):
            for _, expected, path in sorted(self._files(), reverse=True):
                with suppress(FileNotFoundError):
                    data = path.read_bytes()
                    if digest(data) == expected:
                        return tensors_from_bytes(data), from_json(note_of(data)["note"].encode())
        return None

    def clear(self) -> None:
        """Forget every checkpoint of this key."""
        with storage_errors(self.folder), suppress(FileNotFoundError):
            shutil.rmtree(self.folder)

    def _files(self) -> Iterator[tuple[int, str, Path]]:
        if self.folder.is_dir():
            for path in self.folder.iterdir():
                if match := _NAME.fullmatch(path.name):
                    yield int(match[1]), match[2], path


class ThrottledCheckpoint:
    """A checkpoint that is written at most every ``seconds``.

    An epoch of a small network takes less time than its checkpoint is worth.
    """

    def __init__(
        self, inner: Checkpoint, seconds: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.inner, self.seconds, self.clock = inner, seconds, clock
        self.last = clock()

    def load(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """The newest checkpoint of the inner one."""
        return self.inner.load()

    def save(self, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
        """Save to the inner checkpoint if the last time is long enough ago."""
        if self.clock() - self.last >= self.seconds:
            self.inner.save(tensors, meta)
            self.last = self.clock()


class Checkpoint(Protocol):
    """Where an interrupted task goes on; see ``evolve.engine.checkpoint``."""

    def load(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """The newest tensors and notes, or None."""

    def save(self, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
        """Keep copies, if anything: the tensors go on changing."""
