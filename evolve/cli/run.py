"""`evolve run`. Imports nothing heavy until the command is called."""

from __future__ import annotations

import re
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from evolve.cli.options import cluster_options, lineage_options, run_request, scenario_name
from evolve.core.errors import UserError
from evolve.core.machine import usable_cores
from evolve.core.terminal import tell

if TYPE_CHECKING:
    from evolve.runs.run import RunRequest

MOST_SEEDS = 1000
LONG = 3600.0  # seconds from which on a run without --profile says first what it would take


class Seeds(click.ParamType):
    """Seeds as 0-4 or 2,5,7-9."""

    name = "seeds"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[int, ...]:
        """The seeds in order, each once."""
        if isinstance(value, tuple):
            return value
        seeds: list[int] = []
        for part in value.split(","):
            ends = re.fullmatch(r"\s*(\d{1,9})(?:-(\d{1,9}))?\s*", part, re.ASCII)
            first, last = (int(ends[1]), int(ends[2] or ends[1])) if ends else (1, 0)
            if last < first:
                self.fail(f"{value!r}: expected seeds such as 0-4 or 2,5,7-9", param, ctx)
            if last - first + len(seeds) >= MOST_SEEDS:
                self.fail(f"{value!r}: at most {MOST_SEEDS} seeds", param, ctx)
            seeds += range(first, last + 1)
        return tuple(dict.fromkeys(seeds))


@click.command()
@scenario_name
@lineage_options
@cluster_options
@click.option(
    "--seeds",
    type=Seeds(),
    help="Several lineages side by side, pooled at the end, such as 0-4 or 2,5,7-9.",
)
@click.option("--yes", is_flag=True, help="Begin a run of hours without asking.")
@click.pass_context
def run(
    ctx: click.Context,
    /,
    name: str,
    profile: str,
    seed: int,
    seeds: tuple[int, ...] | None,
    yes: bool,
    **options: Any,
) -> None:
    """Run the lineage of SCENARIO.

    SCENARIO is a name that `evolve scenarios` lists, or a TOML file of your own. The same command
    continues it after any interruption.
    """
    from evolve.runs.execute import execute

    given = ctx.get_parameter_source
    if seeds and given("seed") is not ParameterSource.DEFAULT:
        raise click.UsageError("--seed and --seeds: give one of them")
    request = run_request(name, profile, seeds or seed, **options)
    if given("profile") is ParameterSource.DEFAULT and not request.out.exists():
        _say_if_long(request, name, len(seeds or (seed,)), yes)
    if seeds:
        from evolve.runs.seeds import execute_seeds, seeds_request

        execute_seeds(seeds_request(request, seeds), sys.argv)
    else:
        execute(request, sys.argv)


def _say_if_long(request: RunRequest, name: str, lineages: int, yes: bool) -> None:
    """Say what a long run would take, and ask where somebody can answer."""
    from evolve.lineage import scenario
    from evolve.runs.estimate import cost
    from evolve.runs.estimate.counts import lying
    from evolve.runs.estimate.needs import needs

    workers = request.workers or usable_cores()
    settings = request.scenario.settings
    if request.cluster or request.device == "cuda":
        return
    counts = lying(settings, request.data_dir)
    if lineages * cost.estimate(settings, workers, counts) < LONG:
        return
    each = f"{lineages} lineages, each of which: " if lineages > 1 else ""
    tell(each + needs(request.scenario, workers, counts), err=True)
    with suppress(UserError):  # there is no [quick]
        smaller = scenario.load(name, "quick", request.scenario.overrides)
        counts = lying(smaller.settings, request.data_dir)
        tell(f"Smaller: {needs(smaller, workers, counts)} Add --profile quick.", err=True)
    if not yes and sys.stdin is not None and sys.stdin.isatty():
        click.confirm("Begin?", abort=True, err=True)
