"""What others wrote: every number has an upper bound, every file a size, and the worst text ends in
one line, soon.
"""

from __future__ import annotations

import dataclasses
import os
import typing
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from evolve.core import toml
from evolve.core.durable import from_json
from evolve.core.errors import DataError, UserError
from evolve.core.foreign import parse_json, read_bounded
from evolve.core.settings import Settings
from evolve.data import members
from evolve.lineage.scenario import load
from evolve.runs.batch import file as batch_file

HUGE = 10**400


def numbers() -> Iterator[tuple[str, Any, Any]]:
    """Every setting that takes numbers: its name, its declaration, its type."""
    for section in dataclasses.fields(Settings):
        of = type(getattr(Settings(), section.name))
        if dataclasses.is_dataclass(of):
            hints = typing.get_type_hints(of)
            for field in dataclasses.fields(of):
                named = {hints[field.name], *typing.get_args(hints[field.name])}
                listed = {inner for kind in named for inner in typing.get_args(kind)}
                if {int, float} & (named | listed):
                    yield f"{section.name}.{field.name}", field, hints[field.name]


def test_every_number_has_an_upper_bound_that_its_error_names() -> None:
    names = [name for name, _, _ in numbers()]
    assert len(names) > 90 and {"stream.tasks", "stream.measure", "ancestor.keep"} < set(names)
    for name, field, kind in numbers():
        choices, most = field.metadata["choices"], field.metadata["most"]
        assert most is not None or (choices and str not in typing.get_args(kind)), name
        lists = typing.get_origin(kind) is tuple
        beyond = 3 if most is None else 2 * most if isinstance(most, float) else most + 1
        for value in (HUGE, beyond):
            text = f"{name} = {[value] if lists else value}".replace(" = ", "=")
            with pytest.raises(UserError) as caught:
                toml.override(Settings(), text)
            message = str(caught.value)
            assert name in message and len(message) < 500 and "\n" not in message, message
            assert most is None or "at most" in message
        if most is not None and name not in ("condense.repeats",):
            toml.override(Settings(), f"{name}={[most] if lists else most}")


BOMBS = {
    "nested lists": "x = " + "[" * 20_000,
    "nested tables": "x = " + "{a=" * 20_000,
    "closed": "x = " + "[" * 20_000 + "]" * 20_000,
    "a deep key": "[" + ".".join("a" * 20_000) + "]",
    "a dotted key": ".".join("a" * 40_000) + " = 1",
    "digits": "x = " + "9" * 5_000,
    "hexadecimal digits": "stream.tasks = 0x" + "f" * 5_000,
    "hexadecimal in a table": "ancestor.strategy_args.mem_size = 0x" + "f" * 5_000,
    "NaN in a table": "ancestor.strategy_args.mem_size = nan",
    "a long value": 'stream.tasks = "' + "y" * 100_000 + '"',
    "two megabytes": "#" * (2 << 20),
    "not text": b"\xff\xfe\x00x",
    "NUL": b"x = \x00",
}


@pytest.mark.parametrize("case", BOMBS)
def test_a_scenario_or_batch_that_blows_up_ends_in_one_line(case: str, tmp_path: Path) -> None:
    file, text = tmp_path / "it.toml", BOMBS[case]
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    for reader in (load, batch_file.load):
        with pytest.raises(UserError) as caught:
            reader(str(file))
        message = str(caught.value)
        assert str(file) in message and len(message) < 1000 and message.isprintable()


@pytest.mark.parametrize(
    "value", ["[" * 20_000, "9" * 5_000, "0x" + "f" * 5_000, ".".join("a" * 99)]
)
def test_set_ends_in_the_line_too(value: str) -> None:
    with pytest.raises(UserError, match="--set") as caught:
        toml.override(Settings(), f"stream.tasks={value}")
    assert len(str(caught.value)) < 500


def test_a_grid_of_a_million_million_cases_is_counted_not_made(tmp_path: Path) -> None:
    axes = "\n".join(
        f'"descend.{key}" = {list(range(1, 101))}'
        for key in ("shots", "epochs", "batch", "test_every", "descendants", "test_per_class")
    )
    (tmp_path / "b.toml").write_text(f'scenario = "glyphs-seq25"\nseeds = [0]\n[axes]\n{axes}\n')
    with pytest.raises(UserError, match="1,000,000,000,000 lineages"):
        batch_file.load(str(tmp_path / "b.toml"))


@pytest.mark.parametrize(
    "text", [b"[" * 100_000, b'{"a":' * 100_000, b"9" * 5000, b'{"$float": []}', b"\xff", b""]
)
def test_json_of_any_form_is_a_value_error(text: bytes) -> None:
    for reader in (parse_json, from_json):
        if reader is parse_json and b"$float" in text:
            continue  # a plain table there
        with pytest.raises(ValueError):
            reader(text)


def test_a_file_is_read_up_to_its_size_and_no_pipe_is_waited_for(tmp_path: Path) -> None:
    (tmp_path / "it").write_bytes(b"12345")
    assert read_bounded(tmp_path / "it", 5) == b"12345"
    with pytest.raises(ValueError, match="more than 4 bytes"):
        read_bounded(tmp_path / "it", 4)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="no regular file"):
        read_bounded(tmp_path / "pipe", 4)
    with pytest.raises((ValueError, OSError)):
        read_bounded(tmp_path, 4)


def test_a_zip_member_of_three_gigabytes_is_not_unpacked(tmp_path: Path) -> None:
    file = tmp_path / "it.zip"
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("train/a/1.png", b"x")
    # What is declared counts, so the header may say it: a zip of so many zeros takes a minute.
    data = bytearray(file.read_bytes())
    at = data.rindex(b"PK\x01\x02") + 24
    data[at : at + 4] = (3 << 30).to_bytes(4, "little")
    file.write_bytes(data)
    reader = members.ZipReader(file, ("train",), "get it again")
    with pytest.raises(DataError, match=r"train/a/1.png is damaged \(more than 268.4 MB"):
        reader.read("train/a/1.png")
    reader.close()
