"""`evolve inherit`. Imports nothing heavy until the command is called."""

from __future__ import annotations

from pathlib import Path

import click

from evolve.cli.options import FILE_OUT, FORCE, SEED


@click.command()
@click.option(
    "--learngene", required=True, type=click.Path(path_type=Path), help="A learngene's file."
)
@click.option(
    "--classes",
    required=True,
    type=click.IntRange(min=1),
    help="Classes that the network tells apart.",
)
@FILE_OUT
@click.option(
    "--method",
    default="stack",
    show_default=True,
    help="The inheritor; `evolve plugins` lists them.",
)
@click.option(
    "--embeddings",
    default="random",
    show_default=True,
    type=click.Choice(["random", "inherited"]),
    help="A ViT's embeddings.",
)
@click.option(
    "--depth",
    default=0,
    show_default=True,
    type=click.IntRange(min=0),
    help="With repeat and linear: a stage's layers (a ViT's blocks); 0: the ancestor's.",
)
@click.option(
    "--width",
    default=1.0,
    show_default=True,
    help="Share of the channels that are kept, the strongest.",
)
@SEED
@click.option(
    "--descendant",
    default=0,
    show_default=True,
    type=click.IntRange(min=0),
    help="Which draw of the fresh layers.",
)
@click.option(
    "--format",
    "form",
    default="evolve",
    show_default=True,
    type=click.Choice(["evolve", "plain"]),
    help="plain: torchvision's or timm's names.",
)
@FORCE
def inherit(
    learngene: Path,
    classes: int,
    out: Path,
    method: str,
    embeddings: str,
    depth: int,
    width: float,
    seed: int,
    descendant: int,
    form: str,
    force: bool,
) -> None:
    """Write a network that inherits a learngene.

    It is to be trained in your own code (in Python: evolve.inherit).
    """
    from evolve.cli import gene
    from evolve.learngene.model_file import chosen_settings

    chosen = chosen_settings(method, embeddings, depth, width)
    gene.inherit(learngene, classes, out, seed, chosen, descendant, form, force)
