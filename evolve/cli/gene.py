"""`evolve condense`, `evolve export` and `evolve inherit`: learngenes, ancestors and descendants as files of their own."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from evolve.core import toml
from evolve.core.durable import to_json
from evolve.core.errors import UserError
from evolve.core.version import __version__
from evolve.data.sources import load_images
from evolve.engine.devices import choose_device, provenance
from evolve.engine.engine import Notice, StageProgress, run_stages
from evolve.engine.store import Stage
from evolve.learngene import ancestor_file, model_file
from evolve.learngene.ancestor_file import AncestorFile
from evolve.learngene.learngene import unflatten
from evolve.learngene.tensor_file import digest
from evolve.lineage import recipes, scenario
from evolve.lineage.outcomes import trunk
from evolve.networks.family import architecture, from_json
from evolve.runs.folder import RUN_FILE, default_out, default_store
from evolve.runs.opened import Opened, Order, open_run, order_from_run
from evolve.runs.screens.rows import compact

SCREEN = Console(stderr=True)


@dataclass(frozen=True)
class Images:
    """Which images condense an ancestor that comes as a file, and how: a scenario with its options."""

    scenario: str | None
    profile: str | None
    seed: int | None
    overrides: tuple[str, ...]


@dataclass(frozen=True)
class Weights:
    """Which network a plain state dict is of; an ancestor file of ours says that itself."""

    network: str | None
    width: float
    size: int


def condense(
    ancestor: str, out: Path, images: Images, weights: Weights, place: dict[str, Any], force: bool
) -> None:
    """Condense an ancestor, FILE or RUN@TASK, into a learngene's file. What the store holds already is taken from there."""
    check_out(out, force)
    opened, stages, origin = asked(ancestor, images, weights, place)
    with SCREEN.status(f"condensing {ancestor}") as status:

        def show(event: Any) -> None:
            if isinstance(event, StageProgress):
                status.update(f"condensing {ancestor}: {event.fraction:.0%}, {event.text}")
            elif isinstance(event, Notice):
                SCREEN.print(event.text, style="dim")

        run_stages(
            lambda: stages,
            opened.store.root,
            "evolve.lineage.perform:perform_stage",
            opened.context,
            0,
            show,
        )
    stage = stages[-1]
    result = opened.store.get(stage.key)
    if result is None:
        raise UserError(
            f"{opened.store.root}: the result of {stage.label} is damaged; run the same command again to compute it anew"
        )
    record = result.record
    chosen = {name: record[name] for name in ("status", "selected_by", "margin")}
    origin |= {
        "seed": opened.order.seed,
        "method": opened.world.settings.condense.method,
        "key": stage.key,
        **chosen,
        "evolve": __version__,
    }
    unflatten(
        result.tensors("learngene"),
        from_json(record["ancestor_plan"]),
        origin | _normalised(opened),
    ).save(out)
    print(f"{out}: {', '.join(record['layers'])} ({record['selected_by']})")
    print_trials(record["trials"], record["groups"])
    print(
        f"next: evolve inspect {out}; evolve inherit --learngene {out} --classes 10 --out model.safetensors"
    )


def print_trials(trials: Sequence[Mapping[str, Any]], groups: Sequence[Sequence[str]]) -> None:
    """Every candidate set that method "trial" tried, by its share of the weights; nothing without any."""
    if not trials:
        return
    print("tried on condensing classes:  weights   gain (points)   layers")
    for trial in trials:
        layers = compact([name for place in trial["layers"] for name in groups[place]])
        gain = f"{100 * trial['gain']:+.1f} ± {100 * trial['error']:.1f}"
        over = "" if trial["within"] else ", over the budget"
        names = ", ".join(trial["origins"])
        print(f"{100 * trial['share']:36.1f} %   {gain:>13}   {layers} ({names}{over})")


def null_test(
    ancestor: str, count: int, images: Images, weights: Weights, place: dict[str, Any]
) -> None:
    """Print what the condensation of an ancestor chose, beside ``count`` of each kind of null; nothing is written."""
    from evolve.condensers.null import KINDS, check_method, moved, null_test
    from evolve.lineage.perform import condensation

    opened, stages, _ = asked(ancestor, images, weights, place)
    check_method(opened.world.settings.condense.method)
    with SCREEN.status(f"condensing {ancestor}") as status:

        def show(fraction: float, text: str) -> None:
            status.update(f"condensing {ancestor}: {fraction:.0%}, {text}")

        request = condensation(stages[-1], opened.store, opened.context, show)
        true, rows = null_test(request, count)
    layers = ", ".join(name for place in true.selected for name in request.groups[place])
    far = moved(request.c.method, true)
    print(
        f"{ancestor}: {layers} ({true.selected_by}){'' if far is None else f', movement {far:.2f}'}"
    )
    print(
        f"{count} of each, beside it:{'':14} decided  same set  overlap{'' if far is None else '  movement'}"
    )
    for row in rows:
        shared = f"{row.overlap:.2f}" if row.decided else "-"
        last = "" if row.moved is None else f"{row.moved:10.2f}"
        print(
            f"{row.kind:38}{row.decided:3} of {row.count:<3}{row.same:3} of {row.count:<3}{shared:>6}{last}   {KINDS[row.kind]}"
        )


def asked(
    ancestor: str, images: Images, weights: Weights, place: dict[str, Any]
) -> tuple[Opened, list[Stage], dict[str, Any]]:
    """The condensation of FILE or RUN@TASK, last, after those that it needs, and what to say of where the ancestor comes from."""
    found = run_and_task(ancestor)
    if found is None:
        return _of_file(Path(ancestor), images, weights, place)
    given = {
        "--scenario": images.scenario,
        "--profile": images.profile,
        "--seed": images.seed,
        "--network": weights.network,
    }
    if name := next((name for name, value in given.items() if value is not None), ""):
        raise UserError(
            f"--ancestor {ancestor}: a run says itself which images, which seed and which network; leave {name} out"
        )
    opened, before = _open(*found, images.overrides, place)
    origin = {
        "scenario": opened.order.scenario.settings.name,
        "profile": opened.order.scenario.profile,
        "lineage": found[1],
    }
    return opened, _condensations(opened, found[1], before), origin


def export(ancestor: str, out: Path, place: dict[str, Any], force: bool) -> None:
    """Write the ancestor RUN@TASK into a file of its own."""
    check_out(out, force)
    found = run_and_task(ancestor)
    if found is None:
        raise UserError(
            f"{ancestor}: expected RUN@TASK, a run's folder and a lineage length, such as runs/glyphs-seq25-quick-seed0@7"
        )
    opened, stage = _open(*found, (), place)
    result = opened.store.get(stage.key)
    if result is None:
        raise UserError(
            f"{opened.store.root}: the result of {stage.label} is damaged; `evolve resume {found[0]}` computes it anew"
        )
    settings = opened.world.settings
    origin = {
        "scenario": settings.name,
        "profile": opened.order.scenario.profile,
        "seed": opened.order.seed,
        "lineage": found[1],
    }
    origin |= {
        "strategy": settings.ancestor.strategy,
        "key": stage.key,
        "evolve": __version__,
    } | _normalised(opened)
    a = settings.ancestor
    AncestorFile(
        a.network,
        a.width,
        settings.data.size,
        trunk(result.tensors("ancestor")),
        origin,
        result.record,
    ).save(out)
    print(f"{out}: the ancestor after {found[1]} tasks")
    print(f"next: evolve inspect {out}")


def inherit(
    learngene: Path,
    classes: int,
    out: Path,
    seed: int,
    method: str,
    embeddings: str,
    descendant: int,
    form: str,
    force: bool,
) -> None:
    """Write a network that inherits a learngene, for its owner to train."""
    check_out(out, force)
    model, origin = model_file.inherit(learngene, classes, seed, method, embeddings, descendant)
    model_file.save(out, model, origin | {"evolve": __version__}, form)
    print(f"{out}: {model.architecture.describe()}, {classes} classes (* inherited)")
    load = (
        f"model = evolve.load_model({str(out)!r})"
        if form == "evolve"
        else f"`evolve inspect {out}` prints the lines that build it"
    )
    print(f"next, in Python: {load}")


def check_out(out: Path, force: bool) -> None:
    """Raises UserError rather than let a file be replaced that is there, or be written where no folder is."""
    if out.is_dir() or not out.resolve().parent.is_dir():
        raise UserError(
            f"--out {out}: expected a file's name in a folder that is there, such as gene.safetensors"
        )
    if out.exists() and not force:
        raise UserError(
            f"--out {out}: is there already; give another name, or --force to replace it"
        )


def run_and_task(text: str) -> tuple[Path, int] | None:
    """RUN@TASK as a run's folder and a lineage length; None for anything else."""
    folder, at, task = text.rpartition("@")
    if not at or Path(text).is_file():
        return None
    if not (Path(folder) / RUN_FILE).is_file():
        raise UserError(
            f"{text}: {folder} is not a run folder (no {RUN_FILE}); give one that `evolve run` made, such as runs/glyphs-seq25-quick-seed0@7"
        )
    with suppress(ValueError):
        if task.isascii() and int(task) >= 0:
            return Path(folder), int(task)
    raise UserError(
        f"{text}: {task!r} is no lineage length; give a whole number, such as {folder}@7"
    )


def _open(
    folder: Path, task: int, overrides: Sequence[str], place: dict[str, Any]
) -> tuple[Opened, Stage]:
    """The run with its [condense] settings overridden, and its ancestor after ``task`` tasks. UserError where it has not got so far."""
    order = order_from_run(folder, place["data_dir"], place["store"], place["device"], 0)
    if other := [text for text in overrides if not text.strip().startswith("condense.")]:
        raise UserError(
            f"--set {other[0]}: another setting than the run's; with RUN@TASK only condense.* can be set"
        )
    settings = order.scenario.settings
    for text in overrides:
        settings = toml.override(settings, text)
    scenario.check(settings, "--set")
    opened = open_run(
        replace(order, scenario=replace(order.scenario, settings=settings)),
        lambda text: SCREEN.print(text, style="dim"),
    )
    tasks = settings.stream.tasks
    if task > tasks:
        raise UserError(
            f"{folder}@{task}: the run's ancestor learns {tasks} tasks; give a lineage length from 0 to {tasks}"
        )
    stage = recipes.accumulate(opened.world, 0, None)
    for number in range(1, task + 1):
        stage = recipes.accumulate(opened.world, number, stage)
    if not opened.store.has(stage.key):
        raise UserError(
            f"{folder}@{task}: the store does not hold this ancestor; `evolve resume {folder}` computes it"
        )
    return opened, stage


def _of_file(
    file: Path, images: Images, weights: Weights, place: dict[str, Any]
) -> tuple[Opened, list[Stage], dict[str, Any]]:
    """The condensation of an ancestor's file, after what it needs, with the settings it is to be
    done by, and what to say of it.
    """
    if images.scenario is None:
        raise UserError(
            f"--ancestor {file}: say with --scenario which images condense it, such as --scenario cifar-seq25 --profile quick"
        )
    ancestor = (
        ancestor_file.import_weights(file, weights.network, weights.width, weights.size)
        if weights.network
        else ancestor_file.load(file)
    )
    named = (
        f"ancestor.network={json.dumps(ancestor.network)}",
        f"ancestor.width={ancestor.width!r}",
    )
    chosen, seed = (
        scenario.load(images.scenario, images.profile or "paper", (*images.overrides, *named)),
        images.seed or 0,
    )
    size = chosen.settings.data.size
    if architecture(ancestor.network, ancestor.width, size) != ancestor.architecture:
        raise UserError(
            f"--ancestor {file}: is made for images of {ancestor.size} pixels, the scenario's have {size}; add --set data.size={ancestor.size}"
        )
    out = default_out(chosen, seed)
    order = Order(
        out,
        place["store"] or default_store(out),
        place["data_dir"],
        place["device"],
        scenario=chosen,
        seed=seed,
    )
    opened = open_run(order, lambda text: SCREEN.print(text, style="dim"))
    before = _imported(opened, ancestor)
    origin = {
        "ancestor": file.name,
        "ancestor_from": ancestor.provenance,
        "scenario": chosen.settings.name,
        "profile": chosen.profile,
    }
    return opened, _condensations(opened, 0, before, of="file "), origin


def _condensations(opened: Opened, length: int, ancestor: Stage, of: str = "") -> list[Stage]:
    """The condensation of an ancestor, last, after those that it needs."""
    return [
        *recipes.rivals(opened.world, length, ancestor, of).values(),
        recipes.condense(opened.world, length, ancestor, of),
    ]


def _imported(opened: Opened, ancestor: AncestorFile) -> Stage:
    """The ancestor as a finished stage of the store, under the hash of its content."""
    content = digest({}, ancestor.state)
    record = hashlib.sha256(to_json(ancestor.record)).hexdigest() if ancestor.record else ""
    recipe = {
        "version": 1,
        "content": content,
        "record": record,
        "network": recipes.network(opened.world.settings),
        "inputs": {},
    }
    stage = Stage("import", "import of an ancestor", recipe, {})
    if not opened.store.has(stage.key):
        tensors = {f"model.trunk.{name}": tensor for name, tensor in ancestor.state.items()}
        opened.store.put(
            stage, ancestor.record, {"ancestor": tensors}, provenance(choose_device("cpu"))
        )
    return stage


def _normalised(opened: Opened) -> dict[str, Any]:
    """What the network expects images to look like: (pixels / 255 - mean) / std, by channel."""
    images = load_images(
        opened.world.settings.data, opened.context["data_dir"], opened.context["cache_dir"]
    )
    return {
        "normalise": {
            "mean": list(images.mean),
            "std": list(images.std),
            "size": opened.world.settings.data.size,
        }
    }
