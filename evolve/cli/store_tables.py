"""The screens of `evolve store` and `evolve store gc`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import click
from rich.filesize import decimal
from rich.table import Table

from evolve.core.console import Console
from evolve.core.terminal import tell
from evolve.engine.stage import Stage
from evolve.engine.store import Store
from evolve.runs.garbage import Census, Item, census, contents, garbage, references, remove

LARGEST = 5  # results that are named one by one


def print_store(store: Store) -> None:
    """Print sizes by kind of stage, by run, and the largest results.

    A run that cannot be read gets a line.
    """
    console, counted, items = (
        Console(highlight=False),
        census(store),
        list(contents(store)),
    )
    named = references(store, counted.runs)
    console.print(f"store {store.root}: {decimal(sum(item.size for item in items))}")
    console.print(_kinds(items))
    results = {item.key: item for item in items if _is_result(item)}
    console.print(_by_run(results, named, counted))
    console.print(_largest(results, named))
    for problem in counted.problems:
        console.print(f"unreadable   {problem}", soft_wrap=True)
    _say_vanished(counted)
    console.print("`evolve store gc` removes what no run refers to.", style="dim")


def collect_garbage(
    store: Store, yes: bool, dry_run: bool, everything: bool, forget: Sequence[str]
) -> None:
    """Show what no run refers to, ask, and remove it.

    Args:
        store: the store.
        yes: do not ask.
        dry_run: only show.
        everything: also imported ancestors and what was condensed from them.
        forget: machines whose runs refer to nothing any more.

    Raises:
        UserError: a run cannot be read, so what it refers to is unknown.
    """
    counted = census(store, forget)
    shown = garbage(store, counted, everything)
    for run in counted.runs:
        tell(f"refers       {_short(run.folder)}{f'   ({run.note})' if run.note else ''}")
    _say_vanished(counted)
    if not shown:
        tell(f"{store.root}: nothing that no run refers to")
    else:
        Console(highlight=False).print(_kinds(shown))
    if dry_run or not (shown or counted.vanished):
        return
    if shown and not yes:
        click.confirm(
            f"Remove {len(shown)} things ({decimal(sum(item.size for item in shown))}) "
            f"from {store.root}?",
            abort=True,
        )
    removed = remove(store, shown, everything, forget)
    if shown:
        tell(
            f"removed      {len(removed)} of {len(shown)}, "
            f"{decimal(sum(item.size for item in removed))}"
        )
    if len(removed) < len(shown):
        tell("kept         what a run has begun to use or compute meanwhile")


def set_mirror(store: Store, address: str | None, off: bool) -> None:
    """Begin or end to mirror a store, or say where its mirror is.

    What the store holds already is copied first.

    Args:
        store: the store.
        address: where to, such as s3://bucket/prefix.
        off: use the mirror no more.

    Raises:
        StoreError: the address cannot be reached.
    """
    if off or address:
        store.mirror_at(None if off else address)
    if store.mirror is None:
        tell(f"{store.root}: no mirror")
        return
    results = [item for item in contents(store) if _is_result(item)]
    for item in results if address else ():
        store.mirror.push(item.path)
    tell(f"{store.root}: mirrored at {store.mirror.address}; {len(results)} results here")


def _say_vanished(counted: Census) -> None:
    for folder in dict.fromkeys(card.folder for card in counted.vanished):
        if not any(run.folder == folder for run in counted.runs):
            tell(
                f"gone         {_short(folder)}: the run is not there any more, "
                "so it refers to nothing"
            )


def _short(folder: Path) -> str:
    """A folder as the user would type it here."""
    return str(folder.relative_to(Path.cwd())) if folder.is_relative_to(Path.cwd()) else str(folder)


def _is_result(item: Item) -> bool:
    return item.path.parent.parent.parent.name == "results"


def _table(*titles: str) -> Table:
    table = Table(box=None, pad_edge=False)
    for title in titles:
        table.add_column(
            title,
            justify="left" if title in (titles[0], "run") else "right",
            no_wrap=title != "run",
            overflow="fold",
        )
    return table


def _kinds(items: Iterable[Item]) -> Table:
    """One row a kind: how many, and their bytes."""
    table, count, size = _table("kind", "count", "bytes"), Counter[str](), Counter[str]()
    for item in items:
        count[item.kind] += 1
        size[item.kind] += item.size
    for kind, total in size.most_common():
        table.add_row(kind, str(count[kind]), decimal(total))
    return table


def _by_run(
    results: Mapping[str, Item], named: Mapping[Path, Mapping[str, Stage]], counted: Census
) -> Table:
    """One row a run: what it refers to, and how much of that only it refers to."""
    table = _table("results", "bytes", "its own", "shared", "run")
    users = Counter(key for stages in named.values() for key in stages)
    notes = {
        run.folder: run.note for run in sorted(counted.runs, key=lambda run: run.note, reverse=True)
    }  # of a folder's runs the one it holds
    for folder, stages in named.items():
        mine = [results[key] for key in stages if key in results]
        own = sum(item.size for item in mine if users[item.key] == 1)
        total = sum(item.size for item in mine)
        note = f" ({notes[folder]})" if notes[folder] else ""
        table.add_row(
            str(len(mine)),
            decimal(total),
            decimal(own),
            decimal(total - own),
            f"{_short(folder)}{note}",
        )
    shared = [item for key, item in results.items() if users[key] > 1]
    if shared:
        table.add_row(
            str(len(shared)),
            decimal(sum(item.size for item in shared)),
            "",
            "",
            "of several runs, stored once",
        )
    nobody = [item for key, item in results.items() if not users[key]]
    table.add_row(str(len(nobody)), decimal(sum(item.size for item in nobody)), "", "", "of no run")
    return table


def _largest(results: Mapping[str, Item], named: Mapping[Path, Mapping[str, Stage]]) -> Table:
    table = _table("largest result", "bytes", "run")
    for item in sorted(results.values(), key=lambda item: -item.size)[:LARGEST]:
        owners = [
            (_short(folder), stages[item.key].label)
            for folder, stages in named.items()
            if item.key in stages
        ]
        folder, label = owners[0] if owners else ("-", f"{item.kind} {item.key[:8]}")
        more = f" and {len(owners) - 1} more" if len(owners) > 1 else ""
        table.add_row(label, decimal(item.size), f"{folder}{more}")
    return table
