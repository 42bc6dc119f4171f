from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pandas
import pytest
import tiny
import torch
import torchvision
from commands import evolve as command

import evolve
from evolve.condensers.own import _arrays
from evolve.core.errors import DataError, UserError
from evolve.engine.engine import Here
from evolve.runs import api
from evolve.runs.batch import run as batch_run
from evolve.runs.listing import watch


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seeds of the tiny scenario, as `evolve run --seeds` leaves them."""
    place = tmp_path_factory.mktemp("api")
    file = place / "tiny.toml"
    file.write_text(tiny.toml({"descend.epochs": 2}))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batch_run, "crew", lambda request, runs: Here())
        done = command("run", str(file), "--seeds", "0,1", "--out", str(place / "runs"))
    assert done.returncode == 0, done.stderr
    assert "seeds 0, 1: inherited minus ..." in done.stdout
    return place / "runs"


def test_seeds_are_runs_of_their_own_and_one_pooled_report(folder: Path) -> None:
    names = {path.name for path in folder.iterdir()}
    assert {"tiny-seed0", "tiny-seed1", "summary.json", "curve.png", "report.html"} <= names
    rows = list(csv.DictReader((folder / "generations.csv").open()))
    assert {row["seed"] for row in rows} == {"0", "1"}
    alone = list(csv.DictReader((folder / "tiny-seed1" / "generations.csv").open()))
    assert alone == [row for row in rows if row["seed"] == "1"]


def test_a_loaded_run_has_the_files_numbers_and_the_descendants_weights(folder: Path) -> None:
    run = evolve.load_run(folder)
    assert [record.seed for record in run.records] == [0, 1]
    for frame, file in ((run.curve, "generations"), (run.descendants, "descendants")):
        written = pandas.read_csv(folder / f"{file}.csv", float_precision="round_trip")
        assert list(frame.columns) == list(written.columns)
        numbers = [c for c in frame.columns if written[c].dtype == float]
        assert numbers and frame[numbers].astype(float).equals(written[numbers])
    genome = run.genome
    gene = run.learngene(2, seed=1)
    assert set(gene.layers) == set(genome.columns[genome.loc[(1, 2)]])
    heir = run.descendant(2, 1, seed=1)
    again = evolve.inherit(
        folder / "tiny-seed1" / "learngenes" / "lineage-02.safetensors", 3, seed=1, descendant=1
    )
    assert all(
        torch.equal(a, b) for a, b in zip(heir.parameters(), again.parameters(), strict=True)
    )
    assert heir(torch.zeros(2, 3, 16, 16)).shape == (2, 3)
    assert "points over from-scratch" in run.verdict and run.settings["stream"]["tasks"] == 2


def test_watch_takes_a_batch_s_folder_too(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    watch(folder, None, pause=lambda seconds: pytest.fail("there is nothing to wait for"))
    lines = capsys.readouterr().out.splitlines()
    rows = [row for row in tiny.rows(folder) if row["seed"] == "1" and row["lineage"] != "0"]
    mean = np.mean([float(row["mean"]) for row in rows])
    assert [line.split(":")[0] for line in lines] == ["seed 0", "seed 1"]
    assert f"1/1 lineages, 3/3 lengths, accuracy {mean:.1f} ±" in lines[1]


def test_an_option_that_may_be_repeated_takes_a_list(monkeypatch: pytest.MonkeyPatch) -> None:
    words: list[str] = []
    monkeypatch.setattr(api, "_command", words.extend)
    monkeypatch.setattr(api, "load_run", lambda folder: folder)
    evolve.run("glyphs-seq25", out="a", log=["wandb", "mlflow"], workers=2, reference=True)
    assert words[-7:] == ["--log", "wandb", "--log", "mlflow", "--workers", "2", "--reference"]


def test_what_was_not_measured_is_named(folder: Path) -> None:
    run = evolve.load_run(folder)
    with pytest.raises(UserError, match="lineage length 7: measured are"):
        run.learngene(7)
    with pytest.raises(UserError, match=r"seed 5: there are \[0, 1\]"):
        run.descendant(1, 0, seed=5)
    with pytest.raises(UserError, match="not a run folder|no run"):
        evolve.load_run(folder / "learngenes")


class Photographs(torch.utils.data.Dataset):
    """Three classes of PIL images, as torchvision's datasets give them."""

    def __getitem__(self, number: int):
        colour = [(200, 20, 20), (20, 200, 20), (20, 20, 200)][number % 3]
        noise = np.random.default_rng(number).integers(0, 40, (97, 97, 3))
        image = np.clip(noise + colour, 0, 255).astype(np.uint8)
        return torchvision.transforms.functional.to_pil_image(image), number % 3

    def __len__(self) -> int:
        return 18


def test_an_own_network_and_own_images_in_a_learngene_out(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = torchvision.models.resnet18(num_classes=7)
    gene = evolve.condense(
        model, Photographs(), method="cka", settings={"top_k": 3, "images_per_class": 4}
    )
    assert gene.provenance["network"] == "resnet18"
    gene.save(tmp_path / "gene.safetensors")
    heir = evolve.inherit(tmp_path / "gene.safetensors", 5)
    assert heir(torch.zeros(1, 3, 97, 97)).shape == (1, 5)
    theirs = {tensor.shape: tensor for tensor in model.state_dict().values()}
    part = next(iter(gene.layers.values()))
    assert any(torch.equal(theirs[t.shape], t) for t in part.values() if t.shape in theirs)


def test_a_dataset_is_the_same_as_its_arrays() -> None:
    data = Photographs()
    images, labels = _arrays(data)
    again = _arrays((images, labels))
    assert images.shape == (18, 3, 97, 97) and labels.tolist() == [i % 3 for i in range(18)]
    for number in range(len(data)):
        assert np.array_equal(images[number].transpose(1, 2, 0), np.asarray(data[number][0]))
    assert np.array_equal(again[0], images) and np.array_equal(again[1], labels)


@pytest.mark.parametrize(
    ("images", "labels", "says"),
    [
        (np.zeros((4, 3, 8, 8), np.float32), [0, 1, 0, 1], "float32.*expected uint8"),
        (np.zeros((4, 3, 8, 9), np.uint8), [0, 1, 0, 1], "square"),
        (np.zeros((4, 3, 32, 32), np.uint8), [0, 2, 0, 2], "none left out"),
    ],
)
def test_images_that_do_not_fit_are_named(images, labels, says) -> None:
    with pytest.raises(DataError, match=says):
        evolve.condense(torchvision.models.resnet18(), (images, labels))


def test_a_network_that_is_none_of_ours_is_named() -> None:
    images = np.zeros((4, 3, 32, 32), np.uint8)
    with pytest.raises(UserError, match="name it with network=, one of vgg16"):
        evolve.condense(torch.nn.Linear(2, 2), (images, [0, 1, 0, 1]))
    with pytest.raises(UserError, match="give the tensors of vgg16 at width 1"):
        evolve.condense(torch.nn.Linear(2, 2), (images, [0, 1, 0, 1]), network="vgg16")
