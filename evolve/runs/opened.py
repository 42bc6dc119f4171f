"""One run: a folder with its settings, a lineage executed stage by stage, the screens that look on, the report at the end."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evolve.core import toml
from evolve.core.durable import write_whole
from evolve.core.errors import UserError
from evolve.core.settings import DataSettings, Scenario
from evolve.core.version import versions
from evolve.engine.cluster import Cluster
from evolve.engine.store import Result, Stage, Store
from evolve.engine.workers import usable_cores
from evolve.lineage.collect import collect
from evolve.lineage.lineage import lineage
from evolve.lineage.world import World, ancestor_plan, described
from evolve.networks.architecture import Architecture
from evolve.report.curves import LineageRecord
from evolve.runs.checks import check_rooms
from evolve.runs.estimate import cost
from evolve.runs.folder import (
    RUN_FILE,
    _check_same,
    _known_run,
    again_command,
    find_store,
    read_run,
)
from evolve.runs.referrers import register

if TYPE_CHECKING:
    from evolve.data.sources import ImageSet
    from evolve.engine.engine import Crew


@dataclass(frozen=True)
class Place:
    """Where something is computed, from what and into what. Only ``reference`` can change a number, by its rounding."""

    out: Path
    store: Path
    data_dir: Path | None = None
    device: str = "auto"
    workers: int = 0
    reference: bool = False
    cluster: Cluster | None = None


@dataclass(frozen=True, kw_only=True)
class Order(Place):
    """One lineage, as the user asked for it."""

    scenario: Scenario
    seed: int


def worker_places(order: Order, opened: Sequence[Opened]) -> Sequence[Mapping[str, str]]:
    """One single-thread process a core; on GPUs as many as their free memory holds, each with its GPU named in its environment.

    Where no GPU can be asked, two: one stage's Python overlaps the other's kernels.
    """
    from evolve.engine.devices import choose_device
    from evolve.runs.estimate import gpus

    if choose_device(order.device).type != "cuda":
        return [{}] * (order.workers or usable_cores())
    found = gpus.visible()
    if not found or order.workers:
        return gpus.spread(found, order.workers) or [{}] * (order.workers or 2)
    return gpus.places(
        found,
        max(gpus.bytes_each(one.order.scenario.settings, one.image_bytes, found) for one in opened),
        usable_cores(),
    )


def crew(order: Order, opened: Sequence[Opened]) -> Crew:
    """Who computes what is ``opened``: the cluster that the user named, else worker processes on this machine."""
    from evolve.engine.engine import Local

    if order.cluster is None:
        return Local(worker_places(order, opened))
    from evolve.engine.cluster.crew import Dask

    return Dask(order.cluster)


def order_from_run(
    folder: Path,
    data_dir: Path | None,
    store: Path | None,
    device: str,
    workers: int,
    cluster: Cluster | None = None,
) -> Order:
    """The order that continues the run in ``folder``."""
    found = read_run(folder)
    settings = toml.from_dict(found["settings"], str(folder / RUN_FILE))
    chosen = Scenario(settings, found["profile"], str(folder / RUN_FILE))
    data = data_dir or (Path(found["data_dir"]) if found["data_dir"] else None)
    place = find_store(folder, found["store"], store)
    return Order(
        folder,
        place,
        data,
        device,
        workers,
        found["reference"],
        cluster,
        scenario=chosen,
        seed=found["seed"],
    )


@dataclass
class Opened:
    """A run with its images and store at hand."""

    order: Order
    world: World
    store: Store
    context: dict[str, Any]
    results: dict[str, Result]  # by key, those read so far; runs that share a store may share them
    seen: set[str] = field(default_factory=set)  # keys of this run that were looked at
    image_bytes: int = 0

    def peek(self, key: str) -> Mapping[str, Any] | None:
        """A finished stage's record; checksums are verified on the first look, a damaged result is set aside."""
        if key not in self.results:
            if (found := self.store.get(key)) is None:
                return None
            self.results[key] = found
        self.seen.add(key)
        return self.results[key].record

    @property
    def makers(self) -> list[str]:
        """What computed the results seen so far."""
        made = (self.results[key].manifest["provenance"] for key in self.seen)
        return sorted({f"torch {one['torch']} on {one['device']}" for one in made})

    def stages(self) -> list[Stage]:
        """All stages that can be named now."""
        return list(lineage(self.world, self.peek))

    def missing(self) -> list[Stage]:
        """Stages not in the store, each once."""
        return [
            stage
            for stage in {s.key: s for s in self.stages()}.values()
            if not self.store.has(stage.key)
        ]


def open_run(
    order: Order, notice: Callable[[str], None], loaded: dict[DataSettings, ImageSet] | None = None
) -> Opened:
    """Load the images, split their classes, open the store. Raises UserError for whatever does not fit.

    ``loaded`` holds images that are open already, and takes those that are not: to open a set is to read and check all of it.
    """
    import torch

    from evolve.data.resident import Resident
    from evolve.data.sources import load_images
    from evolve.data.splits import make_splits
    from evolve.engine.devices import choose_device

    if order.cluster is None:
        choose_device(order.device)
    settings = order.scenario.settings
    if (
        order.store.resolve() == order.out.resolve()
        or order.out.resolve() in order.store.resolve().parents
    ):
        raise UserError(
            f"--store {order.store}: lies in the run folder {order.out}; give a folder beside it, which several runs can share"
        )
    store = Store(order.store, notice)
    cache = Path(os.environ.get("EVOLVE_CACHE", order.store / "images"))
    known = {} if loaded is None else loaded
    if settings.data not in known:
        known[settings.data] = load_images(settings.data, order.data_dir, cache, notice)
    images = known[settings.data]
    splits = make_splits(settings.data, images)
    split = tuple(splits.ancestor), tuple(splits.condense), tuple(splits.descend)
    checkpoint = Path(settings.ancestor.checkpoint) if settings.ancestor.checkpoint else None
    digest = _pretrained(checkpoint, ancestor_plan(settings)) if checkpoint else ""
    world = World(
        settings,
        order.seed,
        images.fingerprint,
        *split,
        reference=order.reference,
        checkpoint=digest,
    )
    check_rooms(world, Resident(images, torch.device("cpu")), order.scenario.origin)
    register(store, order.out, world)
    context = {
        "data": settings.data,
        "data_dir": order.data_dir,
        "cache_dir": cache,
        "device": order.device,
        "checkpoint": checkpoint,
    }
    return Opened(
        order,
        world,
        store,
        context,
        {},
        image_bytes=sum(piece.nbytes for piece in (images.images, *images.more)),
    )


def _pretrained(file: Path, plan: Architecture) -> str:
    """The content of a checkpoint that fits the ancestor. Raises UserError for any other, before anything is computed."""
    from evolve.networks.vit_checkpoint import content, read
    from evolve.networks.vit_plan import ViTPlan

    assert isinstance(plan, ViTPlan), "scenario.check allows no other"
    read(file, plan)
    return content(file)


def prepare_folder(opened: Opened, argv: list[str]) -> None:
    """Write run.json and scenario.toml, or find that this folder already holds the same run.

    Raises UserError when it holds another one: nothing a user has computed is overwritten.
    """
    order, out, chosen = opened.order, opened.order.out, opened.order.scenario
    world = opened.world
    facts = {
        "scenario": chosen.settings.name,
        "profile": chosen.profile,
        "seed": order.seed,
        "settings": toml.to_dict(chosen.settings),
        "fingerprint": world.data,
        "classes": {role: list(ids) for role, ids in world.roles.items()},
        "reference": order.reference,
        "checkpoint": world.checkpoint,
    }
    where = {
        "store": str(order.store.resolve()),
        "data_dir": str(order.data_dir.resolve()) if order.data_dir else None,
    }
    described = (
        facts
        | where
        | {"versions": {"python": platform.python_version(), **versions()}, "command": argv}
    )
    known = _known_run(out)
    if known is not None:
        _check_same(out, known, facts)
        described |= {"versions": known["versions"], "command": known["command"]}
    # run.json first: a folder with it is ours, whatever else a crash left out.
    write_whole(out / RUN_FILE, (json.dumps(described, indent=1) + "\n").encode(), "run folder")
    register(opened.store, out, world, begun=True)
    again = again_command(out, facts | where)
    header = f"Resolved from {chosen.origin}, profile {chosen.profile}, seed {order.seed}.\nRun it again: {again}"
    write_whole(
        out / "scenario.toml",
        toml.dump(chosen.settings, header, chosen.profile).encode(),
        "run folder",
    )


def remaining_seconds(opened: Opened) -> dict[str, float]:
    """Estimated seconds of every stage that is not in the store, by key."""
    settings = opened.order.scenario.settings
    return {
        stage.key: cost.seconds(settings, stage.kind, stage.recipe) for stage in opened.missing()
    }


def run_record(opened: Opened) -> LineageRecord:
    """What the store holds of this run, as pure data."""
    order = opened.order
    settings = described(opened.world, toml.to_dict(order.scenario.settings))
    found = dict(read_run(order.out)["versions"]) if (order.out / "run.json").exists() else {}
    record = collect(
        opened.world,
        opened.peek,
        order.scenario.settings.name,
        order.scenario.profile,
        settings,
        found,
    )
    return replace(record, versions=found | {"computed with": "; ".join(opened.makers)})
