"""A mirror that someone else can write to: nothing lands outside the store, nothing ends a run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from test_store import stage, tensors

from evolve.core.durable import digest, from_json, to_json
from evolve.engine.result import seal_of
from evolve.engine.store import Store

pytest.importorskip("fsspec")
KEY = stage().key


def mirrored(folder: Path, bucket: Path) -> Store:
    store = Store(folder, pytest.fail)
    store.mirror_at(f"file://{bucket}")
    return store


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A result's folder in a bucket."""
    mirrored(tmp_path / "one", tmp_path / "bucket").put(stage(), {"accuracy": 0.5}, tensors(), {})
    (manifest,) = (tmp_path / "bucket").rglob("manifest.json")
    return manifest.parent


def resealed(place: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """What a bucket's writer can do: change a manifest and make its seal right."""
    manifest = from_json((place / "manifest.json").read_bytes())
    change(manifest)
    manifest["seal"] = seal_of(manifest)
    (place / "manifest.json").write_bytes(to_json(manifest))


def snapshot(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name not in ("store.json",)
    }


NAMES = [
    "../../../../evil",
    "{tmp}/evil",
    "evil",
    "manifest.json",
    "a/b.safetensors",
    "A.safetensors",
]


@pytest.mark.parametrize("name", [*NAMES, "x.safetensors\n", "result.json/../../evil", ""])
def test_a_file_of_another_name_is_not_written(name: str, place: Path, tmp_path: Path) -> None:
    content = b"from the bucket"
    (place / digest(content)).write_bytes(content)
    told = {"sha256": digest(content), "bytes": len(content)}
    resealed(place, lambda manifest: manifest["files"].update({name.format(tmp=tmp_path): told}))
    two = mirrored(tmp_path / "two", tmp_path / "bucket")
    before = snapshot(tmp_path)
    assert two.get(KEY) is None and not two.has(KEY)
    assert snapshot(tmp_path) == before


def set_to(**values: Any) -> Callable[[dict[str, Any]], object]:
    return lambda manifest: manifest.update(values)


@pytest.mark.parametrize(
    "change",
    [
        set_to(files=[1, 2]),
        set_to(files={}),
        set_to(files=None),
        set_to(files={"result.json": "x"}),
        set_to(files={"result.json": {"sha256": "../../../etc/passwd", "bytes": 1}}),
        set_to(files={"result.json": {"sha256": None, "bytes": 1}}),
        set_to(kind="../up"),
        set_to(kind=["condense"]),
        set_to(recipe={"other": 1}),
        set_to(recipe=None),
        set_to(key="0" * 40),
        set_to(thinned={"files": {}, "why": "to mislead"}),
        set_to(thinned=7),
        lambda manifest: manifest.pop("recipe"),
        lambda manifest: manifest["files"].pop("result.json"),
    ],
)
def test_an_odd_manifest_counts_as_absent_and_is_replaced(
    change: Callable[[dict[str, Any]], object], place: Path, tmp_path: Path
) -> None:
    resealed(place, change)
    two = mirrored(tmp_path / "two", tmp_path / "bucket")
    assert two.get(KEY) is None
    two.put(stage(), {"accuracy": 0.5}, tensors(), {})
    assert mirrored(tmp_path / "three", tmp_path / "bucket").record(KEY) == {"accuracy": 0.5}


@pytest.mark.parametrize(
    "text", [b"", b"[]", b"7", b"null", b'"x"', b"{}", b"\xff", b"[" * 100_000, b"9" * 5000]
)
def test_a_manifest_that_is_none_counts_as_absent(text: bytes, place: Path, tmp_path: Path) -> None:
    (place / "manifest.json").write_bytes(text)
    assert mirrored(tmp_path / "two", tmp_path / "bucket").get(KEY) is None
    (tmp_path / "bucket/results/condense/not-a-key").mkdir(parents=True)
    (tmp_path / "bucket/results/condense/not-a-key/manifest.json").write_text(json.dumps({}))
    assert mirrored(tmp_path / "three", tmp_path / "bucket").get(KEY) is None
