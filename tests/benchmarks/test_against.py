"""`make bench-against` and `evolve bench --against`: versions are compared fairly or not at all."""

from __future__ import annotations

import io
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from commands import ROOT, evolve
from evolve.benchmarks.speed import against, cases, compare
from evolve.benchmarks.speed.summary import rows
from rich.console import Console
from test_speed import measured

from evolve.core.errors import UserError

MACHINE = {"cpu": "A", "cores": 2, "torch": "2", "capability": "AVX2", "gpu": None}


class Copy:
    """An installed copy whose chunks take so many CPU seconds, one after the other."""

    def __init__(self, *seconds: float, settings: dict[str, Any] | None = None) -> None:
        self.seconds, self.settings, self.count = seconds, settings or {"a": 1}, 0

    def ask(self, command: str, argument: Any) -> Any:
        if command == "open":
            return self.settings
        spent = self.seconds[min(self.count, len(self.seconds) - 1)]
        self.count += 1
        return {"images": 10.0 * argument, "cpu": spent * argument}


def passes(old: Any, new: Any) -> bool:
    return against.fast_enough("ancestor", old, new, 3, 1.0)


def test_a_version_fails_only_past_the_limit_and_twice(capsys: pytest.CaptureFixture[str]) -> None:
    assert passes(Copy(1.0), Copy(1.09))
    assert "1.090 times" in capsys.readouterr().out
    assert not passes(Copy(1.0), Copy(1.2))
    assert capsys.readouterr().out.count("1.200 times") == 2
    # The first three rounds were disturbed, but not the three after them; two chunks warm up.
    assert passes(Copy(1.0), Copy(*[2.0] * 5, 1.0))


def test_other_settings_are_no_comparison(capsys: pytest.CaptureFixture[str]) -> None:
    assert passes(
        Copy(1.0, settings={"descend.batch": 16}), Copy(9.0, settings={"descend.batch": 32})
    )
    assert "not compared, since descend.batch differs" in capsys.readouterr().out
    assert not against.incomparable({"a": 1}, {"a": 1, "of a later version": 2})
    assert against.incomparable(None, {"a": 1})


def test_without_a_tag_there_is_nothing_to_compare_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert against.main([]) == 0
    assert capsys.readouterr().out.count("\n") == 1
    who = ["-c", "user.name=a", "-c", "user.email=a@b"]
    for words in (
        ["init", "-q"],
        [*who, "commit", "-q", "--allow-empty", "-m", "x"],
        ["tag", "v1"],
    ):
        subprocess.run(["git", *words], check=True)
    assert against.last_tag(tmp_path) == "v1"
    for wrong in ("nonsense", "no.whl"):
        with pytest.raises(SystemExit, match=f"{wrong}: "):
            against.unpacked(tmp_path, wrong, tmp_path)


@pytest.mark.slow
@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="needs a git checkout")
def test_two_installed_copies_take_turns(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whether this checkout is slower than its last commit is left to a quiet machine."""
    monkeypatch.chdir(ROOT)
    words = ["HEAD", "--only", "descendants-eighth", "--rounds", "1", "--seconds", "0.1"]
    assert against.main(words) in (0, 1)
    assert "descendants-eighth: " in capsys.readouterr().out


def written(folder: Path, **changes: Any) -> Path:
    """A file as `evolve bench --json` writes it, with these changes."""
    case = cases.all_cases(False)[0]
    entries = [row.as_json() for row in rows(case, measured(2.0, 2.2), "cpu")]
    held = {"evolve": "0", "machine": MACHINE, "quick": False, "cases": [{"rows": entries}]}
    file = folder / "then.json"
    file.write_text(json.dumps(held | changes))
    return file


def test_a_table_is_compared_with_an_earlier_one(tmp_path: Path) -> None:
    case = cases.all_cases(False)[0]
    console = Console(width=160, record=True, file=io.StringIO())
    now = rows(case, measured(4.0, 4.4), "cpu")
    earlier = compare.read_earlier(written(tmp_path))
    console.print(compare.comparison(now, MACHINE | {"torch": "3"}, earlier))
    text = console.export_text()
    assert "another machine (torch)" in text and "2.00" in text
    assert "2.10x (2.00..2.20)" in text and "4.20x (4.00..4.40)" in text


def test_a_file_that_is_none_is_refused_before_anything_is_measured(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="a smoke test"):
        compare.read_earlier(written(tmp_path, quick=True))
    damaged = written(tmp_path, cases=[{"rows": [{"quoted": True}]}])
    done = evolve("bench", "--quick", "--device", "cpu", "--against", str(damaged))
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and str(damaged) in done.stderr
    for words in (("--runs", str(tmp_path)), ("--answer", "--against", str(damaged))):
        assert evolve("bench", *words).returncode == 2
