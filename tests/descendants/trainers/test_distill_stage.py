"""Distilled descendants as stages: what they are paired with, what their keys hold, who may train
beside them.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from evolve.core.settings import (
    AncestorSettings,
    ControlSettings,
    DataSettings,
    DescendSettings,
    Settings,
)
from evolve.data.sources import load_images
from evolve.engine.store import Result, Stage, Store
from evolve.learngene.learngene import extract, flatten
from evolve.lineage import perform
from evolve.lineage.lineage import lineage
from evolve.lineage.recipes import accumulate, condense, descend, distilled, from_scratch, heir
from evolve.lineage.world import World, ancestor_plan
from evolve.networks.network import initialise
from evolve.runs.estimate import cost

LAYERS = ["conv1", "conv4", "conv10", "conv12"]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    data = DataSettings(size=16, glyph_train=8, glyph_test=6)
    return {
        "data": data,
        "data_dir": None,
        "cache_dir": tmp_path_factory.mktemp("images"),
        "device": "cpu",
    }


@pytest.fixture(scope="module")
def world(images) -> World:
    """On the plain path, as the distilled descendants always are."""
    fingerprint = load_images(images["data"], None, images["cache_dir"]).fingerprint
    d = DescendSettings(descendants=2, classes_per_task=3, shots=7, epochs=2, batch=6)
    settings = Settings(
        "tiny", data=images["data"], ancestor=AncestorSettings(width=1 / 16), descend=d
    )
    return World(settings, 3, fingerprint, (0, 1, 2), (3, 4, 5), tuple(range(6, 12)), True)


def changed(world: World, section: str, **values: Any) -> World:
    settings = world.settings
    return replace(
        world,
        settings=replace(settings, **{section: replace(getattr(settings, section), **values)}),
    )


def inputs(world: World, store: Store, draw: int = 1) -> tuple[Stage, Stage]:
    """A condensation and its ancestor, put as if they had been computed; ``draw`` changes the
    ancestor but not the learngene.
    """
    plan, ancestor = ancestor_plan(world.settings), accumulate(world, 0, None)
    gene, states = condense(world, 0, ancestor), {}
    for number in {1, draw}:
        model = plan.build(3)
        initialise(model, number, "test")
        states[number] = model.state_dict()
    store.put(
        ancestor,
        {},
        {"ancestor": {f"model.trunk.{name}": tensor for name, tensor in states[draw].items()}},
        {},
    )
    record = {"layers": LAYERS, "ancestor_plan": plan.to_json()}
    store.put(gene, record, {"learngene": flatten(extract(states[1], plan, LAYERS))}, {})
    return gene, ancestor


def result(stage: Stage, store: Store, images: dict[str, Any]) -> Result:
    perform.perform_stage(stage, store, images, lambda fraction, text: None)
    stored = store.get(stage.key)
    assert stored is not None
    return stored


@pytest.mark.parametrize("method", ["stack", "repeat", "linear"])
def test_without_weight_they_are_the_from_scratch_control_to_the_bit(
    tmp_path: Path, images, world, method
) -> None:
    store, base = Store(tmp_path), changed(world, "inherit", method=method)
    gene, ancestor = inputs(base, store)
    plan = heir(base, store.get(gene.key).record)
    control = result(from_scratch(base, plan, "1"), store, images)
    free = result(
        distilled(changed(base, "descend", distill_weight=0.0), 1, gene, ancestor), store, images
    )
    held = result(distilled(base, 1, gene, ancestor), store, images)
    for name in ("accuracy", "curves", "train_loss", "classes"):
        assert free.record[name] == control.record[name], name
    first, other = free.tensors("correct"), control.tensors("correct")
    assert all(torch.equal(first[name], other[name]) for name in other)
    assert (
        held.record["classes"] == control.record["classes"]
        and held.record["train_loss"] != control.record["train_loss"]
    )
    assert all(
        sum(a) > sum(b)
        for a, b in zip(held.record["train_loss"], control.record["train_loss"], strict=True)
    )  # the hints' distance on top


def test_the_hints_are_the_ancestors(tmp_path: Path, images, world) -> None:
    """Another ancestor of the same learngene gives other descendants."""
    losses = []
    for draw in (1, 2):
        store = Store(tmp_path / str(draw))
        losses.append(
            result(distilled(world, 1, *inputs(world, store, draw)), store, images).record[
                "train_loss"
            ]
        )
    assert losses[0] != losses[1]


def test_keys_hold_what_each_method_reads(tmp_path: Path, world) -> None:
    gene, ancestor = inputs(world, Store(tmp_path))

    def keys(other: World) -> dict[str, str]:
        stages = {m: descend(other, m, 1, gene) for m in ("inherited", "shuffled")}
        stages |= {
            "full-ancestor": descend(other, "full-ancestor", 1, ancestor),
            "distilled": distilled(other, 1, gene, ancestor),
        }
        stages["from-scratch"] = from_scratch(other, ancestor_plan(other.settings), "1")
        return {name: stage.key for name, stage in stages.items()}

    base = keys(world)
    for section, values, moved in (
        ("descend", {"distill_weight": 2.0}, {"distilled"}),
        ("inherit", {"lr_scale": 0.5}, {"inherited", "shuffled", "full-ancestor"}),
        ("inherit", {"method": "linear"}, {"inherited", "shuffled", "distilled"}),
        ("inherit", {"embeddings": "inherited"}, {"inherited", "shuffled"}),
    ):
        after = keys(changed(world, section, **values))
        assert {name for name in base if base[name] != after[name]} == moved, values


def test_the_control_runs_every_so_many_generations_and_changes_no_other_key(world) -> None:
    controls = ControlSettings(distilled=2)
    on, off = (
        replace(world, settings=replace(world.settings, controls=c))
        for c in (controls, ControlSettings())
    )
    with_it, without = (
        {stage.label: stage.key for stage in lineage(w, lambda key: None)} for w in (on, off)
    )
    assert {label for label in with_it if label.endswith("distilled")} == {
        f"descend {n} distilled" for n in (*range(2, 26, 2), 25)
    }
    assert without.items() < with_it.items()


def test_hints_and_depth_cost_time(world) -> None:
    inherited, distil = (
        cost.seconds(world.settings, "descend", {"method": method})
        for method in ("inherited", "distilled")
    )
    deep = cost.seconds(
        changed(world, "inherit", method="linear").settings, "descend", {"method": "inherited"}
    )
    whole = cost.seconds(world.settings, "descend", {"method": "full-ancestor"})
    assert inherited < distil and inherited < deep == whole
    assert cost.estimate(changed(world, "controls", distilled=5).settings) - cost.estimate(
        world.settings
    ) == pytest.approx(5 * distil / 2)


def test_on_a_gpu_those_that_take_the_plain_path_train_alone(
    tmp_path: Path, images, world, monkeypatch
) -> None:
    monkeypatch.setattr(perform, "choose_device", lambda name: torch.device("cuda"))
    fast = replace(world, reference=False)
    gene, ancestor = inputs(fast, Store(tmp_path))
    assert perform.set_key(descend(fast, "inherited", 1, gene), images) is not None
    assert perform.set_key(distilled(fast, 1, gene, ancestor), images) is None
    slow = changed(fast, "inherit", lr_scale=0.5)
    assert perform.set_key(descend(slow, "inherited", 1, gene), images) is None
    assert (
        perform.set_key(from_scratch(slow, ancestor_plan(slow.settings), "1"), images) is not None
    )


def test_a_rate_of_their_own_reaches_the_descendants(tmp_path: Path, images, world) -> None:
    store = Store(tmp_path)
    gene, ancestor = inputs(world, store)
    frozen = changed(world, "inherit", lr_scale=0.0)
    free, held = (result(descend(w, "inherited", 1, gene), store, images) for w in (world, frozen))
    assert (
        free.record["plan"] == held.record["plan"]
        and free.record["train_loss"] != held.record["train_loss"]
    )
    probe = result(descend(frozen, "full-ancestor", 1, ancestor), store, images)
    assert (
        probe.record["train_loss"]
        != result(descend(world, "full-ancestor", 1, ancestor), store, images).record["train_loss"]
    )


def test_a_second_draw_has_other_random_layers_on_the_same_tasks(
    tmp_path: Path, images, world
) -> None:
    store, plan = Store(tmp_path), ancestor_plan(world.settings)
    first, second = (
        result(from_scratch(world, plan, "1", draw), store, images).record for draw in (0, 1)
    )
    assert first["classes"] == second["classes"] and first["test_images"] == second["test_images"]
    assert first["train_loss"] != second["train_loss"] and first["newborn"] != second["newborn"]
