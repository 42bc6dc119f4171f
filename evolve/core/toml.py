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
from evolve.core.foreign import parse_shallow, read_bounded
from evolve.core.registry import names as registered
from evolve.core.registry import refusal
from evolve.core.settings import Settings
from evolve.core.terminal import printable

_BYTES = 1 << 20  # of a file; the largest shipped batch has 8 kB
_LARGEST = 10**15  # numbers in a table of a strategy's or a plug-in's own parameters
# Dotted keys that long take minutes to parse.
_ENDLESS_KEY = re.compile(r"""(?<![\w"'-])[\w"'-]+(?:[ \t]*\.[ \t]*[\w"'-]+){64}""")
_LONGEST = 200  # characters of a value in an error

WANTED = {int: "a whole number", float: "a number", str: "a string", bool: "true or false"}


def from_dict(table: Mapping[str, Any], origin: str) -> Settings:
    """Settings from the plain dict that :func:`to_dict` made.

    Args:
        table: such as a run.json's settings.
        origin: the file, for errors.

    Raises:
        UserError: something does not fit; it names file, key and value.
    """
    check_text(table, origin)
    return build(Settings(), dict(table), origin, "")


def to_dict(settings: Any) -> dict[str, Any]:
    """Settings as plain JSON-able values."""
    plain: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(settings)))
    return plain


def override(settings: Settings, text: str) -> Settings:
    """Put one "section.key=value" into settings.

    Args:
        settings: stay as they are.
        text: as a user writes it behind --set.

    Returns:
        The changed settings.

    Raises:
        UserError: it does not fit; the line names it.
    """
    key, equals, value = text.partition("=")
    key = key.strip()
    if not equals or "." not in key:
        raise UserError(
            f"--set {text}: expected section.key=value, such as --set ancestor.epochs=5"
        )
    try:
        parsed = _parsed(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        parsed = value.strip()  # a bare word is a string
    except ValueError as error:
        raise UserError(f"--set {key}: {error}") from None
    check_text({key: parsed}, "--set")
    section, name, *below = key.split(".")
    if below:  # one entry of a table: the others stay
        table = getattr(getattr(settings, section, None), name, None)
        if not isinstance(table, dict) or len(below) > 1:
            raise UserError(
                f"--set {text}: {section}.{name} is no table; expected section.key=value"
            )
        parsed = table | {below[0]: parsed}
    nested = {section: {name: parsed}}
    return build(settings, nested, "--set", "")


def build(base: Any, table: Mapping[str, Any], file: str, prefix: str, shown: str = "") -> Any:
    """Put a table's values into settings, each checked against its field.

    Args:
        base: settings or a section of them; stays as it is.
        table: new values, by field.
        file: the table's origin, for errors.
        prefix: the section's name and a dot, or "".
        shown: stands before the key in errors, such as "quick.".

    Returns:
        The changed settings.

    Raises:
        UserError: a key or a value does not fit; it names file, key and value.
    """
    allowed = {f.name: f for f in fields(base)}
    hints = typing.get_type_hints(type(base))
    changes: dict[str, Any] = {}
    for key, value in table.items():
        name = f"{prefix}{key}"
        if key not in allowed:
            close = difflib.get_close_matches(key, allowed, 1)
            hint = f"did you mean {prefix}{close[0]}? " if close else ""
            raise UserError(
                f"{file}: unknown key {shown}{name} = {shown_value(value)}; {hint}allowed here: "
                f"{', '.join(allowed)}"
            )
        current = getattr(base, key)
        if is_dataclass(current):
            if not isinstance(value, Mapping):
                raise UserError(
                    f"{file}: {shown}{name} = {shown_value(value)}: expected a table [{name}]"
                )
            changes[key] = build(current, value, file, f"{name}.", shown)
        else:
            changes[key] = _convert(
                value, hints[key], allowed[key].metadata, f"{file}: {shown}{name}"
            )
    return replace(base, **changes)


def _convert(value: Any, hint: Any, limits: Mapping[str, Any], where: str) -> Any:
    """``value`` as the type ``hint``, checked against ``limits``; ``where`` begins the error."""
    if typing.get_origin(hint) is tuple:
        if not isinstance(value, (list, tuple)):
            raise UserError(f"{where} = {shown_value(value)}: expected a list, such as [1, 2]")
        inner = typing.get_args(hint)[0]
        return tuple(_convert(item, inner, limits, where) for item in value)
    if typing.get_origin(hint) is dict or hint is dict:
        return _table(value, where)
    if hint in (int | str, int | str | tuple[int, ...]):
        return _word_or_number(value, hint != int | str, limits, where)
    return _single(value, hint, limits, where)


def _table(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise UserError(
            f"{where} = {shown_value(value)}: expected a table, such as {{ mem_size = 200 }}"
        )
    for item in (item for item in value.values() if not _is_plain(item)):
        raise UserError(
            f"{where}: {shown_value(item)}: expected numbers (at most {_LARGEST:g}), strings, true or "
            "false, or lists of them"
        )
    return dict(value)


def _word_or_number(value: Any, lists: bool, limits: Mapping[str, Any], where: str) -> Any:
    """One of the words, a number or, if ``lists``, a list of numbers."""

    def counts(number: Any) -> bool:
        whole = isinstance(number, int) and not isinstance(number, bool)
        return whole and limits["least"] <= number <= limits["most"]

    listed = isinstance(value, (list, tuple))
    if lists and listed and value and all(map(counts, value)):
        return tuple(value)
    if not listed and (value in limits["choices"] or counts(value)):
        return value
    also = ", or a list of such numbers" if lists else ""
    raise UserError(
        f"{where} = {shown_value(value)}: allowed is{_limits(limits).lstrip(':')}{also}"
    )


def _single(value: Any, hint: type, limits: Mapping[str, Any], where: str) -> Any:
    """A number, a string or a truth value."""
    wanted = WANTED[hint]
    fits = isinstance(value, hint) and (hint is bool or not isinstance(value, bool))
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        value, fits = float(value) if abs(value) < 10**300 else math.inf, True
    if not fits or (isinstance(value, float) and not math.isfinite(value)):
        raise UserError(f"{where} = {shown_value(value)}: expected {wanted}{_limits(limits)}")
    choices, least, most = _choices(limits), limits.get("least"), limits.get("most")
    outside = (least is not None and value < least) or (most is not None and value > most)
    if why := refusal(limits.get("registry", ""), value):
        raise UserError(f"{where.rpartition(': ')[0]}: {why}")
    if outside or (choices is not None and value not in choices):
        raise UserError(f"{where} = {shown_value(value)}: allowed is {wanted}{_limits(limits)}")
    return value


def _is_plain(value: Any) -> bool:
    """Whether JSON holds the value as TOML gave it: no date, no time, no NaN, no endless number."""
    if isinstance(value, (list, Mapping)):
        return all(map(_is_plain, value.values() if isinstance(value, Mapping) else value))
    return isinstance(value, str) or (isinstance(value, (int, float)) and abs(value) <= _LARGEST)


def _choices(limits: Mapping[str, Any]) -> tuple[Any, ...] | None:
    choices: tuple[Any, ...] | None = limits.get("choices")
    if not limits.get("registry"):
        return choices
    return (*(choices or ()), *registered(limits["registry"]))


def _limits(limits: Mapping[str, Any]) -> str:
    """The limits as the end of a sentence."""
    least, most = limits.get("least"), limits.get("most")
    if choices := _choices(limits):
        also = "" if least is None else f", or a number, {' and '.join(_bounds(least, most))}"
        return f": one of {', '.join(map(str, choices))}{also}"
    parts = _bounds(least, most)
    return f", {' and '.join(parts)}" if parts else ""


def _bounds(least: float | None, most: float | None) -> list[str]:
    named = (("at least", least), ("at most", most))
    return [
        f"{word} {limit:,}" if isinstance(limit, int) else f"{word} {limit:g}"
        for word, limit in named
        if limit is not None
    ]


def shown_value(value: Any) -> str:
    """A value as errors show it: JSON, of a long one the beginning."""
    try:
        text = json.dumps(value, default=str)
    except ValueError:
        text = "a number of thousands of digits"
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def dump(settings: Settings, header: str = "", profile: str = "paper") -> str:
    """The resolved scenario as a TOML file that a user can edit and run.

    Args:
        settings: all of them; each key's help stands behind it.
        header: lines of comment for the top.
        profile: what the settings were resolved for.
    """
    lines = [f"# {printable(line)}" for line in header.split("\n")] if header else []
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
    """A TOML file's tables.

    Raises:
        UserError: it cannot be read, is no TOML, or holds control characters.
    """
    try:
        # Notepad writes a byte order mark.
        table = _parsed(read_bounded(path, _BYTES).decode("utf-8-sig"))
    except ValueError as error:
        raise UserError(printable(f"{path}: not valid TOML: {error}")) from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    check_text(table, str(path))
    return table


def check_text(value: Any, where: str, key: str = "") -> None:
    """Refuse control characters in what may become a name, a title or a path.

    Figures and pages cannot hold them, and that would show when all is computed.

    Args:
        value: tables, lists and texts, such as a TOML file's.
        where: the file, for the error.
        key: the value's.

    Raises:
        UserError: a key or a text has some; it names file, key and value.
    """
    if isinstance(value, Mapping):
        for name, below in value.items():
            check_text(name, where, "a key")
            check_text(below, where, f"{key}.{name}" if key else name)
    elif isinstance(value, (list, tuple)):
        for item in value:
            check_text(item, where, key)
    elif isinstance(value, str) and printable(value) != value:
        raise UserError(
            f"{where}: {key} = {shown_value(value)}: allowed is text of one line, in UTF-8 and "
            "without control characters"
        )


def _parsed(text: str) -> dict[str, Any]:
    """The tables of a text.

    Raises:
        ValueError: it is no TOML, or blown up: nested deep, numbers of thousands of digits.
    """
    if _ENDLESS_KEY.search(text):
        raise ValueError("nested too deep")
    return dict(parse_shallow(tomllib.loads, text))
