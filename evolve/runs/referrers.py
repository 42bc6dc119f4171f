"""Which runs refer to a store: every run that opens one leaves a card in ``runs/``.

So nothing that a run needs is taken for garbage. A card says all that the names of the run's stages
follow from. So it counts before its folder holds anything, and on another machine.
"""

from __future__ import annotations

import hashlib
import os
import socket
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evolve.core.durable import canonical, to_json, write_whole
from evolve.core.errors import UserError
from evolve.core.foreign import parse_json, read_bounded
from evolve.core.terminal import printable
from evolve.engine.result import seal_of
from evolve.engine.store import Store
from evolve.lineage.world import World, facts
from evolve.runs.folder import MOST_BYTES, RUN_FILE

GRACE = 3600.0  # seconds that a card counts although its folder holds no run yet: it is about to


@dataclass(frozen=True)
class Card:
    """One registration. ``facts`` is what :func:`evolve.lineage.world.world_of` reads."""

    file: Path
    folder: Path
    host: str
    ours: bool  # whether this machine wrote it, and so can tell whether its folder is gone
    mount: Path  # where the folder's disk is mounted there
    time: float  # seconds since 1970, by the clock of ``host``
    begun: bool  # whether its folder has held the run
    facts: dict[str, Any]

    @property
    def young(self) -> bool:
        """Whether the run may not have written its folder yet. A clock ahead of ours counts as
        young.
        """
        return not self.begun and time.time() - self.time < GRACE

    @property
    def elsewhere(self) -> str:
        """Why the folder cannot be seen from here, if it is there; "" where it could be."""
        if not self.ours:
            return f"on {self.host}, cannot be seen from here"
        return "" if os.path.ismount(self.mount) else f"its disk is not mounted at {self.mount}"


def register(store: Store, folder: Path, world: World, begun: bool = False) -> None:
    """Record that the run in ``folder`` refers to this store.

    A run does so before it reads any result, and again once its folder holds it. In a store that
    cannot be written it does not: nothing can be removed there either.

    Args:
        store: the store.
        folder: the run's folder.
        world: what names its stages.
        begun: whether the folder holds the run.

    Raises:
        StoreError, UserError: the card cannot be written. A run that nobody knows of could lose its
        results.
    """
    if store.read_only:
        return
    place = folder.resolve()
    who = {
        "folder": str(place),
        "beside": os.path.relpath(place, store.root),
        "host": socket.gethostname(),
        "run": facts(world),
    }
    seen = {"machine": store.folder.machine.name, "mount": str(_mount(place))}
    name = hashlib.sha256(canonical(who).encode()).hexdigest()[:20]
    card = who | seen | {"time": time.time(), "begun": begun}
    with store.gate():
        write_whole(
            store.root / "runs" / f"{name}.json", to_json(card | {"seal": seal_of(card)}), "store"
        )


def card_files(store: Store) -> list[Path]:
    """The file of every registration."""
    return sorted((store.root / "runs").glob("*.json"))


def read_card(store: Store, file: Path) -> Card:
    """One registration.

    Raises:
        UserError: it cannot be read, so what it refers to is unknown.
        FileNotFoundError: it is gone.
    """
    try:
        entry = parse_json(read_bounded(file, MOST_BYTES))
        if entry["seal"] != seal_of(entry):
            raise ValueError("it was changed")
        # The second place is right where store and run have moved together.
        places = (Path(entry["folder"]), (store.root / entry["beside"]).resolve())
        folder = next((place for place in places if (place / RUN_FILE).is_file()), places[0])
        return Card(
            file,
            folder,
            entry["host"],
            entry["machine"] == store.folder.machine.name,
            Path(entry["mount"]),
            float(entry["time"]),
            bool(entry["begun"]),
            entry["run"],
        )
    except FileNotFoundError:
        raise
    except OSError as error:
        raise UserError(
            f"store: {file}: cannot be read ({error.strerror or error}): check that disk, and run "
            "again"
        ) from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            printable(
                f"store: {file}: damaged ({error}): remove it, and `evolve resume` the run that it "
                "named, if there is one"
            )
        ) from None


def _mount(folder: Path) -> Path:
    """Where the disk that a folder lies on, or will, is mounted."""
    return next(place for place in (folder, *folder.parents) if os.path.ismount(place))
