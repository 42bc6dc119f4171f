"""Inheritors on every network: which slot receives what, held to brute force and to numpy's least
squares.
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from evolve.core.randomness import generator
from evolve.core.registry import names
from evolve.core.settings import InheritSettings
from evolve.learngene.inheritance import inherit
from evolve.learngene.inheritors import descendant, kin, line, linear, repeat
from evolve.learngene.learngene import Learngene, extract
from evolve.networks.architecture import Architecture
from evolve.networks.family import architecture, from_json
from evolve.networks.vgg_plan import vgg16_plan

WIDTH, SIZE, BATCHES = 1 / 32, 32, 7
ANCESTORS = {name: architecture(name, WIDTH, SIZE) for name in names("networks")}
VGG, VIT = ANCESTORS["vgg16"], ANCESTORS["vit-small4"]
_states: dict[Architecture, dict[str, torch.Tensor]] = {}


def state_of(ancestor: Architecture) -> dict[str, torch.Tensor]:
    """A state dict in which every tensor of every layer is another."""
    if ancestor not in _states:
        state = ancestor.build(3).state_dict()
        for name, tensor in state.items():
            if tensor.is_floating_point():
                tensor.copy_(torch.randn(tensor.shape, generator=generator(1, name)).abs_() + 0.01)
            else:
                tensor.fill_(BATCHES)
        _states[ancestor] = state
    return _states[ancestor]


@st.composite
def selections(draw) -> tuple[Architecture, list[str]]:
    ancestor = ANCESTORS[draw(st.sampled_from(sorted(ANCESTORS)))]
    chosen = draw(st.sets(st.sampled_from(ancestor.layer_names)))
    return ancestor, [name for name in ancestor.layer_names if name in chosen]


def made_from(
    ancestor: Architecture, selected: list[str], method: str
) -> tuple[Architecture, dict[str, torch.Tensor]]:
    """The descendant by the registered inheritor, read back from JSON, and its weights; the
    learngene holds the selection alone.
    """
    plan = from_json(descendant(ancestor, selected, InheritSettings(method=method)).to_json())
    return plan, inherit(
        plan, extract(state_of(ancestor), ancestor, selected), 3, 5, 0
    ).state_dict()


@given(selections(), st.sampled_from(("repeat", "linear")))
@settings(max_examples=25, deadline=None)
def test_descendants_are_as_deep_as_the_ancestor_and_only_their_inherited_layers_differ_from_scratch(
    chosen, method
):
    ancestor, selected = chosen
    plan, own = made_from(ancestor, selected, method)
    assert plan.layer_names == ancestor.layer_names and plan.anonymous() == ancestor.anonymous()
    scratch = inherit(plan.anonymous(), None, 3, 5, 0).state_dict()
    renamed = dict(zip(own, scratch.values(), strict=True))
    for slot in (*plan.layer_names, *plan.extras):
        for part in plan.shapes(slot):
            if slot not in plan.inherits():
                assert torch.equal(
                    own[f"layers.{slot}.{part}"], renamed[f"layers.{slot}.{part}"]
                ), (slot, part)
            elif part.endswith("num_batches_tracked"):
                assert own[f"layers.{slot}.{part}"] == BATCHES
            elif part.endswith("running_var"):
                assert (own[f"layers.{slot}.{part}"] >= 0).all()


@given(selections())
@settings(max_examples=25, deadline=None)
def test_repeat_gives_each_slot_the_nearest_selected_layer_at_or_before_it(chosen):
    ancestor, selected = chosen
    order = ancestor.layer_names.index
    expected = {}
    for group in kin(ancestor):
        held = [name for name in group if name in selected]
        for slot in group if held else ():
            before = [name for name in held if order(name) <= order(slot)]
            expected[slot] = {max(before, key=order) if before else min(held, key=order): 1.0}
    assert repeat(ancestor, selected).inherits() == expected
    assert all(expected[name] == {name: 1.0} for name in selected)
    _, own = made_from(ancestor, selected, "repeat")
    for slot, mixture in expected.items():
        for part in ancestor.shapes(slot):
            assert torch.equal(
                own[f"layers.{slot}.{part}"],
                state_of(ancestor)[f"layers.{next(iter(mixture))}.{part}"],
            )


@given(selections())
@settings(max_examples=25, deadline=None)
def test_linear_is_numpys_least_squares_line_through_the_selected_layers(chosen):
    ancestor, selected = chosen
    given_, (_, own) = (
        linear(ancestor, selected).inherits(),
        made_from(ancestor, selected, "linear"),
    )
    for group in kin(ancestor):
        held = [name for name in group if name in selected]
        assert all((slot in given_) == bool(held) for slot in group)
        if not held:
            continue
        depths = np.array([ancestor.layer_names.index(name) for name in held], dtype=np.float64)
        design = np.stack([np.ones_like(depths), depths], 1)
        for part in ancestor.shapes(group[0]):
            if part.endswith("num_batches_tracked"):
                continue
            points = np.stack(
                [
                    state_of(ancestor)[f"layers.{name}.{part}"].double().numpy().ravel()
                    for name in held
                ]
            )
            fit = np.linalg.lstsq(design if len(held) > 1 else design[:, :1], points, rcond=None)[0]
            for slot in group:
                place = ancestor.layer_names.index(slot)
                expected = fit[0] + (place * fit[1] if len(held) > 1 else 0)
                expected = np.maximum(expected, 0) if part.endswith("running_var") else expected
                actual = own[f"layers.{slot}.{part}"].numpy().ravel()
                np.testing.assert_allclose(
                    actual, expected, rtol=1e-5, atol=1e-4, err_msg=f"{slot}.{part}"
                )
        if len(held) <= 2:  # a line through two points meets them, to the bit
            assert all(given_[name] == {name: 1.0} for name in held)


@given(
    st.lists(st.integers(0, 40), min_size=1, max_size=8, unique=True),
    st.integers(-5, 60),
    st.integers(-9, 9),
    st.integers(-9, 9),
)
def test_a_line_through_points_of_a_line_is_that_line(depths, at, start, slope):
    shares = line(depths, at)
    assert sum(shares) == 1
    through = sum(
        share * (start + slope * depth) for share, depth in zip(shares, depths, strict=True)
    )
    assert through == (start + slope * at if len(depths) > 1 else start + slope * depths[0])
    assert all(isinstance(share, Fraction) for share in shares)


def test_kin_share_shapes_and_stage_and_part_the_layers():
    for ancestor in ANCESTORS.values():
        groups = kin(ancestor)
        assert sorted(name for group in groups for name in group) == sorted(ancestor.layer_names)
        for group in groups:
            assert len({tuple(ancestor.shapes(name).items()) for name in group}) == 1
    assert kin(VIT) == (VIT.layer_names,)
    assert kin(vgg16_plan(1 / 16)) == (
        *(
            ("conv1",),
            ("conv2",),
            ("conv3",),
            ("conv4",),
            ("conv5",),
            ("conv6", "conv7"),
            ("conv8",),
            ("conv9", "conv10"),
        ),
        ("conv11", "conv12", "conv13"),
    )


def test_a_vits_lower_half_reaches_to_the_top():
    """SWS: the last selected block repeats; TLEG: the top blocks lie on the line through the lower
    ones.
    """
    lower = VIT.layer_names[:6]
    assert [next(iter(m)) for m in repeat(VIT, lower).inherits().values()] == [
        *lower,
        *lower[-1:] * 6,
    ]
    top = linear(VIT, lower).inherits()[VIT.layer_names[-1]]
    assert (
        set(top) == set(lower) and min(top.values()) < 0 and sum(top.values()) == pytest.approx(1)
    )
    assert list(linear(VIT, lower[2:3]).inherits().values()) == [{lower[2]: 1.0}] * 12


def test_inherited_embeddings_come_along_with_every_inheritor():
    for method in ("stack", "repeat", "linear"):
        plan = descendant(
            VIT, VIT.layer_names[:2], InheritSettings(method=method, embeddings="inherited")
        )
        assert plan.inherits()[VIT.carried[0]] == {VIT.carried[0]: 1.0}
        assert set(plan.inherits()) > {VIT.carried[0]}


@pytest.mark.parametrize("inheritor", [repeat, linear])
def test_a_layer_that_the_ancestor_does_not_have_is_refused(inheritor):
    with pytest.raises(ValueError, match="no such layers in the ancestor: conv99"):
        inheritor(VGG, ["conv1", "conv99"])


def test_a_mixture_of_layers_that_do_not_fit_is_refused_even_where_torch_would_broadcast():
    plan = vgg16_plan(1 / 64)  # conv2 has one channel
    state = plan.build(2).state_dict()
    mixed = plan.with_inherited({"conv6": {"conv6": 0.5, "conv2": 0.5}})
    with pytest.raises(
        ValueError, match=r"conv6.conv.weight: the learngene's shape is \(1, 1, 3, 3\)"
    ):
        inherit(mixed, extract(state, plan, ["conv2", "conv6"]), 2, 0, 0)
    with pytest.raises(ValueError, match="conv6 inherits conv2, but the learngene holds conv6"):
        inherit(mixed, Learngene(extract(state, plan, ["conv6"]).layers, plan), 2, 0, 0)
