"""Whole writes, and where the user's own files lie."""

from __future__ import annotations

import os
import pwd
import time
from pathlib import Path

import pytest

from evolve.core.durable import expanded, result_folder, user_cache, write_whole
from evolve.core.errors import UserError
from evolve.core.settings import DataSettings
from evolve.data.sources import load_images


@pytest.fixture
def homeless(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a container's user: no HOME, no entry in passwd."""

    def nobody(uid: int) -> None:
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(pwd, "getpwuid", nobody)


@pytest.mark.usefixtures("homeless")
def test_a_user_without_a_home_is_told_or_needs_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert expanded(tmp_path) == tmp_path
    for ask in (user_cache, lambda: expanded(Path("~/x"))):
        with pytest.raises(UserError, match="no home; set HOME"):
            ask()
    with pytest.raises(UserError, match="no home"):
        load_images(DataSettings(source="cifar100"), None, tmp_path)
    glyphs = DataSettings(size=8, glyph_train=1, glyph_test=1)
    assert len(load_images(glyphs, None, tmp_path).labels) == 200
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert user_cache() == tmp_path / "evolve"


@pytest.mark.parametrize("name", [".", "..", "/", "folder", "folder/."])
def test_a_folder_is_no_file_to_write(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("folder").mkdir()
    with pytest.raises(UserError, match="is a folder"):
        write_whole(Path(name), b"", "report")
    assert [path.name for path in tmp_path.rglob("*")] == ["folder"]


def test_a_folder_for_results_loses_what_a_killed_process_left_in_it(tmp_path: Path) -> None:
    folder = result_folder(tmp_path / "a" / "b", "report")
    old, young = folder / ".curve.svg.1.tmp", folder / ".curve.svg.2.tmp"
    for file, age in ((old, 3600), (young, 1), (folder / "mine.tmp", 3600)):
        file.touch()
        os.utime(file, (time.time() - age,) * 2)
    assert result_folder(folder, "report") == folder
    assert {file.name for file in folder.iterdir()} == {young.name, "mine.tmp"}
    with pytest.raises(UserError, match=r"learngenes .*mine\.tmp/x: cannot be made \(Not a dir"):
        result_folder(folder / "mine.tmp" / "x", "learngenes")
