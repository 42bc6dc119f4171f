"""Who executes missing stages: this process, or a crew of workers. It knows no lineages.

``expand`` names all stages that can be named now. A stage is ready when its inputs are in the store
and its result is not. Nothing else decides the order, so a resume, another number of workers,
another crew or a second run on the same store gives the same numbers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import wait as wait_for
from pathlib import Path
from typing import Any, Protocol

from evolve.core.errors import UserError
from evolve.engine.execution import execute, named
from evolve.engine.scheduler import (
    Event,
    Notice,
    Scheduler,
    Sets,
    StageDone,
    StageFailed,
    StageFailure,
    StageProgress,
    StageStarted,
)
from evolve.engine.store import Stage, Store
from evolve.engine.workers import Worker

__all__ = [
    "Scheduler",
    "Crew",
    "Event",
    "Here",
    "Local",
    "Notice",
    "StageDone",
    "StageFailed",
    "StageFailure",
    "StageProgress",
    "StageStarted",
    "run_stages",
]


class Crew(Protocol):
    """Who computes. ``sets`` says whether it takes several stages as one set."""

    sets: bool

    def run(self, scheduler: Scheduler, perform: str, context: Mapping[str, Any]) -> None:
        """Compute what ``scheduler`` names until nothing is left. Nothing that it began outlives
        it.

        Args:
            scheduler: names the ready stages and hears how they went.
            perform: "package.module:function", see :func:`run_stages`.
            context: what ``perform`` gets beside the stage.
        """


def run_stages(
    expand: Callable[[], Sequence[Stage]],
    store_root: Path,
    perform: str,
    context: Mapping[str, Any],
    workers: int | Crew,
    events: Callable[[Event], None],
    keep_going: bool = False,
) -> dict[str, str]:
    """Execute stages until all that ``expand`` names are in the store.

    Ctrl-C (KeyboardInterrupt) ends the workers and goes through. No worker that the call began
    outlives it.

    Args:
        expand: names all stages that can be named now; called again after each result.
        store_root: the store's folder.
        perform: "package.module:function". It is called as ``function(stage, store, context,
            progress)`` and puts the result. For sets of stages see
            :class:`evolve.engine.scheduler.Sets`.
        context: what ``perform`` gets beside the stage; it must survive a pickle.
        workers: how many processes run at once; 0: this process computes; or another crew.
        events: is told what happens.
        keep_going: a stage that fails ends only those that need it.

    Returns:
        With ``keep_going`` one line by the key of every stage that failed or lacked a failed one's
        result; else nothing.

    Raises:
        UserError: the stage's own, or a worker process died twice in one stage.
        StageFailure: a stage raised any other exception.
    """
    store = Store(store_root, lambda text: events(Notice(text)))
    crew: Crew
    if isinstance(workers, int):
        crew = Local([{}] * workers) if workers > 0 else Here()
    else:
        crew = workers
    sets = Sets(perform, context) if crew.sets else None
    scheduler = Scheduler(expand, store, events, sets, keep_going)
    crew.run(scheduler, perform, context)
    return scheduler.failed


class Here:
    """This process: one stage or set after another, on one thread as the workers do."""

    sets = True

    def run(self, scheduler: Scheduler, perform: str, context: Mapping[str, Any]) -> None:
        """See :class:`Crew`."""
        import torch

        threads = torch.get_num_threads()  # execute sets it to 1
        try:
            while stages := scheduler.take():
                scheduler.start(stages)
                messages: list[tuple[Any, ...]] = []

                def send(*message: Any, messages: list[tuple[Any, ...]] = messages) -> None:
                    if message[1] in ("progress", "waiting", "notice"):
                        scheduler.receive(*message)
                    else:
                        messages.append(message)  # acted on once the locks are free

                execute(stages, scheduler.store, perform, context, send)
                for message in messages:
                    scheduler.receive(*message)
            scheduler.check_finished()
        finally:
            torch.set_num_threads(threads)


class Local:
    """Worker processes on this machine, up to one for each of ``places``.

    A place is that worker's own environment variables, if any.
    """

    sets = True

    def __init__(self, places: Sequence[Mapping[str, str]]) -> None:
        self.places = places

    def run(self, scheduler: Scheduler, perform: str, context: Mapping[str, Any]) -> None:
        """See :class:`Crew`."""
        _Shift(scheduler, perform, context, self.places).run()


class _Shift:
    """One scheduler's worker processes, started when there is work and kept until the end."""

    def __init__(
        self,
        scheduler: Scheduler,
        perform: str,
        context: Mapping[str, Any],
        places: Sequence[Mapping[str, str]],
    ) -> None:
        self.scheduler, self.perform, self.context = scheduler, perform, context
        self.size, self.free = len(places), list(places)
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
            if not self.scheduler.running:
                return self.scheduler.check_finished()
            wait_for([worker.connection for worker in self.workers])
            for worker in list(self.workers):
                self._listen(worker)

    def _assign(self) -> None:
        while sum(bool(w.stages) for w in self.workers) < self.size and (
            stages := self.scheduler.take()
        ):
            worker = next((w for w in self.workers if not w.stages), None)
            if worker is None:
                worker = Worker(
                    self.scheduler.store.root, self.perform, self.context, self.free.pop(0)
                )
                self.workers.append(worker)
            worker.give(stages)
            self.scheduler.start(stages)

    def _listen(self, worker: Worker) -> None:
        for message in worker.messages():
            if message is None:
                self._bury(worker)
            elif self.scheduler.receive(*message):
                del worker.stages[message[0]]

    def _bury(self, worker: Worker) -> None:
        """A worker died by itself: each of its stages gets one more try, alone."""
        self.workers.remove(worker)
        self.free.append(worker.place)
        code = worker.reap()
        stages = list(worker.stages.values())
        if not stages:
            return
        self.deaths.update(list(worker.stages))
        self.scheduler.give_up(stages)
        reason = (
            f"killed by signal {-code}" if code is not None and code < 0 else f"exit code {code}"
        )
        if twice := [stage for stage in stages if self.deaths[stage.key] > 1]:  # it was alone then
            text = (
                f"its worker process died twice ({reason}; signal 9 is mostly a lack of "
                "memory: try fewer --workers)"
            )
            log = self.scheduler.store.log(twice[0].key)
            return self.scheduler.fail(
                twice[0],
                text,
                UserError(f"{twice[0].label}: {text}; its log, if it said anything, is {log}"),
            )
        again = "trying once more" if len(stages) == 1 else "trying each once more, alone"
        self.scheduler.events(
            Notice(f"{named(stages)}: its worker process died ({reason}); {again}")
        )

    def _dismiss(self, orderly: bool) -> None:
        """End every worker: idle ones leave, busy ones (an error, Ctrl-C) are killed."""
        kept = [worker for worker in self.workers if orderly and not worker.stages]
        for worker in self.workers:
            if worker in kept:
                worker.release()
            else:
                worker.kill()
        for worker in self.workers:
            worker.reap()
        if len(kept) < len(self.workers):
            self.scheduler.store.sweep()
        self.workers.clear()
