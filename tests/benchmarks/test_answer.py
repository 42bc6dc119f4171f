"""`evolve bench --answer`: the stages it counts are the plan's, the variances those that gains were
drawn with, the half width what the verdict prints, and the pieces add up.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from evolve.benchmarks.speed import evidence, pieces, precision
from evolve.benchmarks.speed.answer import Answer
from evolve.benchmarks.speed.cases import ANCESTOR_CLASSES, Case
from evolve.benchmarks.speed.ours import OurTests
from evolve.benchmarks.speed.plain_ancestor import PlainTests
from evolve.benchmarks.speed.plain_descendants import accuracy
from evolve.benchmarks.speed.precision import Cost, Design, Variance
from test_speed import resident  # noqa: F401 (a fixture)

from evolve.ancestor.model import accuracies
from evolve.condensers.batches import split_meta
from evolve.core.errors import UserError
from evolve.data.resident import Resident
from evolve.runs.read import Reader
from evolve.runs.run import prepare_folder

SHIPPED = Design(5, 8, 3)


@pytest.fixture(scope="module")
def published() -> list[evidence.Finished]:
    return evidence.published()[0]


def test_the_published_lineages_have_the_stages_that_they_computed(
    published: list[evidence.Finished],
) -> None:
    """Their store held 71 results of four seeds each and 74 of the fifth. The ancestor of no task
    is not timed, but each condensed it twice.
    """
    counts = [lineage.counts for lineage in published]
    assert [sum(each.values()) for each in counts] == [71, 71, 71, 71, 74]
    by_method = Counter[str]()
    for work, count in counts[0].items():
        by_method[work.method or work.kind] += count
    assert by_method == {
        "accumulate": 25,
        "condense": 10,
        "inherited": 9,
        "from-scratch": 18,
        "full-ancestor": 8,
        "shuffled": 1,
    }


def test_the_published_gain_is_the_one_that_the_docs_state(
    published: list[evidence.Finished],
) -> None:
    """docs/reproduction.md: +3.33 points [+1.45, +5.21]."""
    variance = Variance.of(published)
    assert variance.mean == pytest.approx(3.33, abs=0.01)
    assert variance.printed == pytest.approx((5.21 - 1.45) / 2, abs=0.01)
    assert variance.half(variance.design) == pytest.approx(variance.printed, rel=0.05)


def drawn(rng: np.random.Generator, design: Design, sd: tuple[float, float, float]) -> list:
    """Lineages whose gains were drawn with these standard deviations (points)."""
    lineage, task, draw = sd
    lineages = []
    for _ in range(design.seeds):
        gain = rng.normal(4, lineage) + rng.normal(0, task, design.tasks)
        scratch = rng.normal(0, draw, (design.draws, design.tasks))
        rows = tuple(map(tuple, scratch / 100))
        lineages.append(
            evidence.Finished(None, (evidence.Generation(1, (), 1, tuple(gain / 100), rows),))  # type: ignore[arg-type]
        )
    return lineages


def test_the_variances_and_the_verdicts_half_width_are_found_again() -> None:
    rng, sd = np.random.default_rng(0), (1.5, 2.0, 3.0)
    estimates = [Variance.of(drawn(rng, SHIPPED, sd)) for _ in range(20)]
    true = Variance(*(value**2 for value in sd), SHIPPED, 4.0, 0.0)
    assert np.mean([estimate.task for estimate in estimates]) == pytest.approx(true.task, rel=0.15)
    assert np.mean([estimate.draw for estimate in estimates]) == pytest.approx(true.draw, rel=0.1)
    assert np.mean([estimate.lineage for estimate in estimates]) == pytest.approx(
        true.lineage, rel=0.35
    )
    printed = np.sqrt(np.mean([estimate.printed**2 for estimate in estimates]))
    assert true.half(SHIPPED) == pytest.approx(printed, rel=0.1)
    assert true.student(SHIPPED) < true.half(SHIPPED)


def test_no_other_number_of_draws_buys_more_for_the_same_cost() -> None:
    variance, cost = Variance(1.0, 4.0, 9.0, SHIPPED, 4.0, 0.0), Cost(0.0, 6.0, 1.5)
    best = variance.best_draws(cost.task, cost.draw)
    grid = np.linspace(0.5, 12, 2000)
    spread = (variance.task + variance.draw / grid) * (cost.task + grid * cost.draw)
    assert best == pytest.approx(grid[spread.argmin()], abs=0.01)


def test_a_design_answers_and_none_that_is_smaller_does() -> None:
    variance, cost = Variance(0.5, 4.0, 9.0, SHIPPED, 4.0, 0.0), Cost(400.0, 20.0, 5.0)
    ways = precision.designs(variance, cost)
    chosen = precision.answering(variance, ways)
    assert chosen is not None and chosen.seeds == 5
    assert variance.half(chosen) <= precision.WANTED
    assert variance.half(replace(chosen, tasks=chosen.tasks - 1)) > precision.WANTED
    more = ways["five seeds, more tasks"]
    assert more is not None and cost.of(chosen) <= cost.of(more)
    steady = Variance(0.1, 1.0, 1.0, SHIPPED, 4.0, 0.0)
    assert precision.answering(steady, precision.designs(steady, cost)) == SHIPPED
    wild = Variance(99.0, 1.0, 1.0, SHIPPED, 4.0, 0.0)
    assert precision.answering(wild, precision.designs(wild, cost)) is None


def test_the_pieces_add_up_to_a_lineage(published: list[evidence.Finished]) -> None:
    """At a CPU second an image of ours and two of the baseline's, seconds count images."""
    timed = pieces.pieces(published, quick=False)
    turn = {
        pieces.OURS: {"cpu": 7.0, "images": 7},
        pieces.ONE: {"cpu": 10.0, "images": 5},
    }
    tests = {"ours": {"after_task": [500, 800, 900]}, "baseline": {"task": 500}}
    measured = {
        piece.name: {"info": tests, "rounds": [turn, turn], "disturbed": []} for piece in timed
    }
    table = {row.title: row for row in pieces.rows(published, measured, timed)}
    ours = {title: row.middle(pieces.OURS) for title, row in table.items()}
    assert ours["ancestor: tasks learned"] == pytest.approx(25 * 4 * 5 * 400)
    assert ours["ancestor: tests"] == pytest.approx(500 + 800 + 900 - 3 * 500)
    c = published[0].world.settings.condense
    train = split_meta([torch.arange(80)] * 16, c.meta_fraction, 0)[0]
    assert ours["condensations"] == pytest.approx(10 * 4 * (len(train) // 32) * 32)
    assert ours["inherited"] == pytest.approx(9 * 8 * 5 * 10 * 15)
    assert ours["from-scratch draws"] == pytest.approx(18.6 * 8 * 5 * 10 * 15)
    assert table["ancestor: tests"].middle(pieces.ONE) == pytest.approx(2 * 500 * (1 + 2 + 3))
    assert table["inherited"].middle(pieces.ONE) == pytest.approx(2 * ours["inherited"])
    answer = Answer.of(published, measured, timed)
    assert (
        answer.design is not None and answer.as_json()["designs"]["the answer"]["half_width"] < 1.5
    )
    whole, part = answer.costs[pieces.OURS], sum(ours.values())
    assert whole.of(replace(SHIPPED, seeds=1)) == pytest.approx(part)


def test_other_architectures_lie_between_the_timed_ones(published: list[evidence.Finished]) -> None:
    timed = pieces.pieces(published, quick=False)
    seconds = {"the least": 1.0, "the usual": 2.0, "the whole ancestor": 4.0}
    measured = {
        piece.name: {
            "info": {"ours": {"after_task": [1]}, "baseline": {"task": 1}},
            "rounds": [
                dict.fromkeys(
                    (pieces.OURS, pieces.ONE),
                    {"cpu": seconds.get(piece.name.rpartition(", ")[2], 1.0), "images": 1},
                )
            ],
            "disturbed": [],
        }
        for piece in timed
    }
    table = {row.title: row for row in pieces.rows(published, measured, timed)}
    each = {
        title: table[title].middle(pieces.OURS) / table[title].count / (8 * 5 * 10 * 15)
        for title in ("inherited", "whole ancestor's heirs")
    }
    assert each["whole ancestor's heirs"] == pytest.approx(4.0)
    assert 1.5 < each["inherited"] < 3.0


def test_both_sides_test_the_same_ancestor_alike(resident: Resident) -> None:  # noqa: F811
    s = evidence.published()[0][0].world.settings
    s = replace(
        s,
        data=replace(s.data, size=16),
        ancestor=replace(s.ancestor, width=1 / 16),
        stream=replace(s.stream, tasks=3, images_per_class=12),
    )
    case = Case("tests", "tests", "tests", s, {})
    plain, ours = PlainTests(case, resident), OurTests(case, resident, 0)
    shares = accuracies(ours.model, ours.tasks, s.ancestor, ANCESTOR_CLASSES, resident)
    assert accuracy(plain.model, plain.loader, plain.device) == pytest.approx(shares[0])
    assert ours.run(2) == 2 * ours.info["after_task"][-1] <= 2 * 3 * plain.run(1)


def test_what_the_baselines_do_not_do_is_refused(published: list[evidence.Finished]) -> None:
    s = published[0].world.settings
    pieces.check(s)
    with pytest.raises(UserError, match="ancestor.strategy = 'replay'.*'naive' only"):
        pieces.check(replace(s, ancestor=replace(s.ancestor, strategy="replay")))


@pytest.mark.slow
def test_runs_of_ones_own_are_read(tmp_path: Path) -> None:
    file = tmp_path / "tiny.toml"
    file.write_text(
        'name = "tiny"\ntitle = "t"\n' + tiny.toml({"controls.draws": 2, "stream.tasks": 1})
    )
    folders = [tmp_path / f"seed{seed}" for seed in (2, 3)]
    for seed, folder in zip((2, 3), folders, strict=True):
        folder.mkdir()
        run = tiny.opened(file, folder, tmp_path / "store", seed=seed)
        prepare_folder(run, [])
        tiny.computed(run)
    lineages, source = evidence.finished(folders)
    run = Reader().opened(folders[0])
    stages = {stage.key: stage for stage in run.stages()}
    counted = lineages[0].counts
    assert sum(counted.values()) == len(stages) - 1 and "seeds 2, 3" in source
    inherited, scratch = lineages[0].gains()
    assert (inherited.shape, scratch.shape) == ((2,), (2, 2))
    with pytest.raises(UserError, match="--runs: one lineage has no spread"):
        evidence.finished(folders[:1])
