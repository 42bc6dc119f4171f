"""What lies in a store, which run refers to what of it, and what nobody refers to.

Only the last is removed, and only under the store's gate.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from filelock import Timeout

from evolve.core.durable import from_json
from evolve.core.errors import UserError
from evolve.core.locks import held
from evolve.core.settings import descend_source
from evolve.engine.stage import Stage
from evolve.engine.store import StageLocked, Store
from evolve.lineage.lineage import lineage
from evolve.lineage.world import World, world_of
from evolve.runs.folder import RUN_FILE, read_run
from evolve.runs.referrers import Card, card_files, read_card


@dataclass(frozen=True)
class Referrer:
    """A run that refers to the store. ``note``: why it counts, where that is not plain."""

    folder: Path
    world: World
    note: str = ""


@dataclass
class Census:
    """The runs that refer to a store.

    Attributes:
        runs: those that count.
        vanished: cards of runs that are not there any more.
        problems: one line for each run that cannot be read, so that nobody knows what it refers to.
    """

    runs: list[Referrer] = field(default_factory=list)
    vanished: list[Card] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def add(self, run: Referrer) -> None:
        """Add a run, unless it is there already."""
        if not any(run.folder == other.folder and run.world == other.world for other in self.runs):
            self.runs.append(run)


@dataclass(frozen=True)
class Item:
    """One thing in the store. ``key``: that of its stage, "" for what belongs to none."""

    kind: str  # a result's kind of stage, or "checkpoints", "damaged", "logs", "images"
    path: Path
    size: int  # bytes
    key: str = ""


def census(store: Store, forget: Sequence[str] = ()) -> Census:
    """Count the runs that registered and are there still.

    A run whose folder cannot be seen from here, as it is on another machine or its disk is not
    mounted, counts, unless its machine is to be forgotten.

    Args:
        store: the store.
        forget: names of such machines.
    """
    counted = Census()
    for file in card_files(store):
        with _noting(counted), suppress(FileNotFoundError):
            _judge(read_card(store, file), counted, forget)
    return counted


@contextmanager
def _noting(counted: Census) -> Iterator[None]:
    try:
        yield
    except UserError as error:
        counted.problems.append(str(error))


def _judge(card: Card, counted: Census, forget: Sequence[str]) -> None:
    """Count a card whose folder holds that run, or may soon, or cannot be seen from here."""
    origin = f"{card.folder}: {card.file}"
    held, note = None, ""
    if (card.folder / RUN_FILE).is_file():
        try:
            held = world_of(read_run(card.folder), str(card.folder / RUN_FILE))
        except UserError:  # the card says what it needs
            note = f"its {RUN_FILE} cannot be read: repeat the command that made it"
    far = "" if card.host in forget else card.elsewhere
    if not (held or note or card.young or far):
        counted.vanished.append(card)
        return
    world = world_of(card.facts, origin)
    if held == world:
        counted.add(Referrer(card.folder, world))
    elif note:
        counted.add(Referrer(card.folder, world, note))
    elif card.young:
        counted.add(Referrer(card.folder, world, "opened within the last hour"))
    elif far:
        counted.add(Referrer(card.folder, world, far))
    else:
        counted.vanished.append(card)  # another run lies in its folder now


def references(store: Store, runs: Iterable[Referrer]) -> dict[Path, dict[str, Stage]]:
    """The stages that each run has or will have, as far as they can be named now.

    Args:
        store: the store.
        runs: those that refer to it.

    Returns:
        Run folder -> key -> stage.
    """
    peek = cache(store.record)
    named: dict[Path, dict[str, Stage]] = {}
    for run in runs:
        named.setdefault(run.folder, {}).update(
            {stage.key: stage for stage in lineage(run.world, peek)}
        )
    return named


def contents(store: Store) -> Iterator[Item]:
    """All that lies in the store.

    Left out are its locks, the registrations, and what processes are writing now.
    """
    root = store.root
    for path in sorted(root.glob("results/*/*/*")):
        yield Item(path.parent.parent.name, path, size_of(path), path.name)
    for path in sorted(root.glob("partial/*")):
        yield Item("checkpoints", path, size_of(path), path.name)
    for path in sorted(root.glob("damaged/*")):
        yield Item("damaged", path, size_of(path))
    for path in sorted(root.glob("logs/*.log")):
        yield Item("logs", path, size_of(path), path.stem)
    for path in sorted(root.glob("images/*")):
        if path.is_dir():
            yield Item("images", path, size_of(path))


def size_of(path: Path) -> int:
    """Bytes in a file, or in all files of a folder; what vanishes meanwhile counts nothing."""
    total = 0
    for file in (
        [path]
        if path.is_file()
        else [Path(place, name) for place, _, names in os.walk(path) for name in names]
    ):
        with suppress(FileNotFoundError):
            total += file.stat().st_size
    return total


def garbage(store: Store, counted: Census, everything: bool = False) -> list[Item]:
    """What no run refers to.

    Imported ancestors and what was condensed from them stay. So do images, by source and size, that
    a run's settings name.

    Args:
        store: the store.
        counted: its runs.
        everything: imported ancestors and what was condensed from them are garbage, too.

    Raises:
        UserError: a run cannot be read, or none is known at all. Then nobody knows what is garbage.
    """
    for problem in counted.problems:
        raise UserError(
            f"{problem} (until then nobody knows which results that run refers to, so nothing was "
            "removed)"
        )
    items = list(contents(store))
    if not counted.runs and any(item.key for item in items):
        raise UserError(
            f"{store.root}: no run is known that refers to this store; `evolve resume` the runs "
            "that do, or, if there are none, remove the folder"
        )
    referred = {key for stages in references(store, counted.runs).values() for key in stages}
    sources = {
        f"{source}-{run.world.settings.data.size}-"
        for run in counted.runs
        for source in _sources(run.world)
    }

    def kept(item: Item) -> bool:
        if item.kind == "images":
            return item.path.name.lstrip(".").startswith(tuple(sources))
        return item.key in referred or (not everything and _of_import(store, item))

    return [item for item in items if not kept(item)]


def _sources(world: World) -> set[str]:
    data = world.settings.data
    return {data.source, descend_source(data)}


def _of_import(store: Store, item: Item) -> bool:
    """Whether this result is an imported ancestor, or condensed from one."""
    if item.kind != "condense":
        return item.kind == "import"
    try:
        ancestor = from_json((item.path / "manifest.json").read_bytes())["recipe"]["inputs"][
            "ancestor"
        ]
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return (store.root / "results" / "import" / ancestor[:2] / ancestor).is_dir()


def remove(
    store: Store, shown: Sequence[Item], everything: bool = False, forget: Sequence[str] = ()
) -> list[Item]:
    """Remove what is still garbage and not being computed now.

    This happens under the gate. A run that opened the store since ``shown`` was listed has
    registered and is asked. One that opens it now waits, then finds those results gone and computes
    them.

    Args:
        store: the store.
        shown: what the user was shown.
        everything: as for :func:`garbage`.
        forget: as for :func:`census`.

    Returns:
        The items that were removed.
    """
    removed = []
    with store.bin() as discard, store.gate():
        counted = census(store, forget)
        still = {item.path for item in garbage(store, counted, everything)}
        for item in shown:
            with suppress(StageLocked, Timeout):
                if item.path in still:
                    with _unheld(store, item):
                        discard(item.path)
                    removed.append(item)
        for card in counted.vanished:
            discard(card.file)
    return removed


@contextmanager
def _unheld(store: Store, item: Item) -> Iterator[None]:
    """Keep others from computing the stage, or from decoding the images.

    Raises:
        StageLocked: another process is computing the stage.
        Timeout: another process is decoding the images.
    """
    if item.kind == "images":
        name = item.path.name.removeprefix(".").removesuffix(".part")
        with held(item.path.with_name(f"{name}.lock"), 0):
            yield
    elif item.key:
        with store.unheld(item.key):
            yield
    else:
        yield
