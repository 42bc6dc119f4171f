"""Which runs refer to a store: every run that opens one leaves a card in ``runs/``, so that nothing it needs is taken for garbage.

A card says all that the names of the run's stages follow from, so it counts before its folder holds anything, and on another machine.
"""

from __future__ import annotations

import hashlib
import json
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evolve import scenario
from evolve.durable import canonical, to_json, write_whole
from evolve.errors import UserError
from evolve.lineage import World
from evolve.store import Store

GRACE = 3600.0  # seconds that a card counts although its folder holds no run yet: it is about to


@dataclass(frozen=True)
class Card:
    """One registration. ``facts`` is what :func:`world_of` reads."""

    file: Path
    folder: Path
    host: str
    time: float  # seconds since 1970, by the clock of ``host``
    begun: bool  # whether its folder has held the run
    facts: dict[str, Any]

    @property
    def young(self) -> bool:
        """Whether the run may not have written its folder yet. A clock ahead of ours counts as young."""
        return not self.begun and time.time() - self.time < GRACE

    @property
    def ours(self) -> bool:
        """Whether this machine wrote it, and so can tell whether its folder is gone."""
        return self.host == socket.gethostname()


def register(store: Store, folder: Path, world: World, begun: bool = False) -> None:
    """Say that the run in ``folder`` refers to this store; before it reads any result, and again, ``begun``, once the folder holds it.

    StoreError or UserError where that cannot be written: a run that nobody knows of could lose its results.
    """
    who = {"folder": str(folder.resolve()), "host": socket.gethostname(), "run": facts(world)}
    name = hashlib.sha256(canonical(who).encode()).hexdigest()[:20]
    with store.gate():
        write_whole(store.root / "runs" / f"{name}.json", to_json(who | {"time": time.time(), "begun": begun}), "store")


def cards(store: Store) -> Iterator[Card]:
    """Every registration. UserError for one that cannot be read: what it refers to is then unknown."""
    for file in sorted((store.root / "runs").glob("*.json")):
        with suppress(FileNotFoundError):
            try:
                found = json.loads(file.read_bytes())
                yield Card(file, Path(found["folder"]), found["host"], float(found["time"]), bool(found["begun"]), found["run"])
            except (ValueError, KeyError, TypeError) as error:
                raise UserError(f"store: {file}: damaged ({error}): remove it, and `evolve resume` the run that it named, if there is one") from None


def facts(world: World) -> dict[str, Any]:
    """A world as JSON-able values, under the names that run.json has for them."""
    return {
        "seed": world.seed,
        "settings": scenario.to_dict(world.settings),
        "fingerprint": world.data,
        "classes": {role: list(ids) for role, ids in world.roles.items()},
        "reference": world.reference,
        "checkpoint": world.checkpoint,
    }


def world_of(found: Mapping[str, Any], origin: str) -> World:
    """The inverse of :func:`facts`; also of what run.json holds. UserError, naming ``origin``, for settings that this evolve does not know."""
    try:
        settings = scenario.from_dict(found["settings"], origin)
        ancestor, condense, descend = (tuple(found["classes"][role]) for role in ("ancestor", "condense", "descend"))
        return World(settings, found["seed"], found["fingerprint"], ancestor, condense, descend, found["reference"], found["checkpoint"])
    except (KeyError, TypeError) as error:
        raise UserError(f"{origin}: damaged ({error!r}): remove it, and `evolve resume` the run that it named, if there is one") from None
