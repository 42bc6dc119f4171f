"""The timed parts of :mod:`gpu`.

They are descendants, the ancestor, the condenser, and a paper-scale lineage from its pieces.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F

from evolve.core.settings import Settings
from evolve.data.resident import Resident
from evolve.descendants.descendants import downstream_tasks, train_together
from evolve.descendants.trainers.graph_check import checked
from evolve.descendants.trainers.graphs import GraphTrainer
from evolve.descendants.trainers.group import Group, Trainer
from evolve.descendants.trainers.plain import PlainTrainer
from evolve.engine.precision import precision
from evolve.learngene.inheritance import inherit
from evolve.lineage.lineage import lineage
from evolve.lineage.world import World, ancestor_plan, paper_descendant
from evolve.networks.fast import Graphed
from evolve.networks.network import Network
from evolve.runs.estimate.timing import NoCheckpoint, silent

from .cases import ANCESTOR_CLASSES, CONDENSE_CLASSES, DESCEND_CLASSES, Case
from .gpu_setting import (
    Row,
    as_torch_comes,
    device_of,
    images,
    median,
    settings,
    timed,
)

if TYPE_CHECKING:
    from .gpu import Plan

BRANCHES = (1, 2, 4, 8)  # generations in one graph
STEPS = 40  # of the ancestor, that are timed


def descendants(plan: Plan) -> Iterator[Row]:
    """Images a second of a plain PyTorch loop, our plain trainer and graphs of descendants."""
    device = device_of(plan.rehearse)
    resident = images(8 if plan.rehearse else 64, 2, device)
    for profile, name in (("quick", "width 1/4"), ("paper", "width 1")):
        s = settings(profile, plan.rehearse)
        s = replace(
            s,
            descend=replace(
                s.descend, batch=16, shots=min(64, s.descend.shots * 10), epochs=8, test_per_class=2
            ),
        )
        yield from _descendants(name, s, resident, plan.rehearse)


def _descendants(name: str, s: Settings, resident: Resident, rehearse: bool) -> Iterator[Row]:
    from .plain_descendants import PlainDescendants

    if rehearse:
        s = replace(s, descend=replace(s.descend, shots=8, epochs=2))
    case = Case("descendants", name, "descendants", s, {})
    with as_torch_comes(resident.device):
        plain = PlainDescendants(case, resident, (0,) if rehearse else (0, 8), 1.0)
        rate = plain.images * 2 / median(lambda: plain.run(2), resident.device)
    yield (
        f"{name}: plain PyTorch loop, num_workers={plain.info['num_workers']}, TF32",
        rate,
        "images/s",
    )
    group = lineage_group(s, resident, 1)
    yield (
        f"{name}: PlainTrainer on resident images",
        _epochs_a_second(PlainTrainer(fresh_models(s, group), group), group),
        "images/s",
    )
    best, widest = 0.0, 1
    for count in BRANCHES[: 2 if rehearse else None]:
        rate_captured = _captured(s, resident, count * s.descend.descendants)
        yield (
            f"{name}: graph of {count} x {s.descend.descendants}, float32",
            rate_captured,
            "images/s",
        )
        best, widest = max((best, widest), (rate_captured, count))
    for kind in ("tf32", "bfloat16"):
        with precision(kind, resident.device):
            rate_captured = _captured(s, resident, widest * s.descend.descendants)
            yield (
                f"{name}: graph of {widest} x {s.descend.descendants}, {kind}",
                rate_captured,
                "images/s",
            )
    yield f"{name}: best float32 graph over the plain loop", best / rate, "x"
    yield from _whole_stage(name, s, resident)
    yield from _kernels(name, s, resident)


def _kernels(name: str, s: Settings, resident: Resident) -> Iterator[Row]:
    """What a step of one generation asks of the GPU; the log has the kernels by time."""
    group = lineage_group(s, resident, s.descend.descendants)
    trainer = GraphTrainer(fresh_models(s, group), group, False)
    trainer.epoch(0)
    with torch.profiler.profile() as profile:
        trainer.epoch(1)
    events = [event for event in profile.events() if event.device_type.name != "CPU"]
    print(
        profile.key_averages().table(
            sort_by="self_device_time_total", row_limit=20, max_name_column_width=70
        )
    )
    yield f"{name}: kernels and copies a step of one generation", len(events) / group.steps, ""
    yield (
        f"{name}: their time",
        sum(event.self_device_time_total for event in events) / group.steps,
        "us a step",
    )


def _captured(s: Settings, resident: Resident, count: int) -> float:
    group = lineage_group(s, resident, count)
    return _epochs_a_second(GraphTrainer(fresh_models(s, group), group, True), group)


def _whole_stage(name: str, s: Settings, resident: Resident) -> Iterator[Row]:
    """Seconds before a stage trains: checks, the choice of a width, the capture."""
    group = lineage_group(s, resident, s.descend.descendants)
    for again in ("first", "second"):
        trainers: list[Trainer] = []

        def set_up(trainers: list[Trainer] = trainers) -> None:
            trainers.append(checked(fresh_models(s, group), group))

        seconds = timed(set_up, resident.device)
        yield f"{name}: {again} set-up of {group.size} ({type(trainers[0]).__name__})", seconds, "s"


def lineage_group(s: Settings, resident: Resident, count: int) -> Group:
    """``count`` descendants on the lineage's tasks, over and over."""
    tasks = downstream_tasks(s.descend, DESCEND_CLASSES, resident, 0)
    numbers = [number % len(tasks) for number in range(count)]
    return Group([tasks[number] for number in numbers], numbers, resident, s.descend, 0)


def fresh_models(s: Settings, group: Group) -> list[Any]:
    plan = paper_descendant(s)
    return [
        inherit(plan, None, s.descend.classes_per_task, 0, number).to(group.resident.device)
        for number in group.numbers
    ]


def _epochs_a_second(trainer: Trainer, group: Group) -> float:
    """Images a second of an epoch and a test, as a stage does them."""
    epochs = iter(range(group.d.epochs))

    def both() -> None:
        trainer.epoch(next(epochs))
        trainer.correct()

    return (
        group.size * group.images / median(both, group.resident.device, min(3, group.d.epochs - 1))
    )


def ancestor(plan: Plan) -> Iterator[Row]:
    """A step in every precision and memory order, with and without graphs.

    Then a task as a stage learns it.
    """
    device = device_of(plan.rehearse)
    resident = images(8 if plan.rehearse else 400, 2, device)
    for profile, name in (("quick", "width 1/4"), ("paper", "width 1")):
        s = settings(profile, plan.rehearse)
        for kind in ("float32", "tf32", "bfloat16"):
            with precision(kind, device):
                for what, ms in _steps(s, resident, 2 if plan.rehearse else STEPS):
                    yield f"{name}, batch {s.ancestor.batch}, {kind}: {what}", ms, "ms a step"
        yield from _tasks(name, s, resident, plan.rehearse)


def _steps(s: Settings, resident: Resident, count: int) -> Iterator[tuple[str, float]]:
    """Milliseconds a step of SGD on the ancestor, batches gathered from resident images."""
    for what, memory, graphed in (
        ("plain, contiguous", torch.contiguous_format, False),
        ("plain, channels_last", torch.channels_last, False),
        ("trunk captured", torch.channels_last, True),
    ):
        model = fresh_ancestor(s, resident.device).to(memory_format=memory)
        yield what, _step_loop(model, s, resident, count, graphed)
    short = replace(
        s.descend,
        batch=s.ancestor.batch,
        shots=min(64, len(resident.indices(80, False))),
        epochs=4,
        test_per_class=1,
        lr=1e-3,
    )
    group = lineage_group(replace(s, descend=short), resident, 1)
    trainer = GraphTrainer([fresh_ancestor(s, resident.device)], group, True)  # type: ignore[list-item]
    rate = _epochs_a_second(trainer, group)
    yield "whole step captured", 1e3 * group.images / group.steps / rate


def fresh_ancestor(s: Settings, device: torch.device) -> Network:
    model = ancestor_plan(s).build(s.stream.classes_per_task)
    return model.to(device)


def _step_loop(model: Network, s: Settings, resident: Resident, count: int, graphed: bool) -> float:
    """As Avalanche's template calls the model; the loss stays on the device."""
    optimizer = torch.optim.SGD(
        model.parameters(), lr=1e-3, momentum=0.9, weight_decay=5e-4, fused=True
    )
    fast = Graphed(model, often=2)
    forward: Callable[..., Any] = fast.forward if graphed else model
    chosen = torch.randint(
        0, len(resident.labels), (s.ancestor.batch,), generator=torch.Generator().manual_seed(0)
    )
    labels = (chosen % s.stream.classes_per_task).to(resident.device)
    index = chosen.to(resident.device)
    model.train()

    def steps() -> None:
        for _ in range(count):
            optimizer.zero_grad()
            F.cross_entropy(forward(resident.gather(index)), labels).backward()
            optimizer.step()

    with warnings.catch_warnings():
        # A capture that was given up must not be timed as one.
        warnings.simplefilter("error" if graphed else "default")
        return 1e3 * median(steps, resident.device) / count


def _tasks(name: str, s: Settings, resident: Resident, rehearse: bool) -> Iterator[Row]:
    """An epoch of the first task: Avalanche over a DataLoader, and as our stage does it; what a
    stage costs beside its epochs.
    """
    from .plain_ancestor import PlainAncestor

    per_class = s.stream.images_per_class or len(resident.indices(0, False))
    s = replace(
        s,
        stream=replace(s.stream, images_per_class=per_class),
        ancestor=replace(s.ancestor, lr=1e-3),
    )
    steps = s.stream.classes_per_task * per_class / s.ancestor.batch
    with as_torch_comes(resident.device):
        plain = PlainAncestor(
            Case("ancestor", name, "ancestor", s, {}), resident, (0,) if rehearse else (0, 8), 1.0
        )
        epoch = median(lambda: plain.run(1), resident.device, 1)
    yield (
        f"{name}: Avalanche, DataLoader (num_workers={plain.workers}), TF32",
        1e3 * epoch / steps,
        "ms a step",
    )
    more, once = _slope(
        partial(_accumulate, s, resident), resident.device, (1, 2) if rehearse else (2, 6)
    )
    yield f"{name}: ours, a stage's epoch", 1e3 * more / steps, "ms a step"
    yield f"{name}: ours, a stage beside its epochs", once, "s"


def _slope(
    work: Callable[[int], object], device: torch.device, epochs: tuple[int, int]
) -> tuple[float, float]:
    """Seconds of one epoch more, and seconds of none, after one run that warms up."""
    work(epochs[0])
    few, many = (timed(partial(work, count), device) for count in epochs)
    more = (many - few) / (epochs[1] - epochs[0])
    return more, few - epochs[0] * more


def _accumulate(s: Settings, resident: Resident, epochs: int) -> None:
    from evolve.ancestor.accumulate import AccumulateRequest, accumulate

    a = replace(s.ancestor, epochs=epochs)
    start = AccumulateRequest(a, s.stream, ANCESTOR_CLASSES, resident, 0, 0, NoCheckpoint(), silent)
    accumulate(replace(start, task=1, previous=accumulate(start)))


def condenser(plan: Plan) -> Iterator[Row]:
    """Iterations a second of Algorithm 1, with Eq. 16 and with the bilevel objective."""
    device = device_of(plan.rehearse)
    resident = images(12 if plan.rehearse else 500, 2, device)
    for profile, name in (("quick", "width 1/4"), ("paper", "width 1")):
        s = settings(profile, plan.rehearse)
        c = replace(s.condense, meta_reach=0.0, images_per_class=12 if plan.rehearse else 80)
        for objective in ("eq16", "bilevel"):
            chosen = replace(s, condense=replace(c, objective=objective))
            steps = max(
                1, int(len(CONDENSE_CLASSES) * c.images_per_class * (1 - c.meta_fraction) / c.batch)
            )
            more, once = _slope(
                partial(_condense, chosen, resident), device, (1, 2) if plan.rehearse else (1, 3)
            )
            yield f"{name}, batch {c.batch}: {objective}", steps / more, "iterations/s"
            yield f"{name}, batch {c.batch}: {objective}, beside iterations", once, "s"


def _condense(s: Settings, resident: Resident, epochs: int) -> None:
    from evolve.condensers.condense import condense_ancestor
    from evolve.condensers.interface import Request

    plan, c = ancestor_plan(s), replace(s.condense, epochs=epochs)
    condense_ancestor(
        Request(plan, plan.build(2).state_dict(), {}, CONDENSE_CLASSES, resident, c, 0, silent)
    )


def paper(plan: Plan) -> Iterator[Row]:
    """Seconds of each kind of paper-scale stage, from few of its epochs, and their sum."""
    device, s = device_of(plan.rehearse), settings("paper", plan.rehearse)
    resident = images(12 if plan.rehearse else 500, 2 if plan.rehearse else 100, device)
    if not plan.rehearse:
        s = replace(
            s,
            ancestor=replace(s.ancestor, lr=0.01),
            condense=replace(s.condense, images_per_class=500),
        )
    counted, each = stage_counts(s), dict[str, float]()
    pieces: dict[str, tuple[Callable[[int], object], int, tuple[int, int]]] = {
        "accumulate": (partial(_accumulate, s, resident), s.ancestor.epochs, (2, 8)),
        "condense": (partial(_condense, s, resident), s.condense.epochs, (1, 2)),
        "descend": (partial(_descend, s, resident), s.descend.epochs, (1, 2)),
    }
    for kind, (work, epochs, timed_epochs) in pieces.items():
        more, once = _slope(work, device, timed_epochs)
        together = SET if kind == "descend" else 1
        each[kind] = (once + more * epochs) / together
        yield f"{kind}: an epoch{f' of {SET} stages' if together > 1 else ''}", more, "s"
        yield f"{kind}: beside its epochs", once, "s"
        yield (
            f"{kind}: one of {counted[kind]} stages of {epochs} epochs, estimated",
            each[kind],
            "s",
        )
    total = {kind: counted[kind] * each[kind] for kind in pieces}
    yield "the chain of ancestors, estimated", total["accumulate"] / 60, "min"
    yield "all else, estimated", (total["condense"] + total["descend"]) / 60, "min"
    yield (
        "a paper-scale lineage, one stage after the other, estimated",
        sum(total.values()) / 60,
        "min",
    )


SET = 8  # stages that train together


def _descend(s: Settings, resident: Resident, epochs: int) -> None:
    group = lineage_group(s, resident, SET * s.descend.descendants)
    longer = replace(group, d=replace(s.descend, epochs=epochs))
    train_together(fresh_models(s, group), longer, silent)


def stage_counts(s: Settings) -> Counter[str]:
    """Stages of a whole lineage, by kind, where every condenser chooses another set."""
    world = World(
        s, 0, "", tuple(ANCESTOR_CLASSES), tuple(CONDENSE_CLASSES), tuple(DESCEND_CLASSES)
    )
    plan = ancestor_plan(s)

    def peek(key: str) -> dict[str, Any]:
        number = int(key[:8], 16) % (len(plan.layer_names) - 3)
        return {
            "ancestor_plan": plan.to_json(),
            "layers": list(plan.layer_names[number : number + 3]),
        }

    return Counter(
        stage.kind for stage in {stage.key: stage for stage in lineage(world, peek)}.values()
    )
