"""A batch file: which lineages it means, how they pair, and what is refused before anything
runs.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from evolve.core.errors import UserError
from evolve.report import compare
from evolve.runs.batch import file


def load(folder: Path, text: str, **more):
    path = folder / "b.toml"
    path.write_text(text)
    return file.load(str(path), **more)


GRID = """
scenario = "glyphs-seq25"
seeds = [3, 5]
[set]
stream.tasks = 2
[axes]
condense.method = ["meta-network", "fixed"]
descend.shots = [5, 10, 20]
[[zip]]
ancestor.width = [0.25, 0.5]
ancestor.epochs = [4, 8]
[report]
reference = "fixed"
"""


def test_axes_multiply_and_zipped_ones_move_together(tmp_path):
    batch = load(tmp_path, GRID)
    assert len(batch.cases) == 2 * 3 * 2 * 2
    assert batch.methods == ("meta-network", "fixed") and batch.method == "condense.method"
    both = {
        (c.scenario.settings.ancestor.width, c.scenario.settings.ancestor.epochs)
        for c in batch.cases
    }
    assert both == {(0.25, 4), (0.5, 8)}
    assert all(c.scenario.settings.stream.tasks == 2 for c in batch.cases)
    assert len({c.folder for c in batch.cases}) == len(batch.cases)


def test_a_batch_names_its_picture_and_its_methods(tmp_path):
    named = GRID.replace('"fixed"\n', '"Heur"\nnames = { fixed = "Heur" }\nfigure = "samples"\n')
    batch = load(tmp_path, named)
    assert batch.figure == "samples" and batch.methods == ("meta-network", "Heur")
    assert load(tmp_path, GRID).figure == ""


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('figure = "pie"', r"report.figure = 'pie': allowed are .*samples"),
        ('figure = "heat"', "it shows descend.lr, descend.weight_decay; give"),
        ("names = { fixed = 3 }", "report.names: 3: expected a string"),
    ],
)
def test_a_picture_that_cannot_be_is_refused(tmp_path, line, says):
    with pytest.raises(UserError, match=says):
        load(tmp_path, f"{GRID}{line}\n")


def test_quick_cases_replace_all_others(tmp_path):
    text = 'scenario = "glyphs-seq25"\n' + "".join(
        f'[[{q}case]]\nname = "{n}"\nancestor.epochs = {e}\n'
        for q, n, e in (("", "a", 9), ("", "b", 8), ("quick.", "a", 3))
    )
    epochs = {
        profile: [
            (c.name, c.scenario.settings.ancestor.epochs)
            for c in load(tmp_path, text, profile=profile).cases
        ]
        for profile in ("paper", "quick")
    }
    assert epochs == {"paper": [("a", 9), ("b", 8)], "quick": [("a", 3)]}


def test_another_scenario_takes_the_batchs_place_and_stands_in_its_name(tmp_path):
    batch, own = load(tmp_path, GRID, base="cifar-seq25"), load(tmp_path, GRID)
    assert {c.scenario.settings.name for c in batch.cases} == {"cifar-seq25"} and (
        batch.name,
        own.name,
    ) == ("b-cifar-seq25", "b")
    assert [(c.name, c.seed) for c in batch.cases] == [(c.name, c.seed) for c in own.cases]
    (tmp_path / "mine.toml").write_text('name = "mine"\n[descend]\nshots = 7\n')
    assert load(tmp_path, GRID, base="mine.toml").name == "b-mine", (
        "a file beside the batch's, as there"
    )
    with pytest.raises(
        UserError, match="--scenario cifar-seq25: the cases of .* differ in their scenario"
    ):
        load(
            tmp_path,
            GRID.replace(
                "descend.shots = [5, 10, 20]", 'scenario = ["glyphs-seq25", "cifar-seq25"]'
            ),
            base="cifar-seq25",
        )
    with pytest.raises(UserError, match="no-such"):
        load(tmp_path, GRID, base="no-such")


def test_cases_of_one_pairing_differ_in_the_method_alone(tmp_path):
    batch = load(tmp_path, GRID)
    for case in batch.cases:
        for other in batch.cases:
            alike = {k: v for k, v in case.values.items() if k != "condense.method"} == {
                k: v for k, v in other.values.items() if k != "condense.method"
            }
            assert (case.pairing == other.pairing) == alike


def test_what_moves_with_the_method_does_not_keep_cases_apart(tmp_path):
    batch = load(tmp_path, GRID.replace('reference = "fixed"', 'method = "ancestor.width"'))
    assert {c.method for c in batch.cases} == {"0.25", "0.5"}
    assert not any("ancestor" in part for c in batch.cases for part in c.pairing)


def test_a_listed_case_pairs_by_what_it_resolves_to(tmp_path):
    settings = [
        'condense.method = "fixed"',
        'condense.fixed_set = "front"',
        "descend.shots = 10",
        "ancestor.width = 0.5",
        "ancestor.epochs = 8",
    ]
    listed = "\n".join(["[[case]]", 'name = "front four"', *settings, "[report]"])
    batch = load(tmp_path, GRID.replace("[report]", listed))
    mine = next(c for c in batch.cases if c.method == "front four")
    twins = [
        c
        for c in batch.cases
        if c.pairing == mine.pairing and c.method == "fixed" and c.seed == mine.seed
    ]
    assert len(twins) == 1 and twins[0].values["descend.shots"] == 10


def test_quick_replaces_seeds_and_values(tmp_path):
    text = (
        GRID
        + "[quick]\nseeds = [1]\n[quick.set]\nstream.tasks = 1\n[quick.axes]\ndescend.shots = [5]\n"
    )
    batch = load(tmp_path, text, profile="quick")
    assert len(batch.cases) == 2 * 1 * 2 and {c.seed for c in batch.cases} == {1}
    assert {c.scenario.settings.stream.tasks for c in batch.cases} == {1}
    assert len(load(tmp_path, text).cases) == 24


TWINS = """
scenario = "glyphs-seq25"
[axes]
condense.method = ["random", "cka"]
[[case]]
name = "random"
condense.method = "fixed"
"""


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("seeds = [0]", ["scenario is missing"]),
        (
            GRID.replace("condense.method", "condense.methd"),
            ["condense.methd", "did you mean condense.method"],
        ),
        (GRID.replace('"meta-network"', '"meta"'), ["case", "meta", "meta-network", "fixed"]),
        (GRID.replace("seeds = [3, 5]", "seeds = [3, 3]"), ["seeds", "different whole numbers"]),
        (GRID.replace("[4, 8]", "[4, 8, 9]"), ["equally long", "ancestor.epochs has 3"]),
        (
            GRID.replace('reference = "fixed"', 'reference = "other"'),
            ["report.reference", "'other'", "meta-network, fixed"],
        ),
        (
            GRID.replace('reference = "fixed"', 'refrence = "fixed"'),
            ["report.refrence", "method, reference"],
        ),
        (GRID + "[extra]\n", ["unknown key extra"]),
        (GRID.replace("[5, 10, 20]", "5"), ["axes.descend.shots", "expected a list"]),
        (GRID.replace("[5, 10, 20]", "[5, 5]"), ["would share the folder"]),
        ('scenario = "glyphs-seq25"\n', ["no case"]),
        (
            GRID.replace("seeds = [3, 5]", f"seeds = {list(range(1000))}"),
            ["12,000 lineages", "at most 10,000"],
        ),
        (
            GRID.replace("stream.tasks = 2", "stream.tasks = 0.5"),
            ["stream.tasks", "0.5", "whole number"],
        ),
        (TWINS, ["'random'", "both be the method 'random'", "name them apart"]),
    ],
)
def test_mistakes_are_one_line_that_names_them(tmp_path, text, words):
    with pytest.raises(UserError) as error:
        load(tmp_path, text)
    line = str(error.value)
    assert "\n" not in line and all(word in line for word in words), line


def test_given_seeds_replace_the_files(tmp_path):
    assert {c.seed for c in load(tmp_path, GRID, seeds=[7]).cases} == {7}
    with pytest.raises(UserError, match="different whole numbers"):
        load(tmp_path, GRID, seeds=[7, 7])


def test_a_file_that_is_not_there_names_the_shipped_ones():
    with pytest.raises(UserError, match="no such file"):
        file.load("nowhere.toml")


def test_zipped_methods_of_one_name_are_rows_of_their_own(tmp_path):
    zipped = (
        '[[zip]]\ncondense.method = ["fixed", "fixed", "random"]\ncondense.fixed_set = '
        '["last", "front", "paper"]\n'
    )
    batch = load(tmp_path, 'scenario = "glyphs-seq25"\n' + zipped)
    assert batch.methods == (
        "method fixed, fixed_set last",
        "method fixed, fixed_set front",
        "method random, fixed_set paper",
    )
    assert {c.pairing for c in batch.cases} == {()}
    apart = zipped.replace('"fixed", "fixed"', '"fixed", "cka"')
    assert load(tmp_path, 'scenario = "glyphs-seq25"\n' + apart).methods == (
        "fixed",
        "cka",
        "random",
    )


def test_cases_as_the_method_pair_by_the_seed_alone(tmp_path):
    batch = load(
        tmp_path,
        'scenario = "glyphs-seq25"\nseeds = [0, 1]\n[axes]\ndescend.shots = [5, '
        '10]\n[report]\nmethod = "case"\n',
    )
    assert batch.methods == ("shots 5", "shots 10") and {c.pairing for c in batch.cases} == {()}


def test_scenarios_of_one_name_pair_by_their_files(tmp_path):
    for name, shots in (("one", 5), ("two", 6)):
        (tmp_path / f"{name}.toml").write_text(f'name = "same"\n[descend]\nshots = {shots}\n')
    text = (
        'scenario = "one.toml"\n[axes]\ncondense.method = ["random", "fixed"]\nscenario = '
        '["one.toml", "two.toml"]\n'
    )
    assert {c.pairing for c in load(tmp_path, text).cases} == {
        ('scenario="one.toml"',),
        ('scenario="two.toml"',),
    }


@pytest.mark.parametrize(
    "override",
    ["condense.method=cka", "descend={shots=5}", "ancestor.width=0.5", "condense.fixed_set=last"],
)
def test_what_the_cases_differ_in_cannot_be_overridden(tmp_path, override):
    listed = (
        '[[case]]\nname = "front four"\ncondense.method = "fixed"\ncondense.fixed_set = '
        '"front"\ndescend.shots = 10\nancestor.width = 0.5\nancestor.epochs = 8\n[report]'
    )
    with pytest.raises(UserError, match="the cases of .* differ in"):
        load(tmp_path, GRID.replace("[report]", listed), overrides=[override])
    load(tmp_path, GRID, overrides=["descend.epochs=3"])


def test_a_long_name_is_a_folder_that_every_file_system_holds(tmp_path):
    lists = [list(range(first, first + 60)) for first in (0, 1)]
    text = (
        'scenario = "glyphs-seq25"\n[axes]\ncondense.fixed = '
        f"{[[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13], [2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]]}\n"
    )
    folders = {c.folder for c in load(tmp_path, text).cases}
    assert (
        len(folders) == 2
        and max(map(len, folders)) < 100
        and len({compare.slug(str(numbers)) for numbers in lists}) == 2
    )
