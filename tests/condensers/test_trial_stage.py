"""A trial as a stage of a lineage: its rivals are stages of their own, and its record says how
every set did.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from evolve.core.errors import UserError
from evolve.core.settings import (
    AncestorSettings,
    CondenseSettings,
    DataSettings,
    DescendSettings,
    Settings,
)
from evolve.data.sources import load_images
from evolve.engine.store import Stage, Store
from evolve.lineage import perform, scenario
from evolve.lineage.recipes import accumulate, condense, rivals
from evolve.lineage.schedule import measured
from evolve.lineage.world import World, ancestor_plan
from evolve.runs.estimate import cost

LEARN = DescendSettings(descendants=5, classes_per_task=3, shots=4, epochs=1, batch=6)
TRIED = CondenseSettings(
    method="trial",
    granularity="stage",
    trial_tasks=2,
    rivals=("random", "fixed"),
    fixed=(2, 3),
    top_k=2,
)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    data = DataSettings(size=12, split=(3, 4, 4), glyph_train=6, glyph_test=6)
    return {
        "data": data,
        "data_dir": None,
        "cache_dir": tmp_path_factory.mktemp("cache"),
        "device": "cpu",
    }


@pytest.fixture
def world(images: dict[str, Any]) -> World:
    fingerprint = load_images(images["data"], None, images["cache_dir"]).fingerprint
    settings = Settings(
        "tiny",
        data=images["data"],
        ancestor=AncestorSettings(width=1 / 16),
        condense=TRIED,
        descend=LEARN,
    )
    return World(settings, 3, fingerprint, (0, 1, 2), (3, 4, 5, 6), (7, 8, 9, 10))


def done(world: World, store: Store, images: dict[str, Any]) -> dict[str, Any]:
    """The record of the trial of the untrained ancestor, after whatever it needs that the store
    lacks.
    """
    ancestor = accumulate(world, 0, None)
    stages: list[Stage] = [
        ancestor,
        *rivals(world, 0, ancestor).values(),
        condense(world, 0, ancestor),
    ]
    for stage in stages:
        if not store.has(stage.key):
            perform.perform_stage(stage, store, images, lambda fraction, text: None)
    result = store.get(stages[-1].key)
    assert result is not None
    assert {name.split("/")[0] for name in result.tensors("learngene")} == set(
        result.record["layers"]
    )
    return dict(result.record)


def test_the_record_tells_of_every_set_and_of_the_rivals(
    tmp_path: Path, images: dict[str, Any], world: World
) -> None:
    record = done(world, Store(tmp_path), images)
    plan, groups = ancestor_plan(world.settings), record["groups"]
    tried = {origin: trial for trial in record["trials"] for origin in trial["origins"]}
    assert (
        tried["fixed"]["layers"] == [1, 2]
        and len(tried["random"]["layers"]) == 2
        and tried["whole ancestor"]["share"] == 1
    )
    best = max((t for t in record["trials"] if t["within"]), key=lambda t: (t["gain"], -t["share"]))
    assert record["selected"] == best["layers"] and record["layers"] == [
        name for group in best["layers"] for name in groups[group]
    ]
    assert best["share"] == plan.share(record["layers"]) and best["gain"] == pytest.approx(
        sum(best["gains"]) / 2
    )
    assert all(len(trial["gains"]) == 2 and trial["error"] >= 0 for trial in record["trials"])
    assert any(trial["gain"] for trial in record["trials"])


def test_a_rival_that_decided_nothing_is_not_tried(
    tmp_path: Path, images: dict[str, Any], world: World
) -> None:
    """What it fell back to is the fixed set, which nobody chose."""
    store, ancestor = Store(tmp_path), accumulate(world, 0, None)
    for name, status in (("random", "tied"), ("fixed", "fixed")):
        store.put(
            rivals(world, 0, ancestor)[name],
            {"selected": [1, 2], "status": status},
            {"learngene": {}},
            {},
        )
    origins = [
        origin for trial in done(world, store, images)["trials"] for origin in trial["origins"]
    ]
    assert "fixed" in origins and "random" not in origins


def test_other_methods_records_have_no_trials(
    tmp_path: Path, images: dict[str, Any], world: World
) -> None:
    other = replace(
        world, settings=replace(world.settings, condense=replace(TRIED, method="fixed"))
    )
    assert done(other, Store(tmp_path), images)["trials"] == []


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (
            ['condense.rivals=["trial"]'],
            r'condense\.rivals = \["trial"\]: expected other condensers than trial, each once',
        ),
        (['condense.rivals=["cka","cka"]'], r"condense\.rivals = .*each once"),
        (['condense.rivals=["nosuch"]'], r"condense\.rivals = .*one of meta-network"),
        (
            ["data.split=[64, 3, 20]"],
            r"descend\.classes_per_task = 5: at most 3, the condense classes of the split",
        ),
        (
            ['condense.rivals=["fisher"]', "ancestor.strategy=scr"],
            r'condense\.rivals = \["fisher"\]: a scr ancestor predicts by distances',
        ),
        (["condense.budget=1.5"], r"condense\.budget = 1\.5"),
    ],
)
def test_what_a_scenario_may_not_ask(words: list[str], text: str) -> None:
    with pytest.raises(UserError, match=text):
        scenario.load("glyphs-seq25", "quick", ["condense.method=trial", *words])


def test_its_cost_grows_with_tasks_sets_and_repeats_and_counts_rivals() -> None:
    def seconds(*words: str) -> float:
        fixed = ["condense.method=trial", "condense.granularity=conv", "descend.shots=20"]
        s = scenario.load("glyphs-seq25", "quick", [*fixed, *words]).settings
        return cost.seconds(s, "condense", {})

    base = seconds()
    assert seconds("condense.trial_tasks=20") == pytest.approx(2 * base) and seconds(
        "condense.repeats=3"
    ) == pytest.approx(3 * base)
    assert seconds("condense.granularity=stage") < base and seconds("descend.shots=10") < base
    s = scenario.load("glyphs-seq25", "quick", ["condense.method=trial"]).settings
    other = cost.seconds(s, "condense", {"condense": {"method": "meta-network"}})
    plain = scenario.load("glyphs-seq25", "quick").settings
    assert other == cost.seconds(plain, "condense", {}) and other != base
    bare = replace(s, condense=replace(s.condense, rivals=()))
    assert cost.estimate(s, 1) - cost.estimate(bare, 1) == pytest.approx(len(measured(s)) * other)


def test_from_scratch_descendants_are_counted_once_for_all_measured_lengths() -> None:
    def total(*lengths: int) -> float:
        words = [
            "condense.method=trial",
            "controls.untrained=false",
            "stream.tasks=9",
            f"stream.measure={list(lengths)}",
        ]
        s = scenario.load("glyphs-seq25", "quick", words).settings
        return len(measured(s)) * cost.seconds(s, "condense", {})

    single, double, triple = total(9), total(1, 9), total(1, 2, 9)
    assert triple - double == pytest.approx(double - single) and 0 < double - single < single
