"""Inherit: what comes from the learngene, what is fresh, and that nothing is shared."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from vgg_units import PAPER, PARTS

from evolve.core.randomness import generator
from evolve.learngene.inheritance import inherit
from evolve.learngene.learngene import Learngene, extract, shuffled
from evolve.networks.vgg import VGG, initialise
from evolve.networks.vgg_plan import (
    layer_names,
    plan_from_json,
    plan_to_json,
    stack_plan,
    vgg16_plan,
)

PLAN = vgg16_plan(1 / 32)


def trained_ancestor(seed: int = 1) -> VGG:
    """An ancestor with statistics of its own, as after some steps of training."""
    model = VGG(PLAN, 5)
    initialise(model, seed, "ancestor")
    draw = generator(seed, "images")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    for _ in range(2):
        optimizer.zero_grad()
        F.cross_entropy(
            model(torch.randn(8, 3, 16, 16, generator=draw)), torch.arange(8) % 5
        ).backward()
        optimizer.step()
    return model


def snapshot(model: VGG) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(
        torch.equal(first[name], second[name]) for name in first
    )


def is_inherited(plan, name: str) -> bool:
    return any(name.startswith(f"layers.{s.name}.") for block in plan for s in block if s.inherits)


ANCESTOR = trained_ancestor()


@given(st.sets(st.sampled_from(layer_names(PLAN))))
@settings(max_examples=15, deadline=None)
def test_any_set_gives_a_descendant_that_trains_and_shares_nothing(selected):
    ancestor = ANCESTOR
    before = snapshot(ancestor)
    learngene = extract(ancestor.state_dict(), PLAN, selected)
    gene_before = {
        (n, p): t.clone() for n, parts in learngene.layers.items() for p, t in parts.items()
    }
    plan = plan_from_json(plan_to_json(stack_plan(PLAN, selected)))
    first, second = inherit(plan, learngene, 4, 9, 0), inherit(plan, learngene, 4, 9, 1)
    for name in selected:
        for part in PARTS:
            for model in (first, second):
                assert torch.equal(
                    model.state_dict()[f"layers.{name}.{part}"], before[f"layers.{name}.{part}"]
                )
    untouched = snapshot(second)
    assert all(p.requires_grad for p in first.parameters())
    optimizer = torch.optim.SGD(first.parameters(), lr=0.1)
    images = torch.randn(6, 3, 16, 16, generator=generator(9, "images"))
    F.cross_entropy(first(images), torch.arange(6) % 4).backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in first.parameters())
    optimizer.step()
    start = snapshot(inherit(plan, learngene, 4, 9, 0))
    changed = [name for name, p in first.named_parameters() if not torch.equal(p, start[name])]
    assert "head.weight" in changed and any(is_inherited(plan, name) for name in changed) == bool(
        selected
    )
    assert same(snapshot(ancestor), before) and same(snapshot(second), untouched)
    assert all(torch.equal(learngene.layers[n][p], t) for (n, p), t in gene_before.items())


def test_methods_differ_in_the_inherited_layers_alone():
    plan = stack_plan(PLAN, PAPER)
    gene = extract(ANCESTOR.state_dict(), PLAN, PAPER)
    models = {
        "inherited": inherit(plan, gene, 5, 3, 2),
        "shuffled": inherit(plan, shuffled(gene, 3, "s"), 5, 3, 2),
    }
    scratch = snapshot(inherit(plan, None, 5, 3, 2))
    for model in models.values():
        for name, tensor in model.state_dict().items():
            if not is_inherited(plan, name):
                assert torch.equal(tensor, scratch[name]), name
        for name in PAPER:
            assert not torch.equal(
                model.state_dict()[f"layers.{name}.conv.weight"],
                scratch[f"layers.{name}.conv.weight"],
            )
    mixed, whole = (snapshot(models[m]) for m in ("shuffled", "inherited"))
    assert not torch.equal(mixed["layers.conv11.conv.weight"], whole["layers.conv11.conv.weight"])


def test_fresh_layers_are_the_same_in_every_generation_whatever_it_selected():
    early = inherit(stack_plan(PLAN, PAPER), extract(ANCESTOR.state_dict(), PLAN, PAPER), 5, 3, 0)
    later_set = ("conv2", "conv8", "conv13")
    later = inherit(
        stack_plan(PLAN, later_set),
        extract(trained_ancestor(2).state_dict(), PLAN, later_set),
        5,
        3,
        0,
    )
    for name in (
        "layers.block2_entry.conv.weight",
        "layers.block3_entry.conv.weight",
        "head.weight",
    ):
        assert torch.equal(early.state_dict()[name], later.state_dict()[name])


def test_descendants_and_seeds_have_draws_of_their_own():
    plan = stack_plan(PLAN, PAPER)
    models = [inherit(plan, None, 5, seed, number) for seed, number in ((0, 0), (0, 1), (1, 0))]
    weights = [m.layers["block4_entry"].conv.weight for m in models]
    assert not any(torch.equal(weights[i], weights[j]) for i, j in ((0, 1), (0, 2), (1, 2)))
    assert same(snapshot(inherit(plan, None, 5, 0, 0)), snapshot(models[0]))


def test_global_random_state_does_not_matter():
    plan = stack_plan(PLAN, PAPER)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = snapshot(inherit(plan, None, 5, 0, 0))
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert same(first, snapshot(inherit(plan, None, 5, 0, 0)))


def test_the_whole_ancestor_inherited_computes_what_the_ancestor_computes():
    names = layer_names(PLAN)
    model = inherit(stack_plan(PLAN, names), extract(ANCESTOR.state_dict(), PLAN, names), 5, 0, 0)
    images = torch.randn(3, 3, 16, 16, generator=generator(0, "images"))
    assert torch.equal(model.eval().embed(images), ANCESTOR.eval().embed(images))


def test_a_learngene_that_does_not_fit_is_refused():
    plan = stack_plan(PLAN, PAPER)
    with pytest.raises(ValueError, match="inherits conv1, but the learngene holds conv11"):
        inherit(plan, extract(ANCESTOR.state_dict(), PLAN, ["conv11"]), 5, 0, 0)
    narrow = vgg16_plan(1 / 64)
    with pytest.raises(ValueError, match="conv1.conv.weight: the learngene's shape"):
        inherit(plan, extract(VGG(narrow, 5).state_dict(), narrow, PAPER), 5, 0, 0)
    with pytest.raises(ValueError, match="holds nothing"):
        inherit(plan, Learngene({}, PLAN), 5, 0, 0)
