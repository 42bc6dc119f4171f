"""A copy of a store's results at an fsspec address.

Such an address is s3://bucket/prefix, gs://... or a URL of any file system that fsspec knows. What
a store puts is pushed there, what it lacks is pulled from there. Files are named by their content
and a result's manifest comes last. So a reader sees whole results only, whoever writes at once.
There are no locks between machines: two may compute one stage, to the same numbers.

Whoever can write there is trusted with the numbers: checksums tell damage, not lies. They are not
trusted with anything else: a manifest of another form counts as absent.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from evolve.core.durable import digest, from_json, write_file
from evolve.core.errors import StoreError, first_line
from evolve.engine.result import Damaged, checked_manifest

FRESH = 20.0  # seconds for which a listing is believed
MANIFEST = "manifest.json"


class Mirror:
    """The results at ``address``.

    Every method raises StoreError where the address cannot be reached. Nothing local is lost then.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self._known: dict[str, str] = {}  # key -> folder
        self._bad: set[str] = set()  # keys whose copies there are damaged
        self._until = 0.0
        with self._errors():
            from fsspec.core import url_to_fs

            self._system, path = url_to_fs(address, use_listings_cache=False)
            self._root = path.rstrip("/")

    def holds(self, key: str) -> bool:
        """Whether a result is there, as of the last listing."""
        return key in self._listing() and key not in self._bad

    def pull(self, key: str, folder: Path) -> str | None:
        """Write a result's files into an empty folder.

        Args:
            key: the stage's key.
            folder: where the files go.

        Returns:
            The stage's kind; None if the result is not there, or damaged: then it counts as not
            there.
        """
        if not self.holds(key):
            return None
        with self._errors():
            place = self._known[key]
            try:
                data = self._system.cat_file(f"{place}/{MANIFEST}")
                manifest = checked_manifest(key, data)
                files = {
                    name: self._system.cat_file(f"{place}/{entry['sha256']}")
                    for name, entry in manifest["files"].items()
                }
            except (FileNotFoundError, Damaged):
                files, manifest = {}, None
        if (
            manifest is None
            or "thinned" in manifest  # nobody pushes such a one
            or any(
                digest(files[name]) != entry["sha256"] for name, entry in manifest["files"].items()
            )
        ):
            self._bad.add(key)  # until it is pushed again
            return None
        for name, content in (*files.items(), (MANIFEST, data)):
            write_file(folder / name, content)
        return str(manifest["kind"])

    def push(self, path: Path) -> None:
        """Copy a result's folder there, unless it is there."""
        if self.holds(path.name):
            return
        data = (path / MANIFEST).read_bytes()
        manifest = from_json(data)
        if "thinned" in manifest:
            return
        place = f"{self._root}/results/{manifest['kind']}/{path.name}"
        with self._errors():
            self._system.makedirs(place, exist_ok=True)
            for name, entry in manifest["files"].items():
                self._system.pipe_file(f"{place}/{entry['sha256']}", (path / name).read_bytes())
            self._system.pipe_file(f"{place}/{MANIFEST}", data)
        self._known[path.name] = place
        self._bad.discard(path.name)

    def _listing(self) -> dict[str, str]:
        if time.monotonic() >= self._until:
            with self._errors():
                files: list[str] = self._system.find(f"{self._root}/results")
            folders = [file.rpartition("/")[0] for file in files if file.endswith(f"/{MANIFEST}")]
            self._known = {folder.rpartition("/")[2]: folder for folder in folders}
            self._until = time.monotonic() + FRESH
        return self._known

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Every file system has exceptions of its own; to the user they are one thing."""
        try:
            yield
        except Exception as error:
            text: Any = first_line(error) or type(error).__name__
            advice = (
                "check the address, the network, the credentials and that fsspec's package "
                "for it is installed (s3: pip install s3fs)"
            )
            raise StoreError(
                f"mirror {self.address}: {text}; {advice}; finished stages are kept in the local "
                "store"
            ) from error
