"""A lock on a shared folder.

"Another machine" is a process that gives another host name; stopped, it is a machine that never
comes back while the server keeps its file lock.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from evolve.engine import lease
from evolve.engine.lease import Lease
from evolve.engine.store import Store

HOLDER = """
import socket, sys, time
from pathlib import Path
far, stem = sys.argv[1] == "far", Path(sys.argv[2])
if far:
    socket.gethostname = lambda: "far"
from evolve.engine import lease
lease.LEASE_SECONDS, lease.BEAT_SECONDS = 1.5, 0.1
held = lease.Lease(stem)
print(held.take(), flush=True)
if sys.argv[3:] == ["unseen"]:
    held._lock.release()  # a file system that does not show one machine's locks to the others
time.sleep(60)
"""


@contextmanager
def holder(stem: Path, where: str, *more: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, where, str(stem), *more], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None and process.stdout.readline() == "True\n"
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lease:
    monkeypatch.setattr(lease, "LEASE_SECONDS", 1.5)
    monkeypatch.setattr(lease, "BEAT_SECONDS", 0.1)
    return Lease(tmp_path / "k")


def test_one_holds_it_at_a_time_and_gives_it_back(mine: Lease, tmp_path: Path) -> None:
    other = Lease(tmp_path / "k")
    assert mine.take() and not other.take()
    mine.release()
    assert other.take() and not mine.take()
    other.release()
    assert [path.name for path in tmp_path.iterdir()] == ["k.lock"]


@pytest.mark.parametrize("more", [(), ("unseen",)])
def test_a_living_machine_keeps_it(mine: Lease, tmp_path: Path, more: tuple[str, ...]) -> None:
    with holder(tmp_path / "k", "far", *more):
        assert not mine.take(2.5)


@pytest.mark.parametrize("more", [(), ("unseen",)])
def test_a_machine_that_never_comes_back_loses_it(
    mine: Lease, tmp_path: Path, more: tuple[str, ...]
) -> None:
    with holder(tmp_path / "k", "far", *more) as process:
        os.kill(process.pid, signal.SIGSTOP)
        began = time.monotonic()
        assert not mine.take()
        assert mine.take(5) and time.monotonic() - began > 1.3
        assert not Lease(tmp_path / "k").take(2.5)  # it is kept up now
        mine.release()


def test_a_process_of_this_machine_loses_it_at_once_when_it_dies_and_not_before(
    mine: Lease, tmp_path: Path
) -> None:
    with holder(tmp_path / "k", "here") as process:
        os.kill(process.pid, signal.SIGSTOP)
        assert not mine.take(2.5)
        process.kill()  # nobody has asked for its exit code yet
        began = time.monotonic()
        assert mine.take(5) and time.monotonic() - began < 1.3
        mine.release()


def test_what_another_machine_is_writing_is_left_to_it_for_a_day(tmp_path: Path) -> None:
    tmp = Store(tmp_path).root / "tmp"
    for name, age in (("far-1-a", 60), ("far-2-b", 100_000)):
        (tmp / name).mkdir()
        (tmp / f"{name}.lock").touch()
        os.utime(tmp / f"{name}.lock", (time.time() - age,) * 2)
    Store(tmp_path)
    assert sorted(path.name for path in tmp.iterdir()) == ["far-1-a", "far-1-a.lock"]
