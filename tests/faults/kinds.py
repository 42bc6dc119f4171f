"""One small file of every kind that evolve reads, and the reader that a user's command ends in."""

from __future__ import annotations

import json
import pickle
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

from evolve.core import toml
from evolve.core.settings import AncestorSettings, Settings, StreamSettings
from evolve.data import cache, members, photos, pickles
from evolve.engine.result import seal_of
from evolve.engine.stage import Stage
from evolve.engine.store import Store
from evolve.learngene import ancestor_file, model_file
from evolve.learngene import learngene as gene_file
from evolve.learngene.learngene import extract
from evolve.learngene.tensor_file import read_any
from evolve.lineage.scenario import load
from evolve.lineage.world import World, facts
from evolve.networks.family import architecture
from evolve.networks.foreign_names import plain_names
from evolve.networks.vit_checkpoint import read as read_vit
from evolve.networks.vit_plan import vit_small4
from evolve.runs.folder import read_run
from evolve.runs.garbage import census
from evolve.runs.referrers import register

NETWORK = ("vgg16", 1 / 64, 32)
PLAN = architecture(*NETWORK)
VIT = vit_small4(0.125, 16)
STAGE = Stage("test", "a test", {"x": 1}, {})


@dataclass(frozen=True)
class Kind:
    """A kind of file.

    Attributes:
        name: as the table calls it.
        sealed: whether it has a checksum, so that no change may pass. Others are the user's own, or
            foreign: their content is in the keys, and another content is another input.
        make: writes it, and what it needs, into an empty folder.
        file: which file is damaged, below the folder.
        read: what evolve makes of it; None where it says that it is damaged.
    """

    name: str
    sealed: bool
    make: Callable[[Path], Any]
    file: str
    read: Callable[[Path], Any]


def kinds() -> list[Kind]:
    """All of them."""
    result = Path(f"store/results/test/{STAGE.key[:2]}/{STAGE.key}")
    stored = [
        Kind(f"store: {name}", True, _store, str(result / name), _result)
        for name in ("manifest.json", "result.json", "w.safetensors")
    ]
    ours = [
        Kind(f"{what} file", True, make, "x.safetensors", _own(load_it))
        for what, make, load_it in (
            ("learngene", _gene, lambda f: vars(gene_file.load(f))),
            ("ancestor", _ancestor, lambda f: vars(ancestor_file.load(f))),
            ("model", _model, lambda f: model_file.load(f).state_dict()),
            ("any", _gene, read_any),
        )
    ]
    decoded = [
        Kind(f"decoded images: {name}", True, _cached, f"cache/x-*/{name}", _read_cached)
        for name in (cache.META, cache.PIXELS)
    ]
    return [
        *stored,
        Kind("checkpoint of a stage", True, _checkpoint, "store/partial/*/*", _read_checkpoint),
        *ours,
        *decoded,
        Kind("store.json", False, _store, "store/store.json", _result),
        Kind("machine", False, _store, "store/machines/*.json", _result),
        Kind("card of a run", True, _run, "store/runs/*.json", _census),
        Kind("run.json", True, _run, "run/run.json", lambda f: read_run(f / "run")),
        Kind("scenario", False, _scenario, "x.toml", lambda f: load(str(f / "x.toml"))),
        *(
            Kind(f"checkpoint, {how}", False, make, "x.pth", lambda f: read_vit(f / "x.pth", VIT))
            for how, make in _FOREIGN.items()
        ),
        Kind("pickle of arrays", False, _pickle, "x.pkl", _read_pickle),
        Kind("photo, PNG", False, _photo("PNG"), "x.png", lambda f: _decoded(f / "x.png")),
        Kind("photo, JPEG", False, _photo("JPEG"), "x.jpeg", lambda f: _decoded(f / "x.jpeg")),
        Kind("zip of photos", False, _zip, "x.zip", _read_zip),
    ]


def _store(folder: Path) -> None:
    store = Store(folder / "store")
    store.put(STAGE, {"a": [1, 2.5, "x"]}, {"w": {"w": torch.arange(6.0)}}, {"by": "us"})


def _result(folder: Path) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = Store(folder / "store").get(STAGE.key)
    return None if result is None else (result.record, result.tensors("w"))


def _checkpoint(folder: Path) -> None:
    Store(folder / "store").checkpoint("k").save({"w": torch.ones(4)}, {"epoch": 1})


def _read_checkpoint(folder: Path) -> Any:
    return Store(folder / "store").checkpoint("k").load()


def _own(read: Callable[[Path], Any]) -> Callable[[Path], Any]:
    return lambda folder: read(folder / "x.safetensors")


def _network() -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return PLAN.build(2)


def _gene(folder: Path) -> None:
    gene = extract(_network().state_dict(), PLAN, PLAN.layer_names[:2])
    gene.provenance.update(by="us")
    gene.save(folder / "x.safetensors")


def _ancestor(folder: Path) -> None:
    ancestor_file.save_ancestor(folder / "x.safetensors", *NETWORK, _network().state_dict())


def _model(folder: Path) -> None:
    model_file.save(folder / "x.safetensors", _network(), {})


def _cached(folder: Path) -> None:
    _read_cached(folder)


def _read_cached(folder: Path) -> Any:
    """Decoded anew where the entry is damaged, so always equal."""
    pixels = np.arange(2 * 8 * 8 * 3, dtype=np.uint8).reshape(2, 8, 8, 3)
    decoded = cache.Decoded(pixels, np.array([0, 1]), np.array([False, True]), ("a", "b"))
    prepared = cache.Prepared({"x": 1}, lambda report: decoded, (0.5,) * 3, (0.5,) * 3)
    held = cache.cached(folder / "cache", "x", prepared, lambda text: None)
    return np.array(held.pixels), held.labels, held.is_test, held.class_names


def _world() -> World:
    settings = Settings(
        name="t", stream=StreamSettings(tasks=1), ancestor=AncestorSettings(width=1 / 64)
    )
    roles = tuple(range(64)), tuple(range(64, 80)), tuple(range(80, 100))
    return World(settings, 0, "images", *roles)


def _run(folder: Path) -> None:
    (folder / "run").mkdir()
    rest = {"scenario": "t", "profile": "paper", "store": str(folder / "store"), "data_dir": None}
    rest |= {"versions": {}, "command": []}
    told = facts(_world()) | rest
    (folder / "run/run.json").write_text(json.dumps(told | {"seal": seal_of(told)}))
    register(Store(folder / "store"), folder / "run", _world(), begun=True)


def _census(folder: Path) -> Any:
    """Whom gc would count; a card that cannot be read is a problem, and then it removes nothing."""
    counted = census(Store(folder / "store"))
    return None if counted.problems else (counted.runs, counted.vanished)


def _scenario(folder: Path) -> None:
    (folder / "x.toml").write_text(toml.dump(load("glyphs-seq25", "quick").settings))


def _like_timm() -> dict[str, torch.Tensor]:
    """A ViT's weights under timm's names."""
    state = VIT.build(1).state_dict()
    return {theirs: state[ours] for ours, theirs in plain_names(VIT).items()}


_FOREIGN: dict[str, Callable[[Path], Any]] = {
    "torch.save": lambda f: torch.save(_like_timm(), f / "x.pth"),
    "legacy": lambda f: torch.save(_like_timm(), f / "x.pth", _use_new_zipfile_serialization=False),
    "safetensors": lambda f: save_file(_like_timm(), f / "x.pth"),
}


def _pickle(folder: Path) -> None:
    images = np.arange(2 * 4 * 4 * 3, dtype=np.uint8).reshape(2, 4, 4, 3)
    held = {"image_data": images, "class_dict": {"n01": [0], "n02": np.array([1])}}
    (folder / "x.pkl").write_bytes(pickle.dumps(held))


def _read_pickle(folder: Path) -> Any:
    return pickles.load_arrays(folder / "x.pkl", "convert it")


def _picture() -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 255, (16, 16, 3)).astype(np.uint8)
    return Image.fromarray(pixels)


def _photo(form: str) -> Callable[[Path], None]:
    return lambda folder: _picture().save(folder / f"x.{form.lower()}", form)


def _decoded(file: Path) -> Any:
    return photos.decode(file, 8)


def _zip(folder: Path) -> None:
    _picture().save(folder / "x.png", "PNG")
    with zipfile.ZipFile(folder / "x.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(folder / "x.png", "train/a/x.png")


def _read_zip(folder: Path) -> Any:
    reader = members.ZipFiles(folder / "x.zip", ("train",), "get it again").open()
    try:
        return [(name, reader.read(name)) for name in sorted(reader.members)]
    finally:
        reader.close()
