"""A whole tiny ViT lineage as a user runs it, killed and resumed; one from a DINO file without a
stream; every condenser and inheritor on a ViT.
"""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest
import tiny
import torch
from commands import evolve_process, start
from timm.models.vision_transformer import VisionTransformer
from tiny import rows

from evolve.core.errors import UserError
from evolve.core.registry import records
from evolve.report.curves import LineageRecord
from evolve.report.files import write_report
from evolve.report.pooling import summarise
from evolve.report.verdict import gain_sentence
from evolve.runs.run import Run

pytestmark = pytest.mark.slow

TINY = tiny.toml(
    {
        "data.glyph_test": 10,
        "ancestor.network": "vit-small4",
        "ancestor.width": 0.125,
        "ancestor.optimizer": "adamw",
        "ancestor.schedule": "cosine",
        "ancestor.warmup": 0.2,
        "ancestor.lr": 0.002,
        "ancestor.epochs": 3,
        "condense.match_weight": 0.1,
        "condense.lr": 0.03,
        "condense.meta_lr": 0.003,
        "descend.epochs": 2,
        "descend.optimizer": "adamw",
        "descend.lr": 0.002,
        "controls.joint": 2,
        "controls.full_ancestor": 2,
        "controls.distilled": 2,
    }
)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vit")
    (folder / "tiny.toml").write_text(TINY)
    with torch.random.fork_rng():
        teacher = VisionTransformer(
            img_size=32, patch_size=4, embed_dim=24, depth=12, num_heads=1, num_classes=0
        )
    torch.save(
        {"teacher": {f"backbone.{name}": tensor for name, tensor in teacher.state_dict().items()}},
        folder / "dino.pth",
    )
    return folder


def test_a_killed_run_resumes_to_the_same_bytes(place: Path) -> None:
    whole = evolve_process(
        "run", "--scenario", "tiny.toml", "--out", "runs/whole", "--workers", "1", cwd=place
    )
    assert whole.returncode == 0, whole.stderr
    assert [row["lineage"] for row in rows(place / "runs/whole")] == ["0", "1", "2"]
    assert all("B*" in row["descendant"] for row in rows(place / "runs/whole"))
    methods = {row["method"] for row in rows(place / "runs/whole", "descendants.csv")}
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
    started = start(
        "run", "--scenario", "tiny.toml", "--out", "cut/run", "--workers", "1", cwd=place
    )
    deadline = time.monotonic() + 300
    while (
        len(list((place / "cut/store/results").rglob("manifest.json"))) < 4
        and time.monotonic() < deadline
    ):
        time.sleep(0.2)
    started.send_signal(signal.SIGKILL)
    started.communicate()
    assert not (place / "cut/run/generations.csv").exists(), "it was to be cut before its end"
    again = evolve_process("resume", "cut/run", cwd=place)
    assert again.returncode == 0, again.stderr
    for name in ("generations.csv", "descendants.csv", "curve.svg"):
        assert (place / "cut/run" / name).read_bytes() == (
            place / "runs/whole" / name
        ).read_bytes(), name


def lineage(place: Path, *overrides: str) -> tuple[LineageRecord, Run]:
    words = [
        "stream.tasks=1",
        "ancestor.epochs=1",
        "descend.epochs=1",
        "controls.distilled=0",
        *overrides,
    ]
    opened = tiny.opened(place / "tiny.toml", place / "run", place / "store", *words)
    return tiny.computed(opened), opened


def test_one_dino_ancestor_without_a_stream(place: Path) -> None:
    words = [
        "stream.tasks=0",
        f"ancestor.checkpoint={place / 'dino.pth'}",
        "inherit.embeddings=inherited",
        "controls.distilled=1",
    ]
    record, opened = lineage(place, *words)
    (only,) = record.generations
    assert only.lineage == 0 and only.descendant.startswith("24/4* ") and only.joint is None
    assert None not in (only.scratch, only.shuffled, only.full_ancestor, only.distilled)
    summary = summarise([record])
    assert (
        summary.measured == 1
        and summary.effect("from-scratch") is not None
        and "points over from-scratch" in gain_sentence(summary)
    )
    assert summary.effect("lineage 0") is None, "a pretrained ancestor is not its own control"
    write_report([record], place / "report")
    assert (place / "report/curve.png").stat().st_size > 0
    other, _ = lineage(
        place,
        "stream.tasks=1",
        f"ancestor.checkpoint={place / 'dino.pth'}",
        "inherit.embeddings=inherited",
    )
    assert other.generations[0].scores == only.scores, (
        "a lineage from the same file begins with the same ancestor"
    )
    random, _ = lineage(place, "stream.tasks=1", "inherit.embeddings=inherited")
    assert random.generations[0].scores != only.scores
    with pytest.raises(UserError, match="stream.tasks = 0.*ancestor.checkpoint"):
        lineage(place, "stream.tasks=0")


@pytest.mark.parametrize(
    "condenser", [name for name in records("condensers") if name != "meta-network"]
)
def test_every_condenser_condenses_a_vit(condenser: str, place: Path) -> None:
    record, _ = lineage(
        place,
        f"condense.method={condenser}",
        "condense.window=2",
        "stream.tasks=2",
        "controls.joint=0",
        "controls.full_ancestor=0",
    )
    assert [g.lineage for g in record.generations] == [0, 1, 2]
    assert all(
        g.all_layers == tuple(f"block{n}" for n in range(1, 13)) and g.selected
        for g in record.generations
    )


@pytest.mark.parametrize("inheritor", [name for name in records("inheritors") if name != "stack"])
@pytest.mark.parametrize("granularity", ["conv", "stage"])
def test_every_inheritor_makes_descendants_of_a_vit(
    inheritor: str, granularity: str, place: Path
) -> None:
    words = [
        f"inherit.method={inheritor}",
        f"condense.granularity={granularity}",
        "condense.method=fixed",
        "inherit.lr_scale=0.5",
    ]
    record, _ = lineage(place, *words, "inherit.embeddings=inherited")
    assert all(g.descendant.startswith("24/4* ") for g in record.generations)


def test_a_head_a_task_and_an_elastic_penalty(place: Path) -> None:
    record, _ = lineage(
        place,
        "ancestor.head=per-task",
        "ancestor.strategy=ewc",
        "stream.tasks=2",
        "condense.objective=eq16",
    )
    assert record.generations[-1].ancestor_accuracy is not None
