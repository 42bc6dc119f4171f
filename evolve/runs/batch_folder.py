"""batch.json: what a batch's folder says about itself.

It names the case of every lineage, its method, what pairs it, and how the batch was started. A
reader needs neither the batch file nor its scenarios: the resolved settings of every case stand
in its own run.json.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence, Set
from dataclasses import asdict
from pathlib import Path
from typing import Any

from evolve.core import toml
from evolve.core.durable import write_whole
from evolve.core.errors import UserError
from evolve.core.foreign import parse_json, read_bounded
from evolve.core.settings import Scenario
from evolve.core.terminal import printable
from evolve.core.version import versions
from evolve.report.compare import Batch, Case
from evolve.report.page.section import BatchFolder
from evolve.runs.folder import RUN_FILE, read_run

MOST_BYTES = 64 << 20  # of batch.json; that of 10,000 lineages has 4 MB

BATCH_FILE = "batch.json"
FORMAT = 1
ABOUT = ("name", "title", "profile", "origin", "method", "reference", "figure")


def write_batch_file(batch: Batch, out: Path, command: Sequence[str]) -> Path:
    """Write batch.json into ``out``.

    A folder that holds the same batch keeps the command and the versions it was started with.

    Args:
        batch: what the folder holds.
        out: the batch's folder.
        command: the words of the command line.

    Returns:
        The file.
    """
    cases = [{**_case(case), "folder": case.folder} for case in batch.cases]
    described: dict[str, Any] = {"format": FORMAT, **{name: getattr(batch, name) for name in ABOUT}}
    described |= {
        "axes": batch.axes,
        "controls": batch.controls,
        "cases": cases,
        "text": _text(batch),
    }
    described = json.loads(json.dumps(described))
    started = {
        "command": list(command),
        "versions": {"python": platform.python_version(), **versions()},
    }
    if (out / BATCH_FILE).exists():
        earlier = _read(out)
        if all(earlier.get(name) == value for name, value in described.items()):
            started = {name: earlier[name] for name in started}
    return write_whole(
        out / BATCH_FILE,
        (json.dumps(described | started, indent=1) + "\n").encode(),
        "batch folder",
    )


def check_folder(batch: Batch, out: Path) -> None:
    """Check that ``out`` may be this batch's folder.

    Args:
        batch: what is to be computed.
        out: an existing folder.

    Raises:
        UserError: it is a run's folder or somebody else's, or holds a batch whose lineages would
            drop out of its tables.
    """
    if (out / RUN_FILE).exists():
        raise UserError(
            f"--out {out}: is the folder of a run; give a batch a folder of its own with --out"
        )
    mine = {case.folder for case in batch.cases}
    if is_batch(out):
        _check_same(out, mine)
        return
    if other := [
        path.name
        for path in out.iterdir()
        if not path.name.startswith(".") and path.name not in mine
    ]:
        raise UserError(
            f"--out {out}: not empty and not a batch of evolve (holds {other[0]}); give a new "
            "folder with --out"
        )


def _check_same(out: Path, mine: Set[str]) -> None:
    """Refuse a command that leaves out lineages which the batch in ``out`` has."""
    cases = _read(out).get("cases", ())
    earlier = [str(case.get("folder")) for case in cases if isinstance(case, Mapping)]
    if lost := [folder for folder in earlier if folder not in mine]:
        what = (
            f"{len(lost)} lineages that this command leaves out "
            f"({lost[0]}{', ...' if len(lost) > 1 else ''})"
        )
        raise UserError(
            f"--out {out}: holds a batch of {what}; give another folder with --out "
            "(what is computed already is taken from the store)"
        )


def read_batch_file(folder: Path) -> BatchFolder:
    """Read batch.json back.

    Args:
        folder: the batch's.

    Raises:
        UserError: batch.json is damaged, or a case's folder is not there.
    """
    described = _read(folder)
    try:
        cases = tuple(_read_case(folder, entry) for entry in described["cases"])
        axes = {axis: tuple(values) for axis, values in described["axes"].items()}
        batch = Batch(
            **{name: str(described[name]) for name in ABOUT},
            cases=cases,
            axes=axes,
            controls=tuple(described["controls"]),
        )
        return BatchFolder(
            batch,
            tuple(map(str, described["command"])),
            dict(described["versions"]),
            str(described["text"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _damaged(folder, error) from None


def is_batch(folder: Path) -> bool:
    """Whether ``folder`` is a batch's."""
    return (folder / BATCH_FILE).is_file()


def _case(case: Case) -> dict[str, Any]:
    return {name: value for name, value in asdict(case).items() if name != "scenario"}


def _read_case(folder: Path, entry: Mapping[str, Any]) -> Case:
    run = folder / entry["folder"]
    facts = read_run(run)
    resolved = Scenario(
        toml.from_dict(facts["settings"], str(run / "run.json")),
        facts["profile"],
        str(run / "run.json"),
    )
    return Case(
        str(entry["name"]),
        int(entry["seed"]),
        str(entry["method"]),
        tuple(entry["pairing"]),
        dict(entry["values"]),
        resolved,
    )


def _text(batch: Batch) -> str:
    path = Path(batch.origin)
    return path.read_text(encoding="utf-8-sig") if path.is_file() else ""


def _read(folder: Path) -> dict[str, Any]:
    try:
        described = parse_json(read_bounded(folder / BATCH_FILE, MOST_BYTES))
        if described["format"] != FORMAT:
            raise ValueError(f"format {described['format']!r}, this evolve reads {FORMAT}")
        drawn = {*ABOUT, "cases", "axes", "controls"} - {"origin"}  # that is a path
        toml.check_text({name: described[name] for name in drawn}, str(folder / BATCH_FILE))
        return dict(described)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _damaged(folder, error) from None


def _damaged(folder: Path, error: Exception) -> UserError:
    reason = f"{error} is missing" if isinstance(error, KeyError) else error
    return UserError(
        printable(
            f"{folder / BATCH_FILE}: damaged or not written by evolve ({reason}); remove it and "
            "repeat the `evolve batch` command"
        )
    )
