"""Tables II and III: the paper's numbers beside ours, as its text prints them."""

from __future__ import annotations

from dataclasses import replace

import made
import pytest

from evolve.core.words import WHOLE
from evolve.report.batch.fewshot import fewshot
from evolve.report.batch.figure import BatchFigure, Pair
from evolve.report.batch.initialisations import initialisations
from evolve.report.figures import encode

CIFAR_VGG = {"data.source": "cifar100", "ancestor.network": "vgg16"}
TINY_VIT = {"data.source": "tinyimagenet", "ancestor.network": "vit-small4"}


def level(value: float) -> list[list[float]]:
    """Three tasks around ``value``."""
    return [[value - 0.01], [value], [value + 0.01]]


def pairs(seeds: int = 3) -> list[Pair]:
    """Auto-Learngene 60 %, Heur-Learngene 40 %, from scratch 30 %, whole ancestor 70 %."""
    return [
        made.pair(
            method,
            seed,
            values,
            made.generation(level(accuracy), level(0.3), level(0.7), level(0.2)),
        )
        for values in (CIFAR_VGG, TINY_VIT)
        for method, accuracy in (("Heur-Learngene", 0.4), ("Auto-Learngene", 0.6))
        for seed in range(seeds)
    ]


def drawn(measured: list[Pair], figure: str) -> BatchFigure:
    batch = made.batch(figure, measured, ("from-scratch", "distilled", "full-ancestor"))
    code = {"initialisations": initialisations, "fewshot": fewshot}[figure]
    return code(replace(batch, reference="Auto-Learngene"), measured)


def test_table_2_has_the_papers_rows_and_its_numbers_beside_ours() -> None:
    rows = {(row["images"], row["method"]): row for row in drawn(pairs(), "initialisations").rows}
    names = ["From-Scratch", "Heur-Learngene", "Auto-Learngene", WHOLE]
    assert [name for images, name in rows if images == "CIFAR-100"] == names
    cifar = {name: rows["CIFAR-100", name] for name in names}
    assert [row["accuracy"] for row in cifar.values()] == pytest.approx([30, 40, 60, 70])
    assert [row["minus_reference"] for row in cifar.values()] == [
        pytest.approx(-30),
        pytest.approx(-20),
        None,
        pytest.approx(10),
    ]
    assert [row["paper"] for row in cifar.values()] == [81.88, 82.78, 84.04, None]
    stands_in = rows["Tiny ImageNet", "Auto-Learngene"]
    assert stands_in["column"] == "ViT" and stands_in["paper"] == 87.08
    assert stands_in["paper_images"] == "ImageNet100"


def test_its_tables_and_picture_say_whose_protocol_the_papers_numbers_have() -> None:
    shown = drawn(pairs(), "initialisations")
    table = shown.tables[0]
    assert table.heads == ("method", "VGG", "the paper (CIFAR100)")
    assert "500 images a class" in table.caption and "500 images a class" in shown.caption
    assert table.rows[-2].cells[0] == "Auto-Learngene" and table.rows[-2].cells[2] == "84.04"
    picture = encode(shown.draw, "svg").decode()
    assert "open diamonds" in picture


def test_images_that_the_paper_has_not_stand_alone() -> None:
    measured = [
        made.pair("Auto-Learngene", 0, {"descend.shots": 10}, made.generation(level(0.6), None))
    ]
    shown = drawn(measured, "initialisations")
    assert shown.tables[0].heads == ("method", "VGG") and shown.rows[0]["paper"] is None
    assert "open diamonds" not in encode(shown.draw, "svg").decode()


def few(shots: int, seed: int, diverged: bool = False) -> list[Pair]:
    values = CIFAR_VGG | {"descend.shots": shots}
    learners = (
        replace(made.descent("protonet", level(0.5)), backbone="64 M", diverged=diverged),
        replace(made.descent("matchingnet", level(0.45)), backbone="64 M"),
    )
    return [
        (case, replace(record, fewshot=learners))
        for method, accuracy in (("Heur-Learngene", 0.4), ("Auto-Learngene", 0.6))
        for case, record in [
            made.pair(method, seed, values, made.generation(level(accuracy), level(0.3)))
        ]
    ]


def test_table_3_puts_learners_before_descendants_with_paired_differences() -> None:
    shown = drawn([*few(10, 0), *few(20, 0)], "fewshot")
    rows = {(row["column"], row["method"]): row for row in shown.rows}
    order = ["MatchingNet", "ProtoNet", "From-Scratch", "Heur-Learngene", "Auto-Learngene"]
    assert [name for column, name in rows if column == "VGG, 10-shot"] == order
    protonet = rows["VGG, 20-shot", "ProtoNet"]
    assert protonet["accuracy"] == pytest.approx(50) and protonet["tasks"] == 3
    assert protonet["minus_reference"] == pytest.approx(-10)
    assert protonet["minus_low"] <= protonet["minus_reference"] <= protonet["minus_high"]
    assert (protonet["paper"], protonet["paper_plus_minus"]) == (61.02, 3.18)
    assert rows["VGG, 10-shot", "Auto-Learngene"]["paper"] == 61.80
    assert "architectures differ" in shown.caption and len(encode(shown.draw, "png")) > 10_000


def test_a_learner_that_diverged_has_no_accuracy() -> None:
    shown = drawn(few(10, 0, diverged=True), "fewshot")
    row = next(row for row in shown.rows if row["method"] == "ProtoNet")
    assert row["accuracy"] is None and row["note"] == "diverged"
    cells = next(row.cells for row in shown.tables[0].rows if row.cells[0] == "ProtoNet")
    assert cells[1:] == ("diverged", "56.40 ± 2.88")
