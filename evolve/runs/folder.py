"""A run's folder: what it holds, whose it is, where its store lies."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import click
from filelock import Timeout

from evolve.core import toml
from evolve.core.durable import expanded, user_cache
from evolve.core.errors import UserError
from evolve.core.foreign import parse_json, read_bounded
from evolve.core.locks import held
from evolve.core.settings import Scenario
from evolve.core.shipped import shipped
from evolve.core.terminal import printable, quoted
from evolve.core.toml import check_text
from evolve.core.words import slug
from evolve.engine.result import seal_of

RUN_FILE = "run.json"
MOST_BYTES = 16 << 20  # of run.json and of a card; the largest of ours have 20 kB
FACTS: dict[str, Any] = {
    "scenario": str,
    "profile": str,
    "seed": int,
    "settings": dict,
    "fingerprint": str,
    "classes": dict,
    "store": str,
    "data_dir": (str, type(None)),
    "versions": dict,
    "command": list,
    "reference": bool,
    "checkpoint": str,
}
OURS = (RUN_FILE, "scenario.toml", "tensorboard", "wandb", "damaged-run.json")


def default_out(chosen: Scenario, seeds: int | Sequence[int], reference: bool = False) -> Path:
    """The folder of a run that was given none: runs/<scenario>-<profile>-seed<n>.

    Args:
        chosen: the scenario. Its overrides stand in the name, and so does the file's name where a
            user's own file keeps a shipped scenario's: two ablations do not meet in one folder.
        seeds: the run's, or those of several runs in one folder.
        reference: whether it takes the plain path.
    """
    name, files = chosen.settings.name, shipped("scenario")
    if name in files and Path(chosen.origin) != files[name]:
        name = f"{name}-{Path(chosen.origin).stem}"
    numbers = f"seed{seeds}" if isinstance(seeds, int) else f"seeds{_stretches(seeds)}"
    words = [name, chosen.profile, numbers, *(["reference"] if reference else [])]
    words += [slug(" ".join(sorted(chosen.overrides)))] if chosen.overrides else []
    return Path("runs") / "-".join(words)


def _stretches(seeds: Sequence[int]) -> str:
    """ "0-4" where they follow one another, "2_5_7" where not, a hash where that is long."""
    if list(seeds) == list(range(seeds[0], seeds[0] + len(seeds))):
        return f"{seeds[0]}-{seeds[-1]}"
    return slug("_".join(map(str, seeds)))


def default_store(out: Path) -> Path:
    """The store of a run that was given none: $EVOLVE_STORE, else "store" beside the run's folder.

    So the runs of one folder share their stages.

    Args:
        out: the run's folder.

    Returns:
        The store's folder; for an address in $EVOLVE_STORE, the local folder that mirrors it.
    """
    given = os.environ.get("EVOLVE_STORE")
    return (
        expanded(StorePlace().convert(given, None, None))
        if given
        else out.resolve().parent / "store"
    )


def read_run(folder: Path) -> dict[str, Any]:
    """Read run.json of a run's folder.

    Args:
        folder: the run's folder.

    Returns:
        The entries that FACTS names.

    Raises:
        UserError: there is none, or it is damaged.
    """
    file = folder / RUN_FILE
    try:
        facts = parse_json(read_bounded(file, MOST_BYTES))
        if "seal" in facts and facts["seal"] != seal_of(facts):
            raise ValueError("it was changed")
        for name, kind in FACTS.items():
            if not isinstance(facts[name], kind):
                raise ValueError(f"{name} is {toml.shown_value(facts[name])}")
        if {role: type(ids) for role, ids in facts["classes"].items()} != dict.fromkeys(
            ("ancestor", "condense", "descend"), list
        ) or not all(type(number) is int for ids in facts["classes"].values() for number in ids):
            raise ValueError("classes are not those of three roles")
        if "\0" in f"{facts['store']}{facts['data_dir']}":
            raise ValueError("a path holds a zero byte")
        check_text({name: facts[name] for name in ("scenario", "profile")}, str(file))
        return {name: facts[name] for name in FACTS}
    except FileNotFoundError:
        example = "runs/glyphs-seq25-quick-seed0"
        raise UserError(
            f"{folder}: not a run folder (no {RUN_FILE}); give a folder that `evolve run` made, "
            f"such as {example}"
        ) from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            printable(
                f"{file}: damaged or not written by evolve ({error}); repeat the original `evolve "
                "run` command"
            )
        ) from None


def find_store(folder: Path, recorded: str, given: Path | None) -> Path:
    """Find the store of a run: the one given, else the one it recorded, else the one beside it.

    The last is right where run and store have moved together.

    Args:
        folder: the run's folder.
        recorded: the store that its run.json names.
        given: the store that the user named, if any.

    Raises:
        UserError: none of them is there. To compute everything anew elsewhere would hide what
            exists.
    """
    places = [given] if given else [Path(recorded), folder.resolve().parent / "store"]
    for place in places:
        if (place / "store.json").is_file():
            return place
    raise UserError(f"{folder}: its store {places[0]} is not there; say where it is with --store")


@contextmanager
def claimed(out: Path) -> Iterator[None]:
    """Hold the run folder, so that two processes do not write one run's pictures at once.

    Args:
        out: the run's folder; made where it is not there.

    Raises:
        UserError: another process holds it, nothing can be written there, or its name is not UTF-8.
    """
    if any("\ud800" <= sign <= "\udfff" for sign in str(out.resolve())):  # a byte
        raise UserError(
            f"--out {out}: its name is not UTF-8, and TensorBoard can neither write nor read there; "
            "give another folder with --out"
        )
    try:
        out.mkdir(parents=True, exist_ok=True)
        lock = ExitStack()
        lock.enter_context(held(out / ".lock", 0))
    except Timeout:
        raise UserError(
            f"{out}: another process is running this run; wait for it, stop it, or give another "
            "--out"
        ) from None
    except (OSError, NotImplementedError) as error:
        raise UserError(
            f"--out {out}: cannot write there ({getattr(error, 'strerror', None) or error}); give "
            "another folder with --out"
        ) from None
    try:
        yield
    finally:
        lock.close()
        if not (out / RUN_FILE).exists():  # refused before it began: leave no empty folder behind
            with suppress(OSError):
                (out / ".lock").unlink(missing_ok=True)
                out.rmdir()


def again_command(folder: Path, facts: Mapping[str, Any]) -> str:
    """The command that computes a run again from its resolved settings, into its own folder and
    store. Its paths are absolute, so it may be called anywhere.

    Args:
        folder: the run's folder.
        facts: as its run.json holds them.
    """
    place = folder.resolve()
    words = [
        "evolve",
        "run",
        "--scenario",
        str(place / "scenario.toml"),
        "--profile",
        facts["profile"],
        "--seed",
        str(facts["seed"]),
    ]
    words += ["--data", facts["data_dir"]] if facts["data_dir"] else []
    words += ["--reference"] if facts["reference"] else []
    words += ["--out", str(place), "--store", facts["store"]]
    return quoted(words)


def resume_command(folder: Path) -> str:
    """The command that continues a run, from wherever it is called.

    Args:
        folder: the run's folder.
    """
    return quoted(["evolve", "resume", str(folder.resolve())])


def _known_run(out: Path) -> dict[str, Any] | None:
    """The run that this folder holds, if any; a damaged run.json is put aside.

    Raises:
        UserError: the folder is somebody else's.
    """
    if (out / RUN_FILE).exists():
        try:
            return read_run(out)
        except UserError as damage:
            try:
                os.replace(out / RUN_FILE, out / "damaged-run.json")
            except OSError as error:
                raise UserError(
                    f"{damage}; it cannot be put aside ({error.strerror or error})"
                ) from None
            return None
    other = [p.name for p in out.iterdir() if not p.name.startswith(".") and p.name not in OURS]
    if other:
        raise UserError(
            f"--out {out}: not empty and not a run of evolve (holds {other[0]}); give a new "
            "folder with --out"
        )
    return None


def _check_same(out: Path, held: dict[str, Any], facts: dict[str, Any]) -> None:
    before, now = _placeless(held), _placeless(facts)
    changed = [name for name in facts if before[name] != now[name]]
    if changed in (["fingerprint"], ["fingerprint", "classes"]):
        raise UserError(
            f"{out}: the images are not those this run began with; give the same ones with "
            "--data, or a new folder with --out"
        )
    if changed:
        raise UserError(
            f"--out {out}: holds another run (its {', '.join(changed)} differ); give another "
            "folder with --out"
        )


def _placeless(facts: Mapping[str, Any]) -> dict[str, Any]:
    """The facts without the place of the ancestor's checkpoint: its content is one of them."""
    settings = facts["settings"]
    if isinstance(ancestor := settings.get("ancestor"), dict):
        settings = {**settings, "ancestor": {**ancestor, "checkpoint": ""}}
    return {**facts, "settings": settings}


class StorePlace(click.ParamType):
    """A store's folder, or an address such as s3://bucket/prefix.

    For an address the store is a folder under $XDG_CACHE_HOME that is mirrored there.
    """

    name = "path"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """The folder that ``value`` means.

        Raises:
            StoreError: the address cannot be reached.
        """
        if isinstance(value, Path) or "://" not in value:
            return Path(value)
        from evolve.engine.store import Store

        readable = re.sub(r"[^a-z0-9]+", "-", value.lower())
        folder = (
            user_cache() / "stores" / f"{readable}-{hashlib.sha256(value.encode()).hexdigest()[:8]}"
        )
        store = Store(folder)
        if store.mirror is None:
            store.mirror_at(value)
        return folder
