"""The tables of `evolve scenarios` and `evolve plan`: what there is, and what it costs."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import TYPE_CHECKING

from rich.table import Table

from evolve.core.console import Console
from evolve.core.machine import usable_cores
from evolve.core.settings import DataSettings
from evolve.core.shipped import shipped
from evolve.core.spent import duration
from evolve.lineage import scenario
from evolve.lineage.schedule import measured
from evolve.runs.estimate import cost
from evolve.runs.estimate.counts import lying
from evolve.runs.estimate.needs import needs
from evolve.runs.run import Run, RunRequest, open_run, remaining_seconds, worker_count

if TYPE_CHECKING:
    from evolve.data.sources import ImageSet

WORTH = 1.5  # times as fast: what a coarser precision should gain


def scenario_table() -> None:
    """Print every shipped scenario with its title and a rough cost by profile."""
    table = Table(box=None, pad_edge=False)
    for title in ("scenario", "quick", "paper", "what it is"):
        table.add_column(title, no_wrap=title != "what it is")
    for name in shipped("scenario"):
        costs = {
            p: duration(cost.estimate(scenario.load(name, p).settings)) for p in scenario.PROFILES
        }
        table.add_row(
            name, f"~{costs['quick']}", f"~{costs['paper']}", scenario.load(name).settings.title
        )
    console = Console()
    console.print(table)
    console.print(
        "Costs are rough, for two CPU cores; `evolve plan SCENARIO` measures this machine.",
        style="dim",
    )


def plan_table(request: RunRequest) -> None:
    """Print the stages by kind: how many, how many in the store, how long the rest takes here.

    Args:
        request: the run that is planned; a few of its steps are timed.

    Raises:
        UserError: something the user gave does not fit.
    """
    from evolve.runs.estimate.timing import faster_precision, measure_speed

    console = Console()
    run, images = _opened(console, request)
    workers = worker_count(request, [run])  # before the timing takes some of a GPU
    speed = measure_speed(run, images)
    left = remaining_seconds(run)
    table = Table(box=None, pad_edge=False)
    for title in ("stage", "in all", "in the store", "left", "one takes", "left takes"):
        table.add_column(title, justify="left" if title == "stage" else "right")
    stages, keys = _by_kind(run)
    for kind, count in stages.items():
        open_keys = [key for key in keys[kind] if key in left]
        rest = sum(left[key] for key in open_keys) * speed[kind.split()[0]]
        each = duration(rest / len(open_keys)) if open_keys else "-"
        table.add_row(
            kind,
            str(count),
            str(count - len(open_keys)),
            str(len(open_keys)),
            each,
            duration(rest) if open_keys else "-",
        )
    console.print(table)
    _total(console, run, {key: left[key] for key in left}, speed, workers)
    for section, gain in faster_precision(run, images, speed).items():
        console.print(
            f'{section}.precision = "bfloat16": {gain:.1f} times as fast here'
            + ("" if gain >= WORTH else f"; worth it from {WORTH:g} times on"),
            style="dim",
        )


def _opened(console: Console, request: RunRequest) -> tuple[Run, ImageSet]:
    """The run, once it is said what it takes; then of how many classes and images; the images."""
    settings = request.scenario.settings
    loaded: dict[DataSettings, ImageSet] = {}
    counted = lying(settings, request.data_dir)
    workers = request.workers or usable_cores()
    console.print(needs(request.scenario, workers, counted), soft_wrap=True)
    run = open_run(request, lambda text: console.print(text, style="dim"), loaded)
    if run.counts:
        each = (f"{role} {c.classes} ({c.train} + {c.test})" for role, c in run.counts.items())
        console.print(f"classes (training + test images of each): {', '.join(each)}", style="dim")
    return run, loaded[settings.data]


def _by_kind(run: Run) -> tuple[Counter[str], dict[str, list[str]]]:
    count: Counter[str] = Counter()
    keys: dict[str, list[str]] = defaultdict(list)
    for stage in {s.key: s for s in run.stages()}.values():
        kind = stage.kind if stage.kind != "descend" else f"descend {stage.method}"
        count[kind] += 1
        keys[kind].append(stage.key)
    return count, keys


def _total(
    console: Console, run: Run, left: dict[str, float], speed: dict[str, float], workers: int
) -> None:
    kinds = {stage.key: stage.kind for stage in run.stages()}
    spent = {key: seconds * speed[kinds[key]] for key, seconds in left.items()}
    chain = sum(seconds for key, seconds in spent.items() if kinds[key] == "accumulate")
    if not spent:
        console.print("left: nothing, every stage is in the store")
        return
    whole = max(chain, sum(spent.values()) / workers)
    console.print(
        f"left: about {duration(whole)} with {workers} worker "
        f"process{'es' if workers > 1 else ''} (measured by a few timed steps)"
    )
    if any(kinds[key] == "fewshot" for key in spent):
        console.print(
            "few-shot: estimated, not timed; scaled by what a descendant's steps take here",
            style="dim",
        )
    settings = run.world.settings
    unknown = len(measured(settings)) - sum(
        s.method == "from-scratch" and s.length is not None and s.draw == 0 for s in run.stages()
    )
    if run.world.settings.controls.from_scratch and unknown > 0:
        console.print(
            f"not counted: up to {unknown} from-scratch controls whose architecture the condenser "
            "has yet to choose",
            style="dim",
        )
