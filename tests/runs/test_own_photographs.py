"""A researcher's own class folders, from `evolve plan` to a finished lineage, and what it costs."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny
from commands import Done, evolve
from PIL import Image

from evolve.core.errors import DataError
from evolve.core.settings import DataSettings, Settings
from evolve.data.sources import load_images
from evolve.lineage import scenario
from evolve.runs.estimate import cost
from evolve.runs.estimate.counts import Count, lying, of_images, published

CLASSES, EACH = 12, 10
OWN = {
    "data.source": "imagefolder",
    "descend.shots": 8,
    **tiny.NO_CONTROLS,
    "stream.tasks": 1,
    "controls.full_ancestor": 0,
}
LEFT_OUT = ("data.split", "data.glyph_train", "data.glyph_test")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with own.toml and, in photos/, twelve classes of ten pictures of 20 x 18 pixels."""
    root = tmp_path_factory.mktemp("own")
    draw = np.random.default_rng(0)
    for place in range(CLASSES):
        colour = draw.integers(0, 200, 3)
        for number in range(EACH):
            pixels = (colour + draw.integers(0, 56, (18, 20, 3))).astype(np.uint8)
            file = root / f"photos/class{place:02d}/{number}.{'png' if number % 2 else 'jpg'}"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(file)
    lines = [line for line in tiny.toml(OWN).splitlines() if not line.startswith(LEFT_OUT)]
    (root / "own.toml").write_text("\n".join(lines))
    return root


def ask(place: Path, *words: str) -> Done:
    store = {"EVOLVE_STORE": str(place / "store"), "EVOLVE_CACHE": str(place / "cache")}
    return evolve(*words, "--data", "photos", cwd=place, env=store)


def test_plan_and_run_take_what_lies_there(place: Path) -> None:
    """Eight training images a class: fewer than any published count."""
    planned = ask(place, "plan", "own.toml")
    assert planned.returncode == 0, planned.stderr
    assert "ancestor 7 (8 + 2), condense 2 (8 + 2), descend 3 (8 + 2)" in planned.stdout
    assert "left: about" in planned.stdout
    done = ask(place, "run", "own.toml", "--out", "run")
    assert done.returncode == 0, done.stderr
    facts = json.loads((place / "run/run.json").read_text())
    assert {role: len(ids) for role, ids in facts["classes"].items()} == {
        "ancestor": 7,
        "condense": 2,
        "descend": 3,
    }
    assert [row["lineage"] for row in tiny.rows(place / "run")] == ["0", "1"]
    (place / "photos").rename(place / "moved")
    (place / "photos").symlink_to("moved")
    assert "nothing, every stage is in the store" in ask(place, "plan", "own.toml").stdout


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            "stream.classes_per_task=8",
            ["12 classes, and 13 are needed", "ancestor 8 (stream.classes_per_task)", "lower"],
        ),
        ("descend.shots=9", ["descend.shots = 9", "class0", "8 training images; give at most 8"]),
        ("data.split=[8,3,4]", ["asks for 15 classes", "imagefolder has 12", "data.split = []"]),
    ],
)
def test_too_few_classes_or_images_are_said_with_folder_and_setting(
    change: str, words: list[str], place: Path
) -> None:
    refused = ask(place, "run", "own.toml", "--set", change, "--out", "refused")
    assert refused.returncode == 2 and refused.stderr.count("\n") == 1
    assert all(word in refused.stderr for word in [*words, "photos"]), refused.stderr


def test_the_page_s_file_is_a_scenario(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs/own-photographs.md").read_text(encoding="utf-8")
    [text] = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    (tmp_path / "own.toml").write_text(text)
    data = scenario.load(str(tmp_path / "own.toml")).settings.data
    assert (data.source, data.split) == ("imagefolder", ())


def own(place: Path) -> Settings:
    data = DataSettings(source="imagefolder", size=16, split=())
    return replace(Settings(), data=data)


def test_what_lies_there_is_counted_as_it_is_read(place: Path) -> None:
    settings = replace(own(place), data=replace(own(place).data, holdout=1))
    there = lying(settings, place / "photos")
    images = load_images(settings.data, place / "photos", place / "cache")
    assert there["ancestor"] == Count(5, 7, 3)
    roles = {"ancestor": range(5), "condense": range(5, 7), "descend": range(7, 12)}
    assert there == of_images(images, roles)
    two = replace(settings, data=replace(settings.data, descend_source="glyphs"))
    assert lying(two, place / "photos")["ancestor"] == Count(12, 7, 3)  # shared with no other role
    assert cost.estimate(settings, 1, there) < 0.2 * cost.estimate(settings, 1)


def test_imagenet_is_counted_where_it_lies_and_published_where_not(
    place: Path, tmp_path: Path
) -> None:
    for role in ("train", "val"):
        (tmp_path / role).symlink_to(place / "photos")
    imagenet = replace(own(place), data=DataSettings(source="imagenet", split=(6, 2, 4)))
    assert lying(imagenet, tmp_path)["descend"] == Count(4, 10, 10)
    assert lying(imagenet, tmp_path / "none") == published(imagenet)
    assert published(imagenet)["ancestor"] == Count(6, 1281, 50)
    with pytest.raises(DataError, match="is not there"):  # nothing is published about these
        lying(own(place), tmp_path / "none")
