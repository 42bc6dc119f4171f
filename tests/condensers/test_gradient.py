"""Heur-Learngene: which layers are steady, and what is recorded of the gradients while the ancestor
learns.
"""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from strategy_runs import CLASSES as STREAM_CLASSES
from strategy_runs import SEED, A, Memory, S, in_stages, quiet, settings, stripes
from tiny_ancestors import VGG16, request

from evolve.ancestor.accumulate import AccumulateRequest, accumulate
from evolve.ancestor.gradients import EVERY, GradientFractions
from evolve.condensers.condense import condense_ancestor
from evolve.condensers.interface import Request
from evolve.networks.fast.sgd import CompiledSGD
from evolve.networks.vgg import VGG

NUMBERS = np.random.default_rng(0).uniform(0.2, 0.6, (8, 13))


def test_the_steadiest_layers_of_the_last_tasks_are_kept() -> None:
    done = condense_ancestor(request("gradient", gradients=NUMBERS.tolist(), window=4, top_k=3))
    spread = NUMBERS[-4:].std(0)
    assert done.selected == tuple(sorted(np.argsort(spread)[:3].tolist()))
    assert np.allclose(done.alpha[:, 0], -spread) and done.alpha.shape == (13, 1)
    assert (done.status, done.selected_by) == ("selected", "top-3")
    assert done.selected != tuple(
        sorted(np.argsort(NUMBERS.std(0))[:3].tolist())
    )  # the window counts


def test_a_window_longer_than_the_lineage_takes_all_of_it() -> None:
    done = condense_ancestor(request("gradient", gradients=NUMBERS[:2].tolist(), window=5))
    assert done.selected == tuple(sorted(np.argsort(NUMBERS[:2].std(0))[:4].tolist()))


@pytest.mark.parametrize("tasks", [0, 1])
def test_less_than_two_tasks_are_tied_and_say_why(tasks: int) -> None:
    done = condense_ancestor(request("gradient", gradients=NUMBERS[:tasks].tolist(), fixed=(2, 5)))
    assert (done.status, done.selected) == ("tied", (1, 4))
    assert (
        done.selected_by
        == f"fixed set, because stability needs the gradients of at least 2 tasks; {tasks} "
        f"task{'s' * (tasks != 1)} recorded"
    )


def test_a_network_that_was_not_trained_here_has_no_record_and_no_image_is_read() -> None:
    asked = replace(request("gradient"), ancestor_record={}, resident=None)
    assert condense_ancestor(asked).status == "tied"
    recorded = replace(asked, ancestor_record={"gradients": NUMBERS.tolist()})
    assert condense_ancestor(recorded).status == "selected"


def test_equally_steady_layers_at_the_cut_are_tied() -> None:
    rows = NUMBERS.copy()
    rows[:, :6] = 0.5  # six of them never move
    done = condense_ancestor(request("gradient", gradients=rows.tolist(), top_k=4))
    assert done.status == "tied" and "tied at the cut after 4" in done.selected_by
    assert condense_ancestor(request("gradient", gradients=rows.tolist(), top_k=6)).selected == (
        0,
        1,
        2,
        3,
        4,
        5,
    )


def test_a_stages_fraction_is_that_of_all_its_weights() -> None:
    """Counted over the stage as over one layer: large layers weigh more."""
    done = condense_ancestor(
        request("gradient", granularity="stage", gradients=NUMBERS.tolist(), window=8, top_k=2)
    )
    sizes = [VGG16.build(1).layers[name].conv.weight.numel() for name in VGG16.layer_names]
    counted = NUMBERS * sizes
    stages = [(0, 2), (2, 4), (4, 7), (7, 10), (10, 13)]
    fractions = np.stack([counted[:, a:b].sum(1) / sum(sizes[a:b]) for a, b in stages], 1)
    assert np.allclose(done.alpha[:, 0], -fractions.std(0))


def test_entries_above_the_threshold_are_counted_with_their_sign() -> None:
    network = VGG(VGG16, 3)
    counts = GradientFractions(network, 0.5)
    assert counts.fractions() == [0.0] * 13
    shape = network.layers["conv2"].conv.weight.shape
    for gradients in ([0.4, 0.6, -9.0, 0.5], [0.6, 0.7, 0.8, 0.0]):
        network.layers["conv2"].conv.weight.grad = (
            torch.tensor(gradients).repeat(shape.numel() // 4).view(shape)
        )
        counts.step()
        counts.end_epoch()
    expected = [0.0] * 13  # the other layers get no gradient; biases and BN are not looked at
    network.layers["conv3"].bn.weight.grad = torch.ones_like(network.layers["conv3"].bn.weight)
    expected[1] = (0.25 + 0.75) / 2
    assert counts.fractions() == expected


def spied(
    monkeypatch: pytest.MonkeyPatch, threshold: float, steps: int
) -> list[dict[str, list[float]]]:
    """For every task, layer -> its fraction at an epoch's first step and every EVERY-th after, from
    the gradients the optimizer sees.
    """
    tasks: list[dict[str, list[float]]] = []
    plain = CompiledSGD.step
    seen = 0

    def step(self: Any, *args: Any, **kwargs: Any) -> Any:
        nonlocal seen
        if seen % (steps * A.epochs) == 0:
            tasks.append(defaultdict(list))
        if (seen % steps) % EVERY == 0:
            layer = 0
            for p in self.param_groups[0]["params"]:
                if p.dim() == 4:
                    layer += 1
                    tasks[-1][f"conv{layer}"].append(float(np.mean(p.grad.numpy() > threshold)))
        seen += 1
        return plain(self, *args, **kwargs)

    monkeypatch.setattr(CompiledSGD, "step", step)
    return tasks


def test_the_record_holds_what_the_optimizer_saw_task_by_task(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    a, resident = settings("naive", "shared", batch=4, gradient_threshold=1e-4), stripes(12)
    steps = 9  # 36 images (or 37) in batches of 4
    expected = spied(monkeypatch, 1e-4, steps)
    done = in_stages(a, resident, tmp_path)
    assert done[0].record.get("gradients", []) == []
    assert [len(result.record["gradients"]) for result in done[1:]] == [1, 2, 3]
    assert done[3].record["gradients"][:2] == done[2].record["gradients"]
    for row, task in zip(done[3].record["gradients"], expected, strict=True):
        assert all(len(values) == A.epochs * 2 for values in task.values())
        assert row == pytest.approx(
            [float(np.mean(task[name])) for name in VGG16.layer_names], abs=1e-12
        )
        assert all(0 < value < 0.95 for value in row)
    json.dumps(done[3].record["gradients"])


def test_a_joint_ancestor_records_its_own_training_only(tmp_path: Path) -> None:
    done = in_stages(settings("joint", "shared"), stripes(8), tmp_path, tasks=2)
    assert [len(result.record["gradients"]) for result in done[1:]] == [1, 1]
    assert done[1].record["gradients"] != done[2].record["gradients"]


def test_a_resumed_task_records_what_an_uninterrupted_one_does() -> None:
    a, resident = replace(A, epochs=3, batch=4), stripes(8)
    whole = accumulate(AccumulateRequest(a, S, STREAM_CLASSES, resident, SEED, 1, Memory(), quiet))
    checkpoint = Memory(cut_after=2)
    with pytest.raises(KeyboardInterrupt):
        accumulate(AccumulateRequest(a, S, STREAM_CLASSES, resident, SEED, 1, checkpoint, quiet))
    checkpoint.cut_after = None
    resumed = accumulate(
        AccumulateRequest(a, S, STREAM_CLASSES, resident, SEED, 1, checkpoint, quiet)
    )
    assert len(checkpoint.saved) == 3
    assert resumed.record["gradients"] == whole.record["gradients"]


def test_a_whole_request_reads_the_record_of_the_ancestor(tmp_path: Path) -> None:
    """What one stage writes the next can read.

    (Of two tasks of so small a network, two layers may happen to move exactly alike.)
    """
    done = in_stages(A, stripes(8), tmp_path)[3]
    asked = request("gradient")
    chosen = condense_ancestor(
        Request(
            asked.architecture,
            asked.state,
            json.loads(json.dumps(done.record)),
            asked.classes,
            asked.resident,
            asked.c,
            0,
            quiet,
        )
    )
    assert chosen.status == "selected" and len(chosen.selected) == 4
    assert np.allclose(chosen.scores, -np.array(done.record["gradients"]).std(0))
