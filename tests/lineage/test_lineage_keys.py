"""Stage keys: any setting that can change a number changes them, any other does not; runs share what they can."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

import pytest

from evolve.condensers import methods as condenser_table
from evolve.core.registry import names, records
from evolve.core.settings import CondenseSettings, Settings
from evolve.engine.store import Stage, stage_key
from evolve.lineage import lineage, recipes, scenario, schedule
from evolve.lineage.recipes import LEARNING, VERSIONS
from evolve.lineage.world import World, ancestor_plan, paper_descendant

SPLIT = (tuple(range(64)), tuple(range(64, 80)), tuple(range(80, 100)))


def world(*overrides: str, seed: int = 0, data: str = "images") -> World:
    settings = scenario.load(
        "glyphs-seq25",
        "quick",
        ["stream.tasks=3", "controls.shuffled=1", "condense.granularity=conv", *overrides],
    ).settings
    return World(settings, seed, data, *SPLIT)


def peek_for(w: World) -> Any:
    """As if every condensation were in the store and had chosen the paper's set."""
    ancestor = ancestor_plan(w.settings)
    return lambda key: {
        "ancestor_plan": ancestor.to_json(),
        "layers": ["conv1", "conv11", "conv12", "conv13"],
    }


def stages(w: World) -> dict[str, Stage]:
    return {s.label: s for s in lineage.lineage(w, peek_for(w))}


def keys(w: World, kind: str | None = None) -> set[str]:
    return {s.key for s in stages(w).values() if kind in (None, s.kind)}


def changed(value: Any, choices: tuple[Any, ...] | None) -> Any:
    if choices and not isinstance(value, tuple):
        return next((c for c in choices if c != value), value)
    if isinstance(value, bool):
        return not value
    if isinstance(value, (int, float)):
        return value + 1
    if isinstance(value, tuple):
        return value[:-1] if value else (("crop",) if choices else (1,))
    return {"mem_size": 3}


def with_changed(
    settings: Settings, section: str, name: str, metadata: Mapping[str, Any]
) -> Settings:
    part = getattr(settings, section)
    choices = names(metadata["registry"]) if metadata.get("registry") else metadata.get("choices")
    return replace(
        settings, **{section: replace(part, **{name: changed(getattr(part, name), choices)})}
    )


# What each section's settings may change. The shape of the data is in the images' fingerprint, not in a key.
REACH = {
    "ancestor": ("accumulate", "condense", "descend"),
    "condense": ("condense", "descend"),
    "inherit": ("descend",),
    "descend": ("descend",),
}
# Read only under another setting: they must not change a key here.
UNREAD = {
    "ancestor.checkpoint",
    "ancestor.keep",
    "descend.distill_weight",
    "condense.top_k",
    "condense.window",
    "condense.args",
}
UNREAD |= {
    "condense.budget",
    "condense.trial_tasks",
    "condense.rivals",
    "condense.lookahead",
    "condense.outer",
}


def default_changed(section: type, name: str, value: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if settings.py had another default: it is today's value, and stores hold results of the old one."""
    plain = [f.name for f in fields(section)]
    defaults = list(section.__init__.__defaults__)
    defaults[plain.index(name) - len(plain)] = value
    monkeypatch.setattr(section.__init__, "__defaults__", tuple(defaults))


@pytest.mark.parametrize("default", [False, True], ids=["set", "default"])
@pytest.mark.parametrize("section", REACH)
def test_every_number_relevant_setting_changes_the_keys_after_it(
    section: str, default: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether a scenario sets the value or a new default does: a default may change, and an old result must not be found under the new one."""
    base = world()
    for f in fields(getattr(base.settings, section)):
        other = replace(base, settings=with_changed(base.settings, section, f.name, f.metadata))
        if other == base:  # a registry with a single name
            continue
        if default and f.name != "strategy_args":  # which has no plain default
            kind, value = (
                type(getattr(base.settings, section)),
                getattr(getattr(other.settings, section), f.name),
            )
            default_changed(kind, f.name, value, monkeypatch)
            assert getattr(kind(), f.name) == value
        after = {s.label: s.key for s in lineage.lineage(other, peek_for(base))}
        for label, stage in stages(base).items():
            if label not in after:
                continue
            must = stage.kind in REACH[section] and f"{section}.{f.name}" not in UNREAD
            if "from-scratch" in label or label in (
                "accumulate 0",
                "condense 0",
                "descend 0 inherited",
            ):
                continue  # shared by design: an untrained ancestor and a from-scratch descendant read fewer settings
            if label.endswith("full-ancestor") and section in ("condense", "inherit"):
                continue  # it is condensed by nobody, and reads of [inherit] the learning rate alone (tests/descendants/trainers)
            if section not in ("descend", "inherit") or stage.kind == "descend":
                assert (stage.key != after[label]) == must, f"{section}.{f.name} and {label}"


def test_settings_that_cannot_change_a_number_change_no_key() -> None:
    base = keys(world())
    assert keys(world("controls.shuffled=0")) < base
    assert base < keys(world("controls.joint=3"))
    assert keys(world("controls.full_ancestor=0")) < base
    assert base < keys(world(f"controls.draws={world().settings.controls.draws + 1}"))
    assert keys(world("stream.measure=[2]")) < keys(world("stream.measure=all"))
    assert keys(world("controls.from_scratch=false")) < base
    settings = replace(world().settings, name="other", title="words")
    assert keys(replace(world(), settings=settings)) == base


def test_seed_and_images_change_every_key() -> None:
    assert not keys(world()) & keys(world(seed=1))
    assert keys(world()) & keys(world(data="others")) == {stages(world())["accumulate 0"].key}


def test_another_arithmetic_shares_only_what_it_cannot_round() -> None:
    plain = replace(world(), reference=True)
    shared = {
        label for label, stage in stages(world()).items() if stages(plain)[label].key == stage.key
    }
    assert shared == {"accumulate 0"}
    fixed, fixed_plain = (
        world("condense.method=fixed"),
        replace(world("condense.method=fixed"), reference=True),
    )
    assert stages(fixed)["condense 0"].key == stages(fixed_plain)["condense 0"].key


@pytest.mark.parametrize("network", ["resnet18", "vit-small4"])
def test_resnets_and_vits_have_an_arithmetic_of_their_own(network: str) -> None:
    w = world(f"ancestor.network={network}")
    named = {s.recipe.get("arithmetic") for s in lineage.lineage(w, lambda key: None)}
    assert named == {None, "passes"}  # the untrained ancestor has none


def test_a_precision_is_part_of_the_arithmetic_of_what_it_computes() -> None:
    base, descents = stages(world()), stages(world("descend.precision=bfloat16"))
    assert {label for label in base if base[label].key != descents[label].key} == {
        label for label in base if base[label].kind == "descend"
    }
    ancestors = stages(world("ancestor.precision=bfloat16"))
    assert base["accumulate 1"].recipe["arithmetic"] == "winograd"
    assert ancestors["accumulate 1"].recipe["arithmetic"] == "winograd bfloat16"
    assert ancestors["accumulate 0"].key == base["accumulate 0"].key
    scratch = [label for label in base if "from-scratch" in label]
    assert all(base[label].key == ancestors[label].key for label in scratch)


def test_condensers_share_the_ancestor_chain() -> None:
    fixed = world("condense.method=fixed")
    assert keys(fixed, "accumulate") == keys(world(), "accumulate")
    assert not keys(fixed, "condense") & keys(world(), "condense")


def test_a_longer_lineage_contains_the_shorter() -> None:
    assert keys(world("stream.tasks=2")) < keys(world("stream.tasks=3"))


def test_strategies_share_the_untrained_ancestor_and_from_scratch() -> None:
    a, b = stages(world()), stages(world("ancestor.strategy=ewc"))
    assert {label for label in a if a[label].key == b[label].key} == {
        "accumulate 0",
        "condense 0",
        "descend 0 inherited",
        *(label for label in a if "from-scratch" in label),
    }


def test_fixed_condenser_reads_only_its_own_settings() -> None:
    assert keys(world("condense.method=fixed", "condense.epochs=7")) == keys(
        world("condense.method=fixed")
    )
    assert keys(world("condense.method=fixed", "condense.fixed=[1]")) != keys(
        world("condense.method=fixed")
    )


@pytest.mark.parametrize(
    ("measure", "lengths"),
    [
        ("all", (0, 1, 2, 3, 4, 5, 6)),
        ("2", (0, 2, 4, 6)),
        ("4", (0, 4, 6)),
        ("[1, 2, 5, 40]", (0, 1, 2, 5, 6)),
        ("[6]", (0, 6)),
    ],
)
def test_only_the_lengths_asked_for_and_the_last_are_measured(
    measure: str, lengths: tuple[int, ...]
) -> None:
    chosen = world("stream.tasks=6", f"stream.measure={measure}")
    assert schedule.measured(chosen.settings) == lengths
    named = stages(chosen)
    assert [label for label in named if label.startswith("condense ")] == [
        f"condense {length}" for length in lengths
    ]
    assert sum(label.startswith("accumulate ") for label in named) == 7


def test_a_control_that_is_not_due_everywhere_counts_measured_lengths() -> None:
    named = stages(
        world(
            "stream.tasks=25",
            "stream.measure=[1,2,3,5,8,12,18,25]",
            "controls.shuffled=2",
            "controls.full_ancestor=1",
        )
    )
    assert [label for label in named if label.endswith(" shuffled")] == [
        f"descend {n} shuffled" for n in (2, 5, 12, 25)
    ]
    assert sum(label.endswith(" full-ancestor") for label in named) == 8


def test_every_draw_of_a_from_scratch_control_is_another_stage_on_the_same_tasks() -> None:
    named = stages(world("controls.draws=3"))
    draws = [
        named["descend 1 from-scratch" + (f" draw {draw + 1}" if draw else "")] for draw in range(3)
    ]
    assert len({stage.key for stage in draws}) == 3
    assert len({str({**stage.recipe, "draw": None}) for stage in draws}) == 1


CONTEXTS = (
    (),
    ("condense.selection=top-k",),
    ("condense.objective=eq16",),
    ("condense.objective=bilevel", "condense.meta_optimizer=adam"),
    ("condense.fixed=[1,3]",),
    ("condense.fixed_set=front", "condense.top_k=3"),
    ("condense.granularity=stage",),
)


def read_with_rivals(c: CondenseSettings) -> frozenset[str]:
    """Method trial's inputs are other condensers' choices, whose keys are in its own."""
    rivals = (
        [condenser_table.read(replace(c, method=name)) for name in c.rivals]
        if c.method == "trial"
        else []
    )
    return condenser_table.read(c).union(*rivals, {"rivals"} if rivals else ())


@pytest.mark.parametrize("method", records("condensers"))
def test_a_condense_setting_changes_the_key_if_and_only_if_the_method_reads_it(method: str) -> None:
    """tests/condensers/test_controls.py holds the table to what the condensers do read."""
    for context in CONTEXTS:
        base = world(f"condense.method={method}", *context)
        key = recipes.condense(base, 1, recipes.accumulate(base, 1, None)).key
        for f in fields(base.settings.condense):
            other = replace(
                base, settings=with_changed(base.settings, "condense", f.name, f.metadata)
            )
            read = read_with_rivals(base.settings.condense) | read_with_rivals(
                other.settings.condense
            )
            expected = f.name in read
            if (
                f.name in ("fixed", "fixed_set", "top_k") and "fixed" in read
            ):  # all three name the fixed set
                expected = expected or recipes.fixed_layers(base.settings) != recipes.fixed_layers(
                    other.settings
                )
            changed_key = recipes.condense(other, 1, recipes.accumulate(other, 1, None)).key
            assert (changed_key != key) == expected, f"{method}, {context}: condense.{f.name}"


def test_only_methods_that_compute_have_the_arithmetic_in_their_key() -> None:
    for method in records("condensers"):
        fast = world(f"condense.method={method}")
        keys_of = [
            recipes.condense(w, 0, recipes.accumulate(w, 0, None)).key
            for w in (fast, replace(fast, reference=True))
        ]
        assert (keys_of[0] == keys_of[1]) == (
            method in ("fisher", "gradient", "random", "fixed")
        ), method


def test_how_descendants_learn_and_inherit_decides_a_trial() -> None:
    def key(*more: str, method: str = "trial") -> str:
        w = world(f"condense.method={method}", *more)
        return recipes.condense(w, 1, recipes.accumulate(w, 1, None)).key

    for name in (*LEARNING, "classes_per_task", "shots", "test_per_class"):
        for method in records("condensers"):
            w = world(f"condense.method={method}")
            metadata = next(f.metadata for f in fields(w.settings.descend) if f.name == name)
            other = replace(w, settings=with_changed(w.settings, "descend", name, metadata))
            first, second = (
                recipes.condense(v, 1, recipes.accumulate(v, 1, None)).key for v in (w, other)
            )
            assert (first != second) == (method == "trial"), f"{method}: descend.{name}"
    for change in (
        "inherit.method=repeat",
        "inherit.lr_scale=0.5",
        "condense.rivals=[]",
        'condense.rivals=["cka"]',
    ):
        assert key(change) != key(), change
    for change in ("descend.descendants=9", "descend.distill_weight=3", "condense.epochs=9"):
        assert (key(change) == key()) == (not change.startswith("condense")), change
    assert key("descend.optimizer=adamw", "descend.momentum=0.5") == key("descend.optimizer=adamw")


def test_a_rivals_condensation_is_the_one_of_the_scenario_that_names_it() -> None:
    w = world("condense.method=trial", 'condense.rivals=["cka","fisher"]', "controls.joint=3")
    mine = stages(w)
    assert set(mine["condense 2"].inputs) == {"ancestor", "rival cka", "rival fisher"}
    for name in ("cka", "fisher"):
        theirs = stages(world(f"condense.method={name}", "controls.joint=3"))
        for length in range(4):
            assert (
                mine[f"{name} condense {length}"].key
                == theirs[f"condense {length}"].key
                == mine[f"condense {length}"].inputs[f"rival {name}"]
            )
        assert mine[f"joint {name} condense 3"].key == theirs["joint condense 3"].key
    assert not recipes.rivals(world(), 1, mine["accumulate 1"])


def test_a_named_sets_layers_are_never_taken_for_stages() -> None:
    """Layers 1 to 4 are stages 1 and 2, not stages 1 to 4; what is numbered by hand means what it says."""
    words = ("condense.method=fixed", "condense.granularity=stage")

    def told(*more: str) -> Any:
        w = world(*words, *more)
        return recipes.condense(w, 0, recipes.accumulate(w, 0, None)).recipe["condense"]["fixed"]

    assert told() == [1, 11, 12, 13] and told("condense.fixed=[4,1]") == [1, 4]
    assert told("condense.fixed_set=front") == [1, 2]
    assert told("ancestor.network=vit-small4") == [
        1,
        2,
        3,
    ]  # the paper's lower half, in pairs of blocks


def test_equal_architectures_share_one_from_scratch_control() -> None:
    scratch = [s.key for label, s in stages(world()).items() if label.endswith("from-scratch")]
    assert len(scratch) == 6 and len(set(scratch)) == 2  # the whole ancestor has its own


def test_different_sets_of_one_shape_share_one_control_and_one_draw() -> None:
    """What a layer is called says where it came from; the control knows only where it stands."""
    import torch

    from evolve.learngene.inheritance import inherit
    from evolve.networks.vgg_plan import stack_plan

    w = world()
    plans = [
        stack_plan(ancestor_plan(w.settings), ("conv1", last))
        for last in ("conv11", "conv12", "conv13")
    ]
    assert len({recipes.from_scratch(w, p, "x").key for p in plans}) == 1
    other = stack_plan(ancestor_plan(w.settings), ("conv1", "conv11", "conv12"))
    assert recipes.from_scratch(w, other, "x").key != recipes.from_scratch(w, plans[0], "x").key
    first, second = (inherit(p, None, 5, 0, 0) for p in plans[:2])
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)


def test_from_scratch_waits_for_the_condensers_choice() -> None:
    w = world()
    labels = {s.label for s in lineage.lineage(w, lambda key: None)}
    assert "descend 1 inherited" in labels and "descend 1 from-scratch" not in labels


def test_joint_ancestors_are_trained_at_measured_lengths_only() -> None:
    def trained(*overrides: str) -> list[str]:
        labels = stages(world("stream.tasks=6", "stream.measure=[2,5]", *overrides))
        return [label for label in labels if label.startswith("accumulate")]

    assert trained("ancestor.strategy=joint") == [f"accumulate {n}" for n in (0, 2, 5, 6)]
    assert trained() == [f"accumulate {n}" for n in range(7)]


def test_joint_control_does_not_depend_on_the_chain() -> None:
    w = world("controls.joint=1")
    joint = stages(w)["joint accumulate 2"]
    assert dict(joint.inputs) == {"previous": stages(w)["accumulate 0"].key}
    assert dict(stages(w)["joint accumulate 1"].inputs) == dict(joint.inputs)
    assert joint.key == stages(world("ancestor.strategy=joint"))["accumulate 2"].key


def test_the_stream_changes_the_ancestor() -> None:
    base = stages(world())
    for override in ("stream.classes_per_task=4", "stream.images_per_class=7"):
        other = stages(world(override))
        assert all(
            base[f"accumulate {t}"].key != other[f"accumulate {t}"].key for t in (1, 2, 3)
        ), override


def test_the_untrained_ancestor_depends_on_its_network_and_head() -> None:
    key = stages(world())["accumulate 0"].key
    assert stages(world("ancestor.width=0.25"))["accumulate 0"].key != key
    assert stages(world("ancestor.head=single"))["accumulate 0"].key != key
    assert stages(world("ancestor.lr=0.5"))["accumulate 0"].key == key


def test_from_scratch_depends_on_how_descendants_learn_and_on_the_architecture() -> None:
    w = world()
    scratch = recipes.from_scratch(w, paper_descendant(w.settings), "x")
    for override in ("descend.shots=7", "descend.lr=0.5", "ancestor.width=0.25"):
        other = world(override)
        assert (
            recipes.from_scratch(other, paper_descendant(other.settings), "x").key != scratch.key
        ), override
    other = world("ancestor.epochs=99", "condense.epochs=9")
    assert recipes.from_scratch(other, paper_descendant(other.settings), "x").key == scratch.key


def test_top_k_counts_where_it_is_read() -> None:
    first, second = (
        stages(world("condense.selection=top-k", f"condense.top_k={k}"))["condense 1"].key
        for k in (3, 4)
    )
    assert first != second


def test_a_room_of_another_version_has_other_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in VERSIONS:
        before = stages(world())
        with monkeypatch.context() as patch:
            patch.setitem(VERSIONS, kind, 99)
            after = stages(world())
        assert all(
            before[label].key != after[label].key for label in before if before[label].kind == kind
        )


def test_the_order_of_a_fixed_set_does_not_matter_and_one_condensation_is_the_default() -> None:
    assert keys(world("condense.method=fixed", "condense.fixed=[13,1]")) == keys(
        world("condense.method=fixed", "condense.fixed=[1,13]")
    )
    assert keys(world("condense.repeats=1")) == keys(world()) != keys(world("condense.repeats=2"))


def test_keys_are_recomputable_from_the_recipe() -> None:
    for stage in stages(world()).values():
        assert stage_key(stage.kind, stage.recipe) == stage.key
