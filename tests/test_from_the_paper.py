"""docs/from-the-paper.md holds what the scenario files hold."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from evolve.core.shipped import shipped
from evolve.core.toml import toml_value
from evolve.lineage import scenario

PAGE = (Path(__file__).parent.parent / "docs/from-the-paper.md").read_text(encoding="utf-8")
ROWS = [
    (name, key, paper, quick)
    for part in PAGE.split("\n## ")
    for name in re.findall(r"^`evolve run ([\w-]+)`", part, re.MULTILINE)
    for key, paper, quick in re.findall(r"\| `(\w+\.\w+)` \| `(.+?)` \| `(.+?)` \|$", part, re.M)
]


@pytest.mark.parametrize(("name", "key", "paper", "quick"), ROWS)
def test_a_row_has_the_scenarios_values(name: str, key: str, paper: str, quick: str) -> None:
    section, field = key.split(".")
    for profile, shown in (("paper", paper), ("quick", quick)):
        settings = getattr(scenario.load(name, profile).settings, section)
        assert toml_value(getattr(settings, field)) == shown, profile


def test_every_row_of_the_settings_tables_is_read() -> None:
    assert {name for name, *_ in ROWS} == {"cifar-seq25", "imagenet-seq25"}
    tables = re.findall(r"^\| .*", PAGE.split("\n## Figures")[0], re.MULTILINE)
    assert len(ROWS) == len(tables) - len(
        re.findall(r"^\|---", PAGE.split("\n## Figures")[0], re.M)
    )


def test_every_value_that_the_quick_profile_changes_stands_there() -> None:
    """Of what the paper speaks of: augmentation, counting and testing are ours."""
    changed = scenario.load("cifar-seq25", "quick").settings
    base = scenario.load("cifar-seq25").settings
    shown = {key for name, key, *_ in ROWS if name == "cifar-seq25"}
    for section in ("stream", "ancestor", "condense", "descend"):
        ours, theirs = getattr(changed, section), getattr(base, section)
        differing = {
            f"{section}.{field}" for field in vars(ours) if vars(ours)[field] != vars(theirs)[field]
        }
        assert differing - shown <= {
            "condense.augment",
            "descend.test_per_class",
            "descend.test_every",
        }


def test_the_split_of_the_scenario_has_the_papers_sizes() -> None:
    data = scenario.load("cifar-seq25").settings.data
    lists = (data.ancestor_classes, data.condense_classes, data.descend_classes)
    assert tuple(map(len, lists)) == data.split == (64, 16, 20)


def test_its_batches_are_shipped_and_its_references_are_defined() -> None:
    named = set(re.findall(r"`evolve batch (?:plan )?([\w-]+)", PAGE))
    assert len(named) > 8 and named <= shipped("batch").keys()
    text, definitions = PAGE.split("\n## Symbols")[0], re.findall(r"^\[(.+?)\]: ", PAGE, re.M)
    used = set(re.findall(r"\[((?:Eq\. |A\.)?\d[\d.]*)\](?!\()", text)) - {"76"}
    assert used == set(definitions)
