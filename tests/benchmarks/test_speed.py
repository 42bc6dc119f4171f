"""`evolve bench`: the baselines train what ours train, the numbers are made honestly, the command
works.
"""

from __future__ import annotations

import io
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from commands import Done, evolve
from evolve.benchmarks.speed import cases, growth, machine, report, rounds
from evolve.benchmarks.speed.bench import refuse
from evolve.benchmarks.speed.overhead import Overhead
from evolve.benchmarks.speed.plain_ancestor import PlainAncestor
from evolve.benchmarks.speed.plain_condenser import DoubleBackward, PlainEq16
from evolve.benchmarks.speed.plain_descendants import plain_model, train
from evolve.benchmarks.speed.plain_images import PilImages, fastest, pil_images, transform_of
from evolve.benchmarks.speed.summary import rows
from evolve.benchmarks.speed.work import train_flops
from rich.console import Console
from torch import Tensor

from evolve.ancestor.accumulate import AccumulateRequest, accumulate
from evolve.condensers.condense import condense_ancestor
from evolve.condensers.interface import Request
from evolve.core.errors import UserError
from evolve.core.settings import CondenseSettings, DescendSettings
from evolve.data.resident import Resident
from evolve.data.sources import ImageSet
from evolve.descendants.descendants import downstream_tasks, train_together
from evolve.descendants.trainers.group import Group
from evolve.networks.architecture import Architecture
from evolve.networks.family import architecture
from evolve.networks.vgg_plan import PAPER_SET, ConvSpec, VggPlan, stack_plan, vgg16_plan
from evolve.runs.estimate.timing import NoCheckpoint, silent

ANCESTOR = vgg16_plan(1 / 16)
OTHERS = [architecture("resnet18", 1 / 32, 16), architecture("vit-small4", 1 / 8, 16)]
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def resident() -> Resident:
    """80 classes of 12 training images and 1 test image, 16 pixels a side: noise of the class's own
    brightness.
    """
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(80), 13)
    images = (rng.integers(0, 120, (len(labels), 3, 16, 16)) + labels[:, None, None, None]).astype(
        np.uint8
    )
    names = tuple(f"class{c}" for c in range(80))
    image_set = ImageSet(
        "toy", images, labels, np.tile(np.arange(13) == 12, 80), names, "f", (0.4,) * 3, (0.25,) * 3
    )
    return Resident(image_set, CPU)


class SameOrder:
    """The batches that our trainer takes, epoch after epoch, in float64 and the default memory
    format.
    """

    def __init__(self, group: Group) -> None:
        self.group, self.epoch = group, 0

    def __len__(self) -> int:
        return self.group.steps

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        task = self.group.tasks[0]
        for places in self.group.batches(0, self.epoch):
            yield batch_of(self.group.resident, task.train[places]), task.train_labels[places]
        self.epoch += 1


def batch_of(resident: Resident, index: Tensor) -> Tensor:
    return resident.batch(index).double().contiguous()


@pytest.mark.parametrize("more", [{}, {"optimizer": "adamw", "lr": 0.002, "warmup": 0.3}])
def test_the_plain_loop_learns_what_our_reference_learns(
    resident: Resident, more: dict[str, Any]
) -> None:
    d = DescendSettings(
        descendants=1, classes_per_task=3, shots=7, epochs=3, batch=4, lr=0.05, augment=()
    )
    d = replace(d, **more)
    tasks = downstream_tasks(d, range(8), resident, 0)
    plan = stack_plan(ANCESTOR, PAPER_SET)
    plain, ours = (
        plain_model(plan, 3, 0).double(),
        plain_model(plan, 3, 0).double().to(memory_format=torch.channels_last),
    )
    tests = [(batch_of(resident, tasks[0].test), tasks[0].test_labels)]
    losses, right = train(
        plain, SameOrder(Group(tasks, [0], resident, d, 0)), tests, d, d.epochs, CPU
    )
    (expected,) = train_together([ours], Group(tasks, [0], resident, d, 0), silent, reference=True)
    assert losses == pytest.approx(
        expected.train_loss, rel=1e-5
    )  # the mean of an epoch is a float32 sum
    assert right == pytest.approx(expected.last)
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(
            value, ours.state_dict()[name].contiguous(), rtol=1e-8, atol=1e-10
        )


def test_torchvisions_images_are_the_resident_ones(resident: Resident) -> None:
    index = torch.tensor([3, 200, 77])
    images = PilImages(pil_images(resident, index), [0, 1, 2], transform_of(resident, ()))
    torch.testing.assert_close(
        torch.stack([images[i][0] for i in range(3)]), resident.batch(index), rtol=1e-5, atol=1e-5
    )
    shown = PilImages(images.images, [0, 1, 2], transform_of(resident, ("crop", "flip")))[0][0]
    assert shown.shape == (3, 16, 16) and shown.is_contiguous()


class Doubled:
    """A resident whose batches are float64."""

    def __init__(self, resident: Resident) -> None:
        self.resident = resident

    def __getattr__(self, name: str) -> Any:
        return getattr(self.resident, name)

    def batch(self, *arguments: Any) -> Tensor:
        return self.resident.batch(*arguments).double()


@pytest.fixture
def doubled(resident: Resident) -> Iterator[Any]:
    """Networks are float64 too: BN over few images makes the hypergradient sensitive to
    rounding.
    """
    torch.set_default_dtype(torch.float64)
    yield Doubled(resident)
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("plan", [ANCESTOR, *OTHERS], ids=lambda plan: plan.family)
def test_double_backward_finds_our_condensers_alpha(doubled: Any, plan: Architecture) -> None:
    authors = {
        "objective": "bilevel",
        "meta_optimizer": "adam",
        "meta_schedule": "constant",
        "meta_lr": 3e-3,
        "meta_weight_decay": 1e-4,
    }
    c = CondenseSettings(
        epochs=1, images_per_class=12, batch=20, meta_batch=4, lr=0.03, augment=("crop",), **authors
    )
    state = plan.build(5).state_dict()
    plain = DoubleBackward(plan, state, range(4), doubled, c, 0)
    begun = plain.alpha()
    plain.iterate()
    plain.iterate()
    ours = condense_ancestor(
        Request(plan, state, {}, range(4), doubled, c, 0, silent)
    )  # 40 training images: two iterations
    assert (begun - ours.alpha).abs().max() > 1e-3
    torch.testing.assert_close(plain.alpha(), ours.alpha, rtol=0, atol=1e-8)


@pytest.mark.parametrize("augment", [("crop",), ()], ids=["crop", "plain"])
def test_plain_eq_16_finds_our_condensers_alpha(doubled: Any, augment: tuple[str, ...]) -> None:
    c = CondenseSettings(
        epochs=1,
        images_per_class=12,
        batch=20,
        meta_batch=4,
        lr=0.03,
        meta_lr=1e-3,
        augment=augment,
    )
    state = ANCESTOR.build(5).state_dict()
    plain = PlainEq16(ANCESTOR, state, range(4), doubled, c, 0)
    begun = plain.alpha()
    plain.iterate()
    plain.iterate()
    ours = condense_ancestor(Request(ANCESTOR, state, {}, range(4), doubled, c, 0, silent))
    assert (begun - ours.alpha).abs().max() > 1e-3
    torch.testing.assert_close(plain.alpha(), ours.alpha, rtol=0, atol=1e-8)


def small_case(name: str, **ancestor: Any) -> cases.Case:
    case = next(case for case in cases.all_cases(quick=True) if case.name == name)
    s = case.settings
    s = replace(
        s,
        ancestor=replace(s.ancestor, width=1 / 16, **ancestor),
        stream=replace(s.stream, images_per_class=12),
    )
    return replace(case, settings=replace(s, data=replace(s.data, size=16)))


def test_plain_avalanche_learns_what_accumulate_learns(resident: Resident) -> None:
    case = small_case(
        "ancestor", batch=60, augment=(), milestones=(), epochs=2
    )  # one batch an epoch: the order does not matter
    plain = PlainAncestor(case, resident, (0,), 0.0)
    plain.prepare()
    assert plain.run(2) == 2 * 60
    s = case.settings
    start = AccumulateRequest(
        s.ancestor, s.stream, cases.ANCESTOR_CLASSES, resident, 0, 0, NoCheckpoint(), silent
    )
    ours = accumulate(replace(start, task=1, previous=accumulate(start)))
    for name, value in plain.model.state_dict().items():
        torch.testing.assert_close(
            value.contiguous(), ours.tensors[f"model.{name}"], rtol=1e-3, atol=1e-4
        )


def test_overhead_times_both_loops(resident: Resident) -> None:
    side = Overhead(small_case("overhead", batch=20), resident)
    times = side.measure(2)
    assert times["iterations"] == 2 * 3 and min(times.values()) > 0


def test_the_faster_number_of_workers_is_chosen_by_the_clock() -> None:
    chosen, tried = fastest((0, 2), lambda workers: time.sleep(0.002 if workers else 0.02), 0.0)
    assert chosen == 2 and set(tried) == {"0", "2"}


def test_flops_leave_out_the_first_data_gradient() -> None:
    plan = VggPlan(((ConvSpec("a", 3, 4),), (ConvSpec("b", 4, 5),)))
    first, second = 3 * 4 * 9 * 8 * 8, 4 * 5 * 9 * 4 * 4
    assert train_flops(plan, 8) == pytest.approx(2 * (2 * first + 3 * second))


def test_cases_are_chosen_by_name_and_device() -> None:
    assert [case.name for case in cases.choose_cases(["condenser", "ancestor"], False, "cpu")] == [
        "ancestor",
        "condenser",
    ]
    assert not any(case.busy for case in cases.choose_cases([], False, "cuda"))
    with pytest.raises(UserError, match="--only nonsense: .*descendants-full"):
        cases.choose_cases(["nonsense"], False, "cpu")


def part(rate: float, others: float = 0.05) -> dict[str, float]:
    """A chunk of two seconds at so many images a second; other programs used so many cores."""
    return {"images": rate * 2, "seconds": 2.0, "others": others}


def turn(ratio: float, others: float = 0.05) -> dict[str, Any]:
    """A round with a baseline of 100 images a second, ours ``ratio`` times that, alone half of it,
    on a core of 100 Gflop/s.
    """
    sgemm = [{"flops": 1e11, "seconds": 1.0}] * 2
    ours = {"ours": part(100 * ratio), "alone": part(50 * ratio), "sgemm": sgemm}
    return {"baseline": part(100, others)} | ours


def taken(*turns: dict[str, Any], wanted: int = 0) -> dict[str, Any]:
    """What comes of these rounds, one after the other; ``wanted`` of them, or all."""
    coming, pace = iter(turns), rounds.Pace(wanted or len(turns), 1.0, 1.0)
    named = {"baseline": {"num_workers": 2}, "amounts": {}, "processes": 2}
    return named | rounds.take_rounds(lambda: next(coming), pace, lambda text: None)


def measured(*ratios: float) -> dict[str, Any]:
    """Undisturbed rounds with these ratios."""
    return taken(*map(turn, ratios))


def test_a_disturbed_round_is_repeated_and_the_machine_must_come_to_rest() -> None:
    case = cases.all_cases(False)[0]
    mended = taken(turn(2.0), turn(9.0, others=0.5), turn(2.2), wanted=2)
    assert [len(mended[name]) for name in ("rounds", "disturbed")] == [2, 1] and mended["quoted"]
    assert rows(case, mended, "cpu")[0].value.most == pytest.approx(2.2)
    busy = taken(*[turn(9.0, others=0.5)] * 4, wanted=2)
    assert not busy["quoted"] and len(busy["disturbed"]) == 4
    assert [row.verdict for row in rows(case, busy, "cpu")] == ["", ""]
    console = Console(width=160, record=True, file=io.StringIO())
    console.print(report.table(rows(case, busy, "cpu"), quick=False))
    for line in report.notes([{"name": case.name, "measured": busy}]):
        console.print(line)
    text = console.export_text()
    assert "not quoted" in text and "9.0" not in text and "up to 0.50 cores" in text
    with pytest.raises(UserError, match="not idle.*descendants-full"):
        refuse([case.name], rounds.Pace(2, 1.0, 1.0))


BUSY = "import time\nwhile time.process_time() < 0.3: pass"


@pytest.mark.skipif(not Path("/proc/stat").is_file(), reason="only Linux says who is busy")
def test_the_watch_tells_other_programs_from_ours() -> None:
    before = machine._own_ticks()
    subprocess.run([sys.executable, "-c", BUSY], check=True)
    ours = machine._own_ticks() - before
    watch = machine.Watch()
    # An orphan is nobody's child any more.
    subprocess.run(["sh", "-c", f"'{sys.executable}' -c '{BUSY}' &"], check=True)
    time.sleep(0.4)
    others = watch.others()
    assert ours / os.sysconf("SC_CLK_TCK") >= 0.25 and others is not None and others >= 0.3


def test_every_round_counts_and_the_median_decides() -> None:
    case = cases.all_cases(False)[0]
    row, share = rows(case, measured(2.0, 0.1, 3.0), "cpu")
    assert (row.value.median, row.value.least, row.value.most) == pytest.approx((2.0, 0.1, 3.0))
    assert row.verdict == "met" and row.alone is not None and row.alone.median == pytest.approx(1.0)
    assert share.value.median == pytest.approx(100 * train_flops(case.plan, 32) / 1e11)
    assert [rows(case, measured(r), "cpu")[0].verdict for r in (1.7, 2.5)] == ["missed", "aim met"]


def test_overhead_is_a_share_of_our_iteration_and_less_is_better() -> None:
    case = next(case for case in cases.all_cases(False) if case.kind == "overhead")
    overheads = [
        rows(case, taken({"strategy": 0.010, "bare": bare, "iterations": 9}), "cpu")[0]
        for bare in (0.0096, 0.009, 0.011)
    ]
    assert [row.value.median for row in overheads] == pytest.approx([0.04, 0.1, -0.1])
    assert [row.verdict for row in overheads] == ["met", "missed", "met"]


def test_the_table_shows_numbers_goals_and_the_machine() -> None:
    case = cases.all_cases(False)[0]
    numbers = measured(2.0, 2.2)
    console = Console(width=160, record=True, file=io.StringIO())
    about = {
        "cpu": "Some CPU",
        "gpu": None,
        "cores": 2,
        "capability": "AVX512",
        "torch": "2",
        "python": "3",
        "processes": 2,
        "baseline_threads": 2,
    }
    for line in report.header(about, {"rounds": 2, "seconds": 2.0}, quick=True):
        console.print(line)
    console.print(report.table(rows(case, numbers, "cpu"), quick=True))
    for line in report.notes([{"name": case.name, "measured": numbers}]):
        console.print(line)
    text = console.export_text()
    for expected in (
        "Some CPU",
        "2.10x (2.00..2.20)",
        ">= 1.8x",
        ">= 2.5x",
        "met",
        "num_workers=2",
        "0.05 cores",
    ):
        assert expected in text


def bench(*words: str) -> Done:
    return evolve("bench", *words)


@pytest.mark.slow
def test_the_command_measures_and_writes_all_rounds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "evolve.benchmarks.speed.bench.usable_cores", lambda: 1
    )  # each process imports torch and Avalanche
    done = bench(
        "--quick",
        "--device",
        "cpu",
        "--only",
        "descendants-eighth",
        "--json",
        str(tmp_path / "found.json"),
    )
    assert done.returncode == 0, done.stderr
    assert "descendants, width 1/8" in done.stdout and "torch" in done.stdout
    record = json.loads((tmp_path / "found.json").read_text())
    (case,) = record["cases"]
    assert len(case["measured"]["rounds"]) == 2 and record["machine"]["torch"] == torch.__version__
    assert all(
        part["seconds"] > 0
        for round_ in case["measured"]["rounds"]
        for part in (round_["baseline"], round_["ours"], round_["alone"])
    )
    assert math.isfinite(case["rows"][0]["value"]["median"])


@pytest.mark.parametrize("words", [("--only", "nonsense"), ("--json", "no/such/folder/found.json")])
def test_a_wrong_option_is_one_line_and_code_2(words: tuple[str, ...]) -> None:
    done = bench("--quick", "--device", "cpu", *words)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.count("\n") == 1 and words[1].split("/")[0] in done.stderr


@pytest.mark.parametrize("what", ["descendants 1", "task 5, tested on all", "T = 1"])
def test_every_kind_of_stage_can_be_timed_as_it_grows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    monkeypatch.setattr(growth, "REPEATS", 1)
    (point,) = (point for point in growth.points() if point.what == what)
    s = point.settings
    s = replace(
        s, data=replace(s.data, size=16), ancestor=replace(s.ancestor, width=1 / 16, epochs=1)
    )
    s = replace(
        s,
        condense=replace(s.condense, images_per_class=8),
        descend=replace(s.descend, shots=8, epochs=1),
    )
    point = replace(point, settings=s)
    assert growth.seconds(point, tmp_path) > 0 and growth.expected(point) > 0
