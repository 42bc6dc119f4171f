"""The choices a scenario offers, each as a whole small lineage in this process: strategies, heads,
condensers, controls.
"""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import tiny
import torch
from test_small_lineage import TINY

from evolve.report.curves import LineageRecord
from evolve.report.files import write_report
from evolve.report.pooling import summarise
from evolve.report.verdict import verdict
from evolve.runs.run import Run


def run(folder: Path, *overrides: str, seed: int = 0) -> tuple[LineageRecord, Run]:
    (folder / "tiny.toml").write_text(TINY)
    words = ["stream.tasks=2", "ancestor.epochs=1", "descend.epochs=1", *overrides]
    opened = tiny.opened(folder / "tiny.toml", folder / "run", folder / "store", *words, seed=seed)
    return tiny.computed(opened), opened


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One store for all: the lineages share what their settings share."""
    return tmp_path_factory.mktemp("varieties")


@pytest.mark.parametrize(
    "overrides",
    [
        [
            "ancestor.strategy=ewc",
            "ancestor.strategy_args={ewc_lambda=10}",
            "ancestor.head=per-task",
        ],
        ["ancestor.strategy=si", "ancestor.head=single"],
        ["ancestor.strategy=lwf"],
        [
            "ancestor.strategy=replay",
            "ancestor.strategy_args={mem_size=20}",
            "ancestor.head=single",
        ],
        ["ancestor.strategy=cumulative", "ancestor.head=per-task"],
        ["ancestor.strategy=joint"],
    ],
    ids=lambda words: words[0].split("=")[1],
)
def test_every_strategy_carries_a_lineage(shared: Path, overrides: list[str]) -> None:
    record, _ = run(shared, *overrides)
    assert [g.lineage for g in record.generations] == [0, 1, 2]
    for g in record.generations[1:]:
        assert g.ancestor_accuracy is not None
        assert g.scratch is not None and len(g.inherited.accuracy) == len(g.scratch.accuracy) == 2


def test_stage_granularity_inherits_whole_stages(shared: Path) -> None:
    record, _ = run(
        shared, "condense.granularity=stage", "condense.selection=top-k", "condense.top_k=2"
    )
    for g in record.generations:
        assert (
            g.all_layers == ("conv1-2", "conv3-4", "conv5-7", "conv8-10", "conv11-13")
            and len(g.selected) == 2
        )
        assert g.descendant.count("*") >= 4


def test_repeated_condensations_report_their_agreement(shared: Path) -> None:
    """The first repeat is the single condensation; the selection comes from the mean alpha of
    all.
    """
    once, _ = run(shared)
    record, opened = run(shared, "condense.repeats=3")
    stages = {stage.label: stage for stage in opened.stages()}
    for single, g in zip(once.generations, record.generations, strict=True):
        result = opened.peek(stages[f"condense {g.lineage}"].key)
        assert result is not None and len(result["repeats"]) == 3
        assert [f"conv{n + 1}" for n in result["repeats"][0]] == list(single.selected)
        agree = sum(repeat == result["selected"] for repeat in result["repeats"]) / 3
        assert g.agreement == (agree if g.status == "selected" else None), (
            "what decided nothing agrees with nothing"
        )
        assert single.agreement is None
    assert any(g.status == "selected" for g in record.generations)


def test_fixed_set_is_the_papers_descendant(shared: Path) -> None:
    record, opened = run(shared, "condense.method=fixed")
    widths = [max(1, round(c / 16)) for c in (64, 128, 256, 512)]
    assert {g.descendant for g in record.generations} == {
        "{0}* M {1} M {2} M {3} M {3}* {3}* {3}* M".format(*widths)
    }
    assert record.reference is not None and record.generations[1].scratch is not None
    assert (
        record.reference.accuracy == record.generations[1].scratch.accuracy
    )  # one stage serves both
    assert {g.status for g in record.generations} == {"fixed"}


def test_a_condensation_that_diverges_selects_nothing_and_the_lineage_goes_on(shared: Path) -> None:
    record, _ = run(shared, "condense.lr=1e6")
    assert len(record.generations) == 3
    for g in record.generations:
        assert (
            g.status == "collapsed"
            and "not finite" in g.selected_by
            and "condense.lr" in g.selected_by
        )


def test_eq16_collapse_falls_back_to_the_fixed_set_and_says_so(shared: Path) -> None:
    record, _ = run(shared, "condense.meta_lr=100", "condense.epochs=6")
    for g in record.generations:
        assert g.status == "collapsed" and "fixed set" in g.selected_by
        assert g.selected == ("conv1", "conv11", "conv12", "conv13")


@pytest.mark.usefixtures("no_rendering")
def test_without_from_scratch_there_is_no_gain(shared: Path) -> None:
    record, _ = run(shared, "controls.from_scratch=false", "controls.untrained=false")
    assert [g.lineage for g in record.generations] == [1, 2] and record.reference is None
    assert all(g.scratch is None for g in record.generations)
    assert math.isnan(summarise([record]).gain.slope) and "support a rise" not in verdict(
        summarise([record])
    )
    write_report(record, shared / "bare")


def test_an_inherited_descendant_starts_as_its_ancestor_and_shuffling_keeps_the_values(
    shared: Path,
) -> None:
    """The store's learngene is bit-equal to the ancestor's layers that it names."""
    record, opened = run(shared)
    stages = {stage.label: stage for stage in opened.stages()}
    for length in (0, 1, 2):
        ancestor = opened.store.get(stages[f"accumulate {length}"].key)
        gene = opened.store.get(stages[f"condense {length}"].key)
        assert ancestor is not None and gene is not None
        model, layers = ancestor.tensors("ancestor"), gene.tensors("learngene")
        assert {name.split("/")[0] for name in layers} == set(gene.record["layers"])
        for name, tensor in layers.items():
            assert torch.equal(tensor, model[f"model.trunk.layers.{name.replace('/', '.')}"])


def test_other_seeds_draw_other_tasks_and_weights(shared: Path) -> None:
    (_, a), (_, b) = run(shared), run(shared, seed=1)
    first, second = (
        o.store.get({s.label: s for s in o.stages()}["accumulate 2"].key) for o in (a, b)
    )
    assert first is not None and second is not None
    assert first.record["classes"] != second.record["classes"]
    name = "model.trunk.layers.conv1.conv.weight"
    assert not torch.equal(first.tensors("ancestor")[name], second.tensors("ancestor")[name])
