"""Who executes missing stages: this process, or local worker processes. Knows stages and the store, not lineages.

``expand`` names all stages that can be named now; a stage whose inputs are in the store and whose result is not is
ready. Nothing else decides the order, so a resume, another number of workers or a second run on the same store gives the
same numbers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import wait as wait_for
from pathlib import Path
from typing import Any

from evolve.errors import UserError
from evolve.store import Stage, Store
from evolve.workers import Worker, execute


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
) -> None:
    """Execute stages until all that ``expand`` names are in the store.

    ``perform`` is "package.module:function"; it is called as ``function(stage, store, context, progress)`` and puts the
    result. ``workers`` processes run at once; 0 computes in this process. ``stop`` is asked twice a second (with workers)
    or between stages; once true, running stages are ended and the call returns.

    Raises the stage's own UserError; UserError when a worker process died twice in one stage; StageFailure for any
    other exception. KeyboardInterrupt ends the workers and goes through. No worker outlives the call.
    """
    store = Store(store_root, lambda text: events(Notice(text)))
    agenda = Agenda(expand, store, events)
    if workers < 1:
        run_here(agenda, perform, context, stop)
    else:
        Crew(agenda, perform, context, workers, stop).run()


class Agenda:
    """Which stages are done, running and ready; what the messages of a computation mean for them."""

    def __init__(self, expand: Callable[[], Sequence[Stage]], store: Store, events: Callable[[Event], None]) -> None:
        self.expand, self.store, self.events = expand, store, events
        self.stages: dict[str, Stage] = {}  # in the order of expand, each key once
        self.done: set[str] = set()
        self.running: set[str] = set()
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

    def take(self) -> Stage | None:
        """The next ready stage, now running: lowest priority first, then expand's order, those of other runs last."""
        ready = [s for s in self._waiting() if all(key in self.done or self.store.has(key) for key in s.inputs.values())]
        ready.sort(key=lambda stage: stage.priority)
        if not ready:
            return None
        stage = next((s for s in ready if not self.store.locked(s.key)), ready[0])
        self.running.add(stage.key)
        return stage

    def check_finished(self) -> None:
        """With nothing running and nothing ready, all must be done; raises StageFailure if an input has no maker."""
        for stage in self._waiting():
            role = next((role for role, key in stage.inputs.items() if not self.store.has(key)), "")
            raise StageFailure(f"{stage.label}: its input {role!r} is not in the store and no stage computes it")

    def receive(self, stage: Stage, message: tuple[Any, ...]) -> bool:
        """Act on one message of :func:`evolve.workers.execute`; True if the stage ended. Raises what ends the run."""
        what, *content = message
        if what == "progress":
            self.events(StageProgress(stage, content[0], content[1]))
        elif what == "waiting":
            self.events(StageProgress(stage, 0.0, "waiting for another run"))
            self.events(Notice(f"{stage.label}: another run is computing it; waiting for its result"))
        elif what == "notice":
            self.events(Notice(content[0]))
        elif what == "done":
            self.running.discard(stage.key)
            self.done.add(stage.key)
            self.events(StageDone(stage, content[0], from_store=content[1]))
            self.refresh()
            return True
        elif what == "lost":
            self.running.discard(stage.key)
            self.done = {key for key in self.done if self.store.has(key)}
            self.refresh()
            return True
        elif what == "refused":
            self.events(StageFailed(stage, str(content[0])))
            raise content[0]
        else:
            self.events(StageFailed(stage, content[0]))
            raise StageFailure(f"{stage.label}: {content[0]}; the traceback is in {self.store.log(stage.key)}")
        return False

    def _waiting(self) -> list[Stage]:
        return [stage for key, stage in self.stages.items() if key not in self.done and key not in self.running]


def run_here(agenda: Agenda, perform: str, context: Mapping[str, Any], stop: Callable[[], bool] | None) -> None:
    """Compute everything in this process, one stage after another, on one thread as the workers do."""
    import torch

    threads = torch.get_num_threads()  # execute sets it to 1
    try:
        while (stage := agenda.take()) is not None:
            agenda.events(StageStarted(stage))
            messages: list[tuple[Any, ...]] = []

            def send(*message: Any, stage: Stage = stage, messages: list[tuple[Any, ...]] = messages) -> None:
                if message[0] in ("progress", "waiting", "notice"):
                    agenda.receive(stage, message)
                else:
                    messages.append(message)  # acted on once the stage's lock is free

            execute(stage, agenda.store, perform, context, send)
            for message in messages:
                agenda.receive(stage, message)
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
        while len(self.agenda.running) < self.size and (stage := self.agenda.take()) is not None:
            worker = next((w for w in self.workers if w.stage is None), None)
            if worker is None:
                worker = Worker(self.agenda.store.root, self.perform, self.context)
                self.workers.append(worker)
            worker.give(stage)
            self.agenda.events(StageStarted(stage))

    def _listen(self, worker: Worker) -> None:
        for message in worker.messages():
            if message is None:
                self._bury(worker)
            elif worker.stage is not None and self.agenda.receive(worker.stage, message):
                worker.stage = None

    def _bury(self, worker: Worker) -> None:
        """A worker died by itself: its stage gets one more try in a fresh process."""
        self.workers.remove(worker)
        code = worker.reap()
        stage = worker.stage
        if stage is None:
            return
        self.deaths[stage.key] += 1
        self.agenda.running.discard(stage.key)
        reason = f"killed by signal {-code}" if code is not None and code < 0 else f"exit code {code}"
        if self.deaths[stage.key] > 1:
            text = f"its worker process died twice ({reason}; signal 9 is mostly a lack of memory: try fewer --workers)"
            self.agenda.events(StageFailed(stage, text))
            raise UserError(f"{stage.label}: {text}; its log, if it said anything, is {self.agenda.store.log(stage.key)}")
        self.agenda.events(Notice(f"{stage.label}: its worker process died ({reason}); trying once more"))

    def _dismiss(self, orderly: bool) -> None:
        """End every worker: idle ones leave, busy ones (an error, Ctrl-C, stop) are killed."""
        kept = [worker for worker in self.workers if orderly and worker.stage is None]
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
