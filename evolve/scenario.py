"""A scenario file (TOML) -> frozen settings. Every error names the file, the key, the value and what is allowed."""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
import re
import sys
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

from evolve import condenser_table
from evolve.errors import UserError
from evolve.networks.family import architecture
from evolve.registry import names as registered
from evolve.settings import Settings, descend_source
from evolve.strategy_table import refusal

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PROFILES = ("quick", "paper")


@dataclass(frozen=True)
class Scenario:
    """A scenario with its profile and overrides applied."""

    settings: Settings
    profile: str
    origin: str  # the file, as errors quote it
    overrides: tuple[str, ...] = ()


def shipped_folder() -> Path:
    """Where the shipped scenario files lie: beside the package in a checkout, inside it in a wheel."""
    package = Path(__file__).resolve().parent
    inside = package / "scenarios"
    return inside if inside.is_dir() else package.parent / "scenarios"


def shipped() -> dict[str, Path]:
    """Name -> file of every shipped scenario, by name."""
    return {path.stem: path for path in sorted(shipped_folder().glob("*.toml"))}


def find(name: str) -> Path:
    """The file of a shipped scenario's name, or a user's own file by path.

    Raises UserError when there is neither.
    """
    known = shipped()
    if name in known:
        return known[name]
    path = Path(name)
    with suppress(OSError):  # a name too long for a file is not one
        if path.is_file():
            return path
    if path.suffix == ".toml" or "/" in name:
        raise UserError(f"scenario file {name}: no such file; give the path of a TOML file or one of: {', '.join(known)}")
    close = difflib.get_close_matches(name, known, 1)
    hint = f"did you mean {close[0]}? " if close else ""
    raise UserError(f"scenario '{name}' is not known; {hint}shipped are: {', '.join(known)} (or give a .toml file by path)")


def read_toml(path: Path) -> dict[str, Any]:
    """A TOML file's tables. UserError where it cannot be read or is no TOML."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))  # Notepad writes a byte order mark
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not valid TOML: {error}") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None


def load(name: str, profile: str = "paper", overrides: Sequence[str] = ()) -> Scenario:
    """Read scenario ``name`` (shipped name or path), apply ``[quick]`` if asked, then ``section.key=value`` overrides.

    Raises UserError naming file, key and value for anything that does not fit.
    """
    path = find(name)
    table = read_toml(path)
    if profile not in PROFILES:
        raise UserError(f"--profile {profile}: allowed are {', '.join(PROFILES)}")
    stated = table.pop("profile", None)
    if stated is not None and stated not in PROFILES:
        raise UserError(f"{path}: profile = {_show(stated)}: allowed are {', '.join(PROFILES)} (it says what the file was resolved for)")
    quick = table.pop("quick", None)
    if quick is None and profile == "quick" and stated != "quick":
        raise UserError(f"{path}: has no [quick] tables, so --profile quick would run it in full; add some or leave --profile out")
    quick = {} if quick is None else quick
    if not isinstance(quick, dict):
        raise UserError(f"{path}: quick = {quick!r}: expected tables such as [quick.ancestor]")
    table.setdefault("name", re.sub(r"[^\w.-]+", "-", path.stem))
    settings = _build(Settings(), table, str(path), "")
    quick_settings = _build(settings, quick, str(path), "", shown="quick.")
    if profile == "quick":
        settings = quick_settings
    for text in overrides:
        settings = override(settings, text)
    check(settings, str(path))
    return Scenario(settings, stated or profile, str(path), tuple(overrides))


def from_dict(table: Mapping[str, Any], origin: str) -> Settings:
    """Settings from the plain dict that :func:`to_dict` made (a run's run.json)."""
    return _build(Settings(), dict(table), origin, "")


def to_dict(settings: Any) -> dict[str, Any]:
    """Settings as plain JSON-able values."""
    plain: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(settings)))
    return plain


def override(settings: Settings, text: str) -> Settings:
    """``settings`` with one "section.key=value" put in. Raises UserError, naming it, for one that does not fit."""
    key, equals, value = text.partition("=")
    key = key.strip()
    if not equals or "." not in key:
        raise UserError(f"--set {text}: expected section.key=value, such as --set ancestor.epochs=5")
    try:
        parsed = tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        parsed = value.strip()  # a bare word is a string
    section, name, *below = key.split(".")
    if below:  # one entry of a table: the others stay
        table = getattr(getattr(settings, section, None), name, None)
        if not isinstance(table, dict) or len(below) > 1:
            raise UserError(f"--set {text}: {section}.{name} is no table; expected section.key=value")
        parsed = table | {below[0]: parsed}
    nested = {section: {name: parsed}}
    return _build(settings, nested, "--set", "")


def _build(base: Any, table: Mapping[str, Any], file: str, prefix: str, shown: str = "") -> Any:
    """``base`` with the table's values put in, each checked against its field."""
    known = {f.name: f for f in fields(base)}
    hints = typing.get_type_hints(type(base))
    changes: dict[str, Any] = {}
    for key, value in table.items():
        name = f"{prefix}{key}"
        if key not in known:
            close = difflib.get_close_matches(key, known, 1)
            hint = f"did you mean {prefix}{close[0]}? " if close else ""
            raise UserError(f"{file}: unknown key {shown}{name} = {_show(value)}; {hint}allowed here: {', '.join(known)}")
        current = getattr(base, key)
        if is_dataclass(current):
            if not isinstance(value, Mapping):
                raise UserError(f"{file}: {shown}{name} = {_show(value)}: expected a table [{name}]")
            changes[key] = _build(current, value, file, f"{name}.", shown)
        else:
            changes[key] = _convert(value, hints[key], known[key].metadata, f"{file}: {shown}{name}")
    return replace(base, **changes)


def _convert(value: Any, hint: Any, limits: Mapping[str, Any], where: str) -> Any:
    if typing.get_origin(hint) is tuple:
        if not isinstance(value, (list, tuple)):
            raise UserError(f"{where} = {_show(value)}: expected a list, such as [1, 2]")
        inner = typing.get_args(hint)[0]
        return tuple(_convert(item, inner, limits, where) for item in value)
    if typing.get_origin(hint) is dict or hint is dict:
        if not isinstance(value, Mapping):
            raise UserError(f"{where} = {_show(value)}: expected a table, such as {{ mem_size = 200 }}")
        if odd := next((item for item in value.values() if not _is_plain(item)), None):
            raise UserError(f"{where}: {_show(odd)}: expected numbers, strings, true or false, or lists of them")
        return dict(value)
    if hint in (int | str, int | str | tuple[int, ...]):  # one of the words, a number, or (the latter) a list of numbers

        def counts(number: Any) -> bool:
            return isinstance(number, int) and not isinstance(number, bool) and number >= limits["least"]

        if hint != int | str and isinstance(value, (list, tuple)) and value and all(map(counts, value)):
            return tuple(value)
        if not isinstance(value, (list, tuple)) and (value in limits["choices"] or counts(value)):
            return value
        listed = "" if hint == int | str else ", or a list of such numbers"
        raise UserError(f"{where} = {_show(value)}: allowed is{_limits(limits).lstrip(':')}{listed}")
    wanted = {int: "a whole number", float: "a number", str: "a string", bool: "true or false"}[hint]
    fits = isinstance(value, bool) if hint is bool else isinstance(value, hint) and not isinstance(value, bool)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        value, fits = float(value) if abs(value) < 10**300 else math.inf, True
    if not fits or (isinstance(value, float) and not math.isfinite(value)):
        raise UserError(f"{where} = {_show(value)}: expected {wanted}{_limits(limits)}")
    choices, least, most = _choices(limits), limits.get("least"), limits.get("most")
    outside = (least is not None and value < least) or (most is not None and value > most)
    if limits.get("registry") == "strategies" and (why := refusal(value)):
        raise UserError(f"{where.rpartition(': ')[0]}: {why}")
    if outside or (choices is not None and value not in choices):
        raise UserError(f"{where} = {_show(value)}: allowed is {wanted}{_limits(limits)}")
    return value


def _is_plain(value: Any) -> bool:
    """Whether JSON holds the value as TOML gave it: no date, no time."""
    if isinstance(value, (list, Mapping)):
        return all(map(_is_plain, value.values() if isinstance(value, Mapping) else value))
    return isinstance(value, (str, int, float))


def _choices(limits: Mapping[str, Any]) -> tuple[Any, ...] | None:
    choices: tuple[Any, ...] | None = limits.get("choices")
    return (*(choices or ()), *registered(limits["registry"])) if limits.get("registry") else choices


def _limits(limits: Mapping[str, Any]) -> str:
    if choices := _choices(limits):
        return ": one of " + ", ".join(str(c) for c in choices) + (f", or a number, at least {least:g}" if (least := limits.get("least")) is not None else "")
    parts = [f"at least {limits['least']:g}"] if limits.get("least") is not None else []
    parts += [f"at most {limits['most']:g}"] if limits.get("most") is not None else []
    return (", " + " and ".join(parts)) if parts else ""


def _show(value: Any) -> str:
    return json.dumps(value, default=str)


def check(settings: Settings, file: str) -> None:
    """What can be refused before any image is read: class lists, and numbers that contradict each other.

    Raises UserError.
    """
    for problem in _problems(settings):
        raise UserError(f"{file}: {problem}")


def _problems(s: Settings) -> Iterator[str]:
    if not re.fullmatch(r"[\w.-]*\w[\w.-]*", s.name):
        yield f"name = {_show(s.name)}: allowed are letters, digits, '.', '_' and '-' (it names the run folder)"
    yield from _split_problems(s)
    yield from _network_problems(s)
    if s.stream.tasks == 0 and not (s.ancestor.checkpoint and s.controls.untrained):
        yield "stream.tasks = 0: that is one pretrained ancestor at lineage length 0; give its ancestor.checkpoint and controls.untrained = true, or tasks"
    if s.condense.repeats > 1 and not condenser_table.method(s.condense.method).draws:
        yield f"condense.repeats = {s.condense.repeats}: method {s.condense.method} draws nothing, so every repeat would be the same; allowed is 1"
    methods = {s.condense.method, *(s.condense.rivals if s.condense.method == "trial" else ())}
    if "fisher" in methods and s.ancestor.strategy in ("scr", "cope"):
        key = (
            'condense.method = "fisher"'
            if s.condense.method == "fisher"
            else f"condense.rivals = {toml_value(s.condense.rivals)}"
        )
        why = "predicts by distances, not by the head that fisher reads"
        yield f"{key}: a {s.ancestor.strategy} ancestor {why}; choose another"
    rivals = s.condense.rivals
    if "trial" in rivals or len(set(rivals)) < len(rivals):
        shown = toml_value(rivals)
        yield f"condense.rivals = {shown}: expected other condensers than trial, each once"
    if s.condense.args and methods <= condenser_table.TABLE.keys():
        yield f"condense.args = {toml_value(s.condense.args)}: method {s.condense.method} takes none, they are a plug-in's; allowed is {{}}"
    for room in ("ancestor", "condense", "descend", "fewshot"):
        chosen = getattr(s, room).augment
        if "flip" in chosen and (s.data.source if room == "ancestor" else descend_source(s.data)) == "glyphs":
            yield f'{room}.augment = {list(chosen)}: glyphs are characters and lose their class when flipped; allowed: ["crop"] or []'


def _network_problems(s: Settings) -> Iterator[str]:
    ancestor = architecture(s.ancestor.network, s.ancestor.width, s.data.size)
    convs, layers = len(ancestor.layer_names), len(ancestor.integral_layers(s.condense.granularity))
    if max(s.condense.fixed, default=0) > convs:
        yield f"condense.fixed = {list(s.condense.fixed)}: name at least one of the ancestor's layers 1 to {convs}"
    if s.condense.top_k > layers:
        yield f"condense.top_k = {s.condense.top_k}: at most {layers}, the ancestor's layers at granularity {s.condense.granularity}"
    if s.ancestor.checkpoint and ancestor.family != "vit":
        yield f'ancestor.checkpoint = {_show(s.ancestor.checkpoint)}: only a ViT starts from one, ancestor.network is {s.ancestor.network}; allowed is ""'
    if s.inherit.embeddings == "inherited" and not ancestor.carried:
        yield f'inherit.embeddings = "inherited": {s.ancestor.network} has none to inherit; allowed is "random"'


def _split_problems(s: Settings) -> Iterator[str]:
    two = descend_source(s.data) != s.data.source  # then every source's ids are its own, and roles need not be listed together
    roles = {"ancestor": s.data.ancestor_classes, "condense": s.data.condense_classes, "descend": s.data.descend_classes}
    given = [role for role, ids in roles.items() if ids]
    if given and len(given) < 3 and not two:
        missing = next(role for role in roles if role not in given)
        yield f"data.{missing}_classes is empty: name the classes of all three roles or of none (then data.split counts are drawn)"
    for role, ids in roles.items():
        twice = sorted({i for i in ids if ids.count(i) > 1})
        if twice:
            yield f"data.{role}_classes: class {twice[0]} stands there twice; each class once"
        if any(i < 0 for i in ids):
            yield f"data.{role}_classes: class {min(ids)} is negative; allowed are class ids from 0"
    names = list(roles)
    for index, first in enumerate(names):
        for second in names[index + 1 :]:
            shared = sorted(set(roles[first]) & set(roles[second]))
            if shared and not (two and first == "ancestor"):
                yield f"data.{second}_classes: class {shared[0]} is also in data.{first}_classes; the three splits may share no class"
    if len(s.data.split) != 3:
        yield f"data.split = {list(s.data.split)}: expected three counts: ancestor, condensing, descendant classes"
        return
    trial = (
        (("descend.classes_per_task", "condense", s.descend.classes_per_task),)
        if s.condense.method == "trial"
        else ()
    )
    counts = {role: len(ids) or count for (role, ids), count in zip(roles.items(), s.data.split, strict=True)}
    for key, role, wanted in (
        ("stream.classes_per_task", "ancestor", s.stream.classes_per_task),
        ("descend.classes_per_task", "descend", s.descend.classes_per_task),
        *trial,
    ):
        if wanted > counts[role]:
            yield f"{key} = {wanted}: at most {counts[role]}, the {role} classes of the split"


def dump(settings: Settings, header: str = "", profile: str = "paper") -> str:
    """The resolved scenario as a TOML file a user can edit and run; each key's help stands behind it."""
    lines = [f"# {line}" for line in header.splitlines()]
    lines.append(f"profile = {toml_value(profile)}  # what it was resolved for; names the results, changes no number")
    for f in fields(settings):
        value = getattr(settings, f.name)
        if is_dataclass(value) and not isinstance(value, type):
            lines += ["", f"[{f.name}]"]
            lines += [_toml_line(k.name, getattr(value, k.name), k.metadata) for k in fields(value)]
        else:
            lines.append(f"{f.name} = {toml_value(value)}")
    return "\n".join(lines) + "\n"


def _toml_line(key: str, value: Any, metadata: Mapping[str, Any] | types.MappingProxyType[Any, Any]) -> str:
    return f"{key} = {toml_value(value)}  # {metadata.get('help', '')}{_limits(metadata)}"


def _toml_key(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else json.dumps(key)


def toml_value(value: Any) -> str:
    """One value in TOML's notation."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Mapping):
        inner = ", ".join(f"{_toml_key(key)} = {toml_value(item)}" for key, item in value.items())
        return f"{{ {inner} }}" if inner else "{}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(toml_value(item) for item in value) + "]"
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value)
