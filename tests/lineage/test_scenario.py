"""Scenario files: shipped ones load, errors name file, key, value and what is allowed, dump and
load are inverse.
"""

from __future__ import annotations

import sys
from dataclasses import fields, is_dataclass, replace
from pathlib import Path

import pytest

from evolve.core import toml
from evolve.core.errors import UserError
from evolve.core.settings import DataSettings, Settings
from evolve.core.shipped import shipped
from evolve.lineage import scenario

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

SHIPPED = (
    "cifar-dino",
    "cifar-fewshot",
    "cifar-pretrained-resnet",
    "cifar-pretrained-vit",
    "cifar-pretrained",
    "cifar-seq25-resnet",
    "cifar-seq25-vit",
    "cifar-seq25",
    "glyphs-seq25",
    "imagenet-seq25",
    "miniimagenet-dino",
    "miniimagenet-fewshot-resnet",
    "miniimagenet-pretrained-resnet",
    "miniimagenet-pretrained-vit",
    "miniimagenet-pretrained",
    "miniimagenet-seq25-resnet",
    "miniimagenet-seq25",
    "tinyimagenet-fewshot-resnet",
    "tinyimagenet-pretrained-resnet",
    "tinyimagenet-pretrained-vit",
    "tinyimagenet-pretrained",
    "tinyimagenet-seq25-resnet",
    "tinyimagenet-seq25-vit",
    "tinyimagenet-seq25",
)


def test_the_shipped_scenarios() -> None:
    assert tuple(shipped("scenario")) == SHIPPED


@pytest.mark.parametrize("profile", scenario.PROFILES)
@pytest.mark.parametrize("name", SHIPPED)
def test_dump_and_load_are_inverse(name: str, profile: str, tmp_path: Path) -> None:
    settings = scenario.load(name, profile).settings
    copy = tmp_path / "copy.toml"
    copy.write_text(toml.dump(settings, "a header\nof two lines"))
    assert scenario.load(str(copy)).settings == settings
    assert toml.from_dict(toml.to_dict(settings), "run.json") == settings


def test_quick_changes_only_what_it_names() -> None:
    quick, paper = (scenario.load("glyphs-seq25", p).settings for p in ("quick", "paper"))
    table = tomllib.loads(shipped("scenario")["glyphs-seq25"].read_text())["quick"]
    for section in fields(Settings):
        value = getattr(quick, section.name)
        if not is_dataclass(value):
            continue
        for key in fields(value):
            same = getattr(value, key.name) == getattr(getattr(paper, section.name), key.name)
            assert same or key.name in table[section.name]
    assert quick.stream.tasks == 25


def test_paper_values_of_cifar() -> None:
    s = scenario.load("cifar-seq25").settings
    assert (s.stream.tasks, s.stream.classes_per_task, s.ancestor.epochs, s.ancestor.batch) == (
        25,
        5,
        100,
        64,
    )
    assert (s.descend.descendants, s.descend.shots, s.descend.epochs, s.descend.batch) == (
        5,
        500,
        50,
        16,
    )
    assert (s.condense.objective, s.condense.lookahead, s.condense.selection) == (
        "eq16",
        2,
        "threshold",
    )
    assert (s.ancestor.width, s.ancestor.head, s.ancestor.strategy) == (1.0, "shared", "naive")


def test_cifar_split_is_64_16_20_and_disjoint() -> None:
    d = scenario.load("cifar-seq25").settings.data
    parts = [d.ancestor_classes, d.condense_classes, d.descend_classes]
    assert [len(p) for p in parts] == [64, 16, 20]
    assert sorted(i for p in parts for i in p) == list(range(100))


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("ancestor.epochs=0", ["ancestor.epochs", "0", "at least 1"]),
        ("ancestor.epochs=two", ["ancestor.epochs", '"two"', "whole number"]),
        ("ancestor.epochs=true", ["ancestor.epochs", "true", "whole number"]),
        ("ancestor.lr=nan", ["ancestor.lr", "a number"]),
        ("ancestor.lr=inf", ["ancestor.lr", "a number"]),
        ("ancestor.lr.x=1", ["ancestor.lr is no table"]),
        ("ancestor.strategy=dreaming", ["ancestor.strategy", "dreaming", "naive", "replay"]),
        ("ancestor.epoch=3", ["ancestor.epoch", "did you mean ancestor.epochs?"]),
        ("descent.shots=3", ["descent", "allowed here", "descend"]),
        ("descend.shots=0", ["descend.shots", "at least 1"]),
        ("descend.classes_per_task=21", ["descend.classes_per_task", "21", "at most 20"]),
        ("stream.classes_per_task=65", ["stream.classes_per_task", "65", "at most 64"]),
        ("condense.method=fixed --set condense.fixed=[1,14]", ["condense.fixed", "14", "1 to 13"]),
        ("ancestor.augment=['flip']", ["flip", "glyphs"]),
        ("data.split=[64,16]", ["data.split", "three counts"]),
        ("ancestor=3", ["--set", "section.key=value"]),
        ("ancestor.epochs", ["--set", "section.key=value"]),
    ],
)
def test_overrides_are_checked(override: str, words: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        scenario.load("glyphs-seq25", "quick", override.split(" --set "))
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message


def test_entries_of_a_table_add_up() -> None:
    words = [
        "ancestor.strategy=ewc",
        "ancestor.strategy_args.ewc_lambda=10",
        "ancestor.strategy_args.mode=online",
    ]
    given = scenario.load(
        "glyphs-seq25", "quick", [*words, "ancestor.strategy_args.decay_factor=0.5"]
    ).settings
    assert given.ancestor.strategy_args == {"ewc_lambda": 10, "mode": "online", "decay_factor": 0.5}
    whole = scenario.load(
        "glyphs-seq25", "quick", [*words, "ancestor.strategy_args={ewc_lambda=3}"]
    ).settings
    assert whole.ancestor.strategy_args == {"ewc_lambda": 3}


def test_a_file_keeps_the_profile_it_was_resolved_for(tmp_path: Path) -> None:
    quick = scenario.load("glyphs-seq25", "quick")
    (tmp_path / "q.toml").write_text(toml.dump(quick.settings, "", quick.profile))
    again = scenario.load(str(tmp_path / "q.toml"), "paper")
    assert (again.profile, again.settings) == ("quick", quick.settings)


def test_quick_without_quick_tables_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has no \[quick\]"):
        scenario.load(write(tmp_path, "[data]\nsource = 'glyphs'\n"), "quick")


def test_a_file_with_a_byte_order_mark_and_an_odd_name(tmp_path: Path) -> None:
    (tmp_path / "my file.toml").write_bytes(b"\xef\xbb\xbf[ancestor]\nepochs = 3\n")
    settings = scenario.load(str(tmp_path / "my file.toml")).settings
    assert (settings.name, settings.ancestor.epochs) == ("my-file", 3)
    with pytest.raises(UserError, match="name"):
        scenario.load(write(tmp_path, 'name = "../../evil"\n'))
    with pytest.raises(UserError, match="not known"):
        scenario.load("x" * 300)


def test_own_photographs_are_shared_out_where_the_file_does_not_say_how(tmp_path: Path) -> None:
    own = "[data]\nsource = 'imagefolder'\n"
    assert scenario.load(write(tmp_path, own)).settings.data.split == ()
    assert scenario.load(write(tmp_path, own + "split = [5, 2, 5]")).settings.data.split == (
        5,
        2,
        5,
    )
    assert scenario.load(write(tmp_path, "")).settings.data.split == (64, 16, 20)


def write(folder: Path, text: str) -> str:
    file = folder / "mine.toml"
    file.write_text(text)
    return str(file)


def classes(*roles: list[int]) -> str:
    named = zip(("ancestor", "condense", "descend"), roles, strict=True)
    return "[data]\n" + "".join(f"{role}_classes = {ids}\n" for role, ids in named)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[ancestor\n", ["not valid TOML", "line 1"]),
        (
            "[ancestor]\nwidht = 1.0\n",
            ["unknown key ancestor.widht", "did you mean ancestor.width?"],
        ),
        ("[quick.ancestor]\nepochs = -1\n", ["quick.ancestor.epochs", "-1"]),
        ("quick = 3\n", ["quick", "[quick.ancestor]"]),
        ("ancestor = 3\n", ["ancestor = 3", "a table"]),
        ("[data]\nancestor_classes = [1, 2]\n", ["data.condense_classes is empty"]),
        (classes([1, 2, 3, 4, 5], [5, 6], [7, 8, 9, 10, 11]), ["class 5", "share no class"]),
        (classes([1, 1], [5, 6], [7, 8]), ["class 1", "twice"]),
    ],
)
def test_files_are_checked(text: str, words: list[str], tmp_path: Path) -> None:
    name = write(tmp_path, text)
    with pytest.raises(UserError) as caught:
        scenario.load(name)
    assert str(caught.value).startswith(name)
    for word in words:
        assert word in str(caught.value)


def test_unknown_scenario_names_the_near_one() -> None:
    with pytest.raises(UserError, match="did you mean cifar-seq25"):
        scenario.load("cifar-seq52")
    with pytest.raises(UserError, match="no such file"):
        scenario.load("nowhere/mine.toml")


def test_every_setting_has_help() -> None:
    for section in fields(Settings):
        assert section.name in ("name", "title") or all(
            f.metadata.get("help") for f in fields(getattr(Settings(), section.name))
        )


def test_a_user_file_may_be_short(tmp_path: Path) -> None:
    text = "[data]\nsource = 'glyphs'\n" + "".join(
        f"[{room}]\naugment = []\n" for room in ("ancestor", "condense", "descend")
    )
    settings = scenario.load(write(tmp_path, text)).settings
    assert settings.name == "mine"
    assert settings.data == DataSettings(source="glyphs")


def two_sources(tmp_path: Path, lines: str) -> DataSettings:
    path = tmp_path / "two.toml"
    path.write_text(
        f'[data]\nsource = "imagenet"\ndescend_source = "glyphs"\nsplit = [40, 16, 20]\n{lines}\n'
    )
    return scenario.load(str(path)).settings.data


def test_two_sources_have_class_ids_of_their_own(tmp_path: Path) -> None:
    lists = (
        "ancestor_classes = [0, 1, 2, 3, 4]\ncondense_classes = [0, 1]\ndescend_classes = [2, "
        "3, 4, 5, 6]"
    )
    assert two_sources(tmp_path, lists).descend_classes == (2, 3, 4, 5, 6)
    assert two_sources(tmp_path, lists.partition("\n")[2]).ancestor_classes == ()
    with pytest.raises(
        UserError, match="data.descend_classes: class 1 is also in data.condense_classes"
    ):
        two_sources(tmp_path, "condense_classes = [0, 1]\ndescend_classes = [1, 2, 3, 4, 5]")
    with pytest.raises(UserError, match="descend.classes_per_task = 5: at most 2"):
        two_sources(tmp_path, "condense_classes = [0, 1]\ndescend_classes = [2, 3]")


def test_a_room_s_own_source_decides_whether_it_may_flip(tmp_path: Path) -> None:
    assert two_sources(tmp_path, '[ancestor]\naugment = ["flip"]')
    with pytest.raises(UserError, match="descend.augment"):
        two_sources(tmp_path, '[descend]\naugment = ["flip"]')


@pytest.mark.parametrize(
    "text",
    [
        f"ancestor.lr=1{'0' * 400}",
        "condense.args.day=1979-05-27",
        "condense.args.days=[1979-05-27]",
    ],
)
def test_values_that_toml_has_and_a_scenario_has_not(text: str) -> None:
    with pytest.raises(UserError, match="expected"):
        scenario.load("glyphs-seq25", "quick", [text])


@pytest.mark.parametrize("value", ["0", "true", '"x"', "[]", "[0]", "[1.5]", "[1, true]", "{}"])
def test_lengths_to_measure_are_all_a_number_or_a_list(value: str) -> None:
    with pytest.raises(UserError) as caught:
        scenario.load("glyphs-seq25", "quick", [f"stream.measure={value}"])
    text = str(caught.value)
    assert "\n" not in text and "stream.measure = " in text
    assert text.endswith(
        "allowed is one of all, or a number, at least 1 and at most 100,000, or a list of such "
        "numbers"
    )


@pytest.mark.parametrize(("value", "held"), [("all", "all"), ("3", 3), ("[1, 5]", (1, 5))])
def test_lengths_to_measure_survive_being_written_and_read(
    value: str, held: object, tmp_path: Path
) -> None:
    settings = scenario.load("glyphs-seq25", "quick", [f"stream.measure={value}"]).settings
    assert settings.stream.measure == held
    (tmp_path / "mine.toml").write_text(toml.dump(settings))
    assert scenario.load(str(tmp_path / "mine.toml")).settings.stream == settings.stream
    assert toml.from_dict(toml.to_dict(settings), "run.json") == settings


def test_what_differs_from_the_shipped_scenario_is_named() -> None:
    for name in ("glyphs-seq25", "cifar-seq25"):
        for profile in scenario.PROFILES:
            assert scenario.changes(scenario.load(name, profile).settings, profile) == ()
    changed = scenario.load("glyphs-seq25", "quick", ["condense.method=cka", "stream.tasks=4"])
    assert scenario.changes(changed.settings, "quick") == ("stream.tasks=4", "condense.method=cka")
    own = replace(changed.settings, name="mine")
    assert scenario.changes(own, "quick") == ()


def test_a_checkpoint_is_the_same_file_from_everywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/somebody")
    for given, meant in (
        ("dino.pth", tmp_path / "dino.pth"),
        ("../dino.pth", tmp_path.parent / "dino.pth"),
        ("~/dino.pth", Path("/home/somebody/dino.pth")),
        ("/data/dino.pth", Path("/data/dino.pth")),
    ):
        chosen = scenario.load("cifar-dino", overrides=[f"ancestor.checkpoint={given}"])
        assert chosen.settings.ancestor.checkpoint == str(meant)
    (tmp_path / "mine.toml").write_text(toml.dump(chosen.settings))
    assert scenario.load("mine.toml").settings == chosen.settings
