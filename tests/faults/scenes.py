"""Commands on a small lineage, each in a fork of this process, and what they leave behind.

Importing torch takes seconds, so it is done once, and every command runs in a child.
"""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import re
import select
import shutil
import signal
import time
import traceback
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tiny
from commands import Done, evolve
from pictures import blank
from shim import CHANGING, Shim

from evolve.engine.engine import Here
from evolve.report import figures, tensorboard
from evolve.runs.batch import run as batch_run

LONGEST = 120.0  # seconds for one command
SETTINGS: dict[str, Any] = {
    "name": "t",
    "data.glyph_train": 8,
    "ancestor.width": 1 / 64,
    "ancestor.augment": [],
    "ancestor.keep": "last",
    "condense.method": "fixed",
    "descend.shots": 4,
    "descend.augment": [],
    "controls.shuffled": 0,
    "controls.from_scratch": False,
    "controls.untrained": False,
    "controls.full_ancestor": 0,
}
BATCH = """
title = "two"
scenario = "t.toml"
seeds = [0]
[axes]
"condense.method" = ["fixed", "random"]
"""
# Times: of a page's table of cost, and files of nothing else; or named by the time.
_TIMES = re.compile(
    rb'<td data-head="(accumulate|condense|descend|alone|wall, alone|with sharing)"[^>]*>[^<]*<'
)
_UNLIKE = re.compile(r"events\.out|/cost\.(md|csv)$|\.lock$|/(run|batch)\.json$")


def drawn(draw: Callable[[], Any], kind: str) -> bytes:
    """In the place of `figures.encode`: no figure is drawn, which would take most of the time."""
    return b'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 1 1"/>'


def command(
    place: Path,
    words: Sequence[str],
    at: Callable[[int, str], None] | None = None,
    counted: Collection[str] = CHANGING,
    cold: bool = False,
) -> tuple[Done, int]:
    """Run `evolve WORDS` in ``place``, in a child.

    Args:
        place: its folder.
        words: the command line after `evolve`.
        at: what the shim does, if there is one.
        counted: the operations that the shim counts.
        cold: whether it has to decode the images; the shim then counts what that does.

    Returns:
        What it left, with exit code 70 after a traceback, -9 after a kill; and the operations that
        the shim counted.
    """
    reader, writer = os.pipe()
    if (child := os.fork()) == 0:
        os.close(reader)
        _in_child(writer, place, words, at, counted, cold)
    os.close(writer)
    data, end = b"", time.monotonic() + LONGEST
    while select.select([reader], [], [], max(0.0, end - time.monotonic()))[0]:
        if not (piece := os.read(reader, 1 << 16)):
            break
        data += piece
    else:
        os.kill(child, signal.SIGABRT)  # hangs
    os.close(reader)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code:
        return Done(code, "", "it did not end" if code == -signal.SIGABRT else ""), 0
    told: tuple[Done, int] = pickle.loads(data)
    return told


def nothing(number: int, name: str) -> None:
    """What a shim does that only counts."""


def _in_child(
    writer: int,
    place: Path,
    words: Sequence[str],
    at: Callable[[int, str], None] | None,
    counted: Collection[str],
    cold: bool,
) -> None:
    """Never returns."""
    signal.alarm(0)
    with contextlib.suppress(BaseException):
        shim = Shim(place / "cache" if cold else place, at or nothing, counted)
        env = {"EVOLVE_CACHE": str(place / "cache")} if cold else {}
        shim.install()
        os.chdir(place)  # for threads that outlive the command
        try:
            done = evolve(*words, cwd=place, env=env, pictures=True)
        except BaseException:
            done = Done(70, "", traceback.format_exc())
        content = pickle.dumps((done, shim.count))
        while content:
            content = content[os.write(writer, content) :]
        os._exit(0)
    os._exit(71)


@dataclass(frozen=True)
class Scene:
    """A command, and the folder that it meets.

    Attributes:
        name: as the table calls it.
        make: makes the folder.
        words: the command line.
        cold: whether it has to decode the images; then it is that which is looked at.
    """

    name: str
    make: Callable[[Path], None]
    words: tuple[str, ...]
    cold: bool = False


def _run(name: str, seed: int = 0, *more: str) -> tuple[str, ...]:
    words = ("--out", f"runs/{name}", "--seed", str(seed), "--device", "cpu")
    return ("run", "--scenario", "t.toml", *words, *more)


def _files(tasks: int) -> Callable[[Path], None]:
    def make(place: Path) -> None:
        place.mkdir(parents=True)
        (place / "t.toml").write_text(tiny.toml(SETTINGS | {"stream.tasks": tasks}))
        (place / "b.toml").write_text(BATCH)

    return make


def _with(*runs: tuple[str, ...], lost: str = "") -> Callable[[Path], None]:
    """The files, finished runs, and none of the folder ``lost``."""

    def make(place: Path) -> None:
        _files(1)(place)
        for words in runs:
            done, _ = command(place, words)
            assert done.returncode == 0, done.stderr
        if lost:
            shutil.rmtree(place / "runs" / lost)

    return make


def scenes() -> list[Scene]:
    """Run, batch, gc, thinning, report."""
    whole = _run("b", 0, "--set", 'ancestor.keep="all"')
    return [
        Scene("run", _files(2), _run("a")),
        Scene("batch", _files(1), ("batch", "b.toml", "--out", "runs/batch", "--device", "cpu")),
        Scene("gc", _with(_run("a"), _run("b", 1), lost="b"), ("store", "gc", "--yes")),
        Scene("thinning", _with(whole, _run("a"), lost="b"), ("resume", "runs/a")),
        Scene("report", _with(_run("a"), _run("b", 1)), ("report", "runs/a", "runs/b")),
    ]


def warm(folder: Path) -> None:
    """Import, compile and decode in this process what every command needs.

    Args:
        folder: an empty one.
    """
    os.environ["EVOLVE_CACHE"] = str(folder / "cache")
    figures.encode, figures.pixels = drawn, blank
    tensorboard.wait_until_after = lambda stamp: None  # for a reader who is not there
    batch_run.crew = lambda order, opened: Here()
    scene = next(scene for scene in scenes() if scene.name == "batch")
    scene.make(folder / "batch")
    done = evolve(*scene.words, cwd=folder / "batch", pictures=True)
    assert done.returncode == 0, done.stderr


def smallest() -> list[Scene]:
    """The smallest lineage there is, once its images are decoded, and while they are."""
    return [
        Scene("run", _files(1), _run("a")),
        Scene("decoding images", _files(1), _run("a"), cold=True),
    ]


def results(place: Path) -> dict[str, bytes]:
    """All that a command leaves which is no time and no path, by file.

    These are the store's records and tensors, the manifests without who computed them, and the
    folders' tables, learngenes and page. TensorBoard's files are named by the time.
    """
    held: dict[str, bytes] = {}
    for file in sorted(place.rglob("*")):
        name = str(file.relative_to(place))
        if not file.is_file() or _UNLIKE.search(name):
            continue
        if name.startswith("runs/store/") and "/results/" not in name:
            continue
        data = file.read_bytes()
        if file.name == "manifest.json":
            manifest = json.loads(data)
            data = json.dumps({**manifest, "provenance": 0, "seal": 0}).encode()
        if file.suffix == ".html":
            data = _TIMES.sub(b"TIME", data)
        held[name] = data.replace(str(place).encode(), b"PLACE")
    return held


def finished(place: Path) -> set[str]:
    """The results that are whole, by key."""
    return {file.parent.name for file in place.glob("runs/store/results/*/*/*/manifest.json")}


def litter(place: Path) -> list[str]:
    """What a command should have cleaned up: half-written files, results that were put aside."""
    store = place / "runs/store"
    inside = [*store.glob("tmp/*"), *store.glob("damaged/*"), *store.glob("partial/*")]
    unfinished = [file for file in place.rglob("*.tmp") if store not in file.parents]
    return [str(path.relative_to(place)) for path in [*inside, *unfinished]]
