"""`evolve explain RUN@TASK`. Imports nothing heavy until the command is called."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from evolve.cli.options import DATA, DEVICE, STORE
from evolve.core.terminal import tell

if TYPE_CHECKING:
    from evolve.report.explain import Explained

PATH = click.Path(path_type=Path)


@click.command()
@click.argument("ancestor", metavar="RUN@TASK")
@click.option("--images", type=PATH, help="A folder of photos; default: descendants' test images.")
@click.option(
    "--boxes", type=PATH, help="CSV with the objects' boxes: image,left,top,right,bottom (pixels)."
)
@click.option(
    "--layer",
    "layers",
    multiple=True,
    metavar="NAME",
    help=(
        "A layer of the ancestor; may be given many times. Default: the learngene's last, and one "
        "that is not inherited."
    ),
)
@click.option(
    "--count",
    default=40,
    show_default=True,
    type=click.IntRange(min=1),
    help="Images that are measured; the first six are shown.",
)
@click.option(
    "--descendant",
    type=click.IntRange(min=0),
    help="Which descendant looks; default: each at its own task's images, at photos the first.",
)
@click.option("--out", type=PATH, help="Folder of the results; default: RUN/explain-TASK.")
@DATA
@STORE
@DEVICE
def explain(ancestor: str, out: Path | None, **options: Any) -> None:
    """Show where networks look (Grad-CAM).

    The same images through the ancestor of RUN after TASK tasks, at the learngene's last layer and
    at one that is not inherited, and through descendants that inherit it or start from scratch.
    They are trained again for it.
    """
    from evolve.cli.ancestors import SCREEN, open_ancestor, task_of_run
    from evolve.report.explain_files import STEM, write_explained
    from evolve.runs.explain import Question, explain

    if options["boxes"] and not options["images"]:
        raise click.UsageError("'--boxes' is for '--images'.")
    place = {name: options.pop(name) for name in ("data_dir", "store", "device")}
    folder, length = task_of_run(ancestor)
    run, stage = open_ancestor(folder, length, (), place)
    with SCREEN.status(f"explaining {ancestor}") as status:

        def show(fraction: float, text: str) -> None:
            status.update(f"explaining {ancestor}: {fraction:.0%}, {text}")

        explained = explain(run, length, stage, Question(**options), show)
    _print(explained, write_explained(explained, out or folder / f"{STEM}-{length}"))
    if out is None:
        tell(f"next: evolve report {folder} shows it on the page")


def _print(explained: Explained, files: Sequence[Path]) -> None:
    """Print the numbers, whether the descendants are the run's, and where everything is."""
    from rich import box
    from rich.table import Table

    from evolve.cli.ancestors import SCREEN
    from evolve.core.console import Console
    from evolve.report.explain import HEADS, cells, summary

    measured = summary(explained)
    table = Table(*HEADS, box=box.SIMPLE_HEAD)
    for row in cells(measured):
        table.add_row(*row)
    for name, same in measured["reproduced"].items():
        if same is False:
            SCREEN.print(
                f"{name}: trained again they measure other accuracies than the run's (another "
                "device or library): these are not quite the run's descendants",
                style="yellow",
            )
    Console().print(table)
    tell(f"{measured['images']} images: {measured['source']}")
    tell(*map(str, files))
