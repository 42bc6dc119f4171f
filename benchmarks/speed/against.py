"""`make bench-against REF=...`: is this checkout slower than another version of evolve?

Both are installed as a user gets them, each into a folder of its own, and a process of each stands
ready. They take turns in chunks of the same work on one thread, and the CPU seconds of an image are
compared: a ratio of neighbours in time says something on a machine whose speed moves, too. What is
slower by more than LIMIT is measured once more, and fails if it is again.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evolve.engine.workers import SINGLE

from .summary import Spread

LIMIT = 1.10
CASES = ("descendants-quarter", "descendants-eighth", "ancestor", "condenser", "eq16")
PARTS = ("evolve", "scenarios", "benchmarks", "setup.py", "setup.cfg", "pyproject.toml")
TEXTS = ("README.md", "LICENSE")
WORKER = Path(__file__).with_name("against_worker.py")


def main(words: Sequence[str] | None = None) -> int:
    """Compare, print a line a case, and return the exit code: 1 where a case is slower."""
    parser = argparse.ArgumentParser(prog="make bench-against REF=...", description=__doc__)
    parser.add_argument("version", nargs="?", help="a wheel or a git reference; default: last tag")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=1.0, help="CPU seconds of a chunk")
    parser.add_argument("--only", action="append", choices=CASES, help="default: all cases")
    asked = parser.parse_args(words)
    root = Path.cwd()
    version = asked.version or last_tag(root)
    if version is None:
        print("no release yet: there is nothing to compare with")
        return 0
    with tempfile.TemporaryDirectory(prefix="evolve-against-") as folder:
        place = Path(folder)
        sources = {"old": unpacked(root, version, place), "new": copied(root, place)}
        for name, source in sources.items():
            install(source, place / name)
        with ExitStack() as stack:
            old, new = (stack.enter_context(copy(place / name, place)) for name in sources)
            slower = [
                name
                for name in asked.only or CASES
                if not fast_enough(name, old, new, asked.rounds, asked.seconds)
            ]
    if slower:
        print(f"slower than {version} by more than {LIMIT - 1:.0%}: {', '.join(slower)}")
    return int(bool(slower))


def last_tag(root: Path) -> str | None:
    """The last tag before this commit; None where there is none."""
    command = ["git", "-C", str(root), "describe", "--tags", "--abbrev=0"]
    said = subprocess.run(command, capture_output=True, text=True)
    return said.stdout.strip() or None


def unpacked(root: Path, version: str, place: Path) -> Path:
    """What pip can install of a version: the wheel itself, or the reference's sources.

    Raises:
        SystemExit: there is no such version.
    """
    if version.endswith(".whl"):
        if not Path(version).is_file():
            raise SystemExit(f"{version}: no such wheel")
        return Path(version).resolve()
    source, archive = place / "old-source", place / "old.tar"
    command = ["git", "-C", str(root), "archive", "--output", str(archive), version]
    said = subprocess.run(command, capture_output=True, text=True)
    if said.returncode:
        raise SystemExit(f"{version}: neither a wheel nor a git reference ({said.stderr.strip()})")
    shutil.unpack_archive(archive, source)
    return source


def copied(root: Path, place: Path) -> Path:
    """The working tree's sources, so that no build folder of an earlier day gets in."""
    source = place / "new-source"
    source.mkdir()
    for name in (*PARTS, *TEXTS):
        if (root / name).is_dir():
            shutil.copytree(root / name, source / name)
        else:
            shutil.copy(root / name, source)
    return source


def install(source: Path, target: Path) -> None:
    """Install sources or a wheel into a folder; other packages are this environment's."""
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    alone = ["--no-deps", "--no-build-isolation", "--target", str(target), str(source)]
    subprocess.run([*pip, *alone], check=True)


@dataclass(frozen=True)
class Copy:
    """An installed copy of evolve, in a process of its own that waits for work."""

    process: subprocess.Popen[str]

    def ask(self, *command: Any) -> Any:
        """Give a command of :mod:`against_worker`; its answer.

        Raises:
            SystemExit: the process has died, and said why on its own stderr.
        """
        assert self.process.stdin and self.process.stdout
        print(json.dumps(command), file=self.process.stdin, flush=True)
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"the process of {self.process.args!r} died")
        return json.loads(line)


@contextmanager
def copy(folder: Path, cache: Path) -> Iterator[Copy]:
    """Inside, the copy installed in ``folder`` waits for work; images lie in ``cache``."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {name: value for name, value in SINGLE.items() if value}
    with subprocess.Popen(
        # As text, so that no folder but the copy's own comes before it on the path.
        [sys.executable, "-c", WORKER.read_text(encoding="utf-8"), str(cache)],
        cwd=folder,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        yield Copy(process)


def fast_enough(name: str, old: Copy, new: Copy, rounds: int, seconds: float) -> bool:
    """Compare the copies on a case, print the outcome, and say whether it passes."""
    settings = [each.ask("open", name) for each in (old, new)]
    why = incomparable(*settings)
    if why:
        print(f"{name}: not compared, {why}")
        return True
    amount = calibrated(new, seconds)
    old.ask("run", amount)  # warms up
    for attempt in ("", "again: "):
        ratio = Spread.of(interleaved(old, new, amount, rounds))
        passed = ratio.median <= LIMIT
        print(
            f"{attempt}{name}: {ratio.median:.3f} times the CPU seconds of an image "
            f"({ratio.least:.3f}..{ratio.most:.3f}, {rounds} rounds), {LIMIT:g} allowed",
            flush=True,
        )
        if passed:
            return True
    return False


def incomparable(old: Mapping[str, Any] | None, new: Mapping[str, Any] | None) -> str:
    """Why two versions' cases are no comparison; empty where they are.

    Args:
        old, new: a case's settings by name; None: that version has no such case.
    """
    if old is None or new is None:
        return "a version has no such case"
    changed = sorted(key for key in {*old} & {*new} if old[key] != new[key])
    return f"since {', '.join(changed)} differs between them" if changed else ""


def calibrated(copy: Copy, seconds: float) -> int:
    """The least amount whose chunk takes about so many CPU seconds, after a warm-up."""
    copy.ask("run", 1)
    amount = 1
    while (spent := copy.ask("run", amount)["cpu"]) < 0.9 * seconds:
        amount = max(amount + 1, math.ceil(amount * seconds / spent))
    return amount


def interleaved(old: Copy, new: Copy, amount: int, rounds: int) -> list[float]:
    """The new version's CPU seconds of an image over the old one's, by round; they take turns."""
    ratios = []
    for number in range(rounds):
        order = (old, new) if number % 2 else (new, old)
        parts = {id(each): each.ask("run", amount) for each in order}
        spent = [parts[id(each)]["cpu"] / parts[id(each)]["images"] for each in (new, old)]
        ratios.append(spent[0] / spent[1])
    return ratios


if __name__ == "__main__":
    sys.exit(main())
