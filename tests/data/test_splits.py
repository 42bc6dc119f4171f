from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evolve.core.errors import UserError
from evolve.core.settings import DataSettings
from evolve.data.shares import ROLES, shared_out
from evolve.data.sources import ImageSet
from evolve.data.splits import CIFAR_FS, make_splits


def images(classes: int = 100) -> ImageSet:
    empty = np.zeros(0, np.int64)
    names = tuple(f"name{place}" for place in range(classes))
    return ImageSet(
        "made",
        np.zeros((0, 3, 8, 8), np.uint8),
        empty,
        empty.astype(bool),
        names,
        "f",
        (0, 0, 0),
        (1, 1, 1),
    )


def settings(**kwargs: object) -> DataSettings:
    return replace(DataSettings(), **kwargs)  # type: ignore[arg-type]


def test_cifar_fs_is_a_64_16_20_partition_of_the_100_classes():
    assert [len(CIFAR_FS[role]) for role in ("ancestor", "condense", "descend")] == [64, 16, 20]
    assert sorted(sum(CIFAR_FS.values(), ())) == list(range(100))


def test_listed_classes_are_taken_as_listed():
    data = settings(
        ancestor_classes=CIFAR_FS["ancestor"],
        condense_classes=CIFAR_FS["condense"],
        descend_classes=CIFAR_FS["descend"],
        split=(1, 1, 1),
    )
    splits = make_splits(data, images())
    assert (splits.ancestor, splits.condense, splits.descend) == tuple(CIFAR_FS.values())


@given(
    st.tuples(st.integers(1, 40), st.integers(1, 30), st.integers(1, 30)), st.integers(0, 10_000)
)
def test_drawn_roles_have_the_asked_sizes_and_share_no_class(
    split: tuple[int, int, int], seed: int
):
    splits = make_splits(settings(split=split, split_seed=seed), images())
    roles = (splits.ancestor, splits.condense, splits.descend)
    assert tuple(map(len, roles)) == split
    assert len(set().union(*roles)) == sum(split)
    assert all(list(role) == sorted(role) and 0 <= role[0] and role[-1] < 100 for role in roles)


def test_the_draw_depends_on_the_split_seed_alone():
    first, again, other = (
        make_splits(settings(split_seed=seed, glyph_seed=glyphs), images())
        for seed, glyphs in ((0, 0), (0, 7), (1, 0))
    )
    assert first == again and first != other


def test_a_role_that_is_not_listed_is_drawn_from_the_classes_left():
    splits = make_splits(settings(descend_classes=(3, 1), split=(5, 2, 99)), images(9))
    assert splits.descend == (1, 3)
    assert set(splits.ancestor) | set(splits.condense) | {1, 3} == set(range(9))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (
            {"ancestor_classes": (1, 2), "descend_classes": (5, 2)},
            ["data.descend_classes", "class 2", "name2", "data.ancestor_classes"],
        ),
        ({"condense_classes": (4, 4)}, ["data.condense_classes", "class 4", "twice"]),
        ({"ancestor_classes": (1, 100)}, ["data.ancestor_classes", "100", "0 to 99"]),
        ({"ancestor_classes": (-1,)}, ["data.ancestor_classes", "-1", "0 to 99"]),
        ({"split": (64, 16, 21)}, ["data.split", "101", "100"]),
        ({"split": (64, 16)}, ["data.split", "three"]),
        ({"split": (101, 1, 1)}, ["asks for 103 classes", "100 to draw from", "data.split = []"]),
    ],
)
def test_errors_name_the_key_and_the_class_in_one_line(given: dict[str, object], words: list[str]):
    with pytest.raises(UserError) as caught:
        make_splits(settings(**given), images())
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)


NEEDS = {"ancestor": (5, "stream.classes_per_task"), "descend": (3, "descend.classes_per_task")}


@given(st.integers(10, 1000))
def test_an_empty_split_shares_all_classes_out_and_gives_each_role_what_it_needs(classes: int):
    counts = shared_out(classes, ROLES, NEEDS)
    assert sum(counts.values()) == classes and tuple(counts) == ROLES
    assert all(counts[role] >= NEEDS.get(role, (2,))[0] for role in ROLES)
    if classes >= 50:
        near = {"ancestor": 0.64, "condense": 0.16, "descend": 0.2}
        assert all(abs(counts[role] - near[role] * classes) <= 3 for role in ROLES)


def test_an_empty_split_of_100_classes_is_the_paper_s():
    assert tuple(shared_out(100, ROLES, NEEDS).values()) == (64, 16, 20)
    assert make_splits(settings(split=()), images()) == make_splits(settings(), images())


def test_too_few_classes_to_share_out_are_refused_with_what_asks_for_them():
    assert tuple(shared_out(10, ROLES, NEEDS).values()) == (5, 2, 3)
    with pytest.raises(UserError) as caught:
        make_splits(settings(split=()), images(9), NEEDS)
    assert str(caught.value) == (
        "made has 9 classes, and 10 are needed at least: ancestor 5 (stream.classes_per_task), "
        "condense 2, descend 3 (descend.classes_per_task); add classes or lower "
        "stream.classes_per_task or descend.classes_per_task"
    )
