"""A small batch by local processes and by SLURM jobs: the same bytes in both stores.

One job is killed on the way. slurm_one_node.sh starts this; SLURM must answer to sbatch.

    python benchmarks/cluster/compare.py FOLDER
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import NoReturn

SKIP = 77
PATIENCE = 1200.0  # seconds
BATCH = """
title = "SLURM"
scenario = "glyphs-seq25"
seeds = [0, 1]
[set]
stream.tasks = 15
data.size = 16
data.glyph_train = 12
data.glyph_test = 6
ancestor.width = 0.0625
ancestor.epochs = 1
ancestor.lr = 0.01
condense.images_per_class = 4
descend.shots = 6
descend.epochs = 2
descend.descendants = 3
controls.shuffled = 0
[axes]
condense.method = ["random", "fixed"]
[report]
reference = "random"
"""


def command(folder: Path, engine: str, *words: str) -> list[str]:
    """The words of `evolve batch` with a store and a folder of this engine's own.

    Decoded images are shared.

    Args:
        folder: where everything lies.
        engine: "local" or "slurm".
        words: further options.
    """
    places = ["--out", str(folder / engine / "batch"), "--store", str(folder / engine / "store")]
    return [
        sys.executable,
        "-m",
        "evolve.cli",
        "batch",
        str(folder / "slurm.toml"),
        *places,
        *words,
    ]


def content(store: Path) -> dict[str, str]:
    """The digests of all results' files by stage, as their manifests say, and the recipes."""
    digests = {}
    for file in sorted(store.glob("results/*/*/*/manifest.json")):
        manifest = json.loads(file.read_text())
        digests[manifest["key"]] = json.dumps(
            [manifest["recipe"], manifest["files"]], sort_keys=True
        )
    return digests


def jobs(*options: str) -> list[str]:
    """The ids of SLURM's jobs."""
    return subprocess.run(
        ["squeue", "--noheader", "--format", "%i", *options],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()


def kill_one(running: subprocess.Popen[bytes], store: Path) -> str:
    """Kill a job without warning once some results are there.

    Args:
        running: the batch.
        store: its store.

    Returns:
        The job's id.

    Raises:
        SystemExit: no job comes to compute here (:data:`SKIP`), or the batch ended before.
    """
    end = time.monotonic() + 300
    while running.poll() is None and time.monotonic() < end:
        working = jobs("--states", "running")
        if working and len(content(store)) >= 3:
            subprocess.run(["scancel", "--signal", "KILL", "--full", working[0]], check=True)
            return working[0]
        time.sleep(0.1)
    if code := running.poll():
        raise SystemExit(f"the batch on SLURM ended with {code}")
    running.kill()
    skip("no job of this SLURM computed anything within five minutes")


def wait_for_another(running: subprocess.Popen[bytes], before: set[str]) -> str:
    """Wait for what takes the killed job's place; on a fast machine the batch may end before.

    Args:
        running: the batch.
        before: the jobs' ids until now.

    Returns:
        What took its place, in words.
    """
    end = time.monotonic() + PATIENCE
    while running.poll() is None:
        if new := set(jobs()) - before:
            return f"job {new.pop()} in its place"
        if time.monotonic() > end:
            running.kill()
            skip("the batch takes too long here")
        time.sleep(0.1)
    return "the other finished the batch"


def wait_for_the_end(running: subprocess.Popen[bytes]) -> None:
    """Wait for the batch.

    Raises:
        SystemExit: the batch failed or takes too long.
    """
    try:
        code = running.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        running.kill()
        skip("the batch takes too long here")
    if code:
        raise SystemExit(f"the batch on SLURM ended with {code}")


def no_job_is_left() -> None:
    """Wait until all jobs are gone.

    Raises:
        SystemExit: a job is left after half a minute.
    """
    end = time.monotonic() + 30
    while left := jobs():
        if time.monotonic() > end:
            raise SystemExit(f"jobs left behind: {left}")
        time.sleep(0.5)


def skip(why: str) -> NoReturn:
    """End as a check that this machine does not allow."""
    print(f"skipped: {why}")
    raise SystemExit(SKIP)


def main() -> None:
    """Run both engines and compare what they left.

    Raises:
        SystemExit: they differ, with a line that says so.
    """
    folder = Path(sys.argv[1])
    (folder / "slurm.toml").write_text(BATCH)
    began = time.monotonic()
    subprocess.run(
        command(folder, "local", "--workers", "2"), check=True, stdout=subprocess.DEVNULL
    )
    local = time.monotonic() - began
    began = time.monotonic()
    running = subprocess.Popen(command(folder, "slurm", *slurm_words(folder)))
    killed = kill_one(running, folder / "slurm" / "store")
    instead = wait_for_another(running, {killed, *jobs()})
    wait_for_the_end(running)
    slurm = time.monotonic() - began
    ours, theirs = content(folder / "local" / "store"), content(folder / "slurm" / "store")
    if ours != theirs or not ours:
        raise SystemExit(
            f"results differ: {len(ours)} local, {len(theirs)} by SLURM, "
            f"{sum(ours.get(key) == theirs[key] for key in theirs)} equal"
        )
    no_job_is_left()
    print(
        f"SLURM: {len(ours)} stages, byte for byte those of the local engine (job {killed} killed "
        f"on the way, {instead})"
    )
    print(f"{local:.0f} s local, {slurm:.0f} s by SLURM")


def slurm_words(folder: Path) -> list[str]:
    """The options of `evolve batch` that send its stages to two jobs of SLURM."""
    settings = (
        "memory=4GB",
        "walltime=00:30:00",
        f"log_directory={folder}/jobs",
        f"local_directory={folder}/scratch",
        "interface=lo",
    )
    cluster = [word for pair in settings for word in ("--cluster", pair)]
    return ["--scheduler", "slurm", "--jobs", "2", *cluster]


if __name__ == "__main__":
    main()
