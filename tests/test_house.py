"""The house is as its pictures show it: rooms, layers, imports, names in the docs.

No torch is imported.
"""

from __future__ import annotations

import ast
import configparser
import re
from pathlib import Path

import pytest

import evolve

ROOT = Path(__file__).resolve().parents[1]
EVOLVE = ROOT / "evolve"
PAGES = sorted(
    [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "benchmarks").rglob("*.md")]
)
FOLDERS = ("docs", "evolve", "scenarios", "benchmarks", "tests")
NO_NOUNS = {"found", "known", "made", "one"}  # a noun says what it is
TEXT = (".py", ".md", ".toml", ".sh", ".html")
BLOCK = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)


def contract() -> list[str]:
    """The rooms from the top floor down, as import-linter checks them."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg", encoding="utf-8")
    return [line.split(".")[1] for line in setup["importlinter:contract:rooms"]["layers"].split()]


def picture() -> str:
    return next(
        block
        for block in BLOCK.findall((ROOT / "docs/architecture.md").read_text(encoding="utf-8"))
        if "flowchart" in block
    )


def imports() -> dict[str, set[str]]:
    """Which other rooms each room imports."""
    seen: dict[str, set[str]] = {room: set() for room in contract()}
    for path in EVOLVE.rglob("*.py"):
        room = path.relative_to(EVOLVE).parts[0]
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("evolve."):
                seen.setdefault(room, set()).add(str(node.module).split(".")[1])
    return {
        room: others & seen.keys() - {room} for room, others in seen.items() if room in contract()
    }


def arrows() -> set[tuple[str, str]]:
    """The imports between rooms that do not follow from others."""
    direct = imports()
    below: dict[str, set[str]] = {}
    for room in reversed(contract()):
        below[room] = direct[room].union(*(below[other] for other in direct[room]))
    return {
        (a, b)
        for a, others in direct.items()
        for b in others
        if not any(b in below[c] for c in others)
    }


def test_the_folders_are_the_rooms_of_the_contract() -> None:
    rooms = {path.name for path in EVOLVE.iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert rooms == set(contract())
    assert {path.name for path in EVOLVE.iterdir() if path.is_file()} <= {"__init__.py", "py.typed"}


def test_the_picture_has_the_rooms_in_the_order_of_the_contract() -> None:
    boxes = re.findall(r'^    (\w+)\["(\w+): ', picture(), re.MULTILINE)
    assert [name for name, _ in boxes] == [label for _, label in boxes] == contract()


def test_the_pictures_arrows_are_the_imports_and_lead_down() -> None:
    drawn = set(re.findall(r"^    (\w+) --> (\w+)$", picture(), re.MULTILINE))
    assert drawn == arrows()
    floors = contract()
    assert all(floors.index(upper) < floors.index(lower) for upper, lower in drawn)


def test_readmes_tree_has_the_rooms_and_the_folders() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert re.findall(r"^      (\w+)/ +\S", text, re.MULTILINE) == contract()
    assert set(re.findall(r"^    (\w+)/ +\S", text, re.MULTILINE)) == {
        name for name in FOLDERS if name != "evolve"
    }


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_file_and_module_that_a_page_names_exists(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    code = re.findall(r"`([^`\n]+)`", BLOCK.sub("", text))
    paths = {
        word
        for word in code
        if re.fullmatch(r"[\w.*-]+(/[\w.*-]+)*\.(py|sh|cfg|toml|md|cff)", word)
    }
    paths |= {
        word for word in code if word.split("/")[0] in FOLDERS and "/" in word and "<" not in word
    }
    paths |= set(
        re.findall(rf"(?<![\w/])(?:{'|'.join(FOLDERS)})/[\w./*-]+\.(?:py|toml|sh|md)\b", text)
    )
    written_by_users = {"scenario.toml", "table.md", "evolve_stripes.py"}
    missing = [
        word
        for word in paths - written_by_users
        if not any([*ROOT.glob(word), *page.parent.glob(word)])
    ]
    modules = {word for word in code if re.fullmatch(r"evolve(\.\w+)+", word)}
    assert missing + [word for word in modules if not module(word)] == []


def module(dotted: str) -> bool:
    """Whether ``dotted`` is a package, a module, or a name that one of them defines; or a group of
    entry points.
    """
    *rooms, last = dotted.split(".")
    place = ROOT.joinpath(*rooms)
    if (place / last).is_dir() or (place / f"{last}.py").is_file():
        return True
    if rooms == ["evolve"] and last in evolve.__all__:  # some are imported when they are asked for
        return hasattr(evolve, last)
    source = place / "__init__.py" if place.is_dir() else place.with_suffix(".py")
    groups = re.findall(
        r"evolve\.\w+",
        (ROOT / "docs/plugins.md")
        .read_text(encoding="utf-8")
        .split("What each kind is")[1]
        .split("\n\n")[1],
    )
    words = ("evolve.learngene", "evolve.ancestor", "evolve.model")  # keys in a file's header
    return dotted in (*groups, *words) or (
        source.is_file()
        and re.search(rf"^(def|class) {last}\b", source.read_text(), re.MULTILINE) is not None
    )


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_prose_ends_at_100_columns(page: Path) -> None:
    lines = page.read_text(encoding="utf-8").splitlines()
    table = re.compile(r"\||    .*  .*  .*  .*  ")  # also what a command printed
    assert [line for line in lines if len(line) > 100 and not table.match(line)] == []


def test_nothing_cites_a_page_that_users_do_not_have() -> None:
    files = [
        path
        for name in FOLDERS
        for path in (ROOT / name).rglob("*")
        if path.suffix in TEXT and path != Path(__file__)
    ]
    assert [
        path for path in files if re.search(r"\bSPEC\b", path.read_text(encoding="utf-8"))
    ] == []


def bound(source: str) -> set[str]:
    """The names of the variables, arguments, attributes and functions that a file makes."""
    nodes = list(ast.walk(ast.parse(source)))
    stores = [n for n in nodes if isinstance(getattr(n, "ctx", None), ast.Store)]
    return (
        {n.id for n in stores if isinstance(n, ast.Name)}
        | {n.attr for n in stores if isinstance(n, ast.Attribute)}
        | {n.arg for n in nodes if isinstance(n, ast.arg)}
        | {n.name for n in nodes if isinstance(n, (ast.FunctionDef, ast.ClassDef))}
    )


def test_a_name_is_a_noun_that_says_what_it_is() -> None:
    snippet = "def made(one):\n    one.known, other = 1, [found for found in one]"
    assert bound(snippet) == NO_NOUNS | {"other"}
    paths = [
        path for name in ("evolve", "benchmarks", "tests") for path in (ROOT / name).rglob("*.py")
    ]
    sources = {path: path.read_text(encoding="utf-8") for path in paths}
    assert {p: bad for p, text in sources.items() if (bad := bound(text) & NO_NOUNS)} == {}


def test_the_citation_names_this_version() -> None:
    version = re.search(r'__version__ = "(.+)"', (EVOLVE / "core/version.py").read_text())
    assert version and f"version: {version[1]}\n" in (ROOT / "CITATION.cff").read_text()


def test_all_words_reach_the_terminal_in_one_place() -> None:
    """By evolve.core.terminal and evolve.core.console: there, foreign escapes are shown."""
    free = {
        "core/terminal.py",
        "core/console.py",
        "cli/show.py",  # a file
        "runs/api.py",  # lines of the command
        "runs/screens/display.py",  # to its own stream, printable
    }
    direct = re.compile(
        r"(?<![\w.])(?<!def )print\(|\becho\(|^\s*from rich\.console import .*\bConsole\b", re.M
    )
    assert free >= {
        path.relative_to(EVOLVE).as_posix()
        for path in EVOLVE.rglob("*.py")
        if direct.search(path.read_text(encoding="utf-8"))
    }
