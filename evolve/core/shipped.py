"""TOML files that come with the package: beside it in a checkout, inside it in a wheel."""

from __future__ import annotations

import difflib
from contextlib import suppress
from pathlib import Path

from evolve.core.errors import UserError

FOLDERS = {"scenario": "scenarios", "batch": "benchmarks/ablations"}
USES = {
    "scenario": "evolve plan {0}, evolve run {0}",
    "batch": "evolve batch plan {0}, evolve batch {0}",
}


def shipped(what: str) -> dict[str, Path]:
    """The files of a kind that come with the package, by name without suffix.

    Args:
        what: a kind of :data:`FOLDERS`.
    """
    package = Path(__file__).resolve().parents[1]
    place = FOLDERS[what]
    folder = package / place if (package / place).is_dir() else package.parent / place
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}


def find(what: str, name: str) -> Path:
    """The shipped file of a name, or a user's own by path.

    Args:
        what: a kind of :data:`FOLDERS`.
        name: a shipped file's name, or a path.

    Raises:
        UserError: there is neither.
    """
    files = shipped(what)
    if name in files:
        return files[name]
    path = Path(name)
    with suppress(OSError):  # a name too long for a file is not one
        if path.is_file():
            return path
    if path.suffix == ".toml" or "/" in name:
        raise UserError(
            f"{what} file {name}: no such file; give the path of a TOML file or one of: "
            f"{', '.join(files)}"
        )
    for other, usage in USES.items():
        if name in shipped(other):
            raise UserError(f"{name} is a {other}, not a {what}: {usage.format(name)}")
    close = difflib.get_close_matches(name, files, 1)
    hint = f"did you mean {close[0]}? " if close else ""
    raise UserError(
        f"{what} '{name}' is not known; {hint}shipped are: {', '.join(files)} (or give a .toml "
        "file by path)"
    )
