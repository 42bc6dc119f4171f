"""Linear CKA against scikit-learn, and its properties (Kornblith et al. 2019, section 2)."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics.pairwise import linear_kernel
from sklearn.preprocessing import KernelCenterer
from tiny_ancestors import VGG16, VIT, broken, request, resident
from torch import Tensor

from evolve.condensers import cka
from evolve.condensers.batches import evenly
from evolve.condensers.condense import condense_ancestor
from evolve.condensers.meta_network.frozen import Features
from evolve.core.errors import UserError
from evolve.networks.architecture import Architecture


def by_sklearn(x: np.ndarray, y: np.ndarray) -> float:
    """CKA of features [n, p] and [n, q]."""
    a, b = (KernelCenterer().fit_transform(linear_kernel(features)) for features in (x, y))
    return float((a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum()))


def gram(x: Tensor) -> Tensor:
    return (x.double() @ x.double().t())[None]


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    n=st.integers(3, 12),
    p=st.integers(1, 9),
    q=st.integers(1, 9),
    shift=st.floats(-5, 5),
    seed=st.integers(0, 99),
)
def test_it_is_sklearns(n: int, p: int, q: int, shift: float, seed: int) -> None:
    x, y = normal(n, p, seed=seed) + shift, normal(n, q, seed=seed + 1)
    assert float(cka.linear_cka(gram(x), gram(y))) == pytest.approx(
        by_sklearn(x.numpy(), y.numpy()), abs=1e-9
    )


def test_rotations_and_scale_do_not_matter_and_constant_features_resemble_nothing() -> None:
    x, y = normal(10, 4), normal(10, 6, seed=1)
    turned = x @ torch.linalg.qr(normal(4, 4, seed=2)).Q * 7 + 3
    similarity = cka.linear_cka(
        torch.cat([gram(x), gram(turned), gram(torch.full((10, 3), 0.1))]),
        torch.cat([gram(x), gram(y)]),
    )
    assert similarity[0, 0].item() == pytest.approx(1) and similarity[1].tolist() == pytest.approx(
        similarity[0].tolist()
    )
    assert 0 < similarity[0, 1] < 1 and similarity[2].tolist() == [0, 0]


def test_grams_are_those_of_all_features_at_once_whatever_the_chunks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    network, index = Features(request("cka").ancestor(), request("cka").groups), torch.arange(10)
    expected = [
        f.flatten(1).double() @ f.flatten(1).double().t() for f in network(resident().batch(index))
    ]
    for chunk in (128, 4):
        monkeypatch.setattr(cka, "CHUNK", chunk)
        assert torch.allclose(
            cka.grams(network, resident(), index), torch.stack(expected), rtol=1e-5
        )


@pytest.mark.parametrize("architecture", [VGG16, VIT], ids=["vgg", "vit"])
def test_alpha_is_sklearns_cka_of_the_ancestor_and_the_trained_pseudo_descendant(
    architecture: Architecture,
) -> None:
    asked = request("cka", architecture, epochs=3)
    done = condense_ancestor(asked)
    pseudo = asked.pseudo()
    losses = cka.train(pseudo, asked)
    images = resident().batch(asked.split.meta)
    with torch.no_grad():
        ours = Features(asked.ancestor(), asked.groups)(images)
        theirs = Features(pseudo.eval(), asked.pseudo_groups)(images)
    expected = [
        [by_sklearn(a.flatten(1).double().numpy(), b.flatten(1).double().numpy()) for b in theirs]
        for a in ours
    ]
    assert torch.allclose(done.alpha, torch.tensor(expected, dtype=torch.float64), atol=1e-6)
    assert torch.equal(done.scores, done.alpha.max(1).values) and done.history == {
        "classification": losses
    }
    assert torch.equal(done.weights, torch.softmax(done.scores, 0))
    kept = tuple(torch.nonzero(done.weights > 1 / len(ours)).flatten().tolist())
    assert done.status == "selected" and done.selected == kept


def test_the_pseudo_descendant_learns_and_reads_training_images_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    read: set[int] = set()
    asked = request("cka", epochs=12)
    batch = type(resident()).batch

    def spy(self, index, *rest):
        read.update(index.tolist())
        return batch(self, index, *rest)

    monkeypatch.setattr(type(resident()), "batch", spy)
    before = torch.get_rng_state()
    losses = cka.train(asked.pseudo(), asked)
    assert losses[-1] < 0.8 * losses[0] and torch.equal(before, torch.get_rng_state())
    assert read <= set(asked.split.train.tolist())
    read.clear()
    condense_ancestor(request("cka"))
    assert read == set(asked.split.train.tolist()) | set(asked.split.meta.tolist()) and not any(
        i % 10 == 9 for i in read
    )


def test_same_seed_same_bits_and_repeats_are_other_pseudo_descendants() -> None:
    single, again, three = (condense_ancestor(request("cka", repeats=n)) for n in (1, 1, 3))
    assert torch.equal(single.alpha, again.alpha)
    assert (
        len(three.repeats) == 3
        and three.repeats[0] == single.selected
        and not torch.equal(three.alpha, single.alpha)
    )
    assert three.selected_by.startswith("threshold (Eq. 10), mean") and three.agreement in (
        0,
        1 / 3,
        2 / 3,
        1,
    )


def test_only_so_many_images_evenly_over_the_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    assert evenly(torch.arange(10), 20).tolist() == list(range(10))
    chosen = evenly(torch.arange(300), 64)
    assert len(chosen.unique()) == 64 and torch.bincount(chosen // 100).tolist() == [22, 21, 21]
    monkeypatch.setattr(cka, "IMAGES", 6)
    seen: list[int] = []
    grams = cka.grams
    monkeypatch.setattr(
        cka,
        "grams",
        lambda network, images, index: seen.append(len(index)) or grams(network, images, index),
    )
    condense_ancestor(request("cka"))
    assert seen == [6, 6]


@pytest.mark.parametrize("architecture", [VGG16, VIT], ids=["vgg", "vit"])
def test_divergence_is_named(architecture: Architecture) -> None:
    with pytest.raises(UserError, match=r"ancestor\.lr: .*features.*not finite"):
        condense_ancestor(request("cka", architecture, weights=broken(architecture)))
    wild = condense_ancestor(request("cka", architecture, lr=1e30, epochs=2))
    assert (
        wild.status == "collapsed"
        and wild.selected == request("cka", architecture).fallback
        and "condense.lr = 1e+30" in wild.selected_by
    )


def test_the_plain_path_trains_alike() -> None:
    fast, plain = (
        condense_ancestor(request("cka", reference=reference)) for reference in (False, True)
    )
    assert torch.allclose(fast.alpha, plain.alpha, atol=1e-3) and not torch.equal(
        fast.alpha, plain.alpha
    )
