"""`evolve bench`. Imports nothing heavy until the command is called."""

from __future__ import annotations

from pathlib import Path

import click

from evolve.cli.options import DEVICE
from evolve.core.errors import UserError


@click.command()
@click.option(
    "--only",
    multiple=True,
    metavar="CASE",
    help="Measure this case; may be given many times. Default: all.",
)
@click.option(
    "--rounds",
    type=click.IntRange(min=1),
    help="Interleaved rounds a case; default: 7, with --quick 2.",
)
@click.option("--quick", is_flag=True, help="A smoke test of about a minute, too short to quote.")
@click.option(
    "--kernels", is_flag=True, help="Instead: our convolutions beside the library's, by shape."
)
@click.option(
    "--growth",
    is_flag=True,
    help="Instead: how each kind of stage's cost grows, beside `evolve plan`'s formula.",
)
@click.option(
    "--answer",
    is_flag=True,
    help="Instead: CPU seconds until five seeds of cifar-seq25 quick say how much inheriting "
    "gains.",
)
@click.option(
    "--runs",
    multiple=True,
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    metavar="DIR",
    help="With --answer: finished runs or a batch of one scenario, whose gains' spread counts; may "
    "be given many times. Default: the published ones.",
)
@click.option(
    "--against",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Also compare with the FILE that an earlier run wrote by --json.",
)
@DEVICE
@click.option(
    "--json",
    "json_file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Also write all raw numbers into this file, with the machine.",
)
def bench(
    only: tuple[str, ...],
    rounds: int | None,
    quick: bool,
    kernels: bool,
    growth: bool,
    answer: bool,
    runs: tuple[Path, ...],
    against: Path | None,
    device: str,
    json_file: Path | None,
) -> None:
    """Time our training against plain PyTorch and Avalanche loops.

    The rounds are interleaved, on this machine.
    """
    if (runs and not answer) or (against and (answer or kernels or growth)):
        raise UserError("--runs goes with --answer, --against with the usual table")
    if kernels:
        from evolve.benchmarks.speed.kernel_table import kernel_table

        return kernel_table()
    if growth:
        from evolve.benchmarks.speed.growth import growth_table

        return growth_table()
    if answer:
        from evolve.benchmarks.speed.answer import answer_bench

        return answer_bench(only, rounds, quick, device, runs, json_file)
    from evolve.benchmarks.speed.bench import bench as measure

    measure(only, rounds, quick, device, json_file, against)
