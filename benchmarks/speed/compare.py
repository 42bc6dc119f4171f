"""`evolve bench --against FILE`: this run's table beside one that `--json` wrote earlier."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from evolve.core.errors import UserError

from .report import spelled
from .summary import Row, Spread

SAME = ("cpu", "cores", "torch", "capability", "gpu")  # of a machine


@dataclass(frozen=True)
class Earlier:
    """A table that was written earlier: its rows' ratios by name, and where it was measured."""

    file: Path
    evolve: str
    machine: Mapping[str, Any]
    values: Mapping[str, Spread]


def read_earlier(file: Path) -> Earlier:
    """Read a file of `evolve bench --json`; rows that were not quoted are left out.

    Raises:
        UserError: it is none, or a smoke test's.
    """
    try:
        held = json.loads(file.read_text(encoding="utf-8"))
        rows = [row for case in held["cases"] for row in case["rows"] if row["quoted"]]
        values = {row["name"]: Spread(**row["value"]) for row in rows}
        earlier = Earlier(file, held["evolve"], held["machine"], values)
        quick = held["quick"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"--against {file}: not a file that `evolve bench --json` wrote ({error})"
        ) from None
    if quick:
        raise UserError(f"--against {file}: a smoke test (--quick), too short to compare with")
    return earlier


def comparison(rows: Sequence[Row], machine: Mapping[str, Any], earlier: Earlier) -> Table:
    """The ratios ours / baseline (or shares) now and then; a ratio's change counts on any machine.

    Args:
        rows: this run's.
        machine: this one.
        earlier: what it is compared with.
    """
    other = [name for name in SAME if machine[name] != earlier.machine.get(name)]
    where = f", another machine ({', '.join(other)})" if other else ""
    grid = Table(box=None, pad_edge=False, title_justify="left")
    grid.title = f"against {earlier.file} (evolve {earlier.evolve}{where})"
    for title in ("", "then", "now", "now / then", ""):
        grid.add_column(title, justify="left" if not title else "right", no_wrap=True)
    for row in rows:
        if row.quoted and row.name in earlier.values:
            then, now = earlier.values[row.name], row.value
            apart = now.least > then.most or now.most < then.least
            grid.add_row(
                row.title,
                spelled(then, row.share),
                spelled(now, row.share),
                f"{now.median / then.median:.2f}",
                "" if apart else "ranges overlap",
            )
    return grid
