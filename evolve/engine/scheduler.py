"""What there is to compute: which stages are ready, running, done and failed, and who hears of it.

Knows stages and the store; not lineages, and not who computes (:mod:`evolve.engine.engine`).

Where a wide computation is faster than many narrow ones (descendants on a GPU), several ready
stages are taken as a set. The module that computes them says which may go together (:class:`Sets`).
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any

from evolve.engine.store import Stage, Store


@dataclass(frozen=True)
class StageStarted:
    """A stage is being computed now."""

    stage: Stage


@dataclass(frozen=True)
class StageProgress:
    """How far a stage has come."""

    stage: Stage
    fraction: float  # 0..1
    text: str


@dataclass(frozen=True)
class StageDone:
    """A stage's result is in the store; told once for every stage.

    ``from_store``: it was there already, or another run finished it first.
    """

    stage: Stage
    seconds: float
    from_store: bool


@dataclass(frozen=True)
class StageFailed:
    """A stage cannot be computed; ``text`` says why."""

    stage: Stage
    text: str


@dataclass(frozen=True)
class Notice:
    """A line for the user that belongs to no stage."""

    text: str


Event = StageStarted | StageProgress | StageDone | StageFailed | Notice


class StageFailure(RuntimeError):
    """A stage raised something that no user can mend; the line names the stage and its log."""


class Sets:
    """Which ready stages may be computed in one go, as the module of ``perform`` says.

    The module may have three names; without them there are no sets. ``set_key(stage, context)``:
    stages of one key, unless it is None, may form a set. ``SET_LIMIT``: how many at most.
    ``perform_set(stages, store, context, progress)`` puts the result of each, equal to what
    ``perform`` would have put.
    """

    def __init__(self, perform: str, context: Mapping[str, Any]) -> None:
        module = importlib.import_module(perform.partition(":")[0])
        self.context, self.limit = context, getattr(module, "SET_LIMIT", 1)
        self._ask: Callable[[Stage, Mapping[str, Any]], Hashable | None] = getattr(
            module, "set_key", lambda stage, context: None
        )
        self._known: dict[str, Hashable | None] = {}

    def key(self, stage: Stage) -> Hashable | None:
        """What the stage has in common with those that may go with it; None if it goes alone."""
        if stage.key not in self._known:
            self._known[stage.key] = self._ask(stage, self.context)
        return self._known[stage.key]


class Scheduler:
    """Which stages are done, running and ready, and what a computation's messages mean for them.

    Without ``sets`` every stage goes alone.
    """

    def __init__(
        self,
        expand: Callable[[], Sequence[Stage]],
        store: Store,
        events: Callable[[Event], None],
        sets: Sets | None = None,
        keep_going: bool = False,
    ) -> None:
        self.expand, self.store, self.events = expand, store, events
        self.sets, self.keep_going = sets, keep_going
        self.failed: dict[str, str] = {}  # key -> one line
        self.stages: dict[str, Stage] = {}  # in the order of expand, each key once
        self.done: set[str] = set()
        self.running: dict[str, Stage] = {}
        self.alone: set[str] = set()  # not in a set any more: they were in one that failed
        self.refresh()

    def refresh(self) -> None:
        """Ask ``expand`` until it names nothing new whose result is in the store already."""
        while True:
            self.stages = {}
            for stage in self.expand():
                self.stages.setdefault(stage.key, stage)
            finished = [s for s in self._waiting() if self.store.get(s.key) is not None]
            if not finished:
                return
            for stage in finished:
                self.done.add(stage.key)
                self.events(StageDone(stage, 0.0, from_store=True))

    def take(self) -> list[Stage]:
        """Take a ready stage, with those that may go with it. They count as running from now on.

        The lowest priority comes first, then those that go alone (a set takes long, and they may
        unlock others), then the order of ``expand``. Stages that another run computes come last. A
        set takes what is ready now: waiting for more would only idle.

        Returns:
            The stages; none if nothing is ready.
        """
        ready = [stage for stage in self._waiting() if self._ready(stage)]
        ready.sort(key=lambda stage: (stage.priority, self._set_key(stage) is not None))
        free = (stage for stage in ready if not self.store.locked(stage.key))
        taken = list(islice(chain(free, ready), 1))  # takes from ``free``, which goes on from there
        if taken and self.sets is not None and (joined := self._set_key(taken[0])) is not None:
            taken += islice(
                (stage for stage in free if self._set_key(stage) == joined), self.sets.limit - 1
            )
        self.running |= {stage.key: stage for stage in taken}
        return taken

    def _ready(self, stage: Stage) -> bool:
        return all(key in self.done or self.store.has(key) for key in stage.inputs.values())

    def start(self, stages: Iterable[Stage]) -> None:
        """Tell that these stages are being computed."""
        for stage in stages:
            self.events(StageStarted(stage))

    def _set_key(self, stage: Stage) -> Hashable | None:
        return None if self.sets is None or stage.key in self.alone else self.sets.key(stage)

    def give_up(self, stages: Iterable[Stage]) -> None:
        """Note that these stages do not run any more.

        When they are taken again, each goes alone.
        """
        for stage in stages:
            del self.running[stage.key]
            self.alone.add(stage.key)

    def check_finished(self) -> None:
        """Check that all stages are done, with nothing running and nothing ready.

        Raises:
            StageFailure: no stage computes some stage's input.
        """
        while lacking := [
            stage
            for stage in self._waiting()
            if any(key in self.failed for key in stage.inputs.values())
        ]:
            for stage in lacking:
                self.failed[stage.key] = f"{stage.label}: a stage before it failed"
        for stage in self._waiting():
            role = next((role for role, key in stage.inputs.items() if not self.store.has(key)), "")
            raise StageFailure(
                f"{stage.label}: its input {role!r} is not in the store and no stage computes it"
            )

    def receive(self, key: str, what: str, *content: Any) -> bool:
        """Act on one message of :func:`evolve.engine.execution.execute`.

        Args:
            key: the stage's key.
            what: the message's kind.
            content: the rest of the message.

        Returns:
            Whether the stage ended.

        Raises:
            UserError, StageFailure: the stage failed, and that ends the run.
        """
        if what == "notice":
            self.events(Notice(content[0]))
            return False
        stage = self.running[key]
        if what == "progress":
            self.events(StageProgress(stage, content[0], content[1]))
        elif what == "waiting":
            self.events(StageProgress(stage, 0.0, "waiting for another run"))
            self.events(
                Notice(f"{stage.label}: another run is computing it; waiting for its result")
            )
        else:
            self._end(stage, what, content)
            return True
        return False

    def _end(self, stage: Stage, what: str, content: tuple[Any, ...]) -> None:
        if what == "done":
            del self.running[stage.key]
            self.done.add(stage.key)
            self.events(StageDone(stage, content[0], from_store=content[1]))
            self.refresh()
        elif what == "lost":
            del self.running[stage.key]
            self.done = {key for key in self.done if self.store.has(key)}
            self.refresh()
        elif what == "held":
            del self.running[stage.key]
        elif what == "apart":
            self.give_up([stage])
        elif what == "refused":
            self.fail(stage, str(content[0]), content[0])
        else:
            self.fail(
                stage,
                content[0],
                StageFailure(
                    f"{stage.label}: {content[0]}; the traceback is in {self.store.log(stage.key)}"
                ),
            )

    def fail(self, stage: Stage, text: str, error: Exception) -> None:
        """Note that a stage cannot be computed.

        Args:
            stage: the stage.
            text: why, for the event.
            error: what to raise, unless the other stages are to go on.
        """
        self.running.pop(stage.key, None)
        self.events(StageFailed(stage, text))
        if not self.keep_going:
            raise error
        self.failed[stage.key] = (
            str(error) if str(error).startswith(stage.label) else f"{stage.label}: {error}"
        )

    def _waiting(self) -> list[Stage]:
        ended = self.done | self.failed.keys() | self.running.keys()
        return [stage for key, stage in self.stages.items() if key not in ended]
