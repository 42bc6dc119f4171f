"""One run: its request, its images and store at hand, and what is written into its folder."""

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
from evolve.core.machine import usable_cores
from evolve.core.settings import DataSettings, Scenario
from evolve.core.version import versions
from evolve.engine.cluster import Cluster
from evolve.engine.result import seal_of
from evolve.engine.store import Result, Stage, Store
from evolve.lineage.collect import collect
from evolve.lineage.lineage import lineage
from evolve.lineage.scenario import class_needs
from evolve.lineage.world import World, ancestor_plan, described
from evolve.networks.architecture import Architecture
from evolve.report.curves import LineageRecord
from evolve.runs.checks import check_rooms, images_named
from evolve.runs.estimate import cost
from evolve.runs.estimate.counts import Counts, of_images
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
    """Where something is computed, from what and into what.

    Only ``reference`` can change a number, by its rounding.

    Attributes:
        out: the folder of the results.
        store: the store's folder.
        data_dir: where the images lie; None: the default.
        device: "auto", "cpu" or "cuda".
        workers: worker processes; 0: as many as fit.
        reference: take the plain path everywhere.
        cluster: a Dask cluster to compute on; None: this machine.
    """

    out: Path
    store: Path
    data_dir: Path | None = None
    device: str = "auto"
    workers: int = 0
    reference: bool = False
    cluster: Cluster | None = None


@dataclass(frozen=True, kw_only=True)
class RunRequest(Place):
    """One lineage, as the user asked for it."""

    scenario: Scenario
    seed: int


def worker_places(request: RunRequest, runs: Sequence[Run]) -> Sequence[Mapping[str, str]]:
    """The environments of the worker processes.

    On CPUs: one single-thread process a core. On GPUs: as many as their free memory holds, each
    with its GPU named in its environment. Where no GPU can be asked, two: the Python of one stage
    overlaps the kernels of the other.

    Args:
        request: says how many workers, and on which device.
        runs: what they are to compute.

    Returns:
        One environment a worker.
    """
    from evolve.engine.devices import choose_device
    from evolve.runs.estimate import gpus

    if choose_device(request.device).type != "cuda":
        return [{}] * (request.workers or usable_cores())
    visible = gpus.visible()
    if not visible or request.workers:
        return gpus.spread(visible, request.workers) or [{}] * (request.workers or 2)
    return gpus.places(
        visible,
        max(
            gpus.bytes_each(run.request.scenario.settings, run.image_bytes, visible) for run in runs
        ),
        usable_cores(),
    )


def worker_count(request: RunRequest, runs: Sequence[Run]) -> int:
    """How many stages are computed at once.

    Args:
        request: says where.
        runs: what is to be computed.
    """
    cluster = request.cluster
    if cluster is None:
        return len(worker_places(request, runs))
    return max(1, cluster.workers) * cluster.jobs


def crew(request: RunRequest, runs: Sequence[Run]) -> Crew:
    """Who computes the runs: the cluster that the user named, else worker processes here."""
    from evolve.engine.engine import Local

    if request.cluster is None:
        return Local(worker_places(request, runs))
    from evolve.engine.cluster.crew import Dask

    return Dask(request.cluster)


def request_from_run(
    folder: Path,
    data_dir: Path | None,
    store: Path | None,
    device: str,
    workers: int,
    cluster: Cluster | None = None,
) -> RunRequest:
    """The request that continues the run in ``folder``.

    Args:
        folder: the run's folder.
        data_dir: where the images lie now; None: as recorded.
        store: where its store lies now; None: as recorded.
        device: as in :class:`Place`.
        workers: as in :class:`Place`.
        cluster: as in :class:`Place`.

    Raises:
        UserError: the folder is no run's, or its store is not there.
    """
    facts = read_run(folder)
    settings = toml.from_dict(facts["settings"], str(folder / RUN_FILE))
    chosen = Scenario(settings, facts["profile"], str(folder / RUN_FILE))
    data = data_dir or (Path(facts["data_dir"]) if facts["data_dir"] else None)
    place = find_store(folder, facts["store"], store)
    return RunRequest(
        folder,
        place,
        data,
        device,
        workers,
        facts["reference"],
        cluster,
        scenario=chosen,
        seed=facts["seed"],
    )


@dataclass
class Run:
    """A run with its images and store at hand.

    Attributes:
        context: what the engine's workers need to load the images.
        results: the results read so far, by key; runs that share a store may share them.
        seen: the keys of this run that were looked at.
        image_bytes: size of the decoded images.
        counts: classes and images of its roles, where the images are at hand.
    """

    request: RunRequest
    world: World
    store: Store
    context: dict[str, Any]
    results: dict[str, Result]  # by key, those read so far; runs that share a store may share them
    seen: set[str] = field(default_factory=set)  # keys of this run that were looked at
    image_bytes: int = 0
    counts: Counts | None = None

    def peek(self, key: str) -> Mapping[str, Any] | None:
        """Read a finished stage's record.

        Checksums are verified on the first look. A damaged result is set aside.

        Args:
            key: the stage's.

        Returns:
            None while the result is not in the store.
        """
        if key not in self.results:
            if (result := self.store.get(key)) is None:
                return None
            self.results[key] = result
        self.seen.add(key)
        return self.results[key].record

    @property
    def makers(self) -> list[str]:
        """Versions and devices that computed the results seen so far."""
        provenances = (self.results[key].manifest["provenance"] for key in self.seen)
        return sorted(
            {f"torch {provenance['torch']} on {provenance['device']}" for provenance in provenances}
        )

    def stages(self) -> list[Stage]:
        """All stages that can be named now."""
        return list(lineage(self.world, self.peek))

    def missing(self) -> list[Stage]:
        """Stages that are not in the store, each once."""
        return [
            stage
            for stage in {s.key: s for s in self.stages()}.values()
            if not self.store.has(stage.key)
        ]


def open_run(
    request: RunRequest,
    notice: Callable[[str], None],
    loaded: dict[DataSettings, ImageSet] | None = None,
) -> Run:
    """Load the images, split their classes, open the store.

    Args:
        request: what is to be run.
        notice: takes a line for the user.
        loaded: images that are open already, by their settings. Those that are not are added: to
            open a set is to read and check all of it.

    Returns:
        The run; its folder is not written yet.

    Raises:
        UserError: whatever does not fit.
    """
    import torch

    from evolve.data.resident import Resident

    settings = request.scenario.settings
    _check_place(request)
    store = Store(request.store, notice)
    cache = Path(os.environ.get("EVOLVE_CACHE", request.store / "images"))
    images = _images(request, cache, notice, {} if loaded is None else loaded)
    checkpoint = Path(settings.ancestor.checkpoint) if settings.ancestor.checkpoint else None
    with images_named(settings.data, request.data_dir):
        world = _world(request, images, checkpoint)
        check_rooms(world, Resident(images, torch.device("cpu")), request.scenario.origin)
    register(store, request.out, world)
    context = {
        "data": settings.data,
        "data_dir": request.data_dir,
        "cache_dir": cache,
        "device": request.device,
        "checkpoint": checkpoint,
    }
    image_bytes = sum(piece.nbytes for piece in (images.images, *images.more))
    return Run(
        request,
        world,
        store,
        context,
        {},
        image_bytes=image_bytes,
        counts=of_images(images, world.roles),
    )


def _images(
    request: RunRequest,
    cache: Path,
    notice: Callable[[str], None],
    loaded: dict[DataSettings, ImageSet],
) -> ImageSet:
    """The run's images, opened once for all runs that have the same."""
    from evolve.data.sources import load_images

    data = request.scenario.settings.data
    if data not in loaded:
        loaded[data] = load_images(data, request.data_dir, cache, notice)
    return loaded[data]


def _check_place(request: RunRequest) -> None:
    """Refuse a device that is not there, and a store inside the run folder, which none can share."""
    from evolve.engine.devices import choose_device
    from evolve.engine.precision import check_precision

    if request.cluster is None:
        device, s = choose_device(request.device), request.scenario.settings
        for name in (s.ancestor.precision, s.descend.precision):
            check_precision(name, device)
    store, out = request.store.resolve(), request.out.resolve()
    if store == out or out in store.parents:
        raise UserError(
            f"--store {request.store}: lies in the run folder {request.out}; "
            "give a folder beside it, which several runs can share"
        )


def _world(request: RunRequest, images: ImageSet, checkpoint: Path | None) -> World:
    """What determines the run's results: settings, seed, images, splits, checkpoint."""
    from evolve.data.splits import make_splits

    settings = request.scenario.settings
    splits = make_splits(settings.data, images, class_needs(settings))
    return World(
        settings,
        request.seed,
        images.fingerprint,
        tuple(splits.ancestor),
        tuple(splits.condense),
        tuple(splits.descend),
        reference=request.reference,
        checkpoint=_pretrained(checkpoint, ancestor_plan(settings)) if checkpoint else "",
    )


def _pretrained(file: Path, plan: Architecture) -> str:
    """The content hash of a checkpoint that fits the ancestor.

    Raises:
        UserError: it does not fit, which is said before anything is computed.
    """
    from evolve.networks.vit_checkpoint import content, read
    from evolve.networks.vit_plan import ViTPlan

    assert isinstance(plan, ViTPlan), "scenario.check allows no other"
    read(file, plan)
    return content(file)


def prepare_folder(run: Run, argv: list[str]) -> None:
    """Write run.json and scenario.toml, or check that the folder already holds the same run.

    Args:
        run: the run.
        argv: the words of the command line.

    Raises:
        UserError: the folder holds another run. Nothing a user has computed is overwritten.
    """
    request, out, chosen = run.request, run.request.out, run.request.scenario
    facts = _facts(run)
    where = {
        "store": str(request.store.resolve()),
        "data_dir": str(request.data_dir.resolve()) if request.data_dir else None,
    }
    described = (
        facts
        | where
        | {"versions": {"python": platform.python_version(), **versions()}, "command": argv}
    )
    held = _known_run(out)
    if held is not None:
        _check_same(out, held, facts)
        described |= {"versions": held["versions"], "command": held["command"]}
    # run.json first: a folder with it is ours, whatever else a crash left out.
    sealed = described | {"seal": seal_of(described)}
    write_whole(out / RUN_FILE, (json.dumps(sealed, indent=1) + "\n").encode(), "run folder")
    register(run.store, out, run.world, begun=True)
    again = again_command(out, facts | where)
    header = (
        f"Resolved from {chosen.origin}, profile {chosen.profile}, seed {request.seed}.\n"
        f"Run it again: {again}"
    )
    write_whole(
        out / "scenario.toml",
        toml.dump(chosen.settings, header, chosen.profile).encode(),
        "run folder",
    )


def _facts(run: Run) -> dict[str, Any]:
    """What must not change when the run in a folder goes on."""
    chosen, world = run.request.scenario, run.world
    return {
        "scenario": chosen.settings.name,
        "profile": chosen.profile,
        "seed": run.request.seed,
        "settings": toml.to_dict(chosen.settings),
        "fingerprint": world.data,
        "classes": {role: list(ids) for role, ids in world.roles.items()},
        "reference": run.request.reference,
        "checkpoint": world.checkpoint,
    }


def remaining_seconds(run: Run) -> dict[str, float]:
    """Estimated seconds of every stage that is not in the store, by key."""
    settings = run.request.scenario.settings
    return {
        stage.key: cost.seconds(settings, stage.kind, stage.recipe, run.counts)
        for stage in run.missing()
    }


def run_record(run: Run) -> LineageRecord:
    """What the store holds of this run, as pure data."""
    request = run.request
    settings = described(run.world, toml.to_dict(request.scenario.settings))
    made_by = dict(read_run(request.out)["versions"]) if (request.out / "run.json").exists() else {}
    record = collect(
        run.world,
        run.peek,
        request.scenario.settings.name,
        request.scenario.profile,
        settings,
        made_by,
    )
    return replace(record, versions=made_by | {"computed with": "; ".join(run.makers)})
