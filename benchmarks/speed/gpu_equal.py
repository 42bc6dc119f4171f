"""The parts of :mod:`gpu` that ask whether the numbers are right.

These are the GPU tests, and distances from float64 on the CPU.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from evolve.core.settings import Settings
from evolve.data.resident import Resident
from evolve.descendants.trainers.graphs import GraphTrainer
from evolve.descendants.trainers.plain import PlainTrainer
from evolve.networks.fast import Graphed
from evolve.networks.network import Network
from evolve.runs.estimate.timing import NoCheckpoint, silent

from .cases import ANCESTOR_CLASSES, CONDENSE_CLASSES
from .gpu_parts import fresh_ancestor, fresh_models, lineage_group
from .gpu_setting import Row, device_of, images, settings

if TYPE_CHECKING:
    from .gpu import Plan

CPU = torch.device("cpu")
STEPS = 4


def tests(plan: Plan) -> Iterator[Row]:
    """The tests of captured training, on the GPU where there is one."""
    trainers = "tests/descendants/trainers"
    chosen = [f"{trainers}/test_graphs_on_gpu.py"] + (
        [] if plan.rehearse else [trainers, "tests/runs/test_gpus.py"]
    )
    words = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "no:cacheprovider",
        "-rfE",
        "--tb=short",
        *chosen,
    ]
    words += [] if plan.rehearse else ["-n", "6", "--dist", "loadfile"]
    log = plan.out / "pytest.txt"
    with log.open("wb") as file:
        code = subprocess.run(words, stdout=file, stderr=file, cwd=Path.cwd()).returncode
    told = log.read_text(errors="replace")
    print(told)
    log.unlink()
    for line in told.splitlines():
        if line.startswith(("FAILED", "ERROR")):
            yield line[:150], "failed", ""
    yield (
        "pytest: " + (told.strip().splitlines() or ["nothing"])[-1].strip("= "),
        float(code),
        "exit code",
    )


def equality(plan: Plan) -> Iterator[Row]:
    """||ours - reference|| / ||reference||, the reference in float64 on the CPU.

    Float32 on the CPU stands beside it.
    """
    device = device_of(plan.rehearse)
    places = [images(12 if plan.rehearse else 64, 2, place) for place in (CPU, device)]
    for profile, name in (("quick", "width 1/4"), ("paper", "width 1")):
        s = settings(profile, plan.rehearse)
        yield from _descendants(name, s, *places)
        yield from _ancestor(name, s, *places)
    yield from _stages(settings("quick", plan.rehearse), *places)


def distance(ours: Sequence[Tensor], reference: Sequence[Tensor]) -> float:
    """The relative distance of two lists of tensors, each taken as one vector."""
    mine, right = (
        torch.cat([t.detach().to("cpu", torch.float64).flatten() for t in side])
        for side in (ours, reference)
    )
    return float((mine - right).norm() / right.norm())


def _descendants(name: str, s: Settings, cpu: Resident, gpu: Resident) -> Iterator[Row]:
    """How the weights of two descendants moved in an epoch of few steps."""
    d = replace(s.descend, batch=16, shots=min(8, s.descend.shots), epochs=2, test_per_class=2)
    s = replace(s, descend=d)
    moves: dict[str, list[Tensor]] = {}
    for what, resident, dtype in (
        ("float64 on the CPU", cpu, torch.float64),
        ("PlainTrainer on the CPU", cpu, torch.float32),
        ("PlainTrainer", gpu, torch.float32),
        ("captured", gpu, torch.float32),
    ):
        group = lineage_group(s, resident, 2)
        models = [model.to(dtype) for model in fresh_models(s, group)]
        trainer = (
            GraphTrainer(models, group, True) if what == "captured" else PlainTrainer(models, group)
        )
        start = [tensor.detach().clone() for model in models for tensor in model.parameters()]
        trainer.epoch(0)
        trainer.close()
        moves[what] = [
            (now - before).cpu()
            for now, before in zip(
                (p for model in models for p in model.parameters()), start, strict=True
            )
        ]
    for what in list(moves)[1:]:
        yield (
            f"{name}, descendants, {group.steps} steps: {what}",
            distance(moves[what], moves["float64 on the CPU"]),
            "relative",
        )


def _ancestor(name: str, s: Settings, cpu: Resident, gpu: Resident) -> Iterator[Row]:
    """All gradients of one step of the ancestor."""
    gradients = {
        "float64 on the CPU": _gradients(s, cpu, torch.float64, False),
        "plain on the CPU": _gradients(s, cpu, torch.float32, False),
        "plain": _gradients(s, gpu, torch.float32, False),
        "trunk captured": _gradients(s, gpu, torch.float32, True),
    }
    for what in list(gradients)[1:]:
        yield (
            f"{name}, ancestor's gradients: {what}",
            distance(gradients[what], gradients["float64 on the CPU"]),
            "relative",
        )


def _gradients(s: Settings, resident: Resident, dtype: torch.dtype, graphed: bool) -> list[Tensor]:
    model: Network = fresh_ancestor(s, resident.device).to(dtype)
    model.fused = False
    model.train()
    index = torch.arange(s.ancestor.batch)
    x, labels = (
        resident.batch(index).to(dtype),
        (index % s.stream.classes_per_task).to(resident.device),
    )
    forward = Graphed(model, often=1).forward if graphed else model
    F.cross_entropy(forward(x), labels).backward()
    return [p.grad.cpu() for p in model.parameters() if p.grad is not None]


def _stages(s: Settings, cpu: Resident, gpu: Resident) -> Iterator[Row]:
    """A short accumulate and condense stage, beside the CPU's own float32 path.

    That path has the compiled kernels. Compared are losses and alpha.
    """
    count = len(cpu.indices(0, False))
    short = replace(
        s,
        ancestor=replace(s.ancestor, epochs=1, lr=1e-3),
        stream=replace(s.stream, images_per_class=min(48, count)),
        condense=replace(s.condense, epochs=1, images_per_class=min(24, count), meta_reach=0.0),
    )
    names = (
        "accumulate, an epoch's loss, beside the CPU's",
        "condense eq16, alpha, beside the CPU's",
        "condense bilevel, alpha, beside the CPU's",
    )
    reference, ours = _stage_results(short, cpu), _stage_results(short, gpu)
    for name, right, mine in zip(names, reference, ours, strict=True):
        yield name, distance([mine], [right]), "relative"


def _stage_results(s: Settings, resident: Resident) -> list[Tensor]:
    """The accumulate stage's losses, and alpha by either objective."""
    from evolve.ancestor.accumulate import AccumulateRequest, accumulate
    from evolve.condensers.condense import condense_ancestor
    from evolve.condensers.interface import Request
    from evolve.lineage.world import ancestor_plan

    learned = None
    for task in (0, 1):
        learned = accumulate(
            AccumulateRequest(
                s.ancestor,
                s.stream,
                ANCESTOR_CLASSES,
                resident,
                0,
                task,
                NoCheckpoint(),
                silent,
                previous=learned,
            )
        )
    assert learned is not None
    results = [torch.tensor(learned.record["train_loss"])]
    plan = ancestor_plan(s)
    state = plan.build(2).state_dict()
    for objective in ("eq16", "bilevel"):
        c = replace(s.condense, objective=objective)
        request = Request(plan, state, {}, CONDENSE_CLASSES, resident, c, 0, silent)
        results.append(condense_ancestor(request).alpha)
    return results
