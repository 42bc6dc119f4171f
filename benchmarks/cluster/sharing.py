"""What a batch costs beyond the stages that differ.

That is start-up, naming stages, reading the store, and reports.

    # 4 condensers x 3 seeds on glyphs, 1 and 2 workers
    python benchmarks/cluster/sharing.py FOLDER
    # any other batch
    python benchmarks/cluster/sharing.py FOLDER --workers 4 BATCH [its options]

The batch runs from an empty store once for each number of workers. Printed: the seconds on the
wall; the CPU seconds of the command with all its processes; those that its distinct stages took by
themselves, as their manifests say, each counted once; and the ratio. All stores must be equal.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import click
from compare import content

BATCH = """
title = "sharing"
scenario = "glyphs-seq25"
seeds = [0, 1, 2]
[quick.set]
stream.tasks = 3
controls.shuffled = 0
controls.untrained = false
[axes]
condense.method = ["meta-network", "cka", "gradient", "random"]
[report]
reference = "random"
"""


def stages(store: Path) -> tuple[int, float]:
    """How many results a store has, and the CPU seconds they took."""
    spent = [
        json.loads(file.read_text())["provenance"]["spent"]["cpu_seconds"]
        for file in store.glob("results/*/*/*/manifest.json")
    ]
    return len(spent), sum(spent)


def measure(folder: Path, words: list[str], workers: int) -> tuple[float, float]:
    """Run a batch from an empty store.

    Args:
        folder: where it lies.
        words: the batch and its options.
        workers: worker processes.

    Returns:
        Seconds on the wall and of the CPU, its worker processes' included.
    """
    command = [sys.executable, "-m", "evolve.cli", "batch", *words, "--workers", str(workers)]
    places = ["--out", str(folder / "batch"), "--store", str(folder / "store")]
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    subprocess.run([*command, *places], check=True, stdout=subprocess.DEVNULL)
    after, wall = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic() - began
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


@click.command(context_settings={"ignore_unknown_options": True})
@click.argument("folder", type=click.Path(path_type=Path))
@click.argument("batch", nargs=-1)
@click.option("--workers", "counts", multiple=True, default=(1, 2), type=click.IntRange(min=1))
def main(folder: Path, batch: tuple[str, ...], counts: tuple[int, ...]) -> None:
    """Measure BATCH, with its options, in the new FOLDER."""
    folder.mkdir(parents=True)
    os.environ["EVOLVE_CACHE"] = str((folder / "images").absolute())
    file = folder / "sharing.toml"
    file.write_text(BATCH)
    words = list(batch) or [str(file), "--profile", "quick"]
    # Images are decoded beforehand: that is paid once for all batches.
    subprocess.run(
        [
            sys.executable,
            "-m",
            "evolve.cli",
            "batch",
            "plan",
            *words,
            "--out",
            str(folder / "plan"),
        ],
        check=True,
    )
    print(f"{'workers':>7} {'stages':>7} {'wall s':>8} {'CPU s':>8} {'of stages':>10} {'ratio':>6}")
    stores = []
    for count in counts:
        place = folder / f"workers{count}"
        wall, cpu = measure(place, words, count)
        number, own = stages(place / "store")
        print(
            f"{count:7} {number:7} {wall:8.1f} {cpu:8.1f} {own:10.1f} {cpu / own:6.2f}", flush=True
        )
        stores.append(content(place / "store"))
    if any(store != stores[0] for store in stores):
        raise SystemExit("the stores differ")
    print("all stores hold the same bytes")


if __name__ == "__main__":
    main()
