"""What the GPU script says of what it measured; its parts themselves are rehearsed by its own option."""

from __future__ import annotations

from pathlib import Path

from evolve.benchmarks.speed.gpu import lines
from evolve.benchmarks.speed.gpu_lineage import compared, identity
from evolve.benchmarks.speed.gpu_parts import stage_counts
from evolve.benchmarks.speed.gpu_setting import settings

HEADER = "scenario,profile,seed,lineage,method,descendant,accuracy\n"


def run(folder: Path, *accuracies: float) -> Path:
    folder.mkdir()
    rows = [
        f"glyphs-seq25,quick,4,1,inherited,{number},{100 * accuracy}\n"
        for number, accuracy in enumerate(accuracies)
    ]
    (folder / "descendants.csv").write_text(HEADER + "".join(rows))
    return folder


def test_lineages_are_compared_descendant_by_descendant(tmp_path):
    ours, theirs = run(tmp_path / "gpu", 0.5, 0.7), run(tmp_path / "cpu", 0.4, 0.5, 0.9)
    (row,) = compared("glyphs-seq25", ours, theirs)
    assert row == ("glyphs-seq25 beside the CPU's, inherited, 2 pairs", "+15.00 ± 10.00", "points")
    assert identity(theirs) == ("glyphs-seq25", "4")


def test_a_paper_scale_lineage_has_a_stage_a_task_and_a_condensation_a_length():
    counted = stage_counts(settings("paper", False))
    assert counted["accumulate"] == counted["condense"] == 26
    assert counted["descend"] > 26 + 5 + 5  # inherited, shuffled, whole ancestor; from scratch


def test_a_part_that_failed_says_so_and_what_it_had_measured():
    told = list(
        lines(
            "ancestor",
            {
                "ended": "failed with code 1, see gpu.log",
                "seconds": 3.0,
                "rows": [{"what": "plain", "value": 1.5, "unit": "ms"}],
            },
        )
    )
    assert "failed with code 1" in told[0] and told[1].split() == ["plain", "1.5", "ms"]
