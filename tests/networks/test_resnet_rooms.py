"""A ResNet in every room: condensed by autograd, trained as a descendant, and a whole tiny lineage
as a user runs it.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from commands import evolve, evolve_process
from torch import Tensor

from evolve.condensers.condense import condense_ancestor
from evolve.condensers.interface import Request
from evolve.core.settings import (
    AncestorSettings,
    CondenseSettings,
    DataSettings,
    DescendSettings,
    Settings,
)
from evolve.data.resident import Resident
from evolve.data.sources import ImageSet
from evolve.descendants.descendants import Group, downstream_tasks, train_together
from evolve.learngene.inheritance import inherit
from evolve.learngene.learngene import extract, load, shuffled
from evolve.networks.resnet_plan import ResNetPlan, resnet18
from evolve.runs.estimate.cost import seconds

PLAN = resnet18(1 / 16, 16)
CONDENSE = CondenseSettings(
    epochs=1, batch=6, meta_batch=6, meta_fraction=0.34, meta_lr=0.03, lr=0.05, augment=("crop",)
)
DESCEND = DescendSettings(
    descendants=2, classes_per_task=3, shots=7, epochs=4, batch=7, lr=0.02, augment=("flip",)
)
TINY = tiny.toml(
    {
        "data.glyph_test": 10,
        "ancestor.network": "resnet18",
        "ancestor.epochs": 2,
        "condense.meta_lr": 0.003,
        "descend.epochs": 2,
    }
)


def quiet(fraction: float, text: str) -> None:
    pass


@pytest.fixture(scope="module")
def resident() -> Resident:
    draw = np.random.default_rng(0)
    labels = np.repeat(np.arange(4), 12)
    images = (
        draw.integers(0, 120, (48, 3, 16, 16), dtype=np.uint8)
        + (labels * 40).astype(np.uint8)[:, None, None, None]
    )
    image_set = ImageSet(
        "noise",
        images,
        labels,
        np.tile(np.arange(12) >= 8, 4),
        tuple("abcd"),
        "f",
        (0.4, 0.4, 0.4),
        (0.2, 0.2, 0.2),
    )
    return Resident(image_set, torch.device("cpu"))


@pytest.fixture(scope="module")
def state(resident: Resident) -> dict[str, Tensor]:
    """An ancestor whose running statistics fit the images."""
    model = PLAN.build(5).train()
    with torch.no_grad():
        for _ in range(20):
            model(resident.batch(torch.arange(48)))
    return model.state_dict()


@pytest.mark.parametrize(
    ("objective", "granularity", "layers"),
    [("bilevel", "conv", (17, 12)), ("bilevel", "stage", (4, 4)), ("eq16", "conv", (17, 12))],
)
def test_the_meta_network_scores_a_resnet(
    resident: Resident,
    state: dict[str, Tensor],
    objective: str,
    granularity: str,
    layers: tuple[int, int],
) -> None:
    c = replace(CONDENSE, objective=objective, granularity=granularity, selection="top-k", top_k=3)
    kept = {name: t.clone() for name, t in state.items()}
    first, again, other = (
        condense_ancestor(Request(PLAN, state, {}, (0, 1, 3), resident, c, seed, quiet))
        for seed in (0, 0, 1)
    )
    assert first.alpha.shape == layers and float((first.alpha - 1).abs().max()) > 1e-3
    assert torch.equal(first.alpha, again.alpha) and not torch.equal(first.alpha, other.alpha)
    assert first.status == "selected" and len(first.selected) == 3
    assert all(torch.equal(kept[name], t) for name, t in state.items())


def test_descendants_learn_and_equal_networks_are_paired(
    resident: Resident, state: dict[str, Tensor]
) -> None:
    tasks = downstream_tasks(DESCEND, range(4), resident, 0)
    paper, gene = (
        PLAN.paper_descendant(),
        extract(state, PLAN, ["conv4", "conv5", "conv16", "conv17"]),
    )
    alike = PLAN.stacked(["conv2", "conv3"])  # another choice, the same architecture
    whole = extract(state, PLAN, [*PLAN.layer_names, *PLAN.extras])
    heirs = [
        (paper, gene),
        (paper, shuffled(gene, 0, "shuffle")),
        (paper.anonymous(), None),
        (alike, None),
        (PLAN.whole(), whole),
    ]
    results = [
        train_together(
            [inherit(plan, held, 3, 0, n) for n in range(2)],
            Group(tasks, range(2), resident, DESCEND, 0),
            quiet,
        )[0]
        for plan, held in heirs
    ]
    assert all(result.train_loss[-1] < result.train_loss[0] for result in results)
    assert results[2] == results[3], "equal architectures are one control"
    assert len({tuple(result.train_loss) for result in results}) == 4


def test_estimates_follow_the_network() -> None:
    def settings(network: str, size: int) -> Settings:
        return Settings(
            ancestor=AncestorSettings(network=network),
            data=DataSettings(size=size, split=(64, 16, 20)),
        )

    recipe = {"task": 1, "ancestor": {"strategy": "naive"}}
    costs = [
        seconds(settings(network, size), "accumulate", recipe)
        for network, size in (("vgg16", 32), ("resnet18", 32), ("resnet18", 64))
    ]
    assert (
        1.2 < costs[1] / costs[0] < 3 and 3 < costs[2] / costs[1] < 4.5
    )  # 0.31 and 0.56 G multiply-adds; four times the pixels


@pytest.mark.slow
def test_a_whole_lineage_of_resnets(tmp_path: Path) -> None:
    (tmp_path / "tiny.toml").write_text(TINY)
    controls = [
        word
        for name in ("joint", "full_ancestor", "distilled")
        for word in ("--set", f"controls.{name}=2")
    ]
    done = evolve_process(
        "run",
        "--scenario",
        "tiny.toml",
        "--out",
        "runs/one",
        "--workers",
        "2",
        *controls,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    methods = {row["method"] for row in tiny.rows(tmp_path / "runs/one", "descendants.csv")}
    assert methods == {
        "inherited",
        "from-scratch",
        "shuffled",
        "joint",
        "whole-ancestor",
        "whole-ancestor from-scratch",
        "distilled",
        "reference",
    }
    for path in (tmp_path / "runs/one/learngenes").glob("*.safetensors"):
        gene = load(path)
        assert isinstance(gene.ancestor_plan, ResNetPlan) and set(gene.layers) <= set(
            gene.ancestor_plan.layer_names
        )
    table = (tmp_path / "runs/one/generations.csv").read_bytes()
    results = tmp_path / "runs/store/results"
    times = {path: path.stat().st_mtime_ns for path in results.rglob("manifest.json")}
    again = evolve("resume", "runs/one", cwd=tmp_path)
    assert (
        again.returncode == 0
        and {path: path.stat().st_mtime_ns for path in results.rglob("manifest.json")} == times
    )
    alone = evolve("run", "--scenario", "tiny.toml", "--out", "other/one", *controls, cwd=tmp_path)
    assert alone.returncode == 0, alone.stderr
    assert (
        (tmp_path / "other/one/generations.csv").read_bytes()
        == table
        == (tmp_path / "runs/one/generations.csv").read_bytes()
    )
    plan = evolve("plan", "tiny.toml", "--out", "planned/run", cwd=tmp_path)
    assert plan.returncode == 0 and "left: about" in plan.stdout, plan.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    "overrides",
    [
        ["ancestor.head=single", "ancestor.strategy=replay", "condense.granularity=stage"],
        [
            "ancestor.head=per-task",
            "ancestor.strategy=ewc",
            "inherit.lr_scale=0.1",
            "condense.method=gradient",
        ],
        [
            "ancestor.head=shared",
            "data.size=104",
            "stream.tasks=1",
            "condense.method=fixed",
            "condense.fixed_set=authors",
            "inherit.method=linear",
        ],
    ],
    ids=lambda words: words[0].split("=")[1],
)
def test_heads_stems_and_ways_to_condense_and_inherit(tmp_path: Path, overrides: list[str]) -> None:
    (tmp_path / "tiny.toml").write_text(TINY)
    words = ["controls.untrained=false", *overrides]
    opened = tiny.opened(tmp_path / "tiny.toml", tmp_path / "run", tmp_path / "store", *words)
    record = tiny.computed(opened)
    assert [g.lineage for g in record.generations] == [
        *range(1, opened.world.settings.stream.tasks + 1)
    ]
    for g in record.generations:
        assert (
            g.descendant.count("*") >= 3
            and g.scratch is not None
            and json.dumps(g.inherited.accuracy)
        )
