"""Settings to and from TOML: conversion, checks of type and range, overrides."""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
import re
import sys
import types
import typing
from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


from evolve.core.errors import UserError
from evolve.core.registry import names as registered
from evolve.core.registry import refusal
from evolve.core.settings import Settings


def from_dict(table: Mapping[str, Any], origin: str) -> Settings:
    """Settings from the plain dict that :func:`to_dict` made (a run's run.json)."""
    return _build(Settings(), dict(table), origin, "")


def to_dict(settings: Any) -> dict[str, Any]:
    """Settings as plain JSON-able values."""
    plain: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(settings)))
    return plain


def override(settings: Settings, text: str) -> Settings:
    """``settings`` with one "section.key=value" put in.

    Raises UserError, naming it, for one that does not fit.
    """
    key, equals, value = text.partition("=")
    key = key.strip()
    if not equals or "." not in key:
        raise UserError(
            f"--set {text}: expected section.key=value, such as --set ancestor.epochs=5"
        )
    try:
        parsed = tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        parsed = value.strip()  # a bare word is a string
    section, name, *below = key.split(".")
    if below:  # one entry of a table: the others stay
        table = getattr(getattr(settings, section, None), name, None)
        if not isinstance(table, dict) or len(below) > 1:
            raise UserError(
                f"--set {text}: {section}.{name} is no table; expected section.key=value"
            )
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
            raise UserError(
                f"{file}: unknown key {shown}{name} = {_show(value)}; {hint}allowed here: "
                f"{', '.join(known)}"
            )
        current = getattr(base, key)
        if is_dataclass(current):
            if not isinstance(value, Mapping):
                raise UserError(
                    f"{file}: {shown}{name} = {_show(value)}: expected a table [{name}]"
                )
            changes[key] = _build(current, value, file, f"{name}.", shown)
        else:
            changes[key] = _convert(
                value, hints[key], known[key].metadata, f"{file}: {shown}{name}"
            )
    return replace(base, **changes)


def _convert(value: Any, hint: Any, limits: Mapping[str, Any], where: str) -> Any:
    if typing.get_origin(hint) is tuple:
        if not isinstance(value, (list, tuple)):
            raise UserError(f"{where} = {_show(value)}: expected a list, such as [1, 2]")
        inner = typing.get_args(hint)[0]
        return tuple(_convert(item, inner, limits, where) for item in value)
    if typing.get_origin(hint) is dict or hint is dict:
        if not isinstance(value, Mapping):
            raise UserError(
                f"{where} = {_show(value)}: expected a table, such as {{ mem_size = 200 }}"
            )
        if odd := next((item for item in value.values() if not _is_plain(item)), None):
            raise UserError(
                f"{where}: {_show(odd)}: expected numbers, strings, true or false, or lists of them"
            )
        return dict(value)
    if hint in (
        int | str,
        int | str | tuple[int, ...],
    ):  # one of the words, a number, or (the latter) a list of numbers

        def counts(number: Any) -> bool:
            return (
                isinstance(number, int)
                and not isinstance(number, bool)
                and number >= limits["least"]
            )

        if (
            hint != int | str
            and isinstance(value, (list, tuple))
            and value
            and all(map(counts, value))
        ):
            return tuple(value)
        if not isinstance(value, (list, tuple)) and (value in limits["choices"] or counts(value)):
            return value
        listed = "" if hint == int | str else ", or a list of such numbers"
        raise UserError(
            f"{where} = {_show(value)}: allowed is{_limits(limits).lstrip(':')}{listed}"
        )
    wanted = {int: "a whole number", float: "a number", str: "a string", bool: "true or false"}[
        hint
    ]
    fits = (
        isinstance(value, bool)
        if hint is bool
        else isinstance(value, hint) and not isinstance(value, bool)
    )
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        value, fits = float(value) if abs(value) < 10**300 else math.inf, True
    if not fits or (isinstance(value, float) and not math.isfinite(value)):
        raise UserError(f"{where} = {_show(value)}: expected {wanted}{_limits(limits)}")
    choices, least, most = _choices(limits), limits.get("least"), limits.get("most")
    outside = (least is not None and value < least) or (most is not None and value > most)
    if why := refusal(limits.get("registry", ""), value):
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
    return (
        (*(choices or ()), *registered(limits["registry"])) if limits.get("registry") else choices
    )


def _limits(limits: Mapping[str, Any]) -> str:
    if choices := _choices(limits):
        return (
            ": one of "
            + ", ".join(str(c) for c in choices)
            + (
                f", or a number, at least {least:g}"
                if (least := limits.get("least")) is not None
                else ""
            )
        )
    parts = [f"at least {limits['least']:g}"] if limits.get("least") is not None else []
    parts += [f"at most {limits['most']:g}"] if limits.get("most") is not None else []
    return (", " + " and ".join(parts)) if parts else ""


def _show(value: Any) -> str:
    return json.dumps(value, default=str)


def dump(settings: Settings, header: str = "", profile: str = "paper") -> str:
    """The resolved scenario as a TOML file a user can edit and run; each key's help stands behind
    it.
    """
    lines = [f"# {line}" for line in header.splitlines()]
    lines.append(
        f"profile = {toml_value(profile)}  # what it was resolved for; names the results, changes "
        "no number"
    )
    for f in fields(settings):
        value = getattr(settings, f.name)
        if is_dataclass(value) and not isinstance(value, type):
            lines += ["", f"[{f.name}]"]
            lines += [_toml_line(k.name, getattr(value, k.name), k.metadata) for k in fields(value)]
        else:
            lines.append(f"{f.name} = {toml_value(value)}")
    return "\n".join(lines) + "\n"


def _toml_line(
    key: str, value: Any, metadata: Mapping[str, Any] | types.MappingProxyType[Any, Any]
) -> str:
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


def read_toml(path: Path) -> dict[str, Any]:
    """A TOML file's tables. UserError where it cannot be read or is no TOML."""
    try:
        return tomllib.loads(
            path.read_text(encoding="utf-8-sig")
        )  # Notepad writes a byte order mark
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not valid TOML: {error}") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
