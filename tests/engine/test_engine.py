"""The engine: same results for any number of workers, and what happens when something goes
wrong.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import commands
import pytest
import torch
from commands import wait_until
from engine_stages import Interrupting, make

from evolve.core.errors import DataError, UserError
from evolve.engine.engine import (
    Event,
    Notice,
    StageDone,
    StageFailed,
    StageFailure,
    StageProgress,
    StageStarted,
    run_stages,
)
from evolve.engine.store import Stage, Store

PERFORM = "engine_stages:perform"


def run(
    root: Path,
    stages: Sequence[Stage] | Callable[[], Sequence[Stage]],
    workers: int = 1,
    **more: Any,
) -> list[Event]:
    events: list[Event] = more.pop("events", [])
    expand = stages if callable(stages) else lambda: stages
    run_stages(expand, root, PERFORM, more.pop("context", {}), workers, events.append, **more)
    assert multiprocessing.active_children() == []
    return events


def lineage(length: int = 4) -> list[Stage]:
    """A chain with two branches at each link, like ancestor, learngene, descendants."""
    stages: list[Stage] = []
    previous: dict[str, Stage] = {}
    for t in range(length):
        ancestor = make(f"ancestor {t}", **previous)
        gene = make(f"gene {t}", ancestor=ancestor, priority=1)
        stages += [gene, make(f"descend {t}", gene=gene, priority=2), ancestor]
        previous = {"previous": ancestor}
    return stages


def values(root: Path, stages: Sequence[Stage]) -> list[Any]:
    store = Store(root, pytest.fail)
    return [result and result.record for result in (store.get(stage.key) for stage in stages)]


def labels(events: Sequence[Event], kind: type) -> list[str]:
    return [event.stage.label for event in events if isinstance(event, kind)]  # type: ignore[union-attr]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


# What is computed, and in which order


def test_any_number_of_workers_gives_the_same_results(tmp_path: Path) -> None:
    stages = lineage()
    for workers in (0, 1, 2):
        events = run(tmp_path / str(workers), stages, workers)
        assert (
            sorted(labels(events, StageDone))
            == sorted(labels(events, StageStarted))
            == sorted(s.label for s in stages)
        )
        assert not any(event.from_store for event in events if isinstance(event, StageDone))
    expected = values(tmp_path / "0", stages)
    assert None not in expected
    assert values(tmp_path / "1", stages) == values(tmp_path / "2", stages) == expected


def test_torch_gives_the_same_bits_on_one_thread_in_worker_and_in_process(tmp_path: Path) -> None:
    threads, environment = torch.get_num_threads(), dict(os.environ)
    stage = make("net", "random_network")
    tensors = []
    for workers in (0, 1):
        run(tmp_path / str(workers), [stage], workers)
        result = Store(tmp_path / str(workers)).get(stage.key)
        assert result is not None and result.record["threads"] == 1
        tensors.append(result.tensors("x")["x"])
    assert result.record["omp"] == "1" and torch.equal(tensors[0], tensors[1])
    assert torch.get_num_threads() == threads and dict(os.environ) == environment


def test_ready_stages_run_by_priority_then_order(tmp_path: Path) -> None:
    first, second = make("first"), make("second")
    stages = [make("late", priority=2), first, make("urgent", priority=-1, after=first), second]
    assert labels(run(tmp_path, stages, 0), StageStarted) == ["first", "urgent", "second", "late"]


def test_stages_that_become_known_later_run_too_and_a_second_run_computes_nothing(
    tmp_path: Path,
) -> None:
    first = make("first")

    def expand() -> list[Stage]:
        result = Store(tmp_path).get(first.key)
        return (
            [first, make(f"from {result.record['value'][:3]}", first=first)] if result else [first]
        )

    events = run(tmp_path, expand)
    assert len(labels(events, StageDone)) == 2
    again = run(tmp_path, expand)
    assert (
        labels(again, StageDone) == labels(events, StageDone) and labels(again, StageStarted) == []
    )
    assert all(event.from_store for event in again if isinstance(event, StageDone))


def test_a_stage_named_twice_runs_once(tmp_path: Path) -> None:
    events = run(tmp_path, [make("same"), make("same")], 2)
    assert labels(events, StageDone) == ["same"]


def test_progress_arrives_and_chatter_does_not_reach_the_screen(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    events = run(tmp_path, [make("n", "noisy")])
    progress = [event for event in events if isinstance(event, StageProgress)]
    assert (
        progress
        and progress[0].text == "step 0"
        and all(0 <= event.fraction <= 1 for event in progress)
    )
    assert capfd.readouterr() == ("", "")
    assert list((tmp_path / "logs").iterdir()) == []


def test_workers_are_kept_between_stages(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    run(tmp_path / "s", lineage(3), 2, context={"trace": trace})
    assert len({line.split()[-1] for line in trace.read_text().splitlines()}) <= 2


def test_an_input_that_nobody_computes_is_named(tmp_path: Path) -> None:
    with pytest.raises(StageFailure, match="child.*'mother'"):
        run(tmp_path, [make("child", mother=make("mother"))], 0)


def test_an_input_damaged_during_the_run_is_computed_again(tmp_path: Path) -> None:
    victim = make("victim")
    run(tmp_path, [victim], 0)
    saboteur = make("saboteur", "damage")
    child = make("child", victim=victim, after=saboteur)
    events = run(tmp_path, [victim, saboteur, child], context={"victim": victim.key})
    assert labels(events, StageDone) == ["victim", "saboteur", "victim", "child"]
    assert any(isinstance(event, Notice) and "damaged" in event.text for event in events)
    assert None not in values(tmp_path, [victim, saboteur, child])


def test_an_interrupt_ends_running_stages(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, [make("h", "hang")], events=Interrupting())
    assert list((tmp_path / "tmp").iterdir()) == [] and not Store(tmp_path).has(
        make("h", "hang").key
    )


# What goes wrong in a stage


@pytest.mark.parametrize("workers", [0, 1])
def test_a_user_error_arrives_as_it_is(tmp_path: Path, workers: int) -> None:
    events: list[Event] = []
    with pytest.raises(DataError) as caught:
        run(tmp_path, [make("r", "refuse")], workers, events=events)
    assert str(caught.value) == "cifar.tar.gz: damaged, fetch it again"
    assert labels(events, StageFailed) == ["r"] and multiprocessing.active_children() == []
    with pytest.raises(UserError, match="file: is odd"):
        run(tmp_path, [make("o", "refuse_oddly")], workers)


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(
    ("does", "said"),
    [
        ("explode", "ZeroDivisionError: first line;"),
        ("leave", "SystemExit: 3;"),
        ("forget", "without putting the result"),
    ],
)
def test_any_other_error_is_one_line_that_names_the_log(
    tmp_path: Path, workers: int, does: str, said: str
) -> None:
    stage = make("broken", does)
    with pytest.raises(StageFailure) as caught:
        run(tmp_path, [stage, make("h", "hang", priority=1)], 2 * workers)
    log = tmp_path / "logs" / f"{stage.key}.log"
    assert (
        said in str(caught.value)
        and "broken" in str(caught.value)
        and str(log) in str(caught.value)
        and "\n" not in str(caught.value)
    )
    assert "Traceback" in log.read_text()
    assert multiprocessing.active_children() == [] and list((tmp_path / "tmp").iterdir()) == []


def test_a_killed_worker_is_replaced_and_its_stage_goes_on(tmp_path: Path) -> None:
    stages = [make("d", "die_once"), make("other", priority=1)]
    events = run(tmp_path, stages)
    assert labels(events, StageStarted) == ["d", "d", "other"] and labels(events, StageDone) == [
        "d",
        "other",
    ]
    assert any(isinstance(event, Notice) and "signal 9" in event.text for event in events)
    assert list((tmp_path / "partial").iterdir()) == []


def test_a_stage_that_kills_its_worker_twice_is_a_user_error(tmp_path: Path) -> None:
    stage = make("d", "die")
    with pytest.raises(UserError, match=r"^d: .*twice \(killed by signal 9") as caught:
        run(tmp_path, [stage], 2)
    log = tmp_path / "logs" / f"{stage.key}.log"
    assert (
        str(log) in str(caught.value)
        and "\n" not in str(caught.value)
        and log.read_text() == "last words" * 2
    )


# What goes wrong around it

SCRIPT = """
import os, sys
from pathlib import Path
from engine_stages import make
from evolve.engine.engine import run_stages, Notice
stages = [make(name, does) for name, does in zip(sys.argv[2::2], sys.argv[3::2])]
says = lambda event: print(event.text, file=sys.stderr) if isinstance(event, Notice) else None
run_stages(lambda: stages, Path(sys.argv[1]), "engine_stages:perform", {"trace": sys.argv[1] + ".trace"}, 2, says)
"""


def start(root: Path, *stages: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", SCRIPT, str(root), *stages]
    return subprocess.Popen(
        command,
        env=commands.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        preexec_fn=commands.heed_signals,
    )


def traced(root: Path) -> list[int]:
    """The process of every stage that was started."""
    trace = Path(f"{root}.trace")
    return (
        [int(line.split()[-1]) for line in trace.read_text().splitlines()] if trace.exists() else []
    )


def test_ctrl_c_ends_every_worker_promptly_and_quietly(tmp_path: Path) -> None:
    root = tmp_path / "s"
    parent = start(root, "a", "hang", "b", "hang")
    wait_until(lambda: len(traced(root)) == 2)
    began = time.monotonic()
    os.killpg(parent.pid, signal.SIGINT)  # as a terminal does: the workers get it too
    _, errors = parent.communicate(timeout=10)
    assert time.monotonic() - began < 3
    assert (
        errors.decode().count("Traceback") == 1
        and errors.decode().strip().endswith("KeyboardInterrupt")
        and b"leaked" not in errors
    )
    assert not any(alive(pid) for pid in traced(root))
    assert list((root / "tmp").iterdir()) == []


PINNED = """
import evolve, os, sys
from pathlib import Path
from engine_stages import make
from evolve.core.machine import usable_cores
from evolve.engine.engine import run_stages
before = os.sched_getaffinity(0)
os.sched_setaffinity(0, {min(before)})  # as libgomp does, once torch has loaded it
run_stages(lambda: [make("a", "surroundings")], Path(sys.argv[1]), "engine_stages:perform", {}, 1, print)
assert os.sched_getaffinity(0) == {min(before)} and os.environ["OMP_PROC_BIND"] == "true"
assert usable_cores() <= len(before), usable_cores()
print(*sorted(before))
"""


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="this system cannot pin")
def test_a_worker_is_neither_pinned_nor_draws_into_a_notebook(tmp_path: Path) -> None:
    surroundings = {"OMP_PROC_BIND": "true", "MPLBACKEND": "module://not_here"}
    done = subprocess.run(
        [sys.executable, "-c", PINNED, str(tmp_path)],
        env=commands.environment(surroundings),
        text=True,
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr
    held = Store(tmp_path).get(make("a", "surroundings").key)
    assert held is not None
    assert held.record == {
        "cores": [int(core) for core in done.stdout.splitlines()[-1].split()],
        "variables": {"MPLBACKEND": "Agg", "OMP_PROC_BIND": None, "OMP_NUM_THREADS": "1"},
    }


def test_workers_die_with_a_killed_parent(tmp_path: Path) -> None:
    root = tmp_path / "s"
    parent = start(root, "a", "hang", "b", "hang")
    wait_until(lambda: len(traced(root)) == 2)
    pids = traced(root)
    assert all(map(alive, pids))
    parent.kill()
    parent.communicate()
    wait_until(lambda: not any(map(alive, pids)), seconds=5)
    assert list((Store(root).root / "tmp").iterdir()) == []


def test_two_runs_on_one_store_share_the_work(tmp_path: Path) -> None:
    root = tmp_path / "s"
    stages = [word for name in "abcd" for word in (name, "slow")]
    first, second = start(root, *stages), start(root, *stages)
    errors = first.communicate(timeout=20)[1] + second.communicate(timeout=20)[1]
    assert (first.returncode, second.returncode) == (0, 0), errors
    assert len(traced(root)) == 4
    assert None not in values(root, [make(name, "slow") for name in "abcd"])


def test_a_run_says_that_it_waits_for_another(tmp_path: Path) -> None:
    stage = make("a", "add")
    with Store(tmp_path / "s").lock(stage.key):
        run_ = start(tmp_path / "s", "a", "add")
        assert run_.stderr is not None and b"another run" in run_.stderr.readline()
    _, errors = run_.communicate(timeout=10)
    assert run_.returncode == 0, errors


@pytest.mark.parametrize("workers", [0, 2])
def test_with_keep_going_a_failure_ends_only_what_needs_it(tmp_path: Path, workers: int) -> None:
    bad = make("bad", "refuse")
    after = make("after", gene=make("between", gene=bad))
    between = next(stage for stage in [make("between", gene=bad)])
    good = lineage(2)
    events: list[Event] = []
    failed = run_stages(
        lambda: [bad, between, after, *good],
        tmp_path,
        PERFORM,
        {},
        workers,
        events.append,
        keep_going=True,
    )
    assert set(failed) == {bad.key, between.key, after.key}
    assert failed[bad.key].startswith("bad: ") and "a stage before it failed" in failed[after.key]
    assert all(values(tmp_path, good)) and not any(values(tmp_path, [bad, between, after]))
    assert labels(events, StageFailed) == ["bad"]


def test_with_keep_going_a_stage_that_kills_its_workers_is_one_failure(tmp_path: Path) -> None:
    killer, good = make("killer", "die"), lineage(2)
    failed = run_stages(
        lambda: [killer, *good], tmp_path, PERFORM, {}, 2, lambda event: None, keep_going=True
    )
    assert list(failed) == [killer.key] and "died twice" in failed[killer.key]
    assert all(values(tmp_path, good))
