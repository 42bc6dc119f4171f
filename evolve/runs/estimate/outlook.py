"""Feeds a forecast: the stages of runs with their expected cost, and the engine's events."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from evolve.engine.engine import Event, StageDone, StageProgress, StageStarted
from evolve.engine.stage import Stage
from evolve.lineage.schedule import measured
from evolve.runs.estimate import cost
from evolve.runs.estimate.forecast import Forecast, Item

if TYPE_CHECKING:
    from evolve.runs.run import Run


def kind_of(stage: Stage) -> str:
    """Stages of one kind share what is learned about their cost."""
    return f"descend {stage.method}" if stage.kind == "descend" else stage.kind


class Outlook:
    """The forecast of runs that one engine computes."""

    def __init__(
        self, runs: Sequence[Run], workers: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.runs, self.forecast = runs, Forecast(workers, clock)
        self._items: dict[str, Item] = {}
        self._owners: dict[str, list[int]] = {}  # key -> places in ``runs``
        self._unnamed: list[dict[str, float]] = [{} for _ in runs]
        for number in range(len(runs)):
            self._name(number)
        self._plan()

    def event(self, event: Event) -> None:
        """Take one event of the engine."""
        if isinstance(event, StageStarted):
            self.forecast.started(event.stage.key)
        elif isinstance(event, StageProgress):
            self.forecast.progress(event.stage.key, event.fraction)
        elif isinstance(event, StageDone):
            self._finished(event)

    def _finished(self, event: StageDone) -> None:
        key = event.stage.key
        if not event.from_store:
            self.forecast.finished(key, event.seconds)
        if key in self._items:
            self._items[key] = replace(self._items[key], done=True)
        if event.stage.kind == "condense":
            # The choice of layers makes a from-scratch control nameable.
            for number in self._owners.get(key, ()):
                self._name(number)
        self._plan()

    def look(self) -> None:
        """Look at the store for stages that somebody else has finished."""
        store = self.runs[0].store  # one engine's runs have one store
        for key, item in self._items.items():
            if not item.done and store.has(key):
                self._items[key] = replace(item, done=True)
        for number in range(len(self.runs)):
            self._name(number)
        self._plan()

    def _plan(self) -> None:
        unnamed: Counter[str] = Counter()
        for seconds in self._unnamed:
            unnamed.update(seconds)
        self.forecast.plan(self._items.values(), unnamed)

    def _name(self, number: int) -> None:
        """Name the stages of one run."""
        run = self.runs[number]
        stages = run.stages()
        for stage in stages:
            if stage.key not in self._items:
                self._items[stage.key] = self._item(run, stage)
            owners = self._owners.setdefault(stage.key, [])
            if number not in owners:
                owners.append(number)
        self._unnamed[number] = _unnamed(run, stages)

    @staticmethod
    def _item(run: Run, stage: Stage) -> Item:
        return Item(
            stage.key,
            kind_of(stage),
            cost.seconds(run.world.settings, stage.kind, stage.recipe, run.counts),
            tuple(stage.inputs.values()),
            run.store.has(stage.key),
        )


def _unnamed(run: Run, stages: Sequence[Stage]) -> dict[str, float]:
    """Expected seconds of from-scratch controls whose architecture is not chosen yet, by kind.

    The share of lengths that brought a new architecture so far is expected to go on.
    """
    settings = run.world.settings
    if not settings.controls.from_scratch:
        return {}
    controls = [s for s in stages if s.method == "from-scratch" and s.draw == 0]
    chosen = [s.key for s in controls if s.length is not None]
    other = set(chosen) - {s.key for s in controls if s.length is None}
    waiting = len(measured(settings)) - len(chosen)
    share = (len(other) + 1) / (len(chosen) + 2)
    each = cost.seconds(settings, "descend", {"method": "from-scratch"}, run.counts)
    return {"descend from-scratch": math.ceil(waiting * share) * settings.controls.draws * each}
