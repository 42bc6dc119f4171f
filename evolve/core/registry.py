"""What a scenario may name: our methods, and what other packages bring (docs/plugins.md).

A package offers, say, a condenser by an entry point in the group "evolve.condensers". Its name then
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
    "figures": "evolve.report.batch.methods:FIGURES",  # (Batch, measured) -> BatchFigure
}
REFUSED = {"strategies": "evolve.ancestor.methods:REFUSED"}  # name -> why it cannot run here
CLOSED = ("learners", "figures")  # kinds that no other package adds to


@dataclass(frozen=True)
class Record:
    """A method of ours: ``code`` as "module:attribute", imported when asked for, and its ``help``.

    A kind of which more is to be said has a record class of its own.
    """

    code: str
    help: str


@cache
def records(kind: str) -> Mapping[str, Any]:
    """Our records of a kind, by name.

    Raises:
        KeyError: there is no such kind.
    """
    table: Mapping[str, Any] = loaded(TABLES[kind])
    return table


@cache
def plugged(kind: str) -> Mapping[str, tuple[EntryPoint, ...]]:
    """Every name of a kind that other packages bring, with who brings it.

    Names that are ours are among them; they are never used.
    """
    points: dict[str, tuple[EntryPoint, ...]] = {}
    for point in () if kind in CLOSED else entry_points(group=f"evolve.{kind}"):
        points[point.name] = (*points.get(point.name, ()), point)
    return points


def names(kind: str) -> tuple[str, ...]:
    """Every name of a kind: ours first, then the plug-ins'."""
    return (*records(kind), *(name for name in plugged(kind) if name not in records(kind)))


def find(kind: str, name: str) -> Any:
    """What a name stands for.

    Args:
        kind: one of :data:`TABLES`.
        name: ours or a plug-in's.

    Raises:
        KeyError: an unknown name.
        UserError: the plug-in cannot be had; it names the package.
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
        method = first.load()
    except Exception as error:  # whatever a stranger's module raises
        raise UserError(
            f"{_called(kind, name)} cannot be imported ({_reason(error)}); mend or uninstall that "
            "package"
        ) from None
    if not callable(method):
        raise UserError(
            f"{_called(kind, name)} is a {type(method).__name__} where a callable is needed; see "
            "docs/plugins.md"
        )
    return method


def refusal(kind: str, name: str) -> str | None:
    """Why a name that one might expect cannot run here, and what can.

    Args:
        kind: one of :data:`TABLES`.
        name: any name.

    Returns:
        One line; None for all other names.
    """
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
    """The "package version" of a plug-in: another version may compute other numbers.

    Args:
        kind: one of :data:`TABLES`.
        name: ours or a plug-in's.

    Returns:
        The text; None for ours.
    """
    return None if name in records(kind) else " and ".join(map(owner, plugged(kind)[name]))


def marked(kind: str, name: str) -> dict[str, str]:
    """What a recipe says of a plug-in that its stage uses: name, package and version.

    Args:
        kind: one of :data:`TABLES`.
        name: ours or a plug-in's.

    Returns:
        One entry for the recipe; none for ours.
    """
    package = origin(kind, name)
    return {f"plugin:{kind}": f"{name} of {package}"} if package else {}


def check_marks(recipe: Mapping[str, Any]) -> None:
    """Check that the plug-ins installed here are those that the recipe was made with.

    Raises:
        UserError: a plug-in is gone or changed; its numbers would go by the other one's key.
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
    """The "package version" that brings an entry point."""
    return f"{point.dist.name} {point.dist.version}" if point.dist else "an unknown package"


@contextmanager
def blamed(kind: str, name: str) -> Iterator[None]:
    """Around a call of what ``name`` stands for: whatever a plug-in raises becomes one line.

    Args:
        kind: one of :data:`TABLES`.
        name: ours or a plug-in's.

    Raises:
        UserError: it names the plug-in and the place. What ours raise goes through.
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
    """The error for a plug-in that returned something else than it should.

    Args:
        kind: one of :data:`TABLES`.
        name: the plug-in's.
        what: the sentence's verb and the rest: "returned None, not a Prepared".
    """
    return UserError(
        f"{_called(kind, name)} {what}; mend that package (docs/plugins.md says what is expected)"
    )


def _called(kind: str, name: str) -> str:
    return f"plug-in {name!r} ({plugged(kind)[name][0].value} of {origin(kind, name)})"


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {first_line(error)}"
