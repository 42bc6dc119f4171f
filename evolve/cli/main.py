"""The command `evolve`: gathers the commands, and turns errors into one line and an exit code.

Nothing here imports anything heavy.
"""

from __future__ import annotations

import io
import os
import sys
from contextlib import suppress

import click

from evolve.cli.batch import batch
from evolve.cli.bench import bench
from evolve.cli.condense import condense
from evolve.cli.explain import explain
from evolve.cli.export import export
from evolve.cli.inherit import inherit
from evolve.cli.inspect import inspect
from evolve.cli.plan import plan
from evolve.cli.plugins import plugins
from evolve.cli.report import report
from evolve.cli.resume import resume
from evolve.cli.run import run
from evolve.cli.runs import diff, runs, watch
from evolve.cli.scenarios import scenarios
from evolve.cli.show import show
from evolve.cli.store import store
from evolve.cli.summary import summary
from evolve.core.errors import UserError
from evolve.core.machine import settle_surroundings
from evolve.core.terminal import tell
from evolve.core.version import __version__


class Grouped(click.Group):
    """Lists the commands by what one wants to do."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write a list a purpose, each with its heading."""
        for heading, commands in PURPOSES.items():
            rows = [(command.name or "", command.get_short_help_str(72)) for command in commands]
            with formatter.section(heading):
                formatter.write_dl(rows)


@click.group(
    cls=Grouped, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.version_option(__version__, prog_name="evolve")
def cli() -> None:
    """Continual-learning simulator for the accumulate phase of Learngene.

    An ancestor learns task after task. After each, a learngene is condensed from it, and five
    descendants inherit it. Their mean accuracy over lineage length is the evolution curve. Start
    with:

    evolve run glyphs-seq25 --profile quick
    """


PURPOSES: dict[str, tuple[click.Command, ...]] = {
    "Run lineages": (scenarios, plan, run, resume, batch),
    "Look at them": (runs, watch, summary, report, explain, diff),
    "Take a learngene further": (condense, export, inherit, inspect),
    "Settings, plug-ins, housekeeping": (show, plugins, store, bench),
}
for command in (command for commands in PURPOSES.values() for command in commands):
    cli.add_command(command)


def main() -> None:
    """Run the command line; the entry point of `evolve`.

    An error of the user's is one line and exit code 2. A broken stage names its log and exits with
    1.
    """
    _open_standard_streams()
    settle_surroundings()
    try:
        cli.main(standalone_mode=False)
    except (click.exceptions.Abort, KeyboardInterrupt) as error:
        # click makes an Abort of any KeyboardInterrupt
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
        tell(f"evolve: {error.format_message()} (see: {command} --help)", err=True)
        sys.exit(2)
    except UserError as error:
        tell(f"evolve: {error}", err=True)
        sys.exit(2)
    except RuntimeError as error:
        if type(error).__name__ != "StageFailure":  # named, not imported: the engine is heavy
            raise
        tell(f"evolve: {error}", err=True)
        sys.exit(1)
    except BrokenPipeError:  # `evolve show ... | head`
        _abandon_output()
        sys.exit(1)
    except OSError as error:
        tell(f"evolve: {error}", err=True)
        _abandon_output()
        sys.exit(1)


def _abandon_output() -> None:
    """Let output that nobody can read any more go to /dev/null.

    Else Python would try once more at exit, and print a traceback there.
    """
    with suppress(OSError, ValueError):
        if sys.stdout is not None:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _open_standard_streams() -> None:
    """Let no sign end a command that its terminal cannot show, and open what is closed.

    Put /dev/null where the shell closed standard input, output or error (`evolve run >&-`).

    Else the next pipe to a worker process would take the free number, and the worker, which sends
    numbers 1 and 2 to its log, would write into it.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    with suppress(OSError):
        while (number := os.open(os.devnull, os.O_RDWR)) < 3:
            os.set_inheritable(number, True)
        os.close(number)
