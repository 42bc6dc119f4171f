"""What a run's folder says, and to which run it belongs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from evolve.core.errors import UserError
from evolve.runs.folder import _check_same, again_command, resume_command


def facts(checkpoint: str, content: str, epochs: int = 1) -> dict[str, Any]:
    ancestor = {"checkpoint": checkpoint, "epochs": epochs}
    return {"settings": {"ancestor": ancestor}, "checkpoint": content, "seed": 0}


def test_a_checkpoint_may_move_and_not_change(tmp_path: Path) -> None:
    held = facts("/old/dino.pth", "aa")
    _check_same(tmp_path, held, facts("/new/dino.pth", "aa"))
    for other in (facts("/old/dino.pth", "bb"), facts("/old/dino.pth", "aa", epochs=2)):
        with pytest.raises(UserError, match="holds another run"):
            _check_same(tmp_path, held, other)


def test_commands_name_absolute_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    where = {"profile": "paper", "seed": 1, "data_dir": "/d e", "reference": True, "store": "/s"}
    assert again_command(Path("run"), where) == (
        f"evolve run --scenario {tmp_path}/run/scenario.toml --profile paper --seed 1 "
        f"--data '/d e' --reference --out {tmp_path}/run --store /s"
    )
    assert resume_command(Path("a b")) == f"evolve resume '{tmp_path}/a b'"
