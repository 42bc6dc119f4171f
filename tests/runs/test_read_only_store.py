"""A store on a disk that cannot be written is read by all that only reads."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from tiny import NO_CONTROLS, toml

from evolve.cli.main import cli
from evolve.core.errors import UserError

PLAIN = NO_CONTROLS | {"controls.untrained": False, "controls.full_ancestor": 0, "stream.tasks": 1}


def call(*words: str) -> str:
    done = CliRunner().invoke(cli, words, catch_exceptions=False)
    return done.output


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A run's store on a disk that has become read-only; the run's folder lies elsewhere."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("EVOLVE_CACHE", raising=False)
    (tmp_path / "tiny.toml").write_text(toml(PLAIN))
    place = tmp_path / "disk"
    place.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(place)]
    if subprocess.run(words, capture_output=True).returncode:
        pytest.skip("cannot mount a disk here")
    try:
        call("run", "tiny.toml", "--out", "a", "--store", "disk/store", "--workers", "1")
        subprocess.run(["mount", "-o", "remount,ro", str(place)], check=True)
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.mark.slow
def test_what_only_reads_works_and_a_run_too_where_all_is_there(disk: Path) -> None:
    before = Path("a/summary.json").read_bytes()
    for words in (["summary", "a"], ["store", "--store", "disk/store"]):
        assert call(*words)
    assert "finished" in call("runs", ".")
    Path("a/summary.json").unlink()
    call("resume", "a")  # reads all and writes the report
    assert Path("a/summary.json").read_bytes() == before
    lacking = ["run", "tiny.toml", "--seed", "1", "--out", "c", "--store", "disk/store"]
    with pytest.raises(UserError, match="read-only") as caught:
        call(*lacking)
    assert "\n" not in str(caught.value)
