"""Locks on a file system that has none, as NFS without its lock daemon."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from filelock import Timeout

from evolve.core.errors import UserError
from evolve.core.locks import held
from evolve.data import cache
from evolve.engine.store import Stage, Store
from evolve.runs.folder import claimed
from evolve.runs.listing import is_held

STAGE = Stage("test", "s", {"x": 1}, {})


@pytest.fixture(params=[errno.ENOLCK, errno.EOPNOTSUPP])
def no_locks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(handle: int, how: int) -> None:
        raise OSError(request.param, os.strerror(request.param))

    monkeypatch.setattr(fcntl, "flock", refuse)


@pytest.mark.usefixtures("no_locks")
def test_one_holds_a_marker_instead_and_a_dead_holder_s_is_taken_over(tmp_path: Path) -> None:
    file = tmp_path / "x.lock"
    with held(file), pytest.raises(Timeout), held(file, 0):
        pytest.fail("two hold it")
    code = (
        "import sys, time; from filelock import SoftFileLock; "
        "lock = SoftFileLock(sys.argv[1]); lock.acquire(); print(flush=True); time.sleep(60)"
    )
    words = [sys.executable, "-c", code, f"{file}.held"]
    with subprocess.Popen(words, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None and holder.stdout.readline()
        with pytest.raises(Timeout), held(file, 0):
            pytest.fail("its holder lives")
        holder.kill()
    with held(file, 5):
        assert (tmp_path / "x.lock.held").exists()
    assert not (tmp_path / "x.lock.held").exists()


@pytest.mark.usefixtures("no_locks")
def test_a_store_works_by_its_leases_and_sweeps_nobody_s_folder(tmp_path: Path) -> None:
    store, other = Store(tmp_path), Store(tmp_path)
    with store.lock(STAGE.key), store.folder.scratch() as folder:
        assert other.locked(STAGE.key)
        other.sweep()
        assert folder.is_dir()
    assert not other.locked(STAGE.key)
    put = store.put(STAGE, {"a": 1}, {"w": {"w": torch.ones(2)}}, {})
    assert put.record == {"a": 1} and list((tmp_path / "tmp").iterdir()) == []
    left = store.root / "tmp" / f"{store.folder.machine.name}-1-a"
    left.mkdir()
    (guard := left.with_suffix(".lock")).touch()
    os.utime(guard, (time.time() - 100_000,) * 2)
    Store(tmp_path)
    assert list((tmp_path / "tmp").iterdir()) == []


@pytest.mark.usefixtures("no_locks")
def test_images_are_decoded_and_a_run_folder_has_one_holder(tmp_path: Path) -> None:
    pixels = np.zeros((1, 4, 4, 3), np.uint8)
    decoded = cache.Decoded(pixels, np.array([0]), np.array([False]), ("a",))
    prepared = cache.Prepared({}, lambda report: decoded, (0.5,) * 3, (0.5,) * 3)
    assert len(cache.cached(tmp_path / "cache", "x", prepared, print).labels) == 1
    run = tmp_path / "run"
    with claimed(run):
        assert is_held(run)
        with pytest.raises(UserError, match="another process is running this run"), claimed(run):
            pytest.fail("two hold it")
        (run / "run.json").touch()
    assert not is_held(run)
