"""Kills and failing disks: what becomes of commands, and of the same command afterwards."""

from __future__ import annotations

import errno
import os
import random
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Collection
from pathlib import Path

from commands import Done
from scenes import Scene, command, finished, litter, nothing, results
from shim import CHANGING, FAILING, fail_at, kill_at

ERRORS = (errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EROFS)


class Trial:
    """A scene, ready to be played any number of times in one folder.

    Args:
        scene: the scene.
        folder: an empty one.
    """

    def __init__(self, scene: Scene, folder: Path) -> None:
        self.scene, self.place, self.pristine = scene, folder / "place", folder / "pristine"
        self.count: Counter[str] = Counter()
        scene.make(self.place)
        shutil.copytree(self.place, self.pristine, symlinks=True)
        done, self.operations = self.play()
        assert done.returncode == 0, (scene.name, done)
        self.expected, self.whole = results(self.place), finished(self.place)

    def play(
        self, at: Callable[[int, str], None] = nothing, counted: Collection[str] = CHANGING
    ) -> tuple[Done, int]:
        """Run the scene's command, see :func:`command`."""
        return command(self.place, self.scene.words, at, counted, self.scene.cold)

    def restore(self) -> None:
        """The folder as the scene made it, at the same path."""
        shutil.rmtree(self.place)
        shutil.copytree(self.pristine, self.place, symlinks=True)

    def blame(self, what: str, about: object) -> None:
        """Count a defect, and say it."""
        self.count[what] += 1
        print(f"{self.scene.name}: {what}: {str(about)[-1500:]}", file=sys.stderr)

    def complete(self, how: str) -> bool:
        """Give the same command once more: it must end in the uninterrupted one's bytes.

        Args:
            how: what was done before, for a complaint.

        Returns:
            Whether it did.
        """
        for file in self.place.rglob(".*.tmp"):  # as if a while had passed
            os.utime(file, (0, 0))
        done, _ = self.play()
        if done.returncode:
            self.blame("traceback", f"{how}: the same command: {done}")
            return False
        now = results(self.place)
        names = now.keys() | self.expected.keys()
        other = [name for name in names if now.get(name) != self.expected.get(name)]
        if other:
            self.blame("silent", f"{how}: {sorted(other)}")
        if left := litter(self.place):
            self.blame("lost", f"{how}: left behind: {left}")
        return not other and not left

    def keeps(self, before: set[str], how: str) -> None:
        """Check that no result went that was finished and belongs to the end's."""
        if lost := (before & self.whole) - finished(self.place):
            self.blame("lost", f"{how}: {lost}")


def kills(scene: Scene, folder: Path, number: int, seed: str) -> Counter[str]:
    """Kill a command ``number`` times at random operations, each time it goes on.

    Args:
        scene: the command.
        folder: an empty one.
        number: how many kills; several fall on one lineage.
        seed: of the draws.
    """
    trial, draw, killed = Trial(scene, folder), random.Random(seed), 0
    while killed < number:
        trial.restore()
        history = []
        while killed < number:
            before, at = finished(trial.place), draw.randrange(trial.operations)
            done, _ = trial.play(kill_at(at))
            if done.returncode != -9:
                break
            killed += 1
            history.append(at)
            trial.keeps(before, f"killed at {history}")
        if history and trial.complete(f"killed at {history}"):
            trial.count["equal"] += len(history)
    return trial.count


def faults(scene: Scene, folder: Path, part: int, parts: int) -> Counter[str]:
    """Let every operation fail once, alone or with all that write after it.

    Args:
        scene: the command.
        folder: an empty one.
        part: every ``parts``-th operation from this one on.
        parts: how many share the work.
    """
    trial = Trial(scene, folder)
    trial.restore()
    _, operations = trial.play(counted=FAILING)
    for number in range(part, operations, parts):
        trial.restore()
        error, for_good = ERRORS[number % 4], bool(number // 4 % 2)
        how = f"{errno.errorcode[error]} at {number}{' and after' if for_good else ''}"
        done, _ = trial.play(fail_at(number, error, for_good), FAILING)
        what = told(done)
        if what == "traceback":
            trial.blame(what, f"{how}: {done}")
        if trial.complete(f"{how} ({done.stderr.strip()})") and what != "traceback":
            trial.count[what] += 1
    return trial.count


def told(done: Done) -> str:
    """What a command made of a failing disk: "refused" in one line, "equal" as it did not need it,
    or "traceback".
    """
    lines = done.stderr.strip().splitlines()
    if done.returncode == 0:
        return "equal"
    single = len(lines) == 1 and lines[0].startswith("evolve: ") and lines[0].isprintable()
    return "refused" if done.returncode == 2 and single else "traceback"
