"""The crew whose workers are a Dask cluster's.

A stage's Dask key is its own key and the store's: whoever asks the same scheduler for the same
result of the same store waits for the one computation. What travels is the recipe and, back, the
message how it ended; results go into the store, which all machines see.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import CancelledError
from contextlib import contextmanager
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from evolve.core.errors import UserError, first_line
from evolve.core.version import versions
from evolve.engine.cluster import SYSTEMS, Cluster
from evolve.engine.cluster.start import connected
from evolve.engine.cluster.task import Assignment, compute, settle
from evolve.engine.scheduler import Notice, Scheduler
from evolve.engine.store import Stage

GLANCE_SECONDS = 1.0  # between two looks at how many workers there are
LONELY_SECONDS = 20.0  # without any worker before the user is told


class Dask:
    """A crew (:class:`evolve.engine.engine.Crew`) whose workers are a Dask cluster's.

    Each stage goes alone: a GPU is filled by several workers with a share each.
    """

    sets = False

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster

    def run(self, scheduler: Scheduler, perform: str, context: Mapping[str, Any]) -> None:
        """Compute what the scheduler names on the cluster.

        Args:
            scheduler: names the ready stages and hears how they went.
            perform: see :func:`evolve.engine.engine.run_stages`.
            context: what ``perform`` gets beside the stage.

        Raises:
            UserError: also when the cluster is lost, or a worker of it is unfit.
        """
        with connected(self.cluster) as client:
            _Shift(scheduler, perform, context, self.cluster, client).run()


class _Shift:
    """One scheduler on one client.

    Dask's threads only put into ``inbox``; everything else happens in the caller's thread.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        perform: str,
        context: Mapping[str, Any],
        cluster: Cluster,
        client: Any,
    ) -> None:
        self.scheduler, self.perform = scheduler, perform
        self.cluster, self.client = cluster, client
        self.context = {
            name: value.absolute() if isinstance(value, Path) else value
            for name, value in context.items()
        }
        self.paths = [
            path for path in self.context.values() if isinstance(path, Path) and path.exists()
        ]
        self.versions = versions()
        self.store_id = hashlib.sha256(os.fsencode(scheduler.store.root)).hexdigest()[:12]
        self.inbox: SimpleQueue[tuple[Any, ...]] = SimpleQueue()
        self.futures: dict[str, Any] = {}  # by stage key
        self.places: dict[str, str] = {}  # stage key -> the worker that began it last
        self.deaths: Counter[str] = Counter()
        self.threads, self.looked, self.lonely_since = 1, 0.0, time.monotonic()

    def run(self) -> None:
        """Run until nothing is left. In the end nobody computes for it any more."""
        topic = self.inbox.put
        self.client.subscribe_topic(self._topic, lambda event: topic(("report", *event[1])))
        self.client.subscribe_topic("all", lambda event: topic(("cluster", event[1])))
        self._look()
        self._check_gpus()
        while True:
            self._assign()
            if not self.scheduler.running:
                return self.scheduler.check_finished()
            try:
                what, *content = self.inbox.get(timeout=0.5)
            except Empty:
                what = ""
            if what == "report":
                self._hear(*content)
            elif what == "cluster":
                self._notice_death(content[0])
            elif what == "ended":
                self._end(*content)
            if time.monotonic() - self.looked > GLANCE_SECONDS:
                self._look()

    @property
    def _topic(self) -> str:
        return f"evolve-{self.store_id}"

    def _dask_key(self, stage: Stage) -> str:
        return f"{stage.kind}-{stage.key}-{self.store_id}"

    def _assign(self) -> None:
        """Submit as many stages as can run now.

        What is asked for later then goes by priority, and no worker dies with a queue.
        """
        most = self.threads
        if self.cluster.workers and self.cluster.scheduler not in ("local", *SYSTEMS):
            most = min(most, self.cluster.workers)
        while len(self.scheduler.running) < most and (stages := self.scheduler.take()):
            self._submit(stages[0])
            self.scheduler.start(stages)

    def _submit(self, stage: Stage) -> None:
        work = Assignment(
            stage,
            self.scheduler.store.root,
            self.perform,
            self.context,
            self.versions,
            self.paths,
            self._topic,
        )
        need = {"GPU": self.cluster.gpu_share} if self.cluster.gpu_share else None
        with self._reaching():
            future = self.client.submit(
                compute,
                pickle.dumps(work),
                key=self._dask_key(stage),
                priority=-stage.priority,
                resources=need,
            )
            self.futures[stage.key] = future
            future.add_done_callback(lambda ended: self.inbox.put(("ended", stage.key, ended)))

    def _hear(self, key: str, what: str, *content: Any) -> None:
        """Act on a report about a stage; perhaps only another client of the scheduler wants that
        stage.
        """
        if key not in self.futures:
            return
        if what == "began":
            self.places[key] = content[0]
        else:
            self.scheduler.receive(key, what, *content)

    def _end(self, key: str, future: Any) -> None:
        if key not in self.futures or self.futures[key] is not future:
            return
        del self.futures[key]
        stage = self.scheduler.running[key]
        if future.status == "finished":
            with self._reaching():
                message = future.result()
                future.release()
            self._act(stage, message)
        elif future.status == "error":
            self._broken(stage, future.exception())
        else:
            raise self._gone()

    def _act(self, stage: Stage, message: tuple[Any, ...]) -> None:
        key, what, *content = message
        if what == "unfit":
            raise UserError(content[0])
        if what == "released":  # another client ended it just as we asked for it
            return self._submit(stage)
        if what == "done" and not settle(self.scheduler.store, [key]):
            raise UserError(
                f"{stage.label}: computed, but its result is not in {self.scheduler.store.root}: "
                "the workers see another folder there"
            )
        self.scheduler.receive(key, what, *content)

    def _broken(self, stage: Stage, error: BaseException) -> None:
        """Dask itself could not have it computed."""
        if type(error).__name__ == "KilledWorker":
            return self._give_up(stage)
        line = first_line(error)
        evolve = self.versions["evolve"]
        raise UserError(
            f"{stage.label}: {type(error).__name__}: {line} (the scheduler and its workers need "
            f"evolve-learngene {evolve})"
        )

    def _notice_death(self, event: Any) -> None:
        """Note that a worker is gone: what it was computing begins again elsewhere, once."""
        if (
            not isinstance(event, dict)
            or event.get("action") != "remove-worker"
            or event["expected"]
        ):
            return
        lost = [
            stage
            for stage in self.scheduler.running.values()
            if self._dask_key(stage) in event["processing-tasks"]
        ]
        begun = [stage for stage in lost if self.places.get(stage.key) == event["worker"]] or lost
        for stage in begun:
            self.deaths[stage.key] += 1
            if self.deaths[stage.key] > 1:
                self.futures.pop(stage.key).release()
                self._give_up(stage)
            else:
                self.scheduler.events(
                    Notice(f"{stage.label}: its worker {event['worker']} died; trying once more")
                )

    def _give_up(self, stage: Stage) -> None:
        text = "its worker died twice (mostly a lack of memory, or a batch job's time limit)"
        log = self.scheduler.store.log(stage.key)
        self.scheduler.fail(
            stage, text, UserError(f"{stage.label}: {text}; its log, if it said anything, is {log}")
        )

    def _look(self) -> None:
        """See how many stages can run at once, and say so, once, if there is nobody to run them."""
        with self._reaching():
            threads = sum(self.client.nthreads().values())
        self.threads, self.looked = max(1, threads), time.monotonic()
        if threads:
            self.lonely_since = float("inf")
        elif self.looked - self.lonely_since > LONELY_SECONDS:
            self.lonely_since = float("inf")
            self.scheduler.events(
                Notice(f"--scheduler {self.cluster.scheduler}: no worker has come yet; waiting")
            )

    @contextmanager
    def _reaching(self) -> Iterator[None]:
        """Around whatever asks the scheduler."""
        try:
            yield
        except (OSError, TimeoutError, CancelledError) as error:
            raise self._gone() from error

    def _gone(self) -> UserError:
        return UserError(
            f"--scheduler {self.cluster.scheduler}: the scheduler is gone; finished stages are "
            "kept, run the same command again"
        )

    def _check_gpus(self) -> None:
        """Where the workers are there already, one must offer what a stage will ask for."""
        workers = self.client.scheduler_info(n_workers=-1)["workers"].values()
        share = self.cluster.gpu_share
        if (
            share
            and workers
            and not any(worker["resources"].get("GPU", 0) >= share for worker in workers)
        ):
            start = f"dask worker ADDRESS --nthreads 1 --resources GPU={share:g}"
            raise UserError(
                f"--gpu-share {share:g}: no worker of {self.cluster.scheduler} offers that much; "
                f"start them with: {start}"
            )
