"""A table of bad inputs: each must be refused in one line."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from evolve.core import toml
from evolve.core.settings import Settings
from evolve.learngene import ancestor_file
from evolve.learngene.tensor_file import read_any
from evolve.lineage.scenario import load
from evolve.networks.vit_checkpoint import read as read_vit
from evolve.networks.vit_plan import vit_small4
from evolve.runs.batch import file as batch_file
from evolve.runs.folder import read_run

VALUES = ("-1", "nan", "inf", "1e400", "1" + "0" * 400, '"x\\n\\u001b[2J"', "{a = 1}", "2026-01-01")
TEXTS: dict[str, bytes] = {
    "nothing": b"",
    "zeros": bytes(4096),
    "lists": b"x = " + b"[" * 20_000,
    "tables": b"x = " + b"{a=" * 20_000,
    "JSON lists": b"[" * 100_000,
    "digits": b"x = " + b"9" * 5_000,
    "a long key": b".".join([b"a"] * 40_000) + b" = 1",
    "Latin-1": "é = 1".encode("latin-1"),
    "UTF-16": "x = 1".encode("utf-16"),
    "escapes": b'"\x1b[2J" = 1',
    "an unknown key": b"[ancestor]\nepoch = 3\n",
    "a web page": b"<!DOCTYPE html><html>",
    "Git LFS": b"version https://git-lfs.github.com/spec/v1\n",
    "a pickle": b"\x80\x04cos\nsystem\n(S'true'\ntR.",
    "half a zip": b"PK\x03\x04half",
    "a huge header": (1 << 62).to_bytes(8, "little") + b"{}",
    "gzip": b"\x1f\x8b\x08\x00",
}
READERS: dict[str, Callable[[Path], Any]] = {
    "scenario": lambda file: load(str(file)),
    "batch": lambda file: batch_file.load(str(file)),
    "checkpoint": lambda file: read_vit(file, vit_small4(0.125, 16)),
    "ancestor": lambda file: ancestor_file.import_weights(file, "vgg16", 1 / 64, 32),
    "learngene": read_any,
    "run.json": lambda file: read_run(file.parent),
}


def inputs(folder: Path) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Every bad input's name, and the call that meets it.

    Args:
        folder: an empty one.
    """
    for section in dataclasses.fields(Settings):
        of = type(getattr(Settings(), section.name))
        for field in dataclasses.fields(of) if dataclasses.is_dataclass(of) else ():
            kind = str(typing.get_type_hints(of)[field.name])
            # Any table is a plug-in's own, and any string a title or a path.
            if "dict" not in kind and (field.metadata["choices"] or "str" not in kind):
                for value in VALUES:
                    text = f"{section.name}.{field.name}={value}"
                    yield f"--set {text}", lambda text=text: toml.override(Settings(), text)
    for what, read in READERS.items():
        for name, content in TEXTS.items():
            place = folder / f"{what}-{name}".replace(" ", "-")
            place.mkdir()
            file = place / ("run.json" if what == "run.json" else "x.toml")
            file.write_bytes(content)
            if not (what == "scenario" and not content):  # an empty one is the default
                yield f"{what}: {name}", lambda read=read, file=file: read(file)
