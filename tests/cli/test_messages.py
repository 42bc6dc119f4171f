"""Errors are one line for a terminal, whatever names and files hold."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tiny
from commands import Done, evolve

ESCAPE = "a\x1b[2J\nb"
TOML = json.dumps(ESCAPE)  # TOML reads JSON's strings


def is_one_line(done: Done, *words: str) -> bool:
    (line,) = done.stderr.splitlines()
    text = done.stdout.replace("\n", "") + line
    assert done.returncode == 2 and text.isprintable() and all(word in line for word in words), line
    return True


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "tiny.toml").write_text(tiny.toml())
    return tmp_path


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (f"title = {TOML}\n", ("title", "control characters")),
        (f"{TOML} = 1\n", ("a key", "control characters")),
        (f"profile = {TOML}\n", ("profile",)),
        (f"data.source = {TOML}\n", ("data.source",)),
        ('ancestor.checkpoint = "a\\u0000b"\n', ("ancestor.checkpoint", "control characters")),
        (f"condense.args = {{ x = [{TOML}] }}\n", ("condense.args.x", "control characters")),
        ("title = \x1b", ("TOML",)),
    ],
)
def test_a_scenario_with_control_characters(text: str, words: tuple[str, ...], place: Path) -> None:
    (place / "bad.toml").write_text(text)
    assert is_one_line(evolve("run", "bad.toml", cwd=place), "bad.toml", *words)
    assert not (place / "runs").exists()


@pytest.mark.parametrize("key", ["name", "title"])
def test_a_batch_with_control_characters_is_refused_before_it_computes(
    key: str, place: Path
) -> None:
    (place / "bad.toml").write_text(f'scenario = "tiny.toml"\n[[case]]\n"{key}" = {TOML}\n')
    assert is_one_line(evolve("batch", "bad.toml", cwd=place), "bad.toml", f"case.{key}")


@pytest.mark.parametrize(
    "words",
    [
        ["run", f"{ESCAPE}.toml"],
        ["run", "tiny.toml", "--set", f"{ESCAPE}=1"],
        ["run", "tiny.toml", "--set", f"condense.{ESCAPE}=1"],
        ["run", "tiny.toml", "--set", f"ancestor.strategy={ESCAPE}"],
        ["run", "tiny.toml", "--set", "ancestor.checkpoint=caf\udce9"],
        ["run", "tiny.toml", "--out", "caf\udce9"],
        ["run", "tiny.toml", "--profile", ESCAPE],
        ["run", "tiny.toml", "--scheduler", ESCAPE],
        ["run", "tiny.toml", f"--{ESCAPE}"],
        [ESCAPE],
        ["resume", ESCAPE],
        ["summary", "caf\udce9"],
        ["report", ESCAPE],
        ["inspect", ESCAPE],
        ["batch", ESCAPE],
        ["runs", ESCAPE],
        ["store", "--store", ESCAPE],
    ],
)
def test_a_wrong_word_is_shown_not_obeyed(words: list[str], place: Path) -> None:
    assert is_one_line(evolve(*words, cwd=place))
