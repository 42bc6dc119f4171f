"""ResNet plans: ResNet18, the stacking rule, JSON, estimates."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evolve.networks.family import architecture, from_json
from evolve.networks.resnet_plan import ResNetPlan, resnet18

NAMES = resnet18(1.0, 32).layer_names
SETS = st.sets(st.sampled_from(NAMES))
WIDTHS = st.sampled_from([1 / 64, 3 / 64, 1 / 8, 0.3, 1.0])
SIZES = st.sampled_from([8, 16, 30, 32, 64, 84, 97, 224])
PAPER_DESCENDANT = "[64 64* 64*] [128 128 128] [256 256 256] [512 512* 512*]"


def test_resnet18_has_the_standard_channels() -> None:
    blocks = "[64 64] [64 64] [128/2 128] [128 128] [256/2 256] [256 256] [512/2 512] [512 512]"
    assert resnet18(1.0, 96).describe() == f"64 {blocks}"
    assert resnet18(1.0, 97).describe() == f"7x7:64/2 M {blocks}"
    assert NAMES == tuple(f"conv{n}" for n in range(1, 18))
    assert (
        resnet18(1.0, 32).extras == ("shortcut2", "shortcut3", "shortcut4")
        and resnet18(1.0, 32).carried == ()
    )
    narrow = architecture("resnet18", 1 / 64, 32)
    assert narrow.describe() == "1 [1 1] [1 1] [2/2 2] [2 2] [4/2 4] [4 4] [8/2 8] [8 8]"
    with pytest.raises(ValueError, match="width = 0"):
        resnet18(0, 32)


@pytest.mark.parametrize("size", [32, 64, 84])
def test_the_papers_set_gives_exactly_resnet12(size: int) -> None:
    plan = resnet18(1.0, size).paper_descendant()
    assert plan.describe() == PAPER_DESCENDANT and len(plan.layer_names) == 12
    assert [block.pool for block in plan.blocks] == [2] * 4
    assert [(s.c_in, s.c_out, s.kernel, s.stride) for b in plan.blocks if (s := b.shortcut)] == [
        (3, 64, 1, 1),
        (64, 128, 1, 1),
        (128, 256, 1, 1),
        (256, 512, 1, 1),
    ]


@pytest.mark.parametrize(
    ("size", "selected", "expected"),
    [
        (32, "", "[64 64 64] [128 128 128] [256 256 256] [512 512 512]"),
        (32, "1", "[64* 64 64] [128 128 128] [256 256 256] [512 512 512]"),
        (32, "6", "[64 64 64] [128*/2 128 128] [256 256 256] [512 512 512]"),
        (32, "9 7", "[64 64 64] [128 128* 128*] [256 256 256] [512 512 512]"),
        (32, "2 3 5", "[64 64* 64*] [64*] [128 128 128] [256 256 256] [512 512 512]"),
        (32, "14 15 16 17", "[64 64 64] [128 128 128] [256 256 256] [512*/2 512* 512*] [512*]"),
        (32, "15 16 17", "[64 64 64] [128 128 128] [256 256 256] [512 512* 512*] [512*]"),
        (32, "1 2 3 4 5", "[64* 64* 64*] [64* 64*] [128 128 128] [256 256 256] [512 512 512]"),
        (224, "4 5 16 17", "7x7:64/2 M [64* 64*] [128 128 128] [256 256 256] [512 512* 512*]"),
        (224, "1 6", "7x7:64*/2 M [64 64] [128*/2 128 128] [256 256 256] [512 512 512]"),
        (
            224,
            "2 3 4 5",
            "7x7:64/2 M [64* 64* 64*] [64*] [128 128 128] [256 256 256] [512 512 512]",
        ),
    ],
)
def test_stacking_rule_by_hand(size: int, selected: str, expected: str) -> None:
    assert resnet18(1.0, size).stacked(f"conv{n}" for n in selected.split()).describe() == expected


def test_a_stage_that_begins_with_a_stride_has_no_pool_before_it() -> None:
    plan = resnet18(1.0, 32).stacked(["conv6", "conv14"])
    assert [block.pool for block in plan.blocks] == [0, 2, 0, 2]
    assert [block.shortcut.stride for block in plan.blocks if block.shortcut] == [1, 2, 1, 2]


def test_sets_and_groups() -> None:
    plan = resnet18(1.0, 32)
    chosen = {
        name: [plan.layer_names[place] for place in plan.named_set(name, 3)]
        for name in ("paper", "authors", "front", "last")
    }
    assert chosen["paper"] == ["conv4", "conv5", "conv16", "conv17"] and chosen[
        "authors"
    ] == chosen["last"] == ["conv15", "conv16", "conv17"]
    assert chosen["front"] == ["conv1", "conv2", "conv3"]
    assert [plan.convs[name].c_out for name in chosen["paper"]] == [64, 64, 512, 512]
    assert [len(group) for group in plan.integral_layers("stage")] == [5, 4, 4, 4] and len(
        plan.integral_layers("conv")
    ) == 17
    assert [len(group) for group in plan.paper_descendant().integral_layers("stage")] == [
        3,
        3,
        3,
        3,
    ]
    assert sum(plan.integral_layers("stage"), ()) == NAMES
    with pytest.raises(ValueError, match="granularity"):
        plan.integral_layers("pixel")
    with pytest.raises(ValueError, match="conv18"):
        plan.stacked(["conv18"])
    with pytest.raises(ValueError, match="conv18"):
        plan.with_inherited({"conv18": {"conv17": 1.0}})


@settings(max_examples=60, deadline=None, derandomize=True)
@given(chosen=SETS, width=WIDTHS, size=SIZES)
def test_any_set_gives_a_connected_plan(chosen: set[str], width: float, size: int) -> None:
    ancestor = resnet18(width, size)
    plan = ancestor.stacked(chosen)
    assert plan.inherits() == {name: {name: 1.0} for name in NAMES if name in chosen}, (
        "in ancestor order, no shortcut"
    )
    assert list(plan.inherits()) == [name for name in NAMES if name in chosen]
    assert all(plan.shapes(name) == ancestor.shapes(name) for name in chosen)
    for number, convs in plan.stages.items():
        picked = sum(conv.name in chosen for conv in convs)
        entered = ancestor.stages[number][0].name in chosen
        assert len(convs) == max(3, picked + (not entered)), (
            "fresh layers only where they are needed"
        )
    assert all(len(block.convs) <= 3 for block in plan.blocks)
    for original in (plan, plan.anonymous(), ancestor.whole()):
        again = from_json(json.loads(json.dumps(original.to_json())))
        assert again == original and hash(again) == hash(original)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(first=SETS, second=SETS, size=st.sampled_from([32, 224]))
def test_names_say_where_from_and_places_where(
    first: set[str], second: set[str], size: int
) -> None:
    plan, other = (resnet18(0.25, size).stacked(chosen) for chosen in (first, second))
    assert (plan.anonymous() == other.anonymous()) == (_bare(plan) == _bare(other))
    assert len(set(plan.places().values())) == len(plan.places()) and set(plan.places()) == {
        *plan.layer_names,
        *plan.extras,
    }
    assert plan.anonymous().layer_names == tuple(plan.places()[name] for name in plan.layer_names)
    for name in {*plan.convs}.intersection(other.convs).difference(NAMES).difference(plan.extras):
        assert (plan.shapes(name), plan.places()[name]) == (
            other.shapes(name),
            other.places()[name],
        ), "a fresh layer has one name"


def _bare(plan: ResNetPlan) -> list[Any]:
    return [
        (b.stage, b.residual, b.pool, [(c.c_in, c.c_out, c.kernel, c.stride) for c in b.all])
        for b in plan.blocks
    ]


def test_another_selection_of_equal_shape_is_the_same_network() -> None:
    plan = resnet18(1.0, 32)
    assert (
        plan.stacked(["conv3", "conv4"]).anonymous()
        == plan.stacked(["conv17"]).anonymous()
        == plan.paper_descendant().anonymous()
    )
    assert plan.stacked(["conv6"]).anonymous() != plan.stacked(["conv7"]).anonymous()


def test_mixtures_and_shortcuts_can_be_inherited() -> None:
    plan = resnet18(1.0, 32).with_inherited(
        {"conv3": {"conv2": 0.5, "conv4": 0.5}, "shortcut2": {"shortcut2": 1.0}}
    )
    assert plan.inherits() == {
        "conv3": {"conv2": 0.5, "conv4": 0.5},
        "shortcut2": {"shortcut2": 1.0},
    }
    assert from_json(json.loads(json.dumps(plan.to_json()))) == plan
    assert set(plan.whole().inherits()) == {*NAMES, "shortcut2", "shortcut3", "shortcut4"}


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("blocks", []),
        ("blocks", 3),
        ("blocks.0.convs", []),
        ("blocks.0.convs.0.name", "conv2"),
        ("blocks.0.convs.0.name", "a.b"),
        ("blocks.0.convs.0.c_in", 4),
        ("blocks.0.convs.0.c_out", 65),
        ("blocks.0.convs.0.kernel", 5),
        ("blocks.0.convs.0.extra", 1),
        ("blocks.1.convs.0.stride", 2),
        ("blocks.1.convs.0.inherits", [["conv1", "much"]]),
        ("blocks.3.shortcut", None),
        ("blocks.3.shortcut.c_in", 32),
        ("blocks.3.shortcut.stride", 1),
        ("blocks.3.residual", False),
        ("blocks.1.stage", 2),
        ("blocks.1.pool", 4),
    ],
)
def test_json_of_no_resnet_is_refused(path: str, value: object) -> None:
    whole = {
        "family": "resnet",
        **copy.deepcopy(json.loads(json.dumps(resnet18(1.0, 32).to_json()))),
    }
    *way, last = [int(part) if part.isdigit() else part for part in path.split(".")]
    held: Any = whole
    for part in way:
        held = held[part]
    held[last] = value
    with pytest.raises(ValueError, match="not a ResNet"):
        from_json(whole)


def test_published_costs() -> None:
    plan = resnet18(1.0, 224)
    assert plan.macs(224) + 512 * 1000 / 1e9 == pytest.approx(
        1.814, abs=0.001
    )  # torchvision's table: 1.81 GFLOPS (multiply-adds)
    assert resnet18(1.0, 32).macs(32) == pytest.approx(0.5555, abs=0.001)  # CIFAR ResNet18: 0.56 G


def test_a_plan_needs_no_torch() -> None:
    code = (
        "import sys; from evolve.networks.resnet_plan import resnet18 as r; p = r(1.0, "
        "224).paper_descendant();"
        "p.parameters, p.macs(224), p.numbers_out(224), p.to_json(), p.describe(), p.anonymous(); "
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
