"""Which ancestor `evolve condense` and `evolve export` mean, FILE or RUN@TASK, and its stages."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from evolve.core import toml
from evolve.core.console import Console
from evolve.core.durable import to_json
from evolve.core.errors import UserError
from evolve.core.settings import Scenario, Settings
from evolve.engine.devices import choose_device, provenance
from evolve.engine.store import Stage
from evolve.learngene import ancestor_file
from evolve.learngene.ancestor_file import AncestorFile
from evolve.learngene.tensor_file import digest
from evolve.lineage import recipes, scenario
from evolve.lineage.schedule import measured
from evolve.networks.family import architecture
from evolve.runs.folder import RUN_FILE, default_out, default_store, resume_command
from evolve.runs.run import Run, RunRequest, open_run, request_from_run

SCREEN = Console(stderr=True)


@dataclass(frozen=True)
class Images:
    """Which images condense an ancestor that comes as a file, and how.

    Attributes:
        scenario: a shipped scenario's name, or a file; for RUN@TASK None, as are the next two.
        profile: "paper" or "quick"; None: "paper".
        seed: of the condensation; None: 0.
        overrides: "section.key=value", on top of the scenario.
    """

    scenario: str | None
    profile: str | None
    seed: int | None
    overrides: tuple[str, ...]


@dataclass(frozen=True)
class Weights:
    """Which network a plain state dict is of. An ancestor file of ours says that itself.

    Attributes:
        network: a registered network's name; None: the file is ours.
        width: the network's.
        size: pixels of the images' side.
    """

    network: str | None
    width: float
    size: int


def find_condensation(
    ancestor: str, images: Images, weights: Weights, place: dict[str, Any]
) -> tuple[Run, list[Stage], dict[str, Any]]:
    """Find the condensation that the user asked for.

    Args:
        ancestor: FILE or RUN@TASK.
        images: what condenses a FILE; of RUN@TASK only the overrides may be given.
        weights: what a FILE holds.
        place: "store", "data_dir" and "device", as the command's options.

    Returns:
        The run; the stages that the condensation needs, itself the last; and where the ancestor
        comes from, for the learngene's file.

    Raises:
        UserError: names the option that does not fit.
    """
    run_task = run_and_task(ancestor)
    if run_task is None:
        return _of_file(Path(ancestor), images, weights, place)
    given = {
        "--scenario": images.scenario,
        "--profile": images.profile,
        "--seed": images.seed,
        "--network": weights.network,
    }
    if name := next((name for name, value in given.items() if value is not None), ""):
        raise UserError(
            f"--ancestor {ancestor}: a run says itself which images, "
            f"which seed and which network; leave {name} out"
        )
    run, before = open_ancestor(*run_task, images.overrides, place)
    origin = {
        "scenario": run.request.scenario.settings.name,
        "profile": run.request.scenario.profile,
        "lineage": run_task[1],
    }
    return run, _condensations(run, run_task[1], before), origin


def run_and_task(text: str) -> tuple[Path, int] | None:
    """Read RUN@TASK.

    Returns:
        The run's folder and a lineage length; None for anything else, such as a file's name.

    Raises:
        UserError: the folder is no run's, or the length no whole number.
    """
    folder, at, task = text.rpartition("@")
    if not at or Path(text).is_file():
        return None
    if not (Path(folder) / RUN_FILE).is_file():
        raise UserError(
            f"{text}: {folder} is not a run folder (no {RUN_FILE}); "
            "give one that `evolve run` made, such as runs/glyphs-seq25-quick-seed0@7"
        )
    with suppress(ValueError):
        if task.isascii() and int(task) >= 0:
            return Path(folder), int(task)
    raise UserError(
        f"{text}: {task!r} is no lineage length; give a whole number, such as {folder}@7"
    )


def task_of_run(text: str) -> tuple[Path, int]:
    """Read RUN@TASK where nothing else will do.

    Raises:
        UserError: it is anything else.
    """
    run_task = run_and_task(text)
    if run_task is None:
        raise UserError(
            f"{text}: expected RUN@TASK, a run's folder and a lineage length, "
            "such as runs/glyphs-seq25-quick-seed0@7"
        )
    return run_task


def open_ancestor(
    folder: Path, task: int, overrides: Sequence[str], place: dict[str, Any]
) -> tuple[Run, Stage]:
    """Open a run at one of its ancestors.

    Args:
        folder: the run's folder.
        task: how many tasks the ancestor has learned.
        overrides: "condense.key=value"; no other setting can be changed.
        place: "store", "data_dir" and "device", as the command's options.

    Returns:
        The run with those settings, and the ancestor's stage, which the store holds.

    Raises:
        UserError: the run has no such ancestor, or not yet.
    """
    request = request_from_run(folder, place["data_dir"], place["store"], place["device"], 0)
    settings = _overridden(request.scenario.settings, overrides)
    run = open_run(
        replace(request, scenario=replace(request.scenario, settings=settings)),
        lambda text: SCREEN.print(text, style="dim"),
    )
    tasks = settings.stream.tasks
    if task > tasks:
        raise UserError(
            f"{folder}@{task}: the run's ancestor learns {tasks} tasks; "
            f"give a lineage length from 0 to {tasks}"
        )
    stage = recipes.accumulate(run.world, 0, None)
    for number in range(1, task + 1):
        stage = recipes.accumulate(run.world, number, stage)
    if not run.store.has(stage.key):
        raise UserError(f"{folder}@{task}: {_why_missing(folder, task, run)}")
    return run, stage


def _overridden(settings: Settings, overrides: Sequence[str]) -> Settings:
    """The settings with those of [condense] changed; no other setting may be."""
    if other := [text for text in overrides if not text.strip().startswith("condense.")]:
        raise UserError(
            f"--set {other[0]}: another setting than the run's; "
            "with RUN@TASK only condense.* can be set"
        )
    for text in overrides:
        settings = toml.override(settings, text)
    scenario.check(settings, "--set")
    return settings


def _why_missing(folder: Path, task: int, run: Run) -> str:
    """Why the store lacks an ancestor, and what helps."""
    settings = run.world.settings
    lengths = measured(settings)
    if settings.ancestor.strategy == "joint" and task not in lengths:
        return (
            "joint ancestors are trained at measured lineage lengths only; "
            f"give one of {', '.join(map(str, lengths))}"
        )
    return f"the store does not hold this ancestor; `{resume_command(folder)}` computes it"


def _of_file(
    file: Path, images: Images, weights: Weights, place: dict[str, Any]
) -> tuple[Run, list[Stage], dict[str, Any]]:
    """The condensation of an ancestor's file, as :func:`find_condensation` returns it."""
    if images.scenario is None:
        raise UserError(
            f"--ancestor {file}: say with --scenario which images condense it, "
            "such as --scenario cifar-seq25 --profile quick"
        )
    ancestor = (
        ancestor_file.import_weights(file, weights.network, weights.width, weights.size)
        if weights.network
        else ancestor_file.load(file)
    )
    chosen = _scenario_for(file, ancestor, images.scenario, images)
    seed = images.seed or 0
    out = default_out(chosen, seed)
    request = RunRequest(
        out,
        place["store"] or default_store(out),
        place["data_dir"],
        place["device"],
        scenario=chosen,
        seed=seed,
    )
    run = open_run(request, lambda text: SCREEN.print(text, style="dim"))
    before = _imported(run, ancestor)
    origin = {
        "ancestor": file.name,
        "ancestor_from": ancestor.provenance,
        "scenario": chosen.settings.name,
        "profile": chosen.profile,
    }
    return run, _condensations(run, 0, before, of="file "), origin


def _scenario_for(file: Path, ancestor: AncestorFile, name: str, images: Images) -> Scenario:
    """The scenario ``name``, with the file's network in the place of its own."""
    network = (
        f"ancestor.network={json.dumps(ancestor.network)}",
        f"ancestor.width={ancestor.width!r}",
    )
    chosen = scenario.load(name, images.profile or "paper", (*images.overrides, *network))
    size = chosen.settings.data.size
    if architecture(ancestor.network, ancestor.width, size) != ancestor.architecture:
        raise UserError(
            f"--ancestor {file}: is made for images of {ancestor.size} pixels, "
            f"the scenario's have {size}; add --set data.size={ancestor.size}"
        )
    return chosen


def _condensations(run: Run, length: int, ancestor: Stage, of: str = "") -> list[Stage]:
    """The condensation of an ancestor, last, after those that it needs."""
    return [
        *recipes.rivals(run.world, length, ancestor, of).values(),
        recipes.condense(run.world, length, ancestor, of),
    ]


def _imported(run: Run, ancestor: AncestorFile) -> Stage:
    """The ancestor as a finished stage of the store, under the hash of its content."""
    content = digest({}, ancestor.state)
    record = hashlib.sha256(to_json(ancestor.record)).hexdigest() if ancestor.record else ""
    recipe = {
        "version": 1,
        "content": content,
        "record": record,
        "network": recipes.network(run.world.settings),
        "inputs": {},
    }
    stage = Stage("import", "import of an ancestor", recipe, {})
    if not run.store.has(stage.key):
        tensors = {f"model.trunk.{name}": tensor for name, tensor in ancestor.state.items()}
        run.store.put(
            stage, ancestor.record, {"ancestor": tensors}, provenance(choose_device("cpu"))
        )
    return stage
