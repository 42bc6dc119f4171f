"""Every inheritor, with distilled descendants beside it, as a whole tiny lineage of every kind of
network.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from test_varieties import run
from tiny import rows

from evolve.lineage.world import ancestor_plan
from evolve.networks.family import from_json
from evolve.report.files import write_report
from evolve.report.pooling import summarise

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("initialisations")


@pytest.mark.parametrize("method", ["stack", "repeat", "linear"])
@pytest.mark.parametrize("network", ["vgg16", "resnet18", "vit-small4"])
def test_every_inheritor_carries_a_lineage_with_its_distilled_control(
    shared: Path, network: str, method: str
) -> None:
    words = [
        f"ancestor.network={network}",
        "condense.method=fixed",
        f"inherit.method={method}",
        "controls.distilled=1",
        "controls.full_ancestor=2",
    ]
    record, opened = run(shared, *words, "inherit.lr_scale=0.5", "stream.tasks=2")
    assert [g.lineage for g in record.generations] == [0, 1, 2]
    for g in record.generations:
        assert "*" in g.descendant and (g.distilled is not None) == (g.lineage > 0)
    for g in record.generations[1:]:
        assert (
            g.scratch is not None and g.distilled is not None and g.distilled.method == "distilled"
        )
        assert len(g.distilled.accuracy) == len(g.inherited.accuracy) == 2
        assert g.distilled.train_loss != g.scratch.train_loss
    measured = opened.peek(
        next(stage.key for stage in opened.stages() if stage.label == "descend 1 distilled")
    )
    assert measured is not None
    depths = [
        len(plan.layer_names)
        for plan in (from_json(measured["plan"]), ancestor_plan(opened.world.settings))
    ]
    assert (depths[0] == depths[1]) == (method != "stack")
    effect = summarise([record]).effect("distilled")
    assert effect is not None and effect.generations == 2
    out = shared / f"{network}-{method}"
    write_report(record, out)
    assert {row["method"] for row in rows(out, "descendants.csv")} >= {
        "inherited",
        "distilled",
        "from-scratch",
        "shuffled",
        "whole-ancestor",
    }
