"""`evolve condense`. Imports nothing heavy until the command is called."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from evolve.cli.options import DATA, DEVICE, FORCE, SET, STORE


@click.command()
@click.option(
    "--ancestor",
    required=True,
    metavar="FILE|RUN@TASK",
    help="An ancestor's file, or a run's folder and a lineage length.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="The file to write; with --null a folder for the picture of how the N agree.",
)
@click.option(
    "--null",
    "nulls",
    type=click.IntRange(min=1),
    metavar="N",
    help=(
        "Null test: N condensations each with wrong images, an untrained ancestor, other draws; "
        "how often each layer is chosen, and by which margin (the paper claims 10 of 10)."
    ),
)
@click.option(
    "--scenario", help="FILE: the scenario whose condensing images and settings are used."
)
@click.option("--profile", help="FILE: the scenario's profile, quick or paper (default).")
@click.option(
    "--seed", type=click.IntRange(min=0), help="FILE: seed of the condensation; default: 0."
)
@click.option(
    "--network",
    help=(
        "FILE is a plain state dict (.safetensors, .pth) of this network, under our names, "
        "torchvision's or timm's."
    ),
)
@click.option(
    "--width",
    default=1.0,
    show_default=True,
    type=click.FloatRange(1 / 64, 4),
    help="With --network: its width.",
)
@click.option(
    "--size",
    default=32,
    show_default=True,
    type=click.IntRange(8, 1024),
    help="With --network: the image size it is made for.",
)
@DATA
@STORE
@DEVICE
@SET
@FORCE
def condense(
    ancestor: str,
    out: Path | None,
    nulls: int | None,
    scenario: str | None,
    profile: str | None,
    seed: int | None,
    network: str | None,
    width: float,
    size: int,
    **options: Any,
) -> None:
    """Condense one ancestor into a learngene's file.

    RUN@TASK is condensed with the run's own images and settings (--set condense.KEY=VALUE for
    others).
    """
    from evolve.cli import gene
    from evolve.cli.ancestors import Images, Weights

    overrides, force = options.pop("overrides"), options.pop("force")
    images = Images(scenario, profile, seed, overrides)
    weights = Weights(network, width, size)
    if nulls is not None:
        return gene.null_test(ancestor, nulls, out, images, weights, options, force)
    if out is None:
        raise click.UsageError(
            "Give '--out FILE', to condense into a file, or '--null N', for the null test (then "
            "'--out FOLDER' holds its picture)."
        )
    gene.condense(ancestor, out, images, weights, options, force)
