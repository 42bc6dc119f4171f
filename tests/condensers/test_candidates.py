"""Which sets condenser "trial" tries, and what share of the ancestor's weights they hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_ancestors import VIT

from evolve.condensers.candidates import WHOLE, Candidate, Choice, candidates
from evolve.core.errors import UserError
from evolve.core.settings import InheritSettings
from evolve.networks.architecture import Architecture
from evolve.networks.family import architecture
from evolve.networks.vgg_plan import vgg16_plan

FULL = vgg16_plan(1.0)
PAPER = (0, 10, 11, 12)


@pytest.mark.parametrize(
    ("layers", "share"),
    [
        (range(2), 0.0027),
        (range(4), 0.018),
        (range(7), 0.118),
        (range(10), 0.519),
        (PAPER, 0.481),
        ((), 0.0),
        (range(13), 1.0),
    ],
)
def test_what_share_of_vgg16s_weights_layers_hold(layers: Sequence[int], share: float) -> None:
    names = [FULL.layer_names[place] for place in layers]
    assert FULL.share(names) == pytest.approx(share, abs=0.0005)
    assert FULL.share([*names, *names]) == FULL.share(names)


def test_a_share_knows_extras_and_no_strange_layer() -> None:
    resnet = architecture("resnet18", 1 / 16, 16)
    assert resnet.share(resnet.all_layers) == 1 > resnet.share(resnet.layer_names) > 0.9
    with pytest.raises(KeyError):
        FULL.share(["conv14"])


def named(
    ancestor: Architecture,
    granularity: str = "conv",
    budget: float = 0.0,
    rivals: Mapping[str, tuple[int, ...]] | None = None,
) -> dict[str, Candidate]:
    sets = candidates(Choice(ancestor, granularity, InheritSettings(), budget), rivals or {})
    return {origin: c for c in sets for origin in c.origins}


def test_the_sets_that_vgg16_is_tried_by() -> None:
    sets = named(FULL, rivals={"meta-network": (0, 4), "cka": tuple(range(7))})
    allowed = {name for name, c in sets.items() if c.within}
    assert allowed == {
        "front 1",
        "front 2",
        "front 4",
        "front 7",
        "front 9",
        "paper's set",
        "meta-network",
        "cka",
    }
    beyond = {
        "front 2 and last 3",
        "front 4 and last 3",
        "front 7 and last 3",
        "front 10",
        "front 13",
        WHOLE,
    }
    assert sets.keys() == allowed | beyond
    assert sets["front 7"] is sets["cka"] and sets["front 7"].groups == tuple(range(7))
    assert (
        sets["front 2 and last 3"].groups == (0, 1, 10, 11, 12)
        and sets["paper's set"].groups == PAPER
    )
    assert sets["front 13"] is sets[WHOLE] and sets[WHOLE].plan == FULL.whole()


@pytest.mark.parametrize("granularity", ["conv", "stage"])
@pytest.mark.parametrize("network", ["vgg16", "resnet18", "vit-small4"])
def test_every_network_has_candidates_by_share_and_the_whole_ancestor(
    network: str, granularity: str
) -> None:
    ancestor = architecture(network, 0.125, 32)
    groups = ancestor.integral_layers(granularity)
    sets = candidates(Choice(ancestor, granularity, InheritSettings(), 0.0), {})
    assert [c.share for c in sets] == sorted(c.share for c in sets) and len(
        {c.groups for c in sets[:-1]}
    ) == len(sets[:-1])
    whole = sets[-1]
    assert (
        WHOLE in whole.origins
        and whole.share == 1
        and not whole.within
        and whole.plan == ancestor.whole()
    )
    for c in sets[:-1]:
        inherited = {name for mixture in c.plan.inherits().values() for name in mixture}
        assert inherited == {name for group in c.groups for name in groups[group]}
    assert any("paper's set" in c.origins and c.within for c in sets)
    assert all(set(c.groups) <= set(range(len(groups))) for c in sets)


def test_a_vits_embeddings_count_where_they_are_inherited() -> None:
    plain, carried = (
        Choice(VIT, "conv", InheritSettings(embeddings=word), 0.0)
        for word in ("random", "inherited")
    )
    assert (
        carried.share((0,)) == pytest.approx(plain.share((0,)) + VIT.share(VIT.carried))
        and VIT.share(VIT.carried) > 0
    )
    assert carried.limit > plain.limit


@settings(max_examples=40, deadline=None, derandomize=True)
@given(budget=st.floats(0.001, 1.0), granularity=st.sampled_from(["conv", "stage"]))
def test_within_is_what_the_budget_allows(budget: float, granularity: str) -> None:
    choice = Choice(FULL, granularity, InheritSettings(), budget)
    if choice.share((0,)) > budget:
        with pytest.raises(
            UserError,
            match=r"condense\.budget = .*smallest .* tried, front 2, holds 0\.00266 .*give more",
        ):
            candidates(choice, {})
        return
    sets = candidates(choice, {})
    assert all(
        c.within
        == (
            FULL.share([name for group in c.groups for name in choice.groups[group]])
            <= budget + 1e-6
        )
        for c in sets
    )
    longest = max(
        len(c.groups) for c in sets if c.within and c.groups == tuple(range(len(c.groups)))
    )
    assert longest == len(choice.groups) or choice.share(tuple(range(longest + 1))) > budget
