"""docs/extending.md names what there is: every path, table, class, record and line of code on the
page.
"""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path

import pytest

from evolve.core import registry

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs/extending.md").read_text(encoding="utf-8")
ROWS = [
    [cell.strip().replace("`", "") for cell in line.strip("|").split("|")]
    for line in PAGE.splitlines()
    if line.startswith("| ")
][1:]


def squeezed(text: str) -> str:
    """Without the white space and trailing commas that a formatter moves."""
    return re.sub(r",?\)", ")", re.sub(r"\s+", "", text))


def test_every_path_on_the_page_exists() -> None:
    paths = re.findall(r"`((?:evolve|tests|docs)/[\w/.]+)`", PAGE) + re.findall(
        r"\]\(([\w.]+)\)", PAGE
    )
    assert len(paths) > 20
    assert [
        path for path in paths if not (ROOT / path).exists() and not (ROOT / "docs" / path).exists()
    ] == []


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_the_example_of_a_kind_is_in_its_table(row: list[str]) -> None:
    kind, file, table, record, example, _, docs = row
    module = file.removesuffix(".py").replace("/", ".")
    assert f"{module}:{table}" in registry.TABLES.values()
    name, code = example.split(": ")
    entry = getattr(import_module(module), table)[name]
    assert type(entry).__name__ == record and entry.code == code and callable(registry.loaded(code))
    assert name in (ROOT / docs).read_text(encoding="utf-8")


def test_the_page_has_every_kind_that_a_scenario_names() -> None:
    shown = {f"{row[1].removesuffix('.py').replace('/', '.')}:{row[2]}" for row in ROWS}
    assert shown == {place for kind, place in registry.TABLES.items() if kind != "families"}


@pytest.mark.parametrize("example", re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL))
def test_examples_are_taken_from_the_code(example: str) -> None:
    code = [squeezed((ROOT / row[1]).read_text(encoding="utf-8")) for row in ROWS]
    for record in re.split(r'\n(?=    ")', example.rstrip()):
        assert any(squeezed(record) in text for text in code), record


@pytest.mark.parametrize("kind", registry.TABLES)
def test_every_record_has_a_line_of_help(kind: str) -> None:
    for name, record in registry.records(kind).items():
        assert record.help and "\n" not in record.help and len(record.help) <= 70, name
