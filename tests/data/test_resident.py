from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from evolve.core.randomness import generator
from evolve.data.resident import Resident
from evolve.data.sources import ImageSet
from evolve.networks.fast.compiled import emit
from evolve.networks.fast.compiled import images as compiled

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)


def image_set(
    count: int = 40, size: int = 8, classes: int = 4, read_only: bool = False
) -> ImageSet:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (count, size, size, 3), dtype=np.uint8)
    pixels.setflags(write=not read_only)
    labels = rng.permutation(np.arange(count, dtype=np.int64) % classes)
    names = tuple(f"class {place}" for place in range(classes))
    return ImageSet(
        "made", pixels.transpose(0, 3, 1, 2), labels, rng.random(count) < 0.3, names, "f", MEAN, STD
    )


def resident(**kwargs: int) -> Resident:
    return Resident(image_set(**kwargs), torch.device("cpu"))


def plainly_normalised(images: ImageSet, index: torch.Tensor) -> torch.Tensor:
    pixels = torch.from_numpy(images.images[index.numpy()].copy()).to(torch.float64) / 255
    return (pixels - torch.tensor(MEAN, dtype=torch.float64).view(1, 3, 1, 1)) / torch.tensor(
        STD, dtype=torch.float64
    ).view(1, 3, 1, 1)


def test_batch_is_the_normalised_images_in_the_order_of_the_index():
    images = image_set()
    index = torch.tensor([7, 0, 7, 39])
    batch = Resident(images, torch.device("cpu")).batch(index)
    assert batch.dtype == torch.float32 and batch.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(batch.double(), plainly_normalised(images, index), rtol=0, atol=2e-6)


def test_an_image_is_the_same_in_any_batch():
    data = resident()
    whole = data.batch(torch.arange(40))
    for place in (0, 17, 39):
        assert torch.equal(data.batch(torch.tensor([place]))[0], whole[place])


def test_indices_partition_the_images_by_class_and_role():
    images = image_set()
    data = Resident(images, torch.device("cpu"))
    seen = []
    for class_id in range(4):
        for test in (False, True):
            index = data.indices(class_id, test)
            assert index.dtype == torch.int64 and torch.equal(index, index.sort().values)
            assert all(
                images.labels[i] == class_id and images.is_test[i] == test for i in index.tolist()
            )
            seen += index.tolist()
    assert sorted(seen) == list(range(40))


def test_changing_the_given_indices_changes_nothing_inside():
    data = resident()
    data.indices(0, False).fill_(-1)
    assert (data.indices(0, False) >= 0).all()


def test_an_unknown_class_is_an_error():
    with pytest.raises(KeyError):
        resident().indices(4, False)


@settings(max_examples=25, deadline=None)
@given(size=st.sampled_from([8, 9, 16, 21]), count=st.integers(1, 12), seed=st.integers(0, 1000))
def test_a_cropped_image_is_some_shift_of_the_padded_one(size: int, count: int, seed: int):
    data = resident(size=size)
    index = torch.randint(0, 40, (count,), generator=generator(seed))
    reach = size // 8
    padded = F.pad(data.batch(index), (reach,) * 4)
    shifts = [(y, x) for y in range(2 * reach + 1) for x in range(2 * reach + 1)]
    for place, image in enumerate(data.batch(index, ("crop",), generator(seed, "a"))):
        assert any(
            torch.equal(image, padded[place, :, y : y + size, x : x + size]) for y, x in shifts
        )


@settings(max_examples=60, deadline=None)
@given(
    size=st.sampled_from([1, 4, 7, 8, 9, 16, 21, 32, 33, 84]),
    count=st.integers(1, 9),
    augment=st.sampled_from([(), ("crop",), ("flip",), ("flip", "crop")]),
    seed=st.integers(0, 1000),
)
def test_the_kernel_makes_the_batches_of_the_plain_operations_bit_for_bit(
    size: int, count: int, augment: tuple[str, ...], seed: int
):
    data = resident(size=size)
    index = torch.randint(0, 40, (2 * count,), generator=generator(seed))[
        ::2
    ]  # not contiguous, and with the outermost images at times
    shift, flip = data.draw(count, augment, generator(seed, "a"))
    batch = data.batch(index, augment, generator(seed, "a"))
    assert torch.equal(batch, data.gather(index, shift, flip)) and batch.is_contiguous(
        memory_format=torch.channels_last
    )


@pytest.mark.parametrize("augment", [(), ("crop", "flip")])
def test_batches_in_a_row_are_those_asked_for_one_by_one(augment: tuple[str, ...]):
    data = resident(size=16)
    indices = list(torch.randint(0, 40, (150, 3), generator=generator(0)))
    one_by_one, draw = generator(1), generator(1)
    for served, index in zip(data.batches(indices, augment, draw), indices, strict=True):
        assert torch.equal(served, data.batch(index, augment, one_by_one))
    assert torch.equal(draw.get_state(), one_by_one.get_state())
    assert list(data.batches([])) == []


@pytest.mark.parametrize("width", [16, 32])
def test_the_kernel_makes_the_same_batches_with_narrower_vectors(
    width: int, monkeypatch: pytest.MonkeyPatch
):
    data = resident(size=16)
    wide = data.batch(torch.arange(40), ("crop", "flip"), generator(1))
    monkeypatch.setattr(emit, "processor", lambda: emit.Processor(width, 16))
    compiled.batch.cache_clear()
    assert torch.equal(wide, data.batch(torch.arange(40), ("crop", "flip"), generator(1)))
    compiled.batch.cache_clear()


@pytest.mark.parametrize("index", [[0, 40], [-1], [39, 41, 2]])
def test_an_image_that_is_not_there_is_an_error(index: list[int]):
    with pytest.raises(IndexError, match="there are 40"):
        resident().batch(torch.tensor(index))


def test_crop_reaches_every_shift_and_flip_about_half():
    data = resident(size=16)
    same = torch.zeros(900, dtype=torch.int64)
    plain = data.batch(same[:1])[0]
    cropped = data.batch(same, ("crop",), generator(1))
    assert len({image.numpy().tobytes() for image in cropped}) == 25
    flipped = data.batch(same, ("flip",), generator(1))
    mirrored = sum(torch.equal(image, plain.flip(2)) for image in flipped)
    assert (
        380 < mirrored < 520
        and mirrored + sum(torch.equal(image, plain) for image in flipped) == 900
    )


def test_crop_and_flip_compose_and_keep_the_memory_format():
    data = resident(size=16)
    index = torch.arange(30)
    both = data.batch(index, ("flip", "crop"), generator(3))
    cropped = data.batch(index, ("crop",), generator(3))
    same = [torch.equal(a, b) for a, b in zip(both, cropped, strict=True)]
    assert (
        all(
            kept or torch.equal(a, b.flip(2))
            for kept, a, b in zip(same, both, cropped, strict=True)
        )
        and 3 < sum(same) < 27
    )
    assert both.is_contiguous(memory_format=torch.channels_last)


def test_augmentation_depends_on_its_generator_alone():
    data = resident()
    state = torch.random.get_rng_state()
    first = data.batch(torch.arange(20), ("crop", "flip"), generator(5))
    torch.manual_seed(99)
    assert torch.equal(first, data.batch(torch.arange(20), ("crop", "flip"), generator(5)))
    assert not torch.equal(first, data.batch(torch.arange(20), ("crop", "flip"), generator(6)))
    torch.random.set_rng_state(state)
    data.batch(torch.arange(20), ("crop", "flip"), generator(5))
    assert torch.equal(state, torch.random.get_rng_state())


def test_the_stored_images_stay_as_they_are():
    data = resident()
    before = data.images.clone()
    data.batch(torch.arange(40), ("crop", "flip"), generator(0)).zero_()
    assert torch.equal(before, data.images)


def test_channels_last_images_are_shared_even_when_read_only():
    images = image_set(read_only=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data = Resident(images, torch.device("cpu"))
    assert data.images.data_ptr() == images.images.__array_interface__["data"][0]
    assert data.images.shape == (40, 3, 8, 8)


def test_images_in_plain_order_give_the_same_batches():
    images = image_set()
    plain = ImageSet(
        "made",
        np.ascontiguousarray(images.images),
        images.labels,
        images.is_test,
        images.class_names,
        "f",
        MEAN,
        STD,
    )
    assert torch.equal(
        Resident(plain, torch.device("cpu")).batch(torch.arange(9)),
        resident().batch(torch.arange(9)),
    )


def test_augmentation_is_refused_without_a_generator_or_by_a_wrong_name():
    with pytest.raises(ValueError, match="generator"):
        resident().batch(torch.arange(3), ("crop",))
    with pytest.raises(ValueError, match="rotate"):
        resident().batch(torch.arange(3), ("rotate",), generator(0))


@pytest.mark.parametrize("augment", [(), ("crop",), ("crop", "flip")])
def test_an_empty_batch_is_a_batch(augment: tuple[str, ...]):
    assert resident().batch(torch.empty(0, dtype=torch.int64), augment, generator(0)).shape == (
        0,
        3,
        8,
        8,
    )
