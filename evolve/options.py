"""The command line's options that several commands share. Imports nothing heavy."""

from __future__ import annotations

from pathlib import Path

import click

DATA = click.option("--data", "data_dir", type=click.Path(path_type=Path), help="Where the images lie, or are downloaded to.")
DEVICE = click.option("--device", default="auto", show_default=True, type=click.Choice(["auto", "cpu", "cuda"]))
WORKERS = click.option("--workers", default=0, type=click.IntRange(min=0), help="Worker processes; default: one a core; on GPUs, as many as their memory holds.")
REFERENCE = click.option("--reference", is_flag=True, help="Take the plain path everywhere: the same mathematics, slower, other rounding.")
