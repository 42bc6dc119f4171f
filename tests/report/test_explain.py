"""The numbers beside Grad-CAM's maps."""

from __future__ import annotations

import csv
import io
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import torch
import torch.nn.functional as F

from evolve.core.errors import UserError
from evolve.report.curves import point_interval
from evolve.report.explain import (
    Column,
    Explained,
    cells,
    entropy,
    inside,
    summary,
)
from evolve.report.explain_files import read_panels, write_explained

SIZE = 8
RNG = np.random.default_rng(0)


def explained(boxes: bool = True) -> Explained:
    """Three images through two columns; a map of the second is empty."""
    maps = RNG.random((2, 3, 4, 4))
    maps[1, 2] = 0
    columns = [
        Column(name, "conv4", "learngene", own, ["a", "b", "c"])
        for name, own in zip(("ancestor", "inherited"), maps, strict=True)
    ]
    rectangles = (0.0, 0.0, 8.0, 4.0), (2.5, 1.0, 3.5, 7.0), None
    facts = {"lineage": 3, "source": "tests"}
    pixels = RNG.random((3, SIZE, SIZE, 3))
    return Explained(facts, pixels, ["x", "y", "z"], rectangles if boxes else [None] * 3, columns)


def test_entropy_is_that_of_the_cells_shares_over_an_even_maps() -> None:
    weights = RNG.random((4, 5))
    expected = scipy.stats.entropy(weights.ravel(), base=20)
    assert entropy(weights) == pytest.approx(expected) == entropy(7 * weights)
    few = np.zeros(16)
    for cells_lit in (1, 4, 16):
        few[:cells_lit] = 3
        assert entropy(few.reshape(4, 4)) == pytest.approx(math.log(cells_lit, 16))
    assert math.isnan(entropy(0 * weights)) and math.isnan(entropy(np.ones((1, 1))))


def test_mass_inside_counts_pixels_by_the_part_that_a_box_covers() -> None:
    heat = RNG.random((SIZE, SIZE))
    fine = np.kron(heat, np.ones((4, 4)))  # a quarter of a pixel each
    box = (1.25, 0.5, 6.75, 3.0)
    left, top, right, bottom = (round(4 * edge) for edge in box)
    assert inside(heat, box) == pytest.approx(fine[top:bottom, left:right].sum() / fine.sum())
    assert inside(heat, (0, 0, SIZE, SIZE)) == pytest.approx(1)
    assert math.isnan(inside(0 * heat, box))


def test_a_column_is_the_mean_over_images_that_have_the_number() -> None:
    shown = explained()
    first, second = summary(shown)["columns"]
    maps = torch.from_numpy(shown.columns[0].maps)
    heat = F.interpolate(maps[None], size=(SIZE, SIZE), mode="bilinear")[0].numpy()
    shares = [inside(heat[n], shown.boxes[n]) for n in (0, 1)]
    assert first["inside"] == pytest.approx(vars(point_interval(shares)))
    assert first["entropy"] == vars(point_interval([entropy(m) for m in shown.columns[0].maps]))
    excess = vars(point_interval([shares[0] - 0.5, shares[1] - 6 / 64]))
    assert first["excess"] == pytest.approx(excess)
    assert (second["entropy"]["n"], second["empty"]) == (2, 1)
    even = cells(summary(shown))[-1]
    assert even[3].startswith(f"{100 * (0.5 + 6 / 64) / 2:.2f} ±")


@pytest.mark.usefixtures("no_rendering")
def test_a_run_shows_what_its_complete_folders_hold(tmp_path: Path) -> None:
    shown = explained(boxes=False)
    files = write_explained(shown, tmp_path / "explain-3")
    shutil.copytree(tmp_path / "explain-3", tmp_path / "explain-10")
    other = tmp_path / "explain-10/explain.json"
    other.write_text(other.read_text().replace('"lineage": 3', '"lineage": 10'))
    (tmp_path / "explain-1").mkdir()
    assert [panel.lineage for panel in read_panels(tmp_path)] == [3, 10]
    (table,) = (path for path in files if path.suffix == ".csv")
    rows = list(csv.DictReader(io.StringIO(table.read_text())))
    assert [row["inside"] for row in rows] == [""] * 6
    assert float(rows[4]["entropy"]) == entropy(shown.columns[1].maps[1])
    assert read_panels(tmp_path)[0].rows[0][3] == "-"
    other.write_text('{"lineage": 10}')
    with pytest.raises(UserError, match=r"explain-10/explain\.json: damaged"):
        read_panels(tmp_path)
