"""The null test: what the condenser chooses of features that mean nothing, beside what it chooses
of the ancestor's.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tiny_ancestors import request, state

from evolve.condensers import null
from evolve.condensers.condense import condense_ancestor
from evolve.condensers.interface import Request
from evolve.condensers.meta_network.meta_network import Condensation
from evolve.condensers.null import KINDS, null_test, overlap
from evolve.core.errors import UserError

ASKED = {"epochs": 2, "meta_lr": 0.03}


def test_every_kind_is_condensed_and_compared_with_the_true_choice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[Request] = []

    def spy(req: Request):
        asked.append(req)
        return condense_ancestor(req)

    monkeypatch.setattr(null, "condense_ancestor", spy)
    true, rows = null_test(request("meta-network", **ASKED), 2)
    assert [(row.kind, row.count) for row in rows] == [(kind, 2) for kind in KINDS] and len(
        asked
    ) == 7
    alone = condense_ancestor(request("meta-network", **ASKED))
    assert torch.equal(true.alpha, alone.alpha) and true.selected == alone.selected
    assert all(torch.equal(req.split.meta, asked[0].split.meta) for req in asked), "the same split"
    assert [req.wrong_images is not None for req in asked] == [False] * 3 + [True] * 2 + [False] * 2
    assert all(
        torch.equal(req.state["layers.conv1.conv.weight"], state()["layers.conv1.conv.weight"])
        for req in asked[:5]
    )
    assert not any(
        torch.equal(req.state["layers.conv1.conv.weight"], state()["layers.conv1.conv.weight"])
        for req in asked[5:]
    )
    for row in rows:
        assert (
            0 <= row.same <= row.decided <= row.count
            and row.moved > 0
            and (row.decided == 0 or 0 < row.overlap <= 1)
        )


@pytest.mark.parametrize("augment", [("crop",), ()])
def test_wrong_images_hand_every_image_the_features_of_another(augment: tuple[str, ...]) -> None:
    """All features stay what they are; only whose they are changes."""
    asked = request("meta-network", augment=augment, **ASKED)
    right, wrong = Condensation(asked), Condensation(replace(asked, wrong_images=3))
    rows = torch.arange(9)
    true, handed = right.ancestor.of_rows(rows).pooled, wrong.ancestor.of_rows(rows).pooled
    assert not torch.equal(true, handed)
    order = [int((true - row).abs().sum(1).argmin()) for row in handed]
    assert sorted(order) == list(range(9)) and torch.allclose(true[order], handed)
    alphas = [condense_ancestor(replace(asked, wrong_images=seed)).alpha for seed in (3, 3, 4)]
    assert torch.equal(alphas[0], alphas[1]) and not torch.equal(alphas[0], alphas[2])
    assert not torch.equal(alphas[0], condense_ancestor(asked).alpha)


def test_overlap_is_jaccards() -> None:
    assert [overlap((0, 1), (1, 2)), overlap((3,), (3,)), overlap((0,), (1, 2))] == [
        1 / 3,
        1.0,
        0.0,
    ]


def test_a_method_that_compares_no_features_is_refused() -> None:
    with pytest.raises(
        UserError, match=r"--null: condense.method = 'cka'.*meta-network, similarity"
    ):
        null_test(request("cka"), 1)
