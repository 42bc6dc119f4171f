"""Machine code that is kept on disk: used again, made anew where it is damaged, and done without
where there is no place.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from evolve.networks.fast.compiled import kernel as room
from evolve.networks.fast.compiled import units
from evolve.networks.fast.compiled.emit import Code


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A cache of its own, and a process that has compiled nothing yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    room._folder.cache_clear()
    units.rectified.cache_clear()
    yield tmp_path
    room._folder.cache_clear()
    units.rectified.cache_clear()


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is compiled from now on."""
    seen: list[str] = []
    real = Code.machine_code
    monkeypatch.setattr(
        Code, "machine_code", lambda self: seen.append(self.function.name) or real(self)
    )
    return seen


def works() -> None:
    units.rectified.cache_clear()
    out, c, scale, shift = (
        torch.zeros(4),
        torch.tensor([-1.0, 1.0, 2.0, 3.0]),
        torch.full((2,), 2.0),
        torch.ones(2),
    )
    units.rectified(2, torch.float32)(
        out.data_ptr(), c.data_ptr(), scale.data_ptr(), shift.data_ptr(), 2
    )
    assert out.tolist() == [0.0, 3.0, 5.0, 7.0]


def files(cache: Path) -> list[Path]:
    return [path for path in cache.rglob("*") if path.is_file()]


def test_the_next_process_need_not_compile(cache: Path, compiled: list[str]) -> None:
    works()
    works()
    assert len(compiled) == 1 and [path.suffix for path in files(cache)] == [".o"]


@pytest.mark.parametrize("damage", [b"", b"nonsense", None])
def test_a_damaged_file_is_made_anew(
    cache: Path, compiled: list[str], damage: bytes | None
) -> None:
    works()
    (path,) = files(cache)
    whole = path.read_bytes()
    path.write_bytes(whole[:-9] if damage is None else damage)
    works()
    assert len(compiled) == 2 and path.read_bytes() == whole


def test_a_folder_that_others_may_write_is_not_trusted(cache: Path, compiled: list[str]) -> None:
    works()
    (path,) = files(cache)
    os.chmod(path.parent, 0o777)
    room._folder.cache_clear()
    works()
    assert len(compiled) == 2


def test_no_place_to_keep_it_is_no_error(
    tmp_path: Path, cache: Path, compiled: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    room._folder.cache_clear()
    works()
    works()
    assert len(compiled) == 2


def test_a_full_disk_is_no_error(
    cache: Path, compiled: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, content: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("evolve.core.durable.write_file", full)
    works()
    assert len(compiled) == 1 and not files(cache)
