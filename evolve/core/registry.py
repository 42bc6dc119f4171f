"""The door: what a scenario may name, ours and what other packages bring by entry points
(docs/plugins.md).

A package offers, say, a condenser by an entry point in the group "evolve.condensers"; its name then
stands beside ours in scenarios, errors and ``evolve plugins``. Nothing is imported before it is
asked for by name. Ours cannot be replaced.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from traceback import extract_tb
from typing import Any

from evolve.core.errors import UserError, first_line

# kind -> where its records are, by name; each room keeps its own beside its code, free of torch
TABLES = {
    "networks": "evolve.networks.family:NETWORKS",  # (width, size) -> Architecture
    "families": "evolve.networks.family:FAMILIES",  # JSON -> Architecture
    "condensers": "evolve.condensers.methods:CONDENSERS",  # Request -> Condensed
    "inheritors": "evolve.learngene.inheritors:INHERITORS",  # (ancestor, layers) -> descendant
    "sources": "evolve.data.methods:SOURCES",  # (DataSettings, folder) -> Prepared
    # a plug-in's: arguments -> Avalanche plugin
    "strategies": "evolve.ancestor.methods:STRATEGIES",
    "learners": "evolve.descendants.fewshot.methods:LEARNERS",  # Setup -> Learner
}
REFUSED = {"strategies": "evolve.ancestor.methods:REFUSED"}  # name -> why it cannot run here
CLOSED = ("learners",)  # kinds that no other package adds to


@dataclass(frozen=True)
class Record:
    """A method of ours: its ``code`` as "module:attribute", imported when it is asked for, and a
    line of ``help``. Kinds that are known more of have a record class of their own.
    """

    code: str
    help: str


@cache
def records(kind: str) -> Mapping[str, Any]:
    """Our records of a kind by name. KeyError for an unknown kind."""
    table: Mapping[str, Any] = loaded(TABLES[kind])
    return table


@cache
def plugged(kind: str) -> Mapping[str, tuple[EntryPoint, ...]]:
    """Every name of a kind that other packages bring, with who brings it; also names that are ours,
    which are never used.
    """
    found: dict[str, tuple[EntryPoint, ...]] = {}
    for point in () if kind in CLOSED else entry_points(group=f"evolve.{kind}"):
        found[point.name] = (*found.get(point.name, ()), point)
    return found


def names(kind: str) -> tuple[str, ...]:
    """Every name of a kind: ours first, then the plug-ins'."""
    return (*records(kind), *(name for name in plugged(kind) if name not in records(kind)))


def find(kind: str, name: str) -> Any:
    """What ``name`` stands for.

    KeyError for an unknown name; UserError, naming the package, for a plug-in that cannot be had.
    """
    if name in records(kind):
        return loaded(records(kind)[name].code)
    first, *others = plugged(kind)[name]
    if others:
        raise UserError(
            f"plug-in {name!r} of evolve.{kind} is brought by {origin(kind, name)}; uninstall all "
            "but one of them"
        )
    try:
        found = first.load()
    except Exception as error:  # whatever a stranger's module raises
        raise UserError(
            f"{_called(kind, name)} cannot be imported ({_reason(error)}); mend or uninstall that "
            "package"
        ) from None
    if not callable(found):
        raise UserError(
            f"{_called(kind, name)} is a {type(found).__name__} where a callable is needed; see "
            "docs/plugins.md"
        )
    return found


def refusal(kind: str, name: str) -> str | None:
    """One line on why ``name`` cannot run here, and what can; None for all other names."""
    reasons = loaded(REFUSED[kind]) if kind in REFUSED else {}
    if name not in reasons:
        return None
    can = ", ".join(records(kind))
    return f'ancestor.strategy = "{name}" cannot run here: {reasons[name]}; these can: {can}'


def loaded(place: str) -> Any:
    """What stands at "module:attribute"."""
    module, _, attribute = place.partition(":")
    return getattr(import_module(module), attribute)


def origin(kind: str, name: str) -> str | None:
    """ "package version" of a plug-in, for stage keys and provenance: another version may compute
    other numbers.

    None for ours.
    """
    return None if name in records(kind) else " and ".join(map(owner, plugged(kind)[name]))


def marked(kind: str, name: str) -> dict[str, str]:
    """What a recipe says of a plug-in that its stage uses: name, package and version.

    Empty for ours.
    """
    package = origin(kind, name)
    return {f"plugin:{kind}": f"{name} of {package}"} if package else {}


def check_marks(recipe: Mapping[str, Any]) -> None:
    """Whether what is installed here is what the recipe was made with, its tables' marks included.

    UserError for a plug-in that is gone or changed: its numbers would go by the other one's key.
    """
    for key, mark in recipe.items():
        if isinstance(mark, Mapping):
            check_marks(mark)
        elif key.startswith("plugin:"):
            kind, name = key.removeprefix("plugin:"), mark.rpartition(" of ")[0]
            here = marked(kind, name)[key] if name in names(kind) else "not installed"
            if here != mark:
                raise UserError(
                    f"plug-in {mark} is what this result was asked of, here it is {here}; install "
                    "that version, or run the command again"
                )


def owner(point: EntryPoint) -> str:
    """The "package version" that brings it."""
    return f"{point.dist.name} {point.dist.version}" if point.dist else "an unknown package"


@contextmanager
def blamed(kind: str, name: str) -> Iterator[None]:
    """Around a call of what ``name`` stands for: whatever a plug-in raises becomes one line that
    names it and the place.

    Ours raise as they do.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if origin(kind, name) is None:
            raise
        place = extract_tb(error.__traceback__)[-1]
        raise UserError(
            f"{_called(kind, name)} failed ({_reason(error)}; {place.filename}, line "
            f"{place.lineno}); mend that package"
        ) from error


def nonsense(kind: str, name: str, what: str) -> UserError:
    """The error for a plug-in that returned something else than it should."""
    return UserError(
        f"{_called(kind, name)} {what}; mend that package (docs/plugins.md says what is expected)"
    )


def _called(kind: str, name: str) -> str:
    return f"plug-in {name!r} ({plugged(kind)[name][0].value} of {origin(kind, name)})"


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {first_line(error)}"
