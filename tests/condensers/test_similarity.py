"""Similarity without a meta-network: the paper's condensation with alpha held at 1, and psi as the
formula reads.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tiny_ancestors import VGG16, VIT, broken, request, resident
from torch import Tensor
from torch.func import functional_call

from evolve.condensers.condense import condense_ancestor
from evolve.condensers.interface import Request
from evolve.condensers.meta_network.frozen import Features
from evolve.condensers.meta_network.layout import Projection
from evolve.condensers.meta_network.matching import psi_reference
from evolve.condensers.meta_network.meta_network import Condensation
from evolve.condensers.similarity import Matching
from evolve.core.errors import UserError
from evolve.networks.architecture import Architecture

BOTH = pytest.mark.parametrize("architecture", [VGG16, VIT], ids=["vgg", "vit"])


def trained(kind: type[Condensation], asked: Request) -> Condensation:
    split = asked.split
    run = kind(asked)
    run.train(split.train, split.train_labels, split.meta_labels, asked.progress)
    return run


def psi_of(run: Condensation, asked: Request, index: Tensor) -> Tensor:
    """Mean psi [L, K] over the images, as one batch, by the formula."""
    images, params = resident().batch(index), run.state.params
    with torch.no_grad():
        ancestor = Features(asked.ancestor(), asked.groups)(images)
        named = dict(zip(run.pseudo.names, params, strict=False))
        descendant = functional_call(run.pseudo.network, named, (images,))
    h = params[len(run.pseudo.names) :]
    if not h:  # tokens: h is the identity
        return torch.stack(
            [
                torch.stack([(z - target).double().square().mean() for z in descendant])
                for target in ancestor
            ]
        )
    return psi_reference(
        ancestor, descendant, [Projection(h[i], h[i + 1]) for i in range(0, len(h), 2)]
    ).mean(0)


@BOTH
@pytest.mark.parametrize("reference", [False, True])
def test_training_is_the_meta_networks_with_one_that_cannot_move(
    architecture: Architecture, reference: bool
) -> None:
    asked = request("similarity", architecture, epochs=2, match_weight=0.1, reference=reference)
    still = replace(asked, c=replace(asked.c, objective="bilevel", meta_lr=0.0))
    ours, theirs = trained(Matching, asked), trained(Condensation, still)
    assert len(ours.state.params) == len(theirs.state.params)
    for actual, expected in zip(ours.state.params, theirs.state.params, strict=True):
        assert torch.equal(actual, expected)


@BOTH
def test_alpha_is_minus_psi_over_all_meta_images(architecture: Architecture) -> None:
    """One batch holds them all, so their order does not matter."""
    asked = request("similarity", architecture, meta_batch=9, match_weight=0.1, lr=0.02)
    done, expected = (
        condense_ancestor(asked),
        psi_of(trained(Matching, asked), asked, asked.split.meta),
    )
    assert len(asked.split.meta) == 9
    assert done.alpha.shape == expected.shape == (len(asked.groups), len(asked.pseudo_groups))
    assert torch.allclose(done.alpha, -expected.double(), rtol=2e-3)
    assert torch.equal(done.scores, done.alpha.max(1).values) and torch.equal(
        done.weights, torch.softmax(done.scores, 0)
    )
    assert done.status == "selected" and done.selected == tuple(
        torch.nonzero(done.weights > 1 / len(asked.groups)).flatten().tolist()
    )
    assert done.history.keys() == {"iteration", "classification", "matching"}


def test_psi_is_taken_in_mixed_batches_of_the_size_that_was_trained_on() -> None:
    """The classes lie one after another; BN's statistics must not be one class's. 9 meta images in
    batches of 4: as 5 and 4.
    """
    asked = request("similarity", meta_batch=4, reference=True)
    run = trained(Matching, asked)
    sizes: list[Tensor] = []
    matching = run.pseudo.matching

    def spy(frozen, x, alpha, params):
        sizes.append(x)
        return matching(frozen, x, alpha, params)

    run.pseudo.matching = spy  # type: ignore[method-assign]
    mean = run.mean_psi()  # type: ignore[attr-defined]
    assert [len(x) for x in sizes] == [5, 4]
    index = asked.split.meta
    places = [
        next(
            i for i in index.tolist() if torch.equal(resident().batch(torch.tensor([i]))[0], image)
        )
        for x in sizes
        for image in x
    ]
    assert sorted(places) == sorted(index.tolist()) and places != sorted(places)
    parts = [
        psi_of(run, asked, torch.tensor(part)) * len(part) for part in (places[:5], places[5:])
    ]
    assert torch.allclose(mean, (sum(parts) / 9).double(), rtol=2e-3)  # type: ignore[union-attr,operator]


def test_same_seed_same_bits_other_seed_other_alpha_and_no_global_draw() -> None:
    before = torch.get_rng_state()
    first, again, other = (
        condense_ancestor(request("similarity", seed=seed)) for seed in (0, 0, 1)
    )
    assert (
        torch.equal(first.alpha, again.alpha)
        and first.history == again.history
        and not torch.equal(first.alpha, other.alpha)
    )
    assert torch.equal(before, torch.get_rng_state())


def test_top_k_and_repeats() -> None:
    done = condense_ancestor(request("similarity", selection="top-k", top_k=3, repeats=2))
    assert (
        len(done.selected) == 3
        and done.selected_by == "top-3, mean alpha of 2 condensations"
        and done.agreement in (0, 0.5, 1)
    )
    assert sorted(done.selected) == sorted(
        done.alpha.max(1).values.argsort(descending=True)[:3].tolist()
    )


@BOTH
def test_divergence_is_named(architecture: Architecture) -> None:
    with pytest.raises(UserError, match=r"ancestor\.lr: .*not finite"):
        condense_ancestor(request("similarity", architecture, weights=broken(architecture)))
    wild = condense_ancestor(request("similarity", architecture, lr=1e30, epochs=2))
    assert (
        wild.status == "collapsed"
        and wild.selected == request("cka", architecture).fallback
        and "condense.lr = 1e+30" in wild.selected_by
    )
