"""Places for workers on GPUs: by what nvidia-smi says (a script that answers as it does), each
worker on its own.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from engine_stages import make

from evolve.engine.devices import PART
from evolve.engine.engine import Local, run_stages
from evolve.engine.store import Store
from evolve.lineage import scenario
from evolve.runs.estimate import gpus
from evolve.runs.estimate.gpus import CONTEXT_BYTES, Gpu

GIB = 1 << 30


@pytest.fixture
def smi(tmp_path, monkeypatch):
    """Makes an nvidia-smi that prints the given lines, or fails."""

    def make_one(text: str, code: int = 0) -> None:
        script = tmp_path / "nvidia-smi"
        script.write_text(f"#!/bin/sh\ncat << END\n{text}\nEND\nexit {code}\n")
        script.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")

    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return make_one


TWO = "0, GPU-aaaa-1, 70000, 81559, H100\n1, GPU-bbbb-2, 3000, 81559, H100"


def test_all_gpus_are_found_with_what_is_free(smi):
    smi(TWO)
    assert gpus.visible() == [
        Gpu("GPU-aaaa-1", 70000 << 20, 81559 << 20, "H100"),
        Gpu("GPU-bbbb-2", 3000 << 20, 81559 << 20, "H100"),
    ]


@pytest.mark.parametrize(
    "wanted, names",
    [
        ("1", ["GPU-bbbb-2"]),
        ("1,0", ["GPU-bbbb-2", "GPU-aaaa-1"]),
        ("GPU-aaaa", ["GPU-aaaa-1"]),
        ("", []),
    ],
)
def test_only_those_that_the_user_shows(smi, monkeypatch, wanted, names):
    smi(TWO)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", wanted)
    assert [gpu.name for gpu in gpus.visible()] == names


def test_gpus_of_several_models_are_not_mixed(smi, monkeypatch):
    """Bits agree only within one model; and by number CUDA may mean another card than nvidia-smi
    does.
    """
    smi(TWO.replace("81559, H100\n", "81559, A30\n"))
    assert gpus.visible() == []
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    assert gpus.visible() == []
    monkeypatch.setenv("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
    assert [gpu.model for gpu in gpus.visible()] == ["A30"]
    monkeypatch.delenv("CUDA_DEVICE_ORDER")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-bbbb")
    assert [gpu.model for gpu in gpus.visible()] == ["H100"]


def test_a_slice_of_a_gpu_is_left_to_torch(smi, monkeypatch):
    smi(TWO)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-1234")
    assert gpus.visible() == []


@pytest.mark.parametrize(
    "text, code",
    [("Failed to initialize NVML", 255), ("0, GPU-a, [N/A], [N/A], X", 0), ("nonsense", 0)],
)
def test_an_nvidia_smi_that_does_not_answer_is_no_error(smi, text, code):
    smi(text, code)
    assert gpus.visible() == []


def test_without_nvidia_smi_there_are_none(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert gpus.visible() == []


def test_as_many_workers_as_the_free_memory_holds_in_turn():
    devices = [
        Gpu("a", 70 * GIB, 80 * GIB),
        Gpu("b", 25 * GIB, 80 * GIB),
        Gpu("c", 1 * GIB, 80 * GIB),
    ]
    names = [place["CUDA_VISIBLE_DEVICES"] for place in gpus.places(devices, 10 * GIB, 16)]
    assert names == [
        "a",
        "b",
        "c",
        "a",
        "b",
        "a",
        "a",
    ]  # c has one worker though hardly anything is free, a no more than MOST
    assert [place["CUDA_VISIBLE_DEVICES"] for place in gpus.places(devices, 10 * GIB, 2)] == [
        "a",
        "b",
    ]


def test_the_workers_of_a_gpu_never_take_more_than_is_free():
    for gpu, need in (
        (Gpu("a", free * GIB, 80 * GIB), need * GIB)
        for free, need in ((40, 9), (40, 15), (40, 39), (6, 1.4))
    ):
        mine = gpus.places([gpu], need, 16)
        assert (
            sum(float(place[PART]) * gpu.total + CONTEXT_BYTES for place in mine)
            <= gpu.free * 1.001
        )
        assert all(float(place[PART]) * gpu.total + CONTEXT_BYTES >= need * 0.999 for place in mine)


def test_a_wider_network_and_larger_images_need_more():
    devices = [Gpu("a", 70 * GIB, 80 * GIB)]
    quick, paper = (
        scenario.load("cifar-seq25", profile).settings for profile in ("quick", "paper")
    )
    assert (
        CONTEXT_BYTES
        < gpus.bytes_each(quick, 0, devices)
        < gpus.bytes_each(paper, 0, devices)
        < 80 * GIB
    )
    assert gpus.bytes_each(quick, GIB, devices) == gpus.bytes_each(quick, 0, devices) + GIB
    assert gpus.bytes_each(quick, 21 * GIB, devices) == gpus.bytes_each(quick, 0, devices), (
        "images that stay off the GPU"
    )


def test_a_large_batch_of_the_ancestor_or_the_condenser_counts():
    devices = [Gpu("a", 11 * GIB, 12 * GIB)]
    small = ["descend.descendants=1"]
    plain, *large = (
        gpus.bytes_each(scenario.load("cifar-seq25", "paper", [*small, *more]).settings, 0, devices)
        for more in ([], ["ancestor.batch=2048"], ["condense.batch=512", "condense.meta_batch=512"])
    )
    assert all(need > 1.2 * plain for need in large)


def test_every_worker_sees_its_own_gpu(tmp_path):
    stages = [make(f"stage {number}", "see_gpu") for number in range(6)]
    run_stages(
        lambda: stages,
        tmp_path / "store",
        "engine_stages:perform",
        {},
        Local(gpus.spread([Gpu("a", 1, 1), Gpu("b", 1, 1)], 3)),
        lambda event: None,
    )
    store = Store(tmp_path / "store", pytest.fail)
    seen = {
        record["pid"]: record["gpu"] for record in (store.get(stage.key).record for stage in stages)
    }
    assert sorted(seen.values()) in (["a", "a", "b"], ["a", "b"])


def test_a_worker_keeps_to_its_share(monkeypatch):
    from evolve.engine.devices import repeatable

    shares: list[float] = []
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", shares.append)
    repeatable(torch.device("cpu"))
    monkeypatch.setenv(PART, "0.2500")
    before = (
        torch.backends.cudnn.deterministic,
        torch.backends.cudnn.allow_tf32,
        torch.backends.cuda.matmul.allow_tf32,
    )
    try:
        repeatable(torch.device("cuda"))
    finally:
        (
            torch.backends.cudnn.deterministic,
            torch.backends.cudnn.allow_tf32,
            torch.backends.cuda.matmul.allow_tf32,
        ) = before
        for name in ("flash", "mem_efficient", "cudnn"):
            getattr(torch.backends.cuda, f"enable_{name}_sdp")(True)
    assert shares == [0.25]
