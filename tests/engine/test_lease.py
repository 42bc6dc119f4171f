"""A lock on a shared folder.

"Another machine" is a process that is named so; stopped, it is a machine that never comes back
while the server keeps its file lock.
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
from typing import Any

import pytest
from filelock import FileLock

from evolve.engine import lease, machine
from evolve.engine.lease import Lease
from evolve.engine.machine import Machine, this_machine
from evolve.engine.store import Stage, Store

HOLDER = """
import sys, time
from pathlib import Path
from evolve.engine import lease
from evolve.engine.machine import Machine
lease.LEASE_SECONDS, lease.BEAT_SECONDS = 1.5, 0.1
held = lease.Lease(Path(sys.argv[2]), Machine(sys.argv[1], "boot"))
print(held.take(), flush=True)
if sys.argv[3:] == ["unseen"]:
    held._lock.release()  # a file system that does not show one machine's locks to the others
time.sleep(60)
"""


HERE = Machine("here", "boot")


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
    return Lease(tmp_path / "k", HERE)


def test_one_holds_it_at_a_time_and_gives_it_back(mine: Lease, tmp_path: Path) -> None:
    other = Lease(tmp_path / "k", HERE)
    assert mine.take() and not other.take()
    assert "host=here.boot\n" in (tmp_path / "k.lease").read_text()  # whatever the library does
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
        assert not Lease(tmp_path / "k", HERE).take(2.5)  # it is kept up now
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


def test_a_process_that_died_before_a_reboot_loses_it_at_once_and_a_living_clone_does_not(
    mine: Lease, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with holder(tmp_path / "k", "here", "unseen") as process:
        process.kill()
        process.wait()
    after = Lease(tmp_path / "k", Machine("here", "another boot"))
    os.utime(tmp_path / "k.lease", (time.time() - 60,) * 2)
    monkeypatch.setattr(lease, "uptime", lambda: 100.0)
    assert not after.take()  # touched since: its holder may run, on another machine of that name
    monkeypatch.setattr(lease, "uptime", lambda: 10.0)
    assert after.take()
    after.release()


@pytest.mark.parametrize("written", [b"", b"filelock/2\npid=4"])
def test_a_kill_before_the_lease_says_whose_it_is_frees_it_and_not_while_it_is_written(
    mine: Lease, tmp_path: Path, written: bytes
) -> None:
    (tmp_path / "k.lease").write_bytes(written)
    assert not mine.take()
    os.utime(tmp_path / "k.lease", (time.time() - 3,) * 2)
    assert mine.take()
    mine.release()


def test_nobody_takes_the_lease_of_one_who_has_the_file_lock_and_is_about_to_write_it(
    mine: Lease, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two would hold it: that one breaks the lease of a process of its machine, as of a dead one."""
    other = Lease(tmp_path / "k", HERE)
    with FileLock(mine.file, thread_local=False):
        assert not other.take()
        assert not other.take()
        # One that went on waiting so long died in between, where file locks outlive their machine.
        monkeypatch.setattr(lease, "_WRITING_SECONDS", 0.0)
        assert other.take()
        other.release()


def test_an_interrupt_inside_taking_it_leaves_it_free(
    mine: Lease, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = lease._got

    def interrupted(lock: Any) -> bool:
        result = taken(lock)
        if lock is mine._lease:
            raise KeyboardInterrupt
        return result

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(lease, "_got", interrupted)
        mine.take()
    other = Lease(tmp_path / "k", HERE)
    assert other.take()
    other.release(remove=True)
    assert list(tmp_path.iterdir()) == []


def test_two_machines_of_one_host_name_leave_each_other_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a lock that both see: the file lock of one is another file to the other."""
    stores = []
    for boot in ("one", "two"):
        monkeypatch.setattr(machine, "_boot_id", lambda boot=boot: boot)
        stores.append(Store(tmp_path))
    first, second = stores
    assert first.folder.machine.name != second.folder.machine.name
    with first.lock("k"), first.folder.scratch() as folder:
        for number, guard in enumerate(tmp_path.glob("*/*.lock")):
            os.replace(guard, tmp_path / f".kept{number}")
            guard.touch()
        assert second.locked("k")
        second.sweep()
        assert folder.is_dir()


def test_a_machine_keeps_its_name_over_a_reboot_unless_another_one_goes_by_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / machine.FOLDER).mkdir()
    monkeypatch.setattr(machine, "_hardware", lambda: "card")
    monkeypatch.setattr(machine, "_boot_id", lambda: "one")
    first = this_machine(tmp_path)
    assert this_machine(tmp_path) == first
    monkeypatch.setattr(machine, "_boot_id", lambda: "two")
    monkeypatch.setattr(machine, "uptime", lambda: 1000.0)
    clone = this_machine(tmp_path)
    assert clone.name != first.name  # the first was here since the second was booted
    for file in (tmp_path / machine.FOLDER).iterdir():
        os.utime(file, (time.time() - 60,) * 2)
    monkeypatch.setattr(machine, "_boot_id", lambda: "three")
    monkeypatch.setattr(machine, "uptime", lambda: 10.0)
    again = this_machine(tmp_path)
    assert again.name in (first.name, clone.name) and again.boot not in (first.boot, clone.boot)
    (damaged,) = (tmp_path / machine.FOLDER).glob(f"{again.boot}.json")
    damaged.write_bytes(b"")
    assert this_machine(tmp_path) == this_machine(tmp_path)
    assert not list((tmp_path / machine.FOLDER).glob(".*"))


def test_what_nobody_guards_and_locks_of_what_is_done_are_swept(tmp_path: Path) -> None:
    store = Store(tmp_path)
    stage = Stage("test", "s", {}, {})
    with store.lock(stage.key):
        store.put(stage, {}, {}, {})
    assert list((tmp_path / "locks").iterdir()) == []  # nobody will want it again
    ours, old = f"{store.folder.machine.name}-1-a", time.time() - 100_000
    for name in (ours, "far-1-a", "far-2-b"):
        (tmp_path / "tmp" / name).mkdir()
    left = ["locks/done.lock", "locks/x.lock", "locks/x.lease", "locks/y.lock"]
    left += ["locks/x.lease.break.1.a", "runs/.a.json.1.tmp", "store.json.abc"]
    left[0] = f"locks/{stage.key}.lock"
    for name in left:
        (tmp_path / name).touch()
    for name in ("tmp/far-2-b", *left[1:3], *left[4:]):
        os.utime(tmp_path / name, (old, old))
    Store(tmp_path)
    kept = {p.name for p in (*tmp_path.glob("*/*"), *tmp_path.glob("store.*")) if p.is_file()}
    assert {p.name for p in (tmp_path / "tmp").iterdir()} == {"far-1-a"}
    assert {name for name in kept if not name.endswith("json")} == {"y.lock"}


def test_what_another_machine_is_writing_is_left_to_it_for_a_day(tmp_path: Path) -> None:
    tmp = Store(tmp_path).root / "tmp"
    for name, age in (("far-1-a", 60), ("far-2-b", 100_000)):
        (tmp / name).mkdir()
        (tmp / f"{name}.lock").touch()
        os.utime(tmp / f"{name}.lock", (time.time() - age,) * 2)
    Store(tmp_path)
    assert sorted(path.name for path in tmp.iterdir()) == ["far-1-a", "far-1-a.lock"]
