"""The split into training and meta-data, and the order in which both are served."""

from __future__ import annotations

from itertools import islice

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from evolve.condensers.batches import draw_images, epoch_rows, meta_rows, split_meta
from evolve.core.errors import UserError


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.integers(2, 30), min_size=1, max_size=5), st.floats(0.01, 0.9), st.integers(0, 5)
)
def test_split_is_disjoint_complete_and_stratified(sizes, fraction, seed) -> None:
    starts = [100 * i for i in range(len(sizes))]
    indices = [torch.arange(start, start + size) for start, size in zip(starts, sizes, strict=True)]
    train, train_labels, meta, meta_labels = split_meta(indices, fraction, seed)
    assert sorted(train.tolist() + meta.tolist()) == torch.cat(indices).tolist()
    assert torch.equal(train_labels, train // 100) and torch.equal(meta_labels, meta // 100)
    for label, size in enumerate(sizes):
        count = int((meta_labels == label).sum())
        assert 1 <= count <= size - 1 and abs(count - size * fraction) <= 1
    assert all(
        torch.equal(a, b)
        for a, b in zip(
            split_meta(indices, fraction, seed),
            (train, train_labels, meta, meta_labels),
            strict=True,
        )
    )


def test_split_depends_on_the_seed() -> None:
    indices = [torch.arange(30)]
    assert not torch.equal(split_meta(indices, 0.3, 0)[2], split_meta(indices, 0.3, 1)[2])


def test_a_class_of_one_image_is_refused() -> None:
    with pytest.raises(UserError, match="condense.images_per_class"):
        split_meta([torch.arange(5), torch.arange(1)], 0.5, 0)


def test_drawn_images_are_distinct_and_do_not_depend_on_the_other_classes() -> None:
    indices = [torch.arange(20), torch.arange(50, 70)]
    drawn = draw_images(indices, (7, 3), 8, 0)
    assert [len(set(d.tolist())) for d in drawn] == [8, 8]
    assert torch.equal(draw_images(indices[1:], (3,), 8, 0)[0], drawn[1])
    assert draw_images(indices, (7, 3), 0, 0)[0] is indices[0]
    with pytest.raises(UserError, match="images_per_class = 21: class 7 has 20"):
        draw_images(indices, (7, 3), 21, 0)


def test_an_epoch_reads_no_image_twice_and_epochs_differ() -> None:
    first, second = (torch.cat(list(epoch_rows(23, 5, 0, epoch))) for epoch in (0, 1))
    assert len(first) == 20 and len(set(first.tolist())) == 20
    assert not torch.equal(first, second)
    assert [len(rows) for rows in epoch_rows(3, 5, 0, 0)] == [3]


def test_meta_batches_pass_over_all_meta_data_again_and_again() -> None:
    rows = list(islice(meta_rows(12, 4, 0), 6))
    assert (
        sorted(torch.cat(rows[:3]).tolist())
        == sorted(torch.cat(rows[3:]).tolist())
        == list(range(12))
    )
    assert not torch.equal(torch.cat(rows[:3]), torch.cat(rows[3:]))
