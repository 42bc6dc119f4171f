"""Who executes missing stages: this process, or local worker processes. Knows stages and the store, not lineages.

``expand`` names all stages that can be named now; a stage whose inputs are in the store and whose result is not is
ready. Nothing else decides the order, so a resume, another number of workers or a second run on the same store gives the
same numbers.

Where a wide computation is faster than many narrow ones (descendants on a GPU), a worker takes several ready stages as a set.
Which may go together, the module that computes them knows (:class:`Sets`).
"""

from __future__ import annotations

import importlib
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from multiprocessing.connection import wait as wait_for
from pathlib import Path
from typing import Any

from evolve.errors import UserError
from evolve.store import Stage, Store
from evolve.workers import Worker, execute, named


@dataclass(frozen=True)
class StageStarted:
    stage: Stage


@dataclass(frozen=True)
class StageProgress:
    stage: Stage
    fraction: float  # 0..1
    text: str


@dataclass(frozen=True)
class StageDone:
    """Once for every stage. ``from_store``: it was there already, or another run finished it first."""

    stage: Stage
    seconds: float
    from_store: bool


@dataclass(frozen=True)
class StageFailed:
    stage: Stage
    text: str


@dataclass(frozen=True)
class Notice:
    text: str


Event = StageStarted | StageProgress | StageDone | StageFailed | Notice


class StageFailure(RuntimeError):
    """A stage raised something no user can mend: one line that names the stage and the log with the traceback."""


def run_stages(
    expand: Callable[[], Sequence[Stage]],
    store_root: Path,
    perform: str,
    context: Mapping[str, Any],
    workers: int,
    events: Callable[[Event], None],
    stop: Callable[[], bool] | None = None,
    keep_going: bool = False,
) -> dict[str, str]:
    """Execute stages until all that ``expand`` names are in the store.

    ``perform`` is "package.module:function"; it is called as ``function(stage, store, context, progress)`` and puts the
    result. What its module may have beside it for sets of stages: see :class:`Sets`. ``workers`` processes run at once; 0
    computes in this process. ``stop`` is asked twice a second (with workers) or between stages; once true, running stages
    are ended and the call returns.

    Raises the stage's own UserError; UserError when a worker process died twice in one stage; StageFailure for any
    other exception. KeyboardInterrupt ends the workers and goes through. No worker outlives the call.

    With ``keep_going`` a stage that fails ends only what needs it: the others go on, and the call returns {key: one line} of the stages
    that failed and of those that lacked their result (else it returns nothing).
    """
    store = Store(store_root, lambda text: events(Notice(text)))
    agenda = Agenda(expand, store, events, Sets(perform, context), keep_going)
    if workers < 1:
        run_here(agenda, perform, context, stop)
    else:
        Crew(agenda, perform, context, workers, stop).run()
    return agenda.failed


class Sets:
    """Which ready stages may be computed in one go, as ``perform``'s module says; without these names in it, none.

    ``set_key(stage, context)``: stages of one key, unless it is None, may form a set. ``SET_LIMIT``: of so many at most.
    ``perform_set(stages, store, context, progress)`` puts the result of each, equal to what ``perform`` would have put.
    """

    def __init__(self, perform: str, context: Mapping[str, Any]) -> None:
        module = importlib.import_module(perform.partition(":")[0])
        self.context, self.limit = context, getattr(module, "SET_LIMIT", 1)
        self._ask: Callable[[Stage, Mapping[str, Any]], Hashable | None] = getattr(module, "set_key", lambda stage, context: None)
        self._known: dict[str, Hashable | None] = {}

    def key(self, stage: Stage) -> Hashable | None:
        """What the stage has in common with those that may go with it; None if it goes alone."""
        if stage.key not in self._known:
            self._known[stage.key] = self._ask(stage, self.context)
        return self._known[stage.key]


class Agenda:
    """Which stages are done, running and ready; what the messages of a computation mean for them."""

    def __init__(
        self, expand: Callable[[], Sequence[Stage]], store: Store, events: Callable[[Event], None], sets: Sets, keep_going: bool = False
    ) -> None:
        self.expand, self.store, self.events, self.sets, self.keep_going = expand, store, events, sets, keep_going
        self.failed: dict[str, str] = {}  # key -> one line
        self.stages: dict[str, Stage] = {}  # in the order of expand, each key once
        self.done: set[str] = set()
        self.running: dict[str, Stage] = {}
        self.alone: set[str] = set()  # not in a set any more: they were in one that failed
        self.refresh()

    def refresh(self) -> None:
        """Ask ``expand`` until it names nothing new that is in the store (content checked) already."""
        while True:
            self.stages = {}
            for stage in self.expand():
                self.stages.setdefault(stage.key, stage)
            found = [s for s in self._waiting() if self.store.get(s.key) is not None]
            if not found:
                return
            for stage in found:
                self.done.add(stage.key)
                self.events(StageDone(stage, 0.0, from_store=True))

    def take(self) -> list[Stage]:
        """A ready stage with those that may go with it, now running; empty if nothing is ready.

        Lowest priority first, then those that go alone (a set takes long, and they may unlock others), then expand's order; those of
        other runs last. A set takes what is ready now: waiting for more would only idle.
        """
        ready = [s for s in self._waiting() if all(key in self.done or self.store.has(key) for key in s.inputs.values())]
        ready.sort(key=lambda stage: (stage.priority, self._set_key(stage) is not None))
        free = (stage for stage in ready if not self.store.locked(stage.key))
        taken = list(islice(chain(free, ready), 1))  # takes from ``free``, which goes on from there
        if taken and (joined := self._set_key(taken[0])) is not None:
            taken += islice((stage for stage in free if self._set_key(stage) == joined), self.sets.limit - 1)
        self.running |= {stage.key: stage for stage in taken}
        return taken

    def start(self, stages: Iterable[Stage]) -> None:
        """Say that they are being computed."""
        for stage in stages:
            self.events(StageStarted(stage))

    def _set_key(self, stage: Stage) -> Hashable | None:
        return None if stage.key in self.alone else self.sets.key(stage)

    def give_up(self, stages: Iterable[Stage]) -> None:
        """They do not run any more; when they are taken again, then each alone."""
        for stage in stages:
            del self.running[stage.key]
            self.alone.add(stage.key)

    def check_finished(self) -> None:
        """With nothing running and nothing ready, all must be done; raises StageFailure if an input has no maker."""
        while lacking := [stage for stage in self._waiting() if any(key in self.failed for key in stage.inputs.values())]:
            for stage in lacking:
                self.failed[stage.key] = f"{stage.label}: a stage before it failed"
        for stage in self._waiting():
            role = next((role for role, key in stage.inputs.items() if not self.store.has(key)), "")
            raise StageFailure(f"{stage.label}: its input {role!r} is not in the store and no stage computes it")

    def receive(self, key: str, what: str, *content: Any) -> bool:
        """Act on one message of :func:`evolve.workers.execute`; True if the stage ended. Raises what ends the run."""
        if what == "notice":
            self.events(Notice(content[0]))
            return False
        stage = self.running[key]
        if what == "progress":
            self.events(StageProgress(stage, content[0], content[1]))
        elif what == "waiting":
            self.events(StageProgress(stage, 0.0, "waiting for another run"))
            self.events(Notice(f"{stage.label}: another run is computing it; waiting for its result"))
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
            self.fail(stage, content[0], StageFailure(f"{stage.label}: {content[0]}; the traceback is in {self.store.log(stage.key)}"))

    def fail(self, stage: Stage, text: str, error: Exception) -> None:
        """It cannot be computed. Raises ``error``, unless the others are to go on."""
        self.running.pop(stage.key, None)
        self.events(StageFailed(stage, text))
        if not self.keep_going:
            raise error
        self.failed[stage.key] = str(error) if str(error).startswith(stage.label) else f"{stage.label}: {error}"

    def _waiting(self) -> list[Stage]:
        ended = self.done | self.failed.keys() | self.running.keys()
        return [stage for key, stage in self.stages.items() if key not in ended]


def run_here(agenda: Agenda, perform: str, context: Mapping[str, Any], stop: Callable[[], bool] | None) -> None:
    """Compute everything in this process, one stage or set after another, on one thread as the workers do."""
    import torch

    threads = torch.get_num_threads()  # execute sets it to 1
    try:
        while stages := agenda.take():
            agenda.start(stages)
            messages: list[tuple[Any, ...]] = []

            def send(*message: Any, messages: list[tuple[Any, ...]] = messages) -> None:
                if message[1] in ("progress", "waiting", "notice"):
                    agenda.receive(*message)
                else:
                    messages.append(message)  # acted on once the locks are free

            execute(stages, agenda.store, perform, context, send)
            for message in messages:
                agenda.receive(*message)
            if stop is not None and stop():
                return
        agenda.check_finished()
    finally:
        torch.set_num_threads(threads)


class Crew:
    """Up to ``size`` worker processes, started when there is work for them and kept until the end."""

    def __init__(self, agenda: Agenda, perform: str, context: Mapping[str, Any], size: int, stop: Callable[[], bool] | None) -> None:
        self.agenda, self.perform, self.context, self.size, self.stop = agenda, perform, context, size, stop
        self.workers: list[Worker] = []
        self.deaths: Counter[str] = Counter()

    def run(self) -> None:
        orderly = False
        try:
            self._loop()
            orderly = True
        finally:
            self._dismiss(orderly)

    def _loop(self) -> None:
        while True:
            self._assign()
            if not self.agenda.running:
                return self.agenda.check_finished()
            wait_for([worker.connection for worker in self.workers], timeout=None if self.stop is None else 0.5)
            if self.stop is not None and self.stop():
                return None
            for worker in list(self.workers):
                self._listen(worker)

    def _assign(self) -> None:
        while sum(bool(w.stages) for w in self.workers) < self.size and (stages := self.agenda.take()):
            worker = next((w for w in self.workers if not w.stages), None)
            if worker is None:
                worker = Worker(self.agenda.store.root, self.perform, self.context)
                self.workers.append(worker)
            worker.give(stages)
            self.agenda.start(stages)

    def _listen(self, worker: Worker) -> None:
        for message in worker.messages():
            if message is None:
                self._bury(worker)
            elif self.agenda.receive(*message):
                del worker.stages[message[0]]

    def _bury(self, worker: Worker) -> None:
        """A worker died by itself: each of its stages gets one more try, alone."""
        self.workers.remove(worker)
        code = worker.reap()
        stages = list(worker.stages.values())
        if not stages:
            return
        self.deaths.update(list(worker.stages))
        self.agenda.give_up(stages)
        reason = f"killed by signal {-code}" if code is not None and code < 0 else f"exit code {code}"
        if twice := [stage for stage in stages if self.deaths[stage.key] > 1]:  # it was alone then
            text = f"its worker process died twice ({reason}; signal 9 is mostly a lack of memory: try fewer --workers)"
            log = self.agenda.store.log(twice[0].key)
            return self.agenda.fail(twice[0], text, UserError(f"{twice[0].label}: {text}; its log, if it said anything, is {log}"))
        again = "trying once more" if len(stages) == 1 else "trying each once more, alone"
        self.agenda.events(Notice(f"{named(stages)}: its worker process died ({reason}); {again}"))

    def _dismiss(self, orderly: bool) -> None:
        """End every worker: idle ones leave, busy ones (an error, Ctrl-C, stop) are killed."""
        kept = [worker for worker in self.workers if orderly and not worker.stages]
        for worker in self.workers:
            if worker in kept:
                worker.release()
            else:
                worker.kill()
        for worker in self.workers:
            worker.reap()
        if len(kept) < len(self.workers):
            self.agenda.store.sweep()
        self.workers.clear()
