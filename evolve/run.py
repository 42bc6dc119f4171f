"""One run: a folder with its settings, a lineage executed stage by stage, the screens that look on, the report at the end."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from evolve import __version__, cost, scenario
from evolve.cluster import Cluster
from evolve.durable import write_whole
from evolve.errors import UserError
from evolve.lineage import World, ancestor_plan, lineage
from evolve.networks.architecture import Architecture
from evolve.referrers import register
from evolve.settings import DataSettings
from evolve.store import Stage, Store
from evolve.store_command import StorePlace

if TYPE_CHECKING:
    from evolve.data.sources import ImageSet
    from evolve.engine import Crew

RUN_FILE = "run.json"
FACTS: dict[str, Any] = {
    "scenario": str,
    "profile": str,
    "seed": int,
    "settings": dict,
    "fingerprint": str,
    "classes": dict,
    "store": str,
    "data_dir": (str, type(None)),
    "versions": dict,
    "reference": bool,
    "checkpoint": str,
}
OURS = (RUN_FILE, "scenario.toml", "tensorboard", "damaged-run.json")


@dataclass(frozen=True)
class Order:
    """What the user asked for. Only ``scenario`` and ``seed`` can change a number, and ``reference`` its rounding."""

    scenario: scenario.Scenario
    seed: int
    out: Path
    store: Path
    data_dir: Path | None = None
    device: str = "auto"
    workers: int = 0
    reference: bool = False
    cluster: Cluster | None = None


def default_out(chosen: scenario.Scenario, seed: int, reference: bool = False) -> Path:
    """runs/<scenario>-<profile>-seed<n>; overrides add a short hash, so that two ablations do not meet in one folder."""
    name = f"{chosen.settings.name}-{chosen.profile}-seed{seed}{'-reference' if reference else ''}"
    if chosen.overrides:
        name += "-" + hashlib.sha256("\n".join(sorted(chosen.overrides)).encode()).hexdigest()[:6]
    return Path("runs") / name


def default_store(out: Path) -> Path:
    """$EVOLVE_STORE (a folder, or an address), else "store" beside the run's folder, so that the runs of one folder share their stages."""
    given = os.environ.get("EVOLVE_STORE")
    return StorePlace().convert(given, None, None).expanduser() if given else out.resolve().parent / "store"


def usable_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)


def worker_places(order: Order, opened: Sequence[Opened]) -> Sequence[Mapping[str, str]]:
    """One single-thread process a core; on GPUs as many as their free memory holds, each with its GPU named in its environment.

    Where no GPU can be asked, two: one stage's Python overlaps the other's kernels.
    """
    from evolve import gpus
    from evolve.devices import choose_device

    if choose_device(order.device).type != "cuda":
        return [{}] * (order.workers or usable_cores())
    found = gpus.visible()
    if not found or order.workers:
        return gpus.spread(found, order.workers) or [{}] * (order.workers or 2)
    return gpus.places(found, max(gpus.bytes_each(one.order.scenario.settings, one.image_bytes, found) for one in opened), usable_cores())


def crew(order: Order, opened: Sequence[Opened]) -> Crew:
    """Who computes what is ``opened``: the cluster that the user named, else worker processes on this machine."""
    from evolve.engine import Local

    if order.cluster is None:
        return Local(worker_places(order, opened))
    from evolve.cluster.crew import Dask

    return Dask(order.cluster)


def read_run(folder: Path) -> dict[str, Any]:
    """A run folder's run.json. Raises UserError where there is none or it is damaged."""
    file = folder / RUN_FILE
    try:
        found = {"reference": False, "checkpoint": ""} | json.loads(file.read_text(encoding="utf-8"))  # older ones do not know them
        for name, kind in FACTS.items():
            if not isinstance(found[name], kind):
                raise ValueError(f"{name} is {found[name]!r}")
        if {role: type(ids) for role, ids in found["classes"].items()} != dict.fromkeys(("ancestor", "condense", "descend"), list):
            raise ValueError("classes are not those of three roles")
        return {name: found[name] for name in FACTS}
    except FileNotFoundError:
        made = "runs/glyphs-seq25-quick-seed0"
        raise UserError(f"{folder}: not a run folder (no {RUN_FILE}); give a folder that `evolve run` made, such as {made}") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{file}: damaged or not written by evolve ({error}); repeat the original `evolve run` command") from None


def order_from_run(
    folder: Path, data_dir: Path | None, store: Path | None, device: str, workers: int, cluster: Cluster | None = None
) -> Order:
    """The order that continues the run in ``folder``."""
    found = read_run(folder)
    settings = scenario.from_dict(found["settings"], str(folder / RUN_FILE))
    chosen = scenario.Scenario(settings, found["profile"], str(folder / RUN_FILE))
    data = data_dir or (Path(found["data_dir"]) if found["data_dir"] else None)
    return Order(chosen, found["seed"], folder, find_store(folder, found["store"], store), data, device, workers, found["reference"], cluster)


def find_store(folder: Path, recorded: str, given: Path | None) -> Path:
    """The store of a run: the one given, the one it recorded, or (both moved together) the one beside it.

    Raises UserError when none of them is there: computing everything anew elsewhere would hide what exists.
    """
    places = [given] if given else [Path(recorded), folder.resolve().parent / "store"]
    for place in places:
        if (place / "store.json").is_file():
            return place
    raise UserError(f"{folder}: its store {places[0]} is not there; say where it is with --store")


@dataclass
class Opened:
    """A run with its images and store at hand."""

    order: Order
    world: World
    store: Store
    context: dict[str, Any]
    records: dict[str, dict[str, Any]]
    made_by: dict[str, str] = field(default_factory=dict)  # key -> what computed it; may be shared, as records may
    seen: set[str] = field(default_factory=set)  # keys of this run that were looked at
    image_bytes: int = 0

    def peek(self, key: str) -> Mapping[str, Any] | None:
        """A finished stage's record; checksums are verified on the first look, a damaged result is set aside."""
        if key not in self.records:
            found = self.store.get(key) if self.store.has(key) else None
            if found is None:
                return None
            self.records[key] = found.record
            made = found.manifest["provenance"]
            self.made_by[key] = f"torch {made.get('torch')} on {made.get('device')}"
        self.seen.add(key)
        return self.records[key]

    @property
    def makers(self) -> list[str]:
        """What computed the results seen so far."""
        return sorted({self.made_by[key] for key in self.seen})

    def stages(self) -> list[Stage]:
        """All stages that can be named now."""
        return list(lineage(self.world, self.peek))

    def missing(self) -> list[Stage]:
        """Stages not in the store, each once."""
        return [stage for stage in {s.key: s for s in self.stages()}.values() if not self.store.has(stage.key)]


def open_run(order: Order, notice: Callable[[str], None], loaded: dict[DataSettings, ImageSet] | None = None) -> Opened:
    """Load the images, split their classes, open the store. Raises UserError for whatever does not fit.

    ``loaded`` holds images that are open already, and takes those that are not: to open a set is to read and check all of it.
    """
    import torch

    from evolve.data.resident import Resident
    from evolve.data.sources import load_images
    from evolve.data.splits import make_splits
    from evolve.devices import choose_device

    if order.cluster is None:
        choose_device(order.device)
    settings = order.scenario.settings
    if order.store.resolve() == order.out.resolve() or order.out.resolve() in order.store.resolve().parents:
        raise UserError(f"--store {order.store}: lies in the run folder {order.out}; give a folder beside it, which several runs can share")
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
    world = World(settings, order.seed, images.fingerprint, *split, reference=order.reference, checkpoint=digest)
    check_rooms(world, Resident(images, torch.device("cpu")), order.scenario.origin)
    register(store, order.out, world)
    context = {"data": settings.data, "data_dir": order.data_dir, "cache_dir": cache, "device": order.device, "checkpoint": checkpoint}
    return Opened(order, world, store, context, {}, image_bytes=sum(piece.nbytes for piece in (images.images, *images.more)))


def _pretrained(file: Path, plan: Architecture) -> str:
    """The content of a checkpoint that fits the ancestor. Raises UserError for any other, before anything is computed."""
    from evolve.networks.vit_checkpoint import content, read
    from evolve.networks.vit_plan import ViTPlan

    assert isinstance(plan, ViTPlan), "scenario.check allows no other"
    read(file, plan)
    return content(file)


def check_rooms(world: World, resident: Any, origin: str) -> None:
    """Let every room refuse, before anything is computed, settings that its images or its strategy do not allow."""
    from evolve.ancestor import check_strategy
    from evolve.condensers.batches import draw_images
    from evolve.data.streams import stream_tasks
    from evolve.descendants import downstream_tasks
    from evolve.fewshot.episodes import Episodes
    from evolve.fewshot.settings import READ

    s = world.settings
    try:
        check_strategy(s.ancestor)
        stream_tasks(s.stream, world.ancestor_classes, resident, world.seed, 1)
        images = [resident.indices(i, test=False) for i in world.condense_classes]
        draw_images(images, [resident.own_id(i) for i in world.condense_classes], s.condense.images_per_class, world.seed)
        downstream_tasks(s.descend, world.descend_classes, resident, world.seed)
        if s.condense.method == "trial":
            downstream_tasks(s.descend, world.condense_classes, resident, world.seed, "condensing")
        if any("episodes" in READ[name] for name in s.fewshot.learners):
            Episodes(resident, world.ancestor_classes, s.descend.classes_per_task, s.fewshot, world.seed, s.stream.images_per_class).check()
    except UserError as error:
        raise UserError(f"{origin}: {error}") from None


@contextmanager
def claimed(out: Path) -> Iterator[None]:
    """Hold the run folder, so that two processes do not write one run's pictures at once."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        lock = FileLock(out / ".lock", timeout=0)
        lock.acquire()
    except Timeout:
        raise UserError(f"{out}: another process is running this run; wait for it, stop it, or give another --out") from None
    except (OSError, NotImplementedError) as error:
        raise UserError(f"--out {out}: cannot write there ({getattr(error, 'strerror', None) or error}); give another folder with --out") from None
    try:
        yield
    finally:
        lock.release()
        if not (out / RUN_FILE).exists():  # refused before it began: leave no empty folder behind
            (out / ".lock").unlink(missing_ok=True)
            with suppress(OSError):
                out.rmdir()


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
        "settings": scenario.to_dict(chosen.settings),
        "fingerprint": world.data,
        "classes": {role: list(ids) for role, ids in world.roles.items()},
        "reference": order.reference,
        "checkpoint": world.checkpoint,
    }
    where = {"store": str(order.store.resolve()), "data_dir": str(order.data_dir.resolve()) if order.data_dir else None}
    described = facts | where | {"versions": versions(), "command": argv}
    known = _known_run(out)
    if known is not None:
        _check_same(out, known, facts)
        described |= {"versions": known["versions"], "command": json.loads((out / RUN_FILE).read_text())["command"]}
    # run.json first: a folder with it is ours, whatever else a crash left out.
    write_whole(out / RUN_FILE, (json.dumps(described, indent=1) + "\n").encode(), "run folder")
    register(opened.store, out, world, begun=True)
    again = again_command(out, facts | where)
    header = f"Resolved from {chosen.origin}, profile {chosen.profile}, seed {order.seed}.\nRun it again: {again}"
    write_whole(out / "scenario.toml", scenario.dump(chosen.settings, header, chosen.profile).encode(), "run folder")


def again_command(folder: Path, facts: Mapping[str, Any]) -> str:
    """The command that computes a run again from its resolved settings, into its own folder and store, whatever it was started by.

    ``facts``: as its run.json holds them.
    """
    words = ["evolve", "run", "--scenario", str(folder / "scenario.toml"), "--profile", facts["profile"], "--seed", str(facts["seed"])]
    words += ["--data", facts["data_dir"]] if facts["data_dir"] else []
    words += ["--reference"] if facts["reference"] else []
    return shlex.join([*words, "--out", str(folder), "--store", facts["store"]])


def _known_run(out: Path) -> dict[str, Any] | None:
    """The run that this folder holds, if any; a damaged run.json is put aside. UserError for a folder of somebody else's."""
    if (out / RUN_FILE).exists():
        try:
            return read_run(out)
        except UserError:
            os.replace(out / RUN_FILE, out / "damaged-run.json")
            return None
    other = [p.name for p in out.iterdir() if not p.name.startswith(".") and p.name not in OURS]
    if other:
        raise UserError(f"--out {out}: not empty and not a run of evolve (holds {other[0]}); give a new folder with --out")
    return None


def _check_same(out: Path, known: dict[str, Any], facts: dict[str, Any]) -> None:
    settings = scenario.to_dict(scenario.from_dict(known["settings"], str(out / RUN_FILE)))  # an older version's lack what is new
    changed = [name for name, value in facts.items() if (settings if name == "settings" else known[name]) != value]
    if changed in (["fingerprint"], ["fingerprint", "classes"]):
        raise UserError(f"{out}: the images are not those this run began with; give the same ones with --data, or a new folder with --out")
    if changed:
        raise UserError(f"--out {out}: holds another run (its {', '.join(changed)} differ); give another folder with --out")


def versions() -> dict[str, str]:
    """The versions a reader needs to reproduce a run."""
    from importlib.metadata import version

    found = {name: version(name) for name in ("torch", "torchvision", "avalanche-lib", "numpy", "scipy")}
    return {"evolve": __version__, "python": ".".join(map(str, sys.version_info[:3])), **found}


def remaining_seconds(opened: Opened) -> dict[str, float]:
    """Estimated seconds of every stage that is not in the store, by key."""
    settings = opened.order.scenario.settings
    return {stage.key: cost.seconds(settings, stage.kind, stage.recipe) for stage in opened.missing()}
