"""Machine code that is kept on disk: used again, made anew where it is damaged, and done without
where there is no place.
"""

from __future__ import annotations

import os
from collections.abc import Callable
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


def opened(level: int) -> Callable[[Path, Path], None]:
    """Let others write into the folder ``level`` above the file."""
    return lambda path, elsewhere: os.chmod(path.parents[level], 0o777)


def owned(level: int | None) -> Callable[[Path, Path], None]:
    """Give the folder ``level`` above the file, or the file, to another user."""
    return lambda path, elsewhere: os.chown(
        path if level is None else path.parents[level], 4242, 4242
    )


def writable(path: Path, elsewhere: Path) -> None:
    os.chmod(path, 0o666)


def linked(path: Path, elsewhere: Path) -> None:
    path.rename(elsewhere)
    path.symlink_to(elsewhere)


def a_pipe(path: Path, elsewhere: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def in_an_open_folder(path: Path, elsewhere: Path) -> None:
    """The folder itself is closed; a link in its path leads through one that others may write."""
    elsewhere.mkdir()
    os.chmod(elsewhere, 0o777)
    path.parent.rename(elsewhere / "kept")
    path.parent.symlink_to(elsewhere / "kept")


AS_ROOT = pytest.mark.skipif(os.getuid() != 0, reason="only root can give files away")


@pytest.mark.parametrize(
    "doubt",
    [
        opened(0),
        opened(1),
        opened(2),
        pytest.param(owned(None), marks=AS_ROOT),
        pytest.param(owned(0), marks=AS_ROOT),
        pytest.param(owned(2), marks=AS_ROOT),
        writable,
        linked,
        a_pipe,
        in_an_open_folder,
    ],
)
def test_what_others_may_have_written_is_not_run(
    cache: Path, compiled: list[str], doubt: Callable[[Path, Path], None]
) -> None:
    """Also where that happens after the folder was looked at first."""
    works()
    works()
    assert len(compiled) == 1
    (path,) = files(cache)
    doubt(path, cache.parent / f"elsewhere-{cache.name}")
    works()
    assert len(compiled) == 2


def test_folders_are_made_for_their_user_alone_and_a_sticky_one_may_be_above(
    tmp_path: Path, cache: Path, compiled: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sticky").mkdir()
    os.chmod(tmp_path / "sticky", 0o1777)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "sticky/deep"))
    before = os.umask(0)
    try:
        works()
        works()
    finally:
        os.umask(before)
    assert len(compiled) == 1
    (path,) = files(tmp_path / "sticky")
    assert path.stat().st_mode & 0o777 == 0o600
    assert all(place.stat().st_mode & 0o777 == 0o700 for place in path.parents[:4])


def test_code_under_another_kernel_s_name_is_not_run(cache: Path, compiled: list[str]) -> None:
    works()
    (path,) = files(cache)
    other = path.with_name("other_kernel.o")
    other.write_bytes(path.read_bytes())
    os.chmod(other, 0o600)
    assert room._kept("other_kernel", lambda: b"compiled") == b"compiled"


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
