"""What every strategy must keep, whichever it is; the parameters are the table itself, so a name in
it is a strategy that runs.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
import torch
from strategy_runs import (
    ARGUMENTS,
    CLASSES,
    SEED,
    Memory,
    S,
    assert_same,
    model_of,
    quiet,
    settings,
    stripes,
    through_a_file,
)
from torch import Tensor

from evolve.ancestor.accumulate import Accumulated, AccumulateRequest, Learner, accumulate
from evolve.ancestor.methods import POLICIES, STRATEGIES
from evolve.data.resident import Resident
from evolve.data.streams import stream_tasks

EVERY = [(strategy, head) for strategy, record in STRATEGIES.items() for head in record.heads]
# Where nothing is known of earlier tasks yet, these learn as naive does.
FIRST_TASK_IS_NAIVE = (
    "from-scratch ewc mas rwalk lwf lfl feature-distillation replay gem agem "
    "mir der er-ace er-aml generative-replay cumulative"
)
LAYERS = ("trunk.layers.conv1.conv.weight", "trunk.layers.conv13.conv.weight")


@cache
def images() -> Resident:
    return stripes()


@cache
def uninterrupted(strategy: str, head: str) -> list[Accumulated]:
    """The ancestor before and after each of three tasks, learned by one object (joint: by an object
    a task).
    """
    a = settings(strategy, head)
    tasks = stream_tasks(S, CLASSES, images(), SEED, 3)
    learner = Learner(a, S, CLASSES, images(), SEED)
    results = [accumulate(AccumulateRequest(a, S, CLASSES, images(), SEED, 0, Memory(), quiet))]
    for count in (1, 2, 3):
        if strategy == "joint":
            learner = Learner(a, S, CLASSES, images(), SEED)
            learner.restore(None, count - 1)
        losses = learner.learn(tasks[:count], Memory(), quiet)
        tensors, meta = learner.state()
        results.append(
            Accumulated(
                tensors,
                {"task": count, "strategy": meta, "train_loss": losses, "row": [0.0] * count},
            )
        )
    return results


def again(strategy: str, head: str, task: int, folder: Path, checkpoint: Memory) -> Accumulated:
    """One task by a new object, from the state that the task before left in a file."""
    previous = through_a_file(uninterrupted(strategy, head)[task - 1], folder) if task > 1 else None
    return accumulate(
        AccumulateRequest(
            settings(strategy, head),
            S,
            CLASSES,
            images(),
            SEED,
            task,
            checkpoint,
            quiet,
            previous=previous,
        )
    )


def weights(done: Accumulated) -> dict[str, Tensor]:
    return {
        name: tensor
        for name, tensor in model_of(done).items()
        if name.endswith((".weight", ".bias"))
    }


@pytest.mark.parametrize(("strategy", "head"), EVERY)
def test_a_task_in_another_process_equals_the_uninterrupted_run_bit_for_bit(
    strategy: str, head: str, tmp_path: Path
) -> None:
    whole, result = uninterrupted(strategy, head)[3], again(strategy, head, 3, tmp_path, Memory())
    assert_same(result.tensors, whole.tensors)
    assert (
        result.record["strategy"] == whole.record["strategy"]
        and result.record["train_loss"] == whole.record["train_loss"]
    )


@pytest.mark.parametrize(("strategy", "head"), EVERY)
def test_it_trains(strategy: str, head: str) -> None:
    """Losses and weights are finite (a NaN would also pass for a weight that moved), and weights
    move in every task.
    """
    whole = uninterrupted(strategy, head)
    for before, after in zip(whole, whole[1:], strict=False):
        assert all(torch.tensor(after.record["train_loss"]).isfinite())
        assert all(tensor.isfinite().all() for tensor in after.tensors.values())
        moved = [
            name
            for name, tensor in weights(after).items()
            if not torch.equal(tensor, weights(before)[name])
        ]
        trunk = any(name in LAYERS for name in moved)
        assert moved and (trunk or strategy == "cwr-star")


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_an_interrupted_task_goes_on_to_the_same_bits(strategy: str, tmp_path: Path) -> None:
    head = STRATEGIES[strategy].heads[-1]
    whole = uninterrupted(strategy, head)[2]
    for epoch in (1, 2):
        checkpoint = Memory(cut_after=epoch)
        with pytest.raises(KeyboardInterrupt):
            again(strategy, head, 2, tmp_path, checkpoint)
        checkpoint.cut_after = None
        result = again(strategy, head, 2, tmp_path, checkpoint)
        assert len(checkpoint.saved) == 2, "no epoch is computed twice"
        assert_same(result.tensors, whole.tensors)
        assert result.record["train_loss"] == whole.record["train_loss"]


@pytest.mark.parametrize(("strategy", "head"), [(s, h) for s, h in EVERY if s != "naive"])
def test_it_changes_what_naive_would_do(strategy: str, head: str) -> None:
    """A penalty that is always zero, or a memory that is never read, would pass every other test
    here.
    """
    ours, naive = (uninterrupted(name, head) for name in (strategy, "naive"))
    if strategy == "joint" and head == "shared":
        naive = uninterrupted("naive", "single")  # joint training has a head over all classes
    if strategy in FIRST_TASK_IS_NAIVE.split():
        assert_same(weights(ours[1]), weights(naive[1]))
    for layer in LAYERS:
        assert not torch.equal(weights(ours[3])[layer], weights(naive[3])[layer])


@pytest.mark.parametrize("policy", POLICIES)
def test_a_memory_of_every_policy_outlasts_a_task_as_indices(
    policy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(ARGUMENTS, "replay", {"mem_size": 20, "policy": policy})
    uninterrupted.cache_clear()
    result = again("replay", "single", 3, tmp_path, Memory())
    assert_same(result.tensors, uninterrupted("replay", "single")[3].tensors)
    uninterrupted.cache_clear()
    held = {name: tensor for name, tensor in result.tensors.items() if name.startswith("strategy.")}
    kept = torch.cat([tensor for name, tensor in held.items() if name.endswith(".index")])
    labels = torch.cat([tensor for name, tensor in held.items() if name.endswith(".label")])
    tasks = stream_tasks(S, CLASSES, images(), SEED, 3)
    assert len(kept) == 20 and set(kept.tolist()) <= {
        place for task in tasks for place in task.train.tolist()
    }
    assert [CLASSES[label] for label in labels.tolist()] == images().labels[kept].tolist()
    assert all(tensor.ndim == 1 for tensor in held.values()), "no image is stored"


def test_a_frozen_trunk_stays_and_a_free_one_learns(tmp_path: Path) -> None:
    frozen = uninterrupted("cwr-star", "single")
    a = settings("cwr-star", "single", strategy_args={"freeze": False})
    free = accumulate(
        AccumulateRequest(
            a,
            S,
            CLASSES,
            images(),
            SEED,
            2,
            Memory(),
            quiet,
            previous=through_a_file(frozen[1], tmp_path),
        )
    )
    for layer in LAYERS:
        assert torch.equal(weights(frozen[2])[layer], weights(frozen[1])[layer])
        assert not torch.equal(weights(free)[layer], weights(frozen[1])[layer])


def test_from_scratch_and_gdumb_know_nothing_of_earlier_weights(tmp_path: Path) -> None:
    """Their second task is the same whatever the first left in the network."""
    for strategy in ("from-scratch", "gdumb"):
        first = uninterrupted(strategy, "single")[1]
        spoiled = {
            name: torch.zeros_like(tensor) if name.startswith("model.") else tensor
            for name, tensor in first.tensors.items()
        }
        a = settings(strategy, "single")
        result = accumulate(
            AccumulateRequest(
                a,
                S,
                CLASSES,
                images(),
                SEED,
                2,
                Memory(),
                quiet,
                previous=Accumulated(spoiled, first.record),
            )
        )
        assert_same(result.tensors, uninterrupted(strategy, "single")[2].tensors)


@pytest.mark.parametrize("strategy", ["from-scratch", "gdumb"])
def test_a_pretrained_start_is_what_they_return_to(strategy: str, tmp_path: Path) -> None:
    a = settings(strategy, "single")
    start = {
        name.removeprefix("trunk."): tensor * 1.5
        for name, tensor in model_of(uninterrupted(strategy, "single")[0]).items()
        if "conv.weight" in name
    }
    done = accumulate(
        AccumulateRequest(a, S, CLASSES, images(), SEED, 0, Memory(), quiet, start=start)
    )
    learner = Learner(a, S, CLASSES, images(), SEED, untrained=done)
    for task in (1, 2):
        done = accumulate(
            AccumulateRequest(
                a,
                S,
                CLASSES,
                images(),
                SEED,
                task,
                Memory(),
                quiet,
                previous=through_a_file(done, tmp_path),
            )
        )
        learner.learn(stream_tasks(S, CLASSES, images(), SEED, task), Memory(), quiet)
    assert_same(done.tensors, learner.state()[0])
    assert not torch.equal(
        weights(done)[LAYERS[0]], weights(uninterrupted(strategy, "single")[2])[LAYERS[0]]
    )


def test_mas_leaves_the_statistics_of_the_whole_task() -> None:
    """Its measuring pass goes class by class; after the first task, which it learns as naive does,
    BN's statistics must be naive's.
    """
    mas, naive = (model_of(uninterrupted(strategy, "shared")[1]) for strategy in ("mas", "naive"))
    names = [name for name in naive if "running" in name]
    assert names and all(torch.equal(mas[name], naive[name]) for name in names)


@pytest.mark.parametrize(
    "strategy", [name for name, record in STRATEGIES.items() if "per-task" in record.heads]
)
def test_the_heads_of_tasks_to_come_are_as_they_were_drawn(strategy: str) -> None:
    whole = uninterrupted(strategy, "per-task")
    for task in (1, 2):
        before, after = model_of(whole[0]), model_of(whole[task])
        names = [
            name
            for name in before
            if name.startswith("heads.") and int(name.split(".")[1]) >= task - 1
        ]  # heads.0 is the second task's
        assert names and all(torch.equal(before[name], after[name]) for name in names)
