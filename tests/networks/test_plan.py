"""The stacking rule and the plans it works on."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from vgg_units import PAPER

from evolve.networks.vgg_plan import (
    ConvSpec,
    integral_layers,
    layer_names,
    plan_from_json,
    plan_to_json,
    stack_plan,
    vgg16_plan,
)

NAMES = layer_names(vgg16_plan(1.0))
SETS = st.sets(st.sampled_from(NAMES))
WIDTHS = st.sampled_from([1 / 64, 3 / 64, 1 / 8, 0.3, 1.0])


def notation(plan) -> str:
    return " ".join(
        " ".join(f"{s.c_out}{'*' if s.inherits else ''}" for s in block) + " M" for block in plan
    )


def test_the_papers_set_gives_exactly_the_papers_descendant():
    assert (
        notation(stack_plan(vgg16_plan(1.0), PAPER)) == "64* M 128 M 256 M 512 M 512* 512* 512* M"
    )


def test_vgg16_has_the_standard_channels():
    assert (
        notation(vgg16_plan(1.0)) == "64 64 M 128 128 M 256 256 256 M 512 512 512 M 512 512 512 M"
    )
    assert NAMES == tuple(f"conv{n}" for n in range(1, 14))
    assert notation(vgg16_plan(1 / 64)) == "1 1 M 2 2 M 4 4 4 M 8 8 8 M 8 8 8 M"
    with pytest.raises(ValueError, match="width = 0"):
        vgg16_plan(0)


@pytest.mark.parametrize(
    ("selected", "expected"),
    [
        ((), "64 M 128 M 256 M 512 M 512 M"),
        (("conv2",), "64 64* M 128 M 256 M 512 M 512 M"),
        (("conv3",), "64 M 128* M 256 M 512 M 512 M"),
        (("conv4",), "64 M 128 128* M 256 M 512 M 512 M"),
        (("conv6", "conv7"), "64 M 128 M 256 256* 256* M 512 M 512 M"),
        (("conv5", "conv7"), "64 M 128 M 256* 256* M 512 M 512 M"),
        (("conv12",), "64 M 128 M 256 M 512 M 512* M"),
        (("conv13", "conv11"), "64 M 128 M 256 M 512 M 512* 512* M"),
        (("conv3", "conv4"), "64 M 128* 128* M 256 M 512 M 512 M"),
    ],
)
def test_stacking_rule_by_hand(selected, expected):
    assert notation(stack_plan(vgg16_plan(1.0), selected)) == expected


def test_all_layers_give_the_ancestors_trunk():
    ancestor = vgg16_plan(0.25)
    full = stack_plan(ancestor, NAMES)
    assert [[(s.name, s.c_in, s.c_out) for s in block] for block in full] == [
        [(s.name, s.c_in, s.c_out) for s in b] for b in ancestor
    ]
    assert all(s.inherits == s.name for block in full for s in block)


@given(SETS, WIDTHS)
def test_every_set_stacks_into_a_connected_network(selected, width):
    ancestor = vgg16_plan(width)
    plan = stack_plan(ancestor, selected)
    assert (
        plan_from_json(json.loads(json.dumps(plan_to_json(plan)))) == plan
    )  # connected, unique names, JSON-able
    assert [block[-1].c_out for block in plan] == [block[-1].c_out for block in ancestor]
    assert plan[0][0].c_in == 3
    inherited = [s.inherits for block in plan for s in block if s.inherits]
    assert inherited == [name for name in NAMES if name in selected]
    assert stack_plan(ancestor, reversed(sorted(selected))) == plan  # a set: order does not matter
    for old, new in zip(ancestor, plan, strict=True):
        fresh = [s for s in new if s.inherits is None]
        assert len(fresh) <= 1 and all(s is new[0] for s in fresh)  # at most one, at the entry
        assert {s.inherits for s in new} - {None} <= {
            s.name for s in old
        }  # its own block, so its own resolution


@given(SETS, SETS)
def test_the_same_fresh_layer_has_the_same_name_and_other_layers_have_others(first, second):
    fresh = [
        {s.name: s for b in stack_plan(vgg16_plan(1.0), chosen) for s in b if not s.inherits}
        for chosen in (first, second)
    ]
    for name in fresh[0].keys() & fresh[1].keys():
        assert fresh[0][name] == fresh[1][name]
    places = [
        {(s.name.split("_")[0], s.c_in, s.c_out): name for name, s in layers.items()}
        for layers in fresh
    ]
    assert all(
        places[0][place] == places[1][place] for place in places[0].keys() & places[1].keys()
    )


def test_unequal_widths_inside_a_block_are_bridged():
    ancestor = (
        (ConvSpec("a", 3, 4), ConvSpec("b", 4, 6), ConvSpec("c", 6, 8)),
        (ConvSpec("d", 8, 10),),
    )
    plan = stack_plan(ancestor, ["a", "c"])
    assert [(s.name, s.c_in, s.c_out) for s in plan[0]] == [
        ("a", 3, 4),
        ("block1_before_c", 4, 6),
        ("c", 6, 8),
    ]
    plan = stack_plan(ancestor, ["b"])
    assert [(s.name, s.c_in, s.c_out) for s in plan[0]] == [
        ("block1_entry", 3, 4),
        ("b", 4, 6),
        ("block1_exit", 6, 8),
    ]


def test_unknown_layers_are_named():
    with pytest.raises(ValueError, match="conv14.*it has conv1,"):
        stack_plan(vgg16_plan(1.0), ["conv1", "conv14"])


def test_integral_layers():
    plan = vgg16_plan(1.0)
    assert integral_layers(plan, "conv") == tuple((name,) for name in NAMES)
    stages = integral_layers(plan, "stage")
    assert len(stages) == 5 and stages[4] == ("conv11", "conv12", "conv13")
    assert sum(stages, ()) == NAMES
    assert (
        notation(stack_plan(plan, stages[0] + stages[4]))
        == "64* 64* M 128 M 256 M 512 M 512* 512* 512* M"
    )
    with pytest.raises(ValueError, match="granularity = 'layer'"):
        integral_layers(plan, "layer")


@pytest.mark.parametrize(
    "value",
    [
        [],
        [[]],
        "plan",
        7,
        [[{"name": "a"}]],
        [[{"name": "a", "c_in": 3, "c_out": 0}]],
        [[{"name": "a", "c_in": 3, "c_out": 2.0}]],
        [[{"name": "a", "c_in": 3, "c_out": 4}, {"name": "b", "c_in": 5, "c_out": 4}]],
        [[{"name": "a", "c_in": 3, "c_out": 3}], [{"name": "a", "c_in": 3, "c_out": 3}]],
        [[{"name": "a", "c_in": 3, "c_out": 4, "stride": 2}]],
    ],
)
def test_what_is_not_a_plan_is_refused(value):
    with pytest.raises(ValueError, match="not a plan"):
        plan_from_json(value)


def test_planning_needs_no_torch():
    code = "import sys, evolve.networks.vgg_plan; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
