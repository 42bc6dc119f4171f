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
        r"```.*?```|EVOLVE_(STORE|CACHE)|OMP_PLACES|KMP_AFFINITY", "", text, flags=re.DOTALL
    )
    assert not re.findall(r"\b[A-Z]{3,}_[A-Z]{3,}\b", prose)


def test_every_option_the_readme_names_exists() -> None:
    from evolve.cli.main import cli

    options = {
        name
        for command in cli.commands.values()
        for option in command.params
        for name in option.opts
    }
    named = set(re.findall(r"(?<![\w-])--[a-z]+", (ROOT / "README.md").read_text(encoding="utf-8")))
    assert named - options <= {"--logdir", "--dist"}
