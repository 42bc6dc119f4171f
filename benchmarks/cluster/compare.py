"""A small batch by local processes and by SLURM jobs, one of which is killed on the way: the same
bytes in both stores.

python benchmarks/cluster/compare.py FOLDER        # started by slurm_one_node.sh; SLURM must answer
to sbatch
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
    """`evolve batch` with a store and a folder of this engine's own; decoded images are shared."""
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
    """The digests of all results' files by stage, as their manifests say; and the recipes."""
    found = {}
    for file in sorted(store.glob("results/*/*/*/manifest.json")):
        manifest = json.loads(file.read_text())
        found[manifest["key"]] = json.dumps([manifest["recipe"], manifest["files"]], sort_keys=True)
    return found


def jobs(*options: str) -> list[str]:
    """The ids of SLURM's jobs."""
    return subprocess.run(
        ["squeue", "--noheader", "--format", "%i", *options],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()


def kill_one(running: subprocess.Popen[bytes], store: Path) -> str:
    """Kill a job without warning once some results are there; its id.

    Exits with :data:`SKIP` if no job comes to compute here.
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


def wait_for_another(running: subprocess.Popen[bytes], known: set[str]) -> str:
    """What took the killed job's place; on a fast machine the batch may end before anything does."""
    end = time.monotonic() + PATIENCE
    while running.poll() is None:
        if new := set(jobs()) - known:
            return f"job {new.pop()} in its place"
        if time.monotonic() > end:
            running.kill()
            skip("the batch takes too long here")
        time.sleep(0.1)
    return "the other finished the batch"


def wait_for_the_end(running: subprocess.Popen[bytes]) -> None:
    """SystemExit if the batch fails, or leaves a job behind."""
    try:
        code = running.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        running.kill()
        skip("the batch takes too long here")
    if code:
        raise SystemExit(f"the batch on SLURM ended with {code}")


def no_job_is_left() -> None:
    """SystemExit unless all jobs go within half a minute."""
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
    """Both engines, and what they left. SystemExit with a line where they differ."""
    folder = Path(sys.argv[1])
    (folder / "slurm.toml").write_text(BATCH)
    began = time.monotonic()
    subprocess.run(
        command(folder, "local", "--workers", "2"), check=True, stdout=subprocess.DEVNULL
    )
    local = time.monotonic() - began
    began = time.monotonic()
    settings = [
        "memory=4GB",
        "walltime=00:30:00",
        f"log_directory={folder}/jobs",
        f"local_directory={folder}/scratch",
        "interface=lo",
    ]
    words = [
        "--scheduler",
        "slurm",
        "--jobs",
        "2",
        *(word for pair in settings for word in ("--cluster", pair)),
    ]
    running = subprocess.Popen(command(folder, "slurm", *words))
    killed = kill_one(running, folder / "slurm" / "store")
    instead = wait_for_another(running, {killed, *jobs()})
    wait_for_the_end(running)
    slurm = time.monotonic() - began
    one, other = content(folder / "local" / "store"), content(folder / "slurm" / "store")
    if one != other or not one:
        raise SystemExit(
            f"results differ: {len(one)} local, {len(other)} by SLURM, "
            f"{sum(one.get(key) == other[key] for key in other)} equal"
        )
    no_job_is_left()
    print(
        f"SLURM: {len(one)} stages, byte for byte those of the local engine (job {killed} killed "
        f"on the way, {instead})"
    )
    print(f"{local:.0f} s local, {slurm:.0f} s by SLURM")


if __name__ == "__main__":
    main()
