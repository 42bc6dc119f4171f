"""What names of others do to the terminal: nothing."""

from __future__ import annotations

import json
import os
import shutil
import subprocess

import pytest
from rich.table import Table

from evolve.core.console import Console
from evolve.core.terminal import printable, quoted, tell

HOSTILE = ["\x1b[2J", "\x1b]0;title\x07", "\x9b31m", "a\nb", "a\rb", "a\tb", "a\x00b", "\u202eabc"]
HOSTILE += ["a\u2028b", "caf\udce9", "\x7f", "a\ufffeb"]


@pytest.mark.parametrize("text", HOSTILE)
def test_what_a_terminal_would_obey_is_shown(text: str) -> None:
    shown = printable(f"é {text} [red]")
    assert shown.isprintable() and shown.encode().decode() == shown
    assert json.loads(f'"{shown}"') == f"é {text} [red]", "shown as JSON has it"
    assert printable(shown) == shown


def test_words_of_others_stay_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    tell(*HOSTILE)
    assert capsys.readouterr().out.splitlines() == [*map(printable, HOSTILE)]


def test_a_table_shows_markup_and_escapes(capsys: pytest.CaptureFixture[str]) -> None:
    console, table = Console(width=200, force_terminal=True), Table("[bold]name", title="[/x]")
    for text in HOSTILE:
        table.add_row(f"{text}[red]:smile:")
    console.print(table)
    console.print("[/not markup] \x1b[2J", highlight=False)
    out = capsys.readouterr().out
    assert "[bold]name" in out and "[/x]" in out and "[/not markup] \\u001b[2J" in out
    assert all(f"{printable(text)}[red]:smile:" in out for text in HOSTILE)
    assert not any(text in out for text in HOSTILE)


@pytest.mark.skipif(shutil.which("bash") is None, reason="the shell that reads the words")
def test_a_shell_reads_quoted_words_back() -> None:
    words = [
        "plain",
        "two words",
        "it's",
        "",
        "$HOME",
        "é",
        *HOSTILE[:6],
        "\x1bit's \\ \x01",
        "\udce9",
    ]
    read = subprocess.run(
        ["bash", "-c", f"printf '%s\\0' {quoted(words)}"], capture_output=True, check=True
    ).stdout
    assert read == b"".join(os.fsencode(word) + b"\0" for word in words)
    assert printable(quoted(words)) == quoted(words)
