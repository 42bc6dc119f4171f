"""README is true where a program can tell: files it names exist, nothing is left to fill in, its
commands parse.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere_and_nothing_is_left_to_fill_in(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", text):
        assert (page.parent / target).exists(), target
    prose = re.sub(
        r"```.*?```|EVOLVE_(STORE|CACHE|FUZZ)|OMP_PLACES|KMP_AFFINITY|WANDB_(MODE|PROJECT)",
        "",
        text,
        flags=re.DOTALL,
    )
    assert not re.findall(r"\b[A-Z]{3,}_[A-Z]{3,}\b", prose)


@pytest.mark.parametrize("page", ["README.md", "docs/running.md", "docs/scenarios.md"])
def test_every_option_the_page_names_exists(page: str) -> None:
    from evolve.cli.main import cli

    options = {
        name
        for command in cli.commands.values()
        for option in command.params
        for name in option.opts
    }
    named = set(re.findall(r"(?<![\w-])--[a-z]+", (ROOT / page).read_text(encoding="utf-8")))
    assert named - options <= {"--logdir"}


def test_a_newcomer_reads_it_in_one_go_and_finds_every_page() -> None:
    """README stays short, and no page of docs/ can only be found by listing the folder."""
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 125
    linked, queue = set(), [ROOT / "README.md"]
    while queue:
        page = queue.pop()
        for target in re.findall(r"\]\((?!https?:)([^)#]+\.md)", page.read_text(encoding="utf-8")):
            there = (page.parent / target).resolve()
            if there not in linked:
                linked.add(there)
                queue.append(there)
    assert {path.resolve() for path in (ROOT / "docs").rglob("*.md")} <= linked


def test_every_page_stands_in_the_sites_navigation() -> None:
    """Else `make docs` would end, but only in CI."""
    navigation = (ROOT / "docs/site/mkdocs.yml").read_text(encoding="utf-8").split("\nnav:")[1]
    listed = set(re.findall(r"- (\S+\.md)$", navigation, re.MULTILINE))
    pages = {path.relative_to(ROOT).as_posix() for path in PAGES}
    assert listed == pages | {"benchmarks/README.md"}
