"""Every command and every Python example in the docs is one that evolve takes.

Each `evolve ...` line of a code block is parsed by the real parser, with its scenario, batch, keys
and values; the cheap ones are run. Python examples compile, import what there is, and call it with
arguments that it has.
"""

from __future__ import annotations

import ast
import inspect
import re
import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import click
import commands
import pytest
from markdown_it import MarkdownIt

import evolve
from evolve.cli.main import cli
from evolve.core import registry
from evolve.core.settings import Settings
from evolve.core.toml import override, toml_value
from evolve.lineage import scenario
from evolve.runs.api import Loaded
from evolve.runs.batch import file as batch_file
from evolve.runs.folder import StorePlace

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted(
    [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "benchmarks").rglob("*.md")]
)
YOURS = re.compile(r"[A-Z]+|\w+\.toml")  # SCENARIO, mine.toml: the reader's own
CHEAP = ("evolve scenarios", "evolve show", "evolve plugins", "evolve batch list")


@dataclass(frozen=True)
class Example:
    """A command on a page, or a block of Python or TOML."""

    page: Path
    text: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}: {self.text.splitlines()[0][:60]}"


def blocks(page: Path) -> Iterator[tuple[str, str]]:
    """The code blocks of a page: language, text."""
    for token in MarkdownIt("commonmark").parse(page.read_text(encoding="utf-8")):
        if token.type in ("fence", "code_block"):
            yield token.info, token.content


def examples(language: str) -> list[Example]:
    return [
        Example(page, text) for page in PAGES for info, text in blocks(page) if info == language
    ]


def shell_lines() -> list[Example]:
    """Every command line of evolve in a code block, continued lines joined."""
    return [
        Example(page, line.strip())
        for page in PAGES
        for info, text in blocks(page)
        if info in ("", "sh", "bash", "console")
        for line in text.replace("\\\n", " ").splitlines()
        if re.match(r"\s*(nohup )?evolve [\w-]", line)
    ]


def words(line: str) -> list[str]:
    """The arguments after `evolve`, up to what is the shell's (a comment, `>`, `|`, `&`)."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    line_words = list(lexer)
    ours = line_words[line_words.index("evolve") + 1 :]
    end = next((n for n, word in enumerate(ours) if set(word) <= set("<>|&;()")), len(ours))
    return [word for word in ours[:end] if word != "..."]


def parsed(arguments: list[str]) -> click.Context:
    """What click makes of a command line: the innermost command's context; nothing is run."""
    contexts: list[click.Context] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StorePlace, "convert", lambda self, value, *rest: Path(value))  # no S3 here
        patch.setattr(click.Command, "invoke", lambda self, context: contexts.append(context))
        cli.main(arguments, prog_name="evolve", standalone_mode=False)
    return contexts[-1]


def check(arguments: list[str]) -> click.Context:
    """Parse a command line; load the scenario or batch that it names with all it overrides.

    Raises:
        click.ClickException, UserError: it is not one that evolve takes.
    """
    context = parsed(arguments)
    given = context.params
    name = next(
        (given[key] for key in ("argument", "option", "scenario", "name") if given.get(key)), ""
    )
    profile, overrides = given.get("profile") or "paper", given.get("overrides", ())
    if not name or YOURS.fullmatch(name):
        for text in overrides:
            override(Settings(), text)
    elif context.command_path.startswith("evolve batch"):
        batch_file.load(name, profile, overrides, given["seeds"], given["base"])
    else:
        scenario.load(name, profile, overrides)
    return context


@pytest.fixture
def plugins_of_the_page(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """The entry points that the page's own package declares are there."""
    page = request.getfixturevalue("example").page
    tables = [tomllib.loads(text) for info, text in blocks(page) if info == "toml"]
    points = {
        group: [EntryPoint(name, code, group) for name, code in rows.items()]
        for table in tables
        for group, rows in table.get("project", {}).get("entry-points", {}).items()
    }
    monkeypatch.setattr(registry, "entry_points", lambda group: points.get(group, []))
    registry.plugged.cache_clear()
    yield
    registry.plugged.cache_clear()


@pytest.mark.parametrize("example", shell_lines(), ids=str)
def test_a_command_is_one_that_evolve_takes(example: Example, plugins_of_the_page: None) -> None:
    check(words(example.text))


@pytest.mark.parametrize(
    "line",
    [
        "evolve run glyphs-seq25 --profile fast",
        "evolve run glyphs-seq52 --profile quick",
        "evolve run cifar-seq25 --set ancestor.strategy=ewk",
        "evolve run cifar-seq25 --set ancestor.stratgy=ewc",
        "evolve batch condensors --profile quick",
        "evolve batch condensers --seeds 1",
        "evolve summarise runs/a",
        "evolve inspect gene.safetensors --plugin",
    ],
)
def test_a_wrong_command_would_be_seen(line: str) -> None:
    with pytest.raises((click.ClickException, evolve.core.errors.UserError)):
        check(words(line))


@pytest.mark.parametrize(
    "line",
    sorted(
        {
            " ".join(words(example.text))
            for example in shell_lines()
            if example.text.startswith(CHEAP)
        }
        | {f"{name} --help" for name in cli.commands}
    )
    + [pytest.param("plan glyphs-seq25 --profile quick", marks=pytest.mark.slow)],  # it times steps
)
def test_a_cheap_command_runs(line: str, tmp_path: Path) -> None:
    done = commands.evolve(*shlex.split(line), cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "") and done.stdout


def inline(page: Path) -> list[str]:
    """The commands of evolve in the sentences and tables of a page."""
    tokens = MarkdownIt("commonmark").enable("table").parse(page.read_text(encoding="utf-8"))
    codes = [c.content for t in tokens for c in t.children or () if c.type == "code_inline"]
    return [code for code in codes if re.match(r"evolve [a-z]", code)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_in_the_text_are_there_with_their_options(page: Path) -> None:
    for code in inline(page):
        name, *rest = code.split()[1:]
        command: Any = cli.commands[name]
        if isinstance(command, click.Group) and rest:
            command = command.commands.get(rest[0], command.commands.get("run", command))
        options = {option for parameter in command.params for option in parameter.opts}
        assert {word for word in rest if word.startswith("--")} <= options | {"--help"}, code


@pytest.mark.parametrize("example", examples("python"), ids=str)
def test_python_compiles_imports_and_calls_what_there_is(example: Example) -> None:
    record = re.match(r'\s+"', example.text)  # rows of a table, as docs/extending.md shows
    tree = ast.parse("{" + example.text + "}" if record else example.text)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            assert all(hasattr(import_module(str(node.module)), n.name) for n in node.names)
        elif isinstance(node, ast.Import):
            assert all(import_module(name.name) for name in node.names)
        elif isinstance(node, ast.Call):
            check_call(node)
        elif isinstance(node, ast.Attribute) and dotted(node.value) == "run":
            assert hasattr(Loaded, node.attr) or node.attr in Loaded.__dataclass_fields__


@pytest.mark.parametrize(
    "call",
    [
        "evolve.run('glyphs-seq25', workrs=2)",
        "evolve.run('glyphs-seq25', overrides={'stream.task': 2})",
        "evolve.condense(model, images, methods='cka')",
        "evolve.inherit('gene.safetensors')",
    ],
)
def test_a_wrong_call_would_be_seen(call: str) -> None:
    with pytest.raises((AssertionError, TypeError, evolve.core.errors.UserError)):
        check_call(ast.parse(call, mode="eval").body)


def dotted(node: ast.expr) -> str:
    return ast.unparse(node) if isinstance(node, ast.Name | ast.Attribute) else ""


def check_call(node: ast.Call) -> None:
    """A call of evolve's has arguments that the function takes, and keys that there are."""
    name = dotted(node.func)
    if not name.startswith("evolve."):
        return
    keywords = {keyword.arg: keyword.value for keyword in node.keywords}
    function = inspect.signature(getattr(evolve, name.removeprefix("evolve.")))
    function.bind(*node.args, **keywords)
    if name == "evolve.run":  # whatever else it is given are the command's options
        options = {option for parameter in cli.commands["run"].params for option in parameter.opts}
        assert {f"--{key}" for key in keywords.keys() - function.parameters.keys()} <= options
    for argument, section in (("overrides", ""), ("settings", "condense.")):
        if argument in keywords:
            for key, value in ast.literal_eval(keywords[argument]).items():
                override(Settings(), f"{section}{key}={toml_value(value)}")


def test_the_batch_file_of_the_page_is_one(tmp_path: Path) -> None:
    page = ROOT / "docs/batches.md"
    text = next(text for _, text in blocks(page) if text.startswith("title = "))
    (tmp_path / "mine.toml").write_text(text, encoding="utf-8")
    for profile in ("paper", "quick"):
        assert batch_file.load(str(tmp_path / "mine.toml"), profile).cases
