"""`evolve explain` on a tiny lineage, as a user calls it."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny
from commands import evolve
from PIL import Image

from evolve.runs.explain import default_layers
from evolve.runs.run import prepare_folder

TINY = tiny.toml(
    {
        "data.split": [4, 3, 3],
        "data.glyph_train": 8,
        "data.glyph_test": 4,
        "stream.tasks": 1,
        "stream.classes_per_task": 2,
        "ancestor.width": 0.03125,
        "condense.method": "fixed",
        "condense.fixed": [2, 5],
        "descend.classes_per_task": 2,
        "descend.shots": 4,
        "controls.shuffled": 0,
    }
)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished run and three photos."""
    folder = tmp_path_factory.mktemp("explain")
    (folder / "tiny.toml").write_text(TINY)
    run = tiny.opened(folder / "tiny.toml", folder / "run", folder / "store")
    (folder / "run").mkdir()
    prepare_folder(run, ["evolve", "run"])
    tiny.computed(run)
    (folder / "photos").mkdir()
    for name in "abc":
        pixels = np.random.default_rng(ord(name)).integers(0, 255, (20, 30, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"photos/{name}.png")
    (folder / "boxes.csv").write_text("image,left,top,right,bottom\nb.png,5,0,25,20\n")
    return folder


def test_it_measures_the_runs_own_descendants_and_the_page_shows_it(place: Path) -> None:
    pytest.importorskip("captum")
    done = evolve("explain", "run@1", "--count", "5", cwd=place)
    assert done.returncode == 0, done.stderr
    measured = json.loads((place / "run/explain-1/explain.json").read_text())
    assert measured["reproduced"] == {"inherited": True, "from-scratch": True}
    assert [(c["network"], c["layer"], c["role"]) for c in measured["columns"]] == [
        ("ancestor", "conv5", "learngene"),
        ("ancestor", "conv6", "not inherited"),
        ("inherited", "conv5", "from conv5"),
        ("from-scratch", "block3_1", "same place"),
    ]
    assert len(tiny.rows(place / "run/explain-1", "explain.csv")) == 5 * 4
    again = evolve("report", "run", cwd=place)
    assert again.returncode == 0, again.stderr
    page = (place / "run/report.html").read_text()
    assert len(re.findall(r'<img src="data:image/png;base64,[^"]+" alt="[^"]+">', page)) == 1
    assert "lineage length 1; the table below" in page and "in the box (%)" in page


def test_a_users_photos_are_measured_inside_their_boxes(place: Path) -> None:
    pytest.importorskip("captum")
    words = ["--images", "photos", "--boxes", "boxes.csv", "--descendant", "1", "--layer", "conv3"]
    done = evolve("explain", "run@1", *words, "--out", "mine", cwd=place)
    assert done.returncode == 0, done.stderr
    assert "next:" not in done.stdout
    rows = tiny.rows(place / "mine", "explain.csv")
    assert [row["image"] for row in rows] == ["a.png", "b.png", "c.png"] * 3
    assert [row["layer"] for row in rows[::3]] == ["conv3", "conv5", "block3_1"]
    assert all(bool(row["box_share"]) == (row["image"] == "b.png") for row in rows)
    # The middle 20 of 30 pixels are the square.
    assert {float(row["box_share"]) for row in rows[1::3]} == {1.0}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("run@1", "--layer", "conv99"), "--layer conv99: the ancestor has no such layer"),
        (("run@1", "--descendant", "2"), "--descendant 2: the run has 2; give 0 to 1"),
        (("run@1", "--images", "store"), "--images store: no photos there"),
        (("run",), "expected RUN@TASK"),
        (("run@1", "--boxes", "boxes.csv"), "'--boxes' is for '--images'"),
    ],
)
def test_what_does_not_fit_is_said_in_one_line(
    place: Path, words: tuple[str, ...], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("evolve.runs.explain.captum", lambda: None)
    done = evolve("explain", *words, cwd=place)
    assert done.returncode == 2
    assert said in done.stderr and done.stderr.count("\n") == 1


def test_without_captum_it_says_so_before_it_trains(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "captum.attr", None)
    monkeypatch.setattr("evolve.runs.explain.descendants", None)
    done = evolve("explain", "run@1", cwd=place)
    assert (done.returncode, done.stdout) == (2, "")
    assert "needs captum: pip install" in done.stderr and done.stderr.count("\n") == 1


SIDES = dict(zip("abcdefgh", (16, 16, 8, 8, 4, 4, 2, 1), strict=True))


@pytest.mark.parametrize(
    ("inherited", "chosen"),
    [
        ("ab", ("b", "c")),  # none of its size is left
        ("ac", ("c", "d")),
        ("beh", ("e", "f")),  # h has a single pixel
        ("bcf", ("f", "e")),
        ("gh", ("g", "f")),
        ("h", ("h", "f")),
        ("abcdefgh", ("f",)),
    ],
)
def test_layers_are_those_with_something_to_see_and_alike(
    inherited: str, chosen: tuple[str, ...]
) -> None:
    assert default_layers(SIDES, inherited) == chosen
