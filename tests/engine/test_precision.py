"""Precision: what an arithmetic means on a device, and that bfloat16 trains the same network."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny
import torch

from evolve.core.errors import UserError
from evolve.data.sources import load_images
from evolve.engine.precision import computing
from evolve.lineage import lineage
from evolve.runs.estimate import timing

CPU = torch.device("cpu")


def test_who_takes_the_plain_path() -> None:
    for arithmetic, plain in (
        ("", False),
        ("winograd", False),
        ("fast", False),
        ("reference", True),
        ("winograd bfloat16", True),
        ("reference bfloat16", True),
    ):
        with computing(arithmetic, CPU) as path:
            assert path == plain
            product = torch.ones(2, 2) @ torch.ones(2, 2)
        assert product.dtype == (torch.bfloat16 if "bfloat16" in arithmetic else torch.float32)


def test_tf32_without_a_gpu_is_refused() -> None:
    with (
        pytest.raises(UserError, match=r"tf32.*ancestor\.precision"),
        computing("compiled tf32", CPU),
    ):
        raise AssertionError("it went on")


def steps(layer: torch.nn.Linear, images: torch.Tensor, count: int) -> None:
    optimizer = torch.optim.SGD(layer.parameters(), 0.5)
    for _ in range(count):
        optimizer.zero_grad()
        layer(images).square().mean().backward()
        optimizer.step()


def test_no_step_computes_with_the_weights_of_the_step_before() -> None:
    """Autocast keeps what it has cast until it ends, so one for a whole stage must keep nothing."""
    torch.manual_seed(0)
    images, layers = torch.randn(8, 4), [torch.nn.Linear(4, 4) for _ in range(2)]
    layers[1].load_state_dict(layers[0].state_dict())
    with computing("fast bfloat16", CPU):
        steps(layers[0], images, 3)
    for _ in range(3):
        with torch.autocast("cpu", torch.bfloat16):
            steps(layers[1], images, 1)
    assert torch.equal(layers[0].weight, layers[1].weight)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("precision")
    (place / "tiny.toml").write_text(tiny.toml({"stream.tasks": 1, "controls.shuffled": 0}))
    return place


def test_a_lineage_in_bfloat16_is_another_and_much_the_same(folder: Path) -> None:
    words = ["ancestor.precision=bfloat16", "descend.precision=bfloat16"]
    runs = [
        tiny.opened(folder / "tiny.toml", folder / f"out{n}", folder / "store", *chosen)
        for n, chosen in enumerate(([], words))
    ]
    for run in runs:
        tiny.computed(run)
    stages = [lineage.lineage(run.world, run.store.record) for run in runs]
    losses = [
        {s.label: run.store.record(s.key)["train_loss"] for s in some if s.label == "accumulate 1"}
        for run, some in zip(runs, stages, strict=True)
    ]
    assert losses[0] != losses[1]
    assert losses[1]["accumulate 1"] == pytest.approx(losses[0]["accumulate 1"], rel=0.05)


def test_a_plan_says_what_bfloat16_would_gain(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only where the processor has it, and the run has not chosen already."""
    run = tiny.opened(
        folder / "tiny.toml", folder / "plan", folder / "other", "descend.precision=bfloat16"
    )
    place = run.context
    images = load_images(place["data"], place["data_dir"], place["cache_dir"])
    monkeypatch.setattr(timing, "_ratio", lambda kind, run, resident, s: 0.5)
    speed = {"accumulate": 1.0, "descend": 1.0}
    monkeypatch.setattr(timing, "multiplies_bfloat16", lambda device: True)
    assert timing.faster_precision(run, images, speed) == {"ancestor": 2.0}
    monkeypatch.setattr(timing, "multiplies_bfloat16", lambda device: False)
    assert timing.faster_precision(run, images, speed) == {}
