"""A lineage whose descendants learn from another source than the ancestor."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from evolve.core.errors import UserError
from evolve.core.randomness import generator
from evolve.core.settings import DataSettings, StreamSettings
from evolve.data import resident as resident_module
from evolve.data.resident import Resident
from evolve.data.sources import ImageSet, load_images
from evolve.data.splits import make_splits
from evolve.data.streams import stream_tasks

DATA = DataSettings(
    source="imagenet",
    descend_source="glyphs",
    size=8,
    split=(3, 16, 20),
    glyph_train=3,
    glyph_test=2,
)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, photo: Callable[..., Path]) -> Path:
    """--data: a folder "imagenet" of four classes of five training and two test photos."""
    root = tmp_path_factory.mktemp("data")
    for place in range(4):
        for number in range(7):
            photo(
                root
                / "imagenet"
                / ("train" if number < 5 else "val")
                / f"n{place}"
                / f"{number}.JPEG",
                10 * place + number,
            )
    return root


@pytest.fixture(scope="module")
def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def both(folder: Path, cache_dir: Path) -> ImageSet:
    return load_images(DATA, folder, cache_dir)


def test_the_second_source_s_images_and_classes_come_behind_the_first_s(
    both: ImageSet, folder: Path, cache_dir: Path
):
    first = load_images(replace(DATA, descend_source="same"), folder, cache_dir)
    second = load_images(replace(DATA, source="glyphs", descend_source="same"), folder, cache_dir)
    assert np.array_equal(both.images, first.images) and np.array_equal(both.more[0], second.images)
    assert both.labels.tolist() == [*first.labels.tolist(), *(second.labels + 4).tolist()]
    assert both.is_test.tolist() == [*first.is_test.tolist(), *second.is_test.tolist()]
    assert (
        both.class_names == first.class_names + second.class_names
        and both.name == "imagenet+glyphs"
    )
    assert (both.mean, both.std) == (first.mean, first.std) != (second.mean, second.std)
    assert [both.own_id(i) for i in (0, 3, 4, 103)] == [0, 3, 0, 99]


def test_the_same_source_by_name_is_one_source(folder: Path, cache_dir: Path):
    named, same = (
        load_images(replace(DATA, descend_source=name), folder, cache_dir)
        for name in ("imagenet", "same")
    )
    assert named.fingerprint == same.fingerprint and named.more == ()


def test_the_fingerprint_sees_both_sources_and_their_order(
    both: ImageSet, folder: Path, cache_dir: Path
):
    variants = [
        DATA,
        replace(DATA, descend_source="same"),
        replace(DATA, glyph_seed=1),
        replace(DATA, images_per_class=4),
        replace(DATA, holdout=1),
        replace(DATA, source="glyphs", descend_source="imagenet"),
    ]
    assert len({load_images(data, folder, cache_dir).fingerprint for data in variants}) == len(
        variants
    )


def test_images_per_class_of_the_ancestor_s_source_spares_the_other(folder: Path, cache_dir: Path):
    image_set = load_images(replace(DATA, images_per_class=2), folder, cache_dir)
    train = np.bincount(image_set.labels[~image_set.is_test])
    assert train.tolist() == [2] * 4 + [3] * 100


def test_roles_are_drawn_from_their_own_sources(both: ImageSet):
    splits = make_splits(DATA, both)
    assert len(splits.ancestor) == 3 and set(splits.ancestor) < set(range(4))
    others = (*splits.condense, *splits.descend)
    assert len(others) == len(set(others)) == 36 and min(others) >= 4 and max(others) < 104


def test_listed_classes_are_each_source_s_own_ids(both: ImageSet):
    splits = make_splits(
        replace(DATA, ancestor_classes=(0, 1), condense_classes=(0, 1, 99), descend_classes=(2, 3)),
        both,
    )
    assert (splits.ancestor, splits.condense, splits.descend) == ((0, 1), (4, 5, 103), (6, 7))
    partly = make_splits(
        replace(DATA, split=(4, 1, 1), condense_classes=(0, 1), descend_classes=(2, 3)), both
    )
    assert partly.ancestor == (0, 1, 2, 3)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (
            {"ancestor_classes": (4,)},
            ["data.ancestor_classes: no class 4; imagenet has 4 classes, ids 0 to 3"],
        ),
        (
            {"descend_classes": (100,)},
            ["data.descend_classes: no class 100; glyphs has 100 classes, ids 0 to 99"],
        ),
        (
            {"condense_classes": (7,), "descend_classes": (1, 7)},
            ["data.descend_classes: class 7 (latin capital letter h) is listed in data.condense"],
        ),
        ({"split": (5, 16, 20)}, ["ancestor 5", "imagenet has 4"]),
        ({"split": (4, 60, 60)}, ["condense 60, descend 60", "glyphs has 100"]),
    ],
)
def test_errors_name_what_the_user_wrote(
    given: dict[str, object], words: list[str], both: ImageSet
):
    with pytest.raises(UserError) as caught:
        make_splits(replace(DATA, **given), both)  # type: ignore[arg-type]
    assert all(word in str(caught.value) for word in words) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("key", "role"), [("condense_classes", "condense"), ("descend_classes", "descend")]
)
def test_a_class_that_both_sources_hold_has_one_role(key: str, role: str, both: ImageSet):
    """imagenet, miniimagenet and tinyimagenet hold the same photographs under the same names."""
    names = list(both.class_names)
    names[4 + 9], names[4 + 50] = "n1", "n3"
    shared = replace(both, class_names=tuple(names))
    listed = replace(DATA, ancestor_classes=(0, 1), condense_classes=(0,), descend_classes=(1, 50))
    assert make_splits(listed, shared).ancestor == (0, 1)  # n3 is no ancestor's class
    with pytest.raises(UserError) as caught:
        make_splits(replace(listed, **{key: (9, 20)}), shared)  # type: ignore[arg-type]
    words = (
        "class n1 ",
        "class 1 of imagenet",
        f"{role} (class 9 of glyphs)",
        "data.ancestor_classes",
    )
    assert all(word in str(caught.value) for word in words) and "\n" not in str(caught.value)


@pytest.mark.parametrize("listed", [(), (0, 1, 2)])
def test_classes_of_one_name_are_not_drawn_for_two_roles(listed: tuple[int, ...], both: ImageSet):
    shared = replace(
        both, class_names=both.class_names[:4] + both.class_names[:4] + both.class_names[8:]
    )
    data = replace(DATA, split=(3, 50, 47), ancestor_classes=listed)
    splits = make_splits(data, shared)
    assert len(splits.condense) == 50 and len(splits.descend) == 47
    learned = {shared.class_names[class_id] for class_id in splits.ancestor}
    assert not learned & {shared.class_names[i] for i in (*splits.condense, *splits.descend)}
    with pytest.raises(UserError, match="glyphs has 97 to draw from"):
        make_splits(replace(data, split=(3, 50, 48)), shared)


def test_the_ancestor_s_are_not_drawn_from_names_that_are_listed_in_the_other(both: ImageSet):
    names = (*both.class_names[:4], both.class_names[0], *both.class_names[5:])
    shared = replace(both, class_names=names)
    assert make_splits(replace(DATA, descend_classes=(0,)), shared).ancestor == (1, 2, 3)


def test_what_shares_no_name_is_drawn_as_before(both: ImageSet):
    names = (*both.class_names[:4], both.class_names[0], *both.class_names[5:])
    data = replace(DATA, split=(3, 5, 5), ancestor_classes=(1, 2, 3))
    assert make_splits(data, replace(both, class_names=names)) == make_splits(data, both)


def test_a_split_that_the_second_source_brings_is_used_with_its_offset(both: ImageSet):
    split = {"condense": [5, 6], "descend": [7, 8, 9]}
    splits = make_splits(replace(DATA, split=(4, 2, 3)), replace(both, roles=split))
    assert (splits.ancestor, splits.condense, splits.descend) == ((0, 1, 2, 3), (5, 6), (7, 8, 9))


@pytest.mark.parametrize("augment", [(), ("crop",), ("crop", "flip")])
def test_batches_equal_those_of_one_joined_array_bit_for_bit(
    augment: tuple[str, ...], both: ImageSet
):
    joined = replace(both, images=np.concatenate([both.images, both.more[0]]), more=())
    pieces, whole = Resident(both, CPU), Resident(joined, CPU)
    assert whole.held and not pieces.held
    mixed = torch.randint(0, len(both.labels), (50,), generator=generator(0))
    for index in (
        mixed,
        torch.arange(5),
        torch.tensor([27, 28]),
        torch.arange(40, 45),
        torch.arange(0),
    ):
        drawn = [data.batch(index, augment, generator(1)) for data in (pieces, whole)]
        assert torch.equal(*drawn) and drawn[0].is_contiguous(memory_format=torch.channels_last)
        shift, flip = whole.draw(len(index), augment, generator(1))
        assert torch.equal(pieces.gather(index, shift, flip), drawn[0])


def test_images_that_do_not_fit_give_the_batches_of_those_that_do(
    both: ImageSet, monkeypatch: pytest.MonkeyPatch
):
    image_set = replace(both, more=(), labels=both.labels[:28], is_test=both.is_test[:28])
    fitting = Resident(image_set, CPU)
    monkeypatch.setattr(resident_module, "_held", lambda pieces, device: False)
    travelling = Resident(image_set, CPU)
    assert fitting.held and not travelling.held and len(travelling.images) == 0
    index = torch.randint(0, 28, (40,), generator=generator(2))
    assert torch.equal(
        *(data.batch(index, ("crop", "flip"), generator(3)) for data in (fitting, travelling))
    )


def test_a_gpu_holds_what_takes_a_fixed_share_of_all_its_memory(
    both: ImageSet, monkeypatch: pytest.MonkeyPatch
):
    pieces = Resident(both, CPU).pieces
    size = sum(piece.numel() for piece in pieces)
    for memory, held in ((4 * size, True), (4 * size - 1, False)):
        monkeypatch.setattr(resident_module, "device_bytes", lambda device, memory=memory: memory)
        assert resident_module._held(pieces, torch.device("cuda")) is held
    whole = resident_module._whole(pieces, CPU)
    assert whole.is_contiguous(memory_format=torch.channels_last)
    assert np.array_equal(whole.numpy(), np.concatenate([both.images, both.more[0]]))


def test_the_stream_comes_from_the_first_source(both: ImageSet):
    data, splits = Resident(both, CPU), make_splits(replace(DATA, split=(4, 16, 20)), both)
    for task in stream_tasks(StreamSettings(classes_per_task=3), splits.ancestor, data, 0, 5):
        assert both.labels[task.train.numpy()].max() < 4
