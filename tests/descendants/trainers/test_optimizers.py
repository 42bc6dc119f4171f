"""AdamW, cosine and warm-up for ancestor and descendants, against torch's own; a task that is cut
goes on to equal bits.
"""

from __future__ import annotations

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from strategy_runs import CLASSES, Memory, S, assert_same, quiet, settings, stripes

from evolve.ancestor.accumulate import Accumulated, AccumulateRequest, Learner, accumulate
from evolve.core.settings import AncestorSettings, DescendSettings
from evolve.data.streams import load_avalanche, stream_tasks
from evolve.descendants.descendants import train_together
from evolve.descendants.trainers.fused import FusedTrainer
from evolve.descendants.trainers.group import DownstreamTask, Group, learning_rate
from evolve.descendants.trainers.plain import PlainTrainer
from evolve.lineage import lineage
from evolve.lineage.scenario import load
from evolve.lineage.world import World
from evolve.networks.family import architecture
from evolve.networks.network import initialise
from evolve.networks.optimizers import make_optimizer, restore_state, state_of

VIT = {
    "network": "vit-small4",
    "width": 0.125,
    "optimizer": "adamw",
    "lr": 0.003,
    "schedule": "cosine",
    "warmup": 0.4,
}


@pytest.mark.parametrize(
    "more", [VIT, {"optimizer": "adamw", "lr": 0.003}, {"lr": 0.05}], ids=["vit", "vgg", "sgd"]
)
@pytest.mark.parametrize("reference", [False, True])
def test_a_task_that_was_cut_goes_on_to_equal_bits(
    more: dict[str, object], reference: bool
) -> None:
    a, resident = settings("naive", "shared", **(more | {"epochs": 3})), stripes()

    def run(memory: Memory) -> Accumulated:
        return accumulate(
            AccumulateRequest(a, S, CLASSES, resident, 3, 1, memory, quiet, reference=reference)
        )

    whole, cut = run(Memory()), Memory(cut_after=2)
    with pytest.raises(KeyboardInterrupt):
        run(cut)
    held = {
        name.split(".")[1].split("/")[0]
        for name in cut.saved[-1][0]
        if name.startswith("optimizer.")
    }
    assert held == (
        {"exp_avg", "exp_avg_sq", "step"} if a.optimizer == "adamw" else {"momentum_buffer"}
    )
    cut.cut_after = None
    assert_same(run(cut).tensors, whole.tensors)


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
@pytest.mark.parametrize("fused", [False, True])
def test_a_restored_optimizer_steps_like_the_one_it_was_taken_from(kind: str, fused: bool) -> None:
    def parameters() -> dict[str, torch.nn.Parameter]:
        weight = (
            torch.linspace(-1, 1, 24).view(2, 3, 2, 2).contiguous(memory_format=torch.channels_last)
        )
        return {"weight": torch.nn.Parameter(weight), "idle": torch.nn.Parameter(torch.ones(2))}

    def step(optimizer: torch.optim.Optimizer, held: dict[str, torch.nn.Parameter]) -> None:
        optimizer.zero_grad()
        held["weight"].pow(3).sum().backward()
        optimizer.step()

    ours, twins = parameters(), parameters()
    first, second = (
        make_optimizer(held.values(), kind, 0.1, 0.9, 0.01, fused=fused) for held in (ours, twins)
    )
    step(first, ours)
    kept = {
        name: tensor.clone(memory_format=torch.contiguous_format)
        for name, tensor in state_of(first, ours).items()
    }
    with torch.no_grad():
        twins["weight"].copy_(ours["weight"])
    restore_state(second, twins, kept)
    for held, optimizer in ((ours, first), (twins, second)):
        step(optimizer, held)
    assert torch.equal(ours["weight"], twins["weight"]) and not any("idle" in name for name in kept)


def test_the_ancestor_learns_by_torchs_adamw() -> None:
    a, resident = settings("naive", "shared", **(VIT | {"epochs": 2, "augment": ()})), stripes()
    learner = Learner(a, S, CLASSES, resident, 3, reference=True)
    peer = architecture(a.network, a.width, resident.size).build(S.classes_per_task)
    initialise(peer, 3, "ancestor")
    optimizer = torch.optim.AdamW(peer.parameters(), lr=a.lr, weight_decay=a.weight_decay)
    rates = [0.0, 0.0]
    rates[0] = a.lr * 0.5 / 0.8  # the middle of the first epoch, of 0.8 epochs of warm-up
    rates[1] = a.lr * 0.5  # half of the cosine
    strategy = learner.strategy
    batches: list[tuple[int, torch.Tensor, torch.Tensor]] = []
    forward = strategy.forward

    def spied() -> torch.Tensor:
        batches.append((strategy.dataloader.epoch, strategy.mb_x.clone(), strategy.mb_y.clone()))
        return forward()

    strategy.forward = spied
    learner.learn(stream_tasks(S, CLASSES, resident, 3, 1), Memory(), quiet)
    for epoch, x, y in batches:
        optimizer.param_groups[0]["lr"] = rates[epoch]
        optimizer.zero_grad()
        F.cross_entropy(peer(x), y).backward()
        optimizer.step()
    assert_same(strategy.model.trunk.state_dict(), peer.state_dict())


def test_schedules_and_warm_up() -> None:
    load_avalanche()
    from evolve.ancestor.strategies.template import learning_rate as ancestors

    a = AncestorSettings(epochs=10, lr=2.0, schedule="cosine")
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=2.0)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 10)
    for epoch in range(10):
        assert ancestors(a, epoch) == pytest.approx(optimizer.param_groups[0]["lr"])
        optimizer.step()
        cosine.step()
    warm = dataclasses.replace(a, schedule="milestones", milestones=(0.5,), warmup=0.25)
    assert [ancestors(warm, epoch) for epoch in (0, 1, 2, 4, 5)] == pytest.approx(
        [0.4, 1.2, 2.0, 2.0, 0.2]
    )
    d = DescendSettings(lr=2.0, schedule="constant", warmup=0.5)
    assert [learning_rate(d, done) for done in (0.0, 0.25, 0.5, 1.0)] == pytest.approx(
        [0.0, 1.0, 2.0, 2.0]
    )
    assert learning_rate(dataclasses.replace(d, schedule="cosine"), 0.25) == pytest.approx(
        1.0 * (1 + 2**-0.5) / 2
    )


def _task() -> DownstreamTask:
    index = torch.arange(0, 24)
    labels = stripes().labels[index]
    return DownstreamTask((0, 1, 2), index, index, labels, labels)


def test_descendants_learn_by_torchs_adamw() -> None:
    resident, task = stripes(), _task()
    task = dataclasses.replace(
        task, train_labels=task.train_labels % 3, test_labels=task.test_labels % 3
    )
    d = DescendSettings(
        epochs=2, batch=8, lr=0.004, weight_decay=0.1, optimizer="adamw", warmup=0.3, augment=()
    )
    plan = architecture("vit-small4", 0.125, 8).paper_descendant()
    model, peer = plan.build(3), plan.build(3)
    train_together([model], Group([task], [0], resident, d, 0), lambda done, text: None)
    group, optimizer = (
        Group([task], [0], resident, d, 0),
        torch.optim.AdamW(peer.parameters(), lr=0.004, weight_decay=0.1),
    )
    for epoch in range(2):
        for step, batch in enumerate(group.batches(0, epoch)):
            done = (epoch * 3 + step) / 6
            optimizer.param_groups[0]["lr"] = (
                0.004
                * min(1.0, done / 0.3)
                * (1 + torch.cos(torch.tensor(torch.pi * done)).item())
                / 2
            )
            optimizer.zero_grad()
            F.cross_entropy(
                peer(resident.batch(task.train[batch])), task.train_labels[batch]
            ).backward()
            optimizer.step()
    for name, tensor in peer.state_dict().items():
        assert torch.allclose(model.state_dict()[name], tensor, atol=1e-5), name


def test_vggs_go_by_the_plain_trainer_under_adamw() -> None:
    from evolve.descendants.descendants import choose_trainer

    vgg = architecture("vgg16", 1 / 32, 8).paper_descendant().build(3)
    kinds = {"sgd": FusedTrainer, "adamw": PlainTrainer}
    for kind, trainer in kinds.items():
        d = DescendSettings(epochs=1, batch=8, optimizer=kind)
        assert isinstance(
            choose_trainer([vgg], Group([_task()], [0], stripes(), d, 0), False), trainer
        )


def test_what_an_optimizer_does_not_read_is_in_no_key() -> None:
    def keys(*overrides: str) -> set[str]:
        world = World(
            load("glyphs-seq25", "quick", ["stream.tasks=1", *overrides]).settings,
            0,
            "x",
            (0, 1, 2, 3, 4),
            (5, 6),
            (7, 8, 9, 10, 11),
        )
        return {stage.key for stage in lineage.lineage(world, lambda key: None)}

    both = "ancestor.optimizer=adamw", "descend.optimizer=adamw"
    assert keys(*both) == keys(*both, "ancestor.momentum=0.5", "descend.momentum=0.5")
    assert keys("ancestor.schedule=cosine") == keys(
        "ancestor.schedule=cosine", "ancestor.gamma=0.5", "ancestor.milestones=[0.1]"
    )
    assert (
        len(
            {
                frozenset(keys(*more))
                for more in (
                    (),
                    both[:1],
                    both[1:],
                    ("ancestor.schedule=cosine",),
                    ("ancestor.warmup=0.1",),
                    ("descend.warmup=0.1",),
                )
            }
        )
        == 6
    )
