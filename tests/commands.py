"""`evolve` as the tests call it: in this process, or in one of its own.

It has one of its own where the process is what is tested. That imports torch and Avalanche (3 to 9
s of CPU), and so does each of its worker processes.
"""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pictures import sketched

from evolve.cli import main as cli
from evolve.engine.engine import Here
from evolve.runs import execute as session

ROOT = Path(__file__).resolve().parents[1]
COMMAND = [sys.executable, "-m", "evolve.cli"]
SKETCHING = [
    sys.executable,
    "-c",
    "import pictures, pytest; from evolve.cli.main import main; "
    "pictures.sketched(pytest.MonkeyPatch()); main()",
]


@dataclass(frozen=True)
class Done:
    """What a command left: its exit code, and what it printed."""

    returncode: int
    stdout: str
    stderr: str


def evolve(
    *words: str, cwd: Path = ROOT, env: Mapping[str, str] | None = None, pictures: bool = False
) -> Done:
    """Run `evolve WORDS` in this process, from the entry point on.

    Stages are computed here too, so ``--workers`` says nothing; a batch starts its workers as ever.

    Args:
        words: The command line after `evolve`.
        cwd: The folder it runs in.
        env: Further environment variables.
        pictures: Whether figures are rendered, which costs a run about 9 s.

    Returns:
        The exit code and the output, as of a process.
    """
    out, error, code = io.StringIO(), io.StringIO(), 0
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(error):
        patch.chdir(cwd)
        for name, value in {"COLUMNS": "250", **(env or {})}.items():
            patch.setenv(name, value)
        patch.setattr(sys, "argv", ["evolve", *words])
        patch.setattr(threading, "excepthook", threading.excepthook)  # a run sets its own
        if not pictures:
            sketched(patch)
        patch.setattr(session, "crew", lambda order, opened: Here())
        try:
            cli.main()
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 1
    return Done(code, out.getvalue(), error.getvalue())


def environment(more: Mapping[str, str] | None = None) -> dict[str, str]:
    """This process's variables for one that imports this checkout and the tests' helpers.

    Its folder may be any.
    """
    paths = [str(ROOT), str(ROOT / "tests"), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "COLUMNS": "250", **(more or {})}


def evolve_process(
    *words: str, cwd: Path = ROOT, env: Mapping[str, str] | None = None, pictures: bool = True
) -> Done:
    """Run `evolve WORDS` as a user does: in a process of its own, with its worker processes.

    The arguments are those of :func:`evolve`.
    """
    where = {"cwd": cwd, "env": environment(env)}
    done = subprocess.run(
        [*(COMMAND if pictures else SKETCHING), *words],
        text=True,
        capture_output=True,
        timeout=500,
        **where,
    )
    return Done(done.returncode, done.stdout, done.stderr)


def start(*words: str, cwd: Path) -> subprocess.Popen[str]:
    """Begin `evolve WORDS` in a process of its own, to be stopped or waited for."""
    pipe = subprocess.PIPE
    return subprocess.Popen(
        [*COMMAND, *words],
        text=True,
        stdout=pipe,
        stderr=pipe,
        cwd=cwd,
        env=environment(),
        preexec_fn=heed_signals,
    )


def heed_signals() -> None:
    """In a child before it begins: no signal is ignored that the shell lets background jobs ignore.

    So tests that send one pass under `nohup make test &` too.
    """
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM, signal.SIGQUIT):
        signal.signal(number, signal.SIG_DFL)


def wait_until(true: Callable[[], Any], seconds: float = 30.0) -> None:
    """Return once ``true()`` is; fail after ``seconds``."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)
