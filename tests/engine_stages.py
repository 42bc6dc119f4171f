"""Stages for test_engine.py, test_sets.py and test_cluster.py, each with one way to behave.

They are light, and worker processes can import them.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from evolve.core.errors import DataError, UserError
from evolve.engine.scheduler import Event, StageProgress
from evolve.engine.store import Stage, Store, stage_key

Progress = Callable[[float, str], None]


class Interrupting(list[Event]):
    """Takes events until the first progress: then the user presses Ctrl-C."""

    def append(self, event: Event) -> None:
        """Take an event; at the first progress, press Ctrl-C."""
        super().append(event)
        if isinstance(event, StageProgress):
            raise KeyboardInterrupt


def make(name: str, does: str = "add", priority: int = 0, **inputs: Stage) -> Stage:
    """A stage that behaves as a function below.

    Args:
        name: its name.
        does: the function's name.
        priority: as of :class:`Stage`.
        inputs: the stages that it needs, by role.
    """
    keys = {role: stage.key for role, stage in inputs.items()}
    return Stage("condense", name, {"name": name, "does": does, "inputs": keys}, keys, priority)


SET_LIMIT = 3


def set_key(stage: Stage, context: Mapping[str, Any]) -> str | None:
    """Stages may go together whose names begin with the same letter of context["sets"]."""
    return stage.label[0] if stage.label[0] in context.get("sets", "") else None


def perform(stage: Stage, store: Store, context: Mapping[str, Any], progress: Progress) -> None:
    """Note the stage in the trace, then do as its recipe says."""
    trace([stage], context)
    globals()[stage.recipe["does"]](stage, store, context, progress)


def perform_set(
    stages: Sequence[Stage], store: Store, context: Mapping[str, Any], progress: Progress
) -> None:
    """Note the stages in the trace, then do as their recipes say."""
    trace(stages, context)
    for stage in stages:
        globals()[stage.recipe["does"]](stage, store, context, progress)


def trace(stages: Sequence[Stage], context: Mapping[str, Any]) -> None:
    """Write the stages and this process's id as a line of context["trace"]."""
    if "trace" in context:
        with open(context["trace"], "a") as file:
            file.write(f"{'+'.join(stage.label for stage in stages)} {os.getpid()}\n")


def add(stage: Stage, store: Store, context: Mapping[str, Any], progress: Progress) -> None:
    """A value that depends on the stage and on all its inputs."""
    results = {role: store.get(key) for role, key in stage.inputs.items()}
    values = {role: result.record["value"] for role, result in results.items() if result}
    for step in range(3):
        progress(step / 3, f"step {step}")
    store.put(stage, {"value": stage_key("condense", values | {"me": stage.label})}, {}, {})


def slow(stage: Stage, store: Store, context: Mapping[str, Any], progress: Progress) -> None:
    """:func:`add`, after a while."""
    time.sleep(0.3)
    add(stage, store, context, progress)


def random_network(
    stage: Stage, store: Store, context: Mapping[str, Any], progress: Progress
) -> None:
    """A result that depends on torch's threads and rounding."""
    import torch

    draw = torch.Generator().manual_seed(len(stage.label))
    x = torch.randn(300, 300, generator=draw)
    store.put(
        stage,
        {"threads": torch.get_num_threads(), "omp": os.environ.get("OMP_NUM_THREADS")},
        {"x": {"x": x @ x}},
        {},
    )


def surroundings(
    stage: Stage, store: Store, context: Mapping[str, Any], progress: Progress
) -> None:
    """The cores and the variables that a worker gets."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    names = ("MPLBACKEND", "OMP_PROC_BIND", "OMP_NUM_THREADS")
    variables = {name: os.environ.get(name) for name in names}
    store.put(stage, {"cores": cores, "variables": variables}, {}, {})


def die_once(stage: Stage, store: Store, context: Mapping[str, Any], progress: Progress) -> None:
    """Save a checkpoint and be killed; the second try goes on from it."""
    import torch

    checkpoint = store.checkpoint(stage.key)
    if checkpoint.load() is None:
        checkpoint.save({"w": torch.ones(2)}, {"epoch": 1})
        os.kill(os.getpid(), signal.SIGKILL)
    add(stage, store, context, progress)


def die(stage: Stage, store: Store, context: Mapping[str, Any], progress: Progress) -> None:
    """Say something and be killed."""
    os.write(2, b"last words")
    os.kill(os.getpid(), signal.SIGKILL)


def refuse(stage: Stage, store: Store, context: Mapping[str, Any], progress: Progress) -> None:
    """A user's error."""
    raise DataError("cifar.tar.gz: damaged, fetch it again")


class Odd(UserError):
    """Does not survive pickling."""

    def __init__(self, file: str, what: str) -> None:
        super().__init__(f"{file}: {what}")


def refuse_oddly(
    stage: Stage, store: Store, context: Mapping[str, Any], progress: Progress
) -> None:
    """A user's error that does not survive pickling."""
    raise Odd("file", "is odd")


def explode(stage: Stage, store: Store, context: Mapping[str, Any], progress: Progress) -> None:
    """A mistake in the code."""
    raise ZeroDivisionError("first line\nsecond line")


def forget(stage: Stage, store: Store, context: Mapping[str, Any], progress: Progress) -> None:
    """Put no result."""
    pass


def leave(stage: Stage, store: Store, context: Mapping[str, Any], progress: Progress) -> None:
    """End the process."""
    sys.exit(3)


def noisy(stage: Stage, store: Store, context: Mapping[str, Any], progress: Progress) -> None:
    """:func:`add`, after chatter on every way out."""
    print("library chatter")
    os.write(1, b"from C\n")
    os.write(2, b"a warning\n")
    add(stage, store, context, progress)


def hang(stage: Stage, store: Store, context: Mapping[str, Any], progress: Progress) -> None:
    """Sleep with a scratch folder open."""
    progress(0.5, "hanging")
    with store.folder.scratch():
        time.sleep(60)


def patient(stage: Stage, store: Store, context: Mapping[str, Any], progress: Progress) -> None:
    """Works for a minute and says so all the time."""
    for step in range(600):
        progress(step / 600, "at work")
        time.sleep(0.1)
    add(stage, store, context, progress)


def damage(stage: Stage, store: Store, context: Mapping[str, Any], progress: Progress) -> None:
    """Damage another stage's result behind everyone's back."""
    for result in Path(store.root).glob(f"results/*/*/{context['victim']}/result.json"):
        result.write_text("{}")
    add(stage, store, context, progress)


def see_gpu(stage: Stage, store: Store, context: Mapping[str, Any], progress: Progress) -> None:
    """Which GPU its process sees; long enough for another worker to be needed."""
    time.sleep(0.3)
    store.put(stage, {"gpu": os.environ.get("CUDA_VISIBLE_DEVICES"), "pid": os.getpid()}, {}, {})
