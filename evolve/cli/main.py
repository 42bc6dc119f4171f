"""The command line: parses, calls, prints. Imports nothing heavy until a command needs it."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import click

from evolve.cli.batch import batch
from evolve.cli.options import DATA, DEVICE, REFERENCE, WORKERS, cluster_options
from evolve.cli.report import report
from evolve.cli.store import store
from evolve.core import toml
from evolve.core.errors import UserError
from evolve.core.version import __version__
from evolve.runs.folder import StorePlace

SET_HELP = "Override one setting, such as --set ancestor.strategy=ewc; may be given many times."
PROFILE = click.option(
    "--profile",
    default="paper",
    show_default=True,
    help="quick: the scenario's [quick] values; paper: as the file says.",
)
SEED = click.option(
    "--seed",
    default=0,
    show_default=True,
    type=click.IntRange(min=0),
    help="Seed of tasks, weights and batches.",
)
OUT = click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Run folder; default: runs/<scenario>-<profile>-seed<n>.",
)
STORE = click.option(
    "--store",
    type=StorePlace(),
    help="Results folder or address (s3://bucket/prefix); default: $EVOLVE_STORE or store/ beside the run folder.",
)
SET = click.option("--set", "overrides", multiple=True, metavar="SECTION.KEY=VALUE", help=SET_HELP)
FORCE = click.option("--force", is_flag=True, help="Replace the file of --out if it is there.")
FILE_OUT = click.option(
    "--out", required=True, type=click.Path(path_type=Path), help="The .safetensors file to write."
)


def lineage_options(command: Callable[..., None]) -> Callable[..., None]:
    """The options that name one lineage and where it lies; the same for every command that takes a scenario."""
    for option in reversed((PROFILE, SEED, DATA, OUT, STORE, DEVICE, WORKERS, REFERENCE, SET)):
        command = option(command)
    return command


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="evolve")
def cli() -> None:
    """Continual-learning simulator for the accumulate phase of Learngene.

    An ancestor learns task after task; after each, a learngene is condensed from it and five descendants inherit it. Their mean
    accuracy over lineage length is the evolution curve. Start with:

    evolve run --scenario glyphs-seq25 --profile quick
    """


@cli.command()
@click.option(
    "--scenario",
    "name",
    required=True,
    help="A name that `evolve scenarios` lists, or a TOML file of your own.",
)
@lineage_options
@cluster_options
def run(name: str, profile: str, seed: int, **options: Any) -> None:
    """Run a lineage; the same command continues it after any interruption."""
    from evolve.runs.execute import execute

    execute(_order(name, profile, seed, **options), sys.argv)


@cli.command()
@click.argument("folder", metavar="RUN", type=click.Path(path_type=Path))
@DATA
@STORE
@DEVICE
@WORKERS
@cluster_options
def resume(folder: Path, **options: Any) -> None:
    """Continue the run in folder RUN."""
    from evolve.runs.execute import execute
    from evolve.runs.opened import order_from_run

    execute(order_from_run(folder, **options), sys.argv)


@cli.command()
def scenarios() -> None:
    """List the shipped scenarios, one line and a cost estimate each."""
    from evolve.cli.plan import scenario_table

    scenario_table()


@cli.command()
@click.argument("name", metavar="SCENARIO")
@PROFILE
@SET
def show(name: str, profile: str, overrides: tuple[str, ...]) -> None:
    """Print SCENARIO as it resolves: a TOML file to copy, edit and run."""
    from evolve.lineage import scenario

    chosen = scenario.load(name, profile, overrides)
    header = f"{chosen.settings.name}, profile {profile}. Save it as my.toml, edit it, and: evolve run --scenario my.toml"
    click.echo(toml.dump(chosen.settings, header, profile), nl=False)


@cli.command()
@click.argument("name", metavar="SCENARIO")
@lineage_options
def plan(name: str, profile: str, seed: int, **options: Any) -> None:
    """Print the stages of SCENARIO, which are in the store, and how long the rest takes here (a few steps are timed)."""
    from evolve.cli.plan import plan_table

    plan_table(_order(name, profile, seed, **options))


@cli.command()
@click.argument(
    "folders", metavar="RUN...", nargs=-1, required=True, type=click.Path(path_type=Path)
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Also write the pooled curve, tables and summary into this folder.",
)
@STORE
def summary(folders: tuple[Path, ...], out: Path | None, store: Path | None) -> None:
    """Summarise one run, or pool several runs of one scenario that differ in their seed."""
    from evolve.runs.screens.summary import summarise_runs

    summarise_runs(list(folders), out, store)


@cli.command()
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
@DEVICE
@click.option(
    "--json",
    "json_file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Also write all raw numbers into this file.",
)
def bench(
    only: tuple[str, ...],
    rounds: int | None,
    quick: bool,
    kernels: bool,
    growth: bool,
    device: str,
    json_file: Path | None,
) -> None:
    """Time our training against plain PyTorch and Avalanche loops, in interleaved rounds on this machine."""
    if kernels:
        from evolve.benchmarks.speed.kernel_table import kernel_table

        return kernel_table()
    if growth:
        from evolve.benchmarks.speed.growth import growth_table

        return growth_table()
    from evolve.benchmarks.speed.bench import bench as measure

    measure(only, rounds, quick, device, json_file)


@cli.command()
@click.option(
    "--ancestor",
    required=True,
    metavar="FILE|RUN@TASK",
    help="An ancestor's file, or a run's folder and a lineage length.",
)
@click.option(
    "--out", type=click.Path(path_type=Path), help="The file to write; needed without --null."
)
@click.option(
    "--null",
    "nulls",
    type=click.IntRange(min=1),
    metavar="N",
    help="Null test: N condensations each with wrong images, an untrained ancestor, other draws; a table.",
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
    help="FILE is a plain state dict (.safetensors, .pth) of this network, under our names, torchvision's or timm's.",
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
    """Condense one ancestor into a learngene's file; RUN@TASK with the run's own images and settings (--set condense.KEY=VALUE for others)."""
    from evolve.cli import gene as gene_commands

    overrides, force = options.pop("overrides"), options.pop("force")
    images, weights = (
        gene_commands.Images(scenario, profile, seed, overrides),
        gene_commands.Weights(network, width, size),
    )
    if (out is None) == (nulls is None):
        raise click.UsageError(
            "Give either '--out FILE', to condense into a file, or '--null N', for the null test."
        )
    if nulls is not None:
        return gene_commands.null_test(ancestor, nulls, images, weights, options)
    assert out is not None
    gene_commands.condense(ancestor, out, images, weights, options, force)


@cli.command()
@click.argument("ancestor", metavar="RUN@TASK")
@FILE_OUT
@DATA
@STORE
@FORCE
def export(ancestor: str, out: Path, force: bool, **options: Any) -> None:
    """Write a run's ancestor, as it was after TASK tasks, into a file of its own."""
    from evolve.cli import gene as gene_commands

    gene_commands.export(ancestor, out, options | {"device": "auto"}, force)


@cli.command()
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
    seed: int,
    descendant: int,
    form: str,
    force: bool,
) -> None:
    """Write a network that inherits a learngene, to be trained in your own code (in Python: evolve.inherit)."""
    from evolve.cli import gene as gene_commands

    gene_commands.inherit(
        learngene, classes, out, seed, method, embeddings, descendant, form, force
    )


@cli.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print it for a program.")
def inspect(file: Path, as_json: bool) -> None:
    """Print what a learngene's, an ancestor's or a model's FILE holds, how large it is and where it comes from."""
    from evolve.cli import inspect as inspection

    inspection.inspect(file, as_json)


@cli.command()
def plugins() -> None:
    """List what a scenario may name, and which package brings it."""
    from evolve.cli import inspect as inspection

    inspection.plugins()


cli.add_command(batch)
cli.add_command(report)
cli.add_command(store)


def _order(
    name: str,
    profile: str,
    seed: int,
    overrides: tuple[str, ...],
    out: Path | None,
    store: Path | None,
    **place: Any,
) -> Any:
    from evolve.lineage import scenario
    from evolve.runs.folder import default_out, default_store
    from evolve.runs.opened import Order

    chosen = scenario.load(name, profile, overrides)
    out = out or default_out(chosen, seed, place["reference"])
    return Order(out, store or default_store(out), **place, scenario=chosen, seed=seed)


def main() -> None:
    """Entry point: a UserError is one line and exit code 2; a broken stage names its log and exits with 1."""
    try:
        cli.main(standalone_mode=False)
    except (
        click.exceptions.Abort,
        KeyboardInterrupt,
    ) as error:  # click makes an Abort of any KeyboardInterrupt
        sys.exit(128 + getattr(error.__cause__ or error, "signal", 2))
    except click.exceptions.NoArgsIsHelpError as error:  # `evolve` alone
        error.show()
        sys.exit(2)
    except click.ClickException as error:
        command = (
            error.ctx.command_path
            if isinstance(error, click.UsageError) and error.ctx
            else "evolve"
        )
        click.echo(f"evolve: {error.format_message()} (see: {command} --help)", err=True)
        sys.exit(2)
    except UserError as error:
        click.echo(f"evolve: {error}", err=True)
        sys.exit(2)
    except RuntimeError as error:
        if type(error).__name__ != "StageFailure":  # named, not imported: the engine is heavy
            raise
        click.echo(f"evolve: {error}", err=True)
        sys.exit(1)
    except BrokenPipeError:  # `evolve show ... | head`
        _abandon_output()
        sys.exit(1)
    except OSError as error:
        click.echo(f"evolve: {error}", err=True)
        _abandon_output()
        sys.exit(1)


def _abandon_output() -> None:
    """Nobody can read it any more: keep Python from trying once more at exit, and from a traceback there."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
