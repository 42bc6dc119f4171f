"""The oracle is Avalanche itself: its own strategies, DataLoaders, evaluation and metrics."""

from __future__ import annotations

import dataclasses
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from strategy_runs import (
    ARGUMENTS,
    CLASSES,
    HEADS,
    A,
    Memory,
    S,
    assert_same,
    in_stages,
    model_of,
    quiet,
    settings,
    stripes,
)

from evolve.ancestor.accumulate import (
    Accumulated,
    AccumulateRequest,
    Learner,
    accumulate,
    check_strategy,
    load_trunk,
)
from evolve.ancestor.model import accuracies, build_ancestor, labelling
from evolve.core.errors import UserError
from evolve.core.randomness import generator
from evolve.core.settings import AncestorSettings
from evolve.data.resident import Resident
from evolve.data.streams import load_avalanche, make_benchmark, stream_tasks
from evolve.networks.vgg import VGG
from evolve.networks.vgg_plan import vgg16_plan

ONLINE = {"ewc_lambda": 50.0, "mode": "online", "decay_factor": 0.5}
STRATEGIES = ("naive", "ewc", "si", "lwf", "replay", "cumulative", "joint")
WORKING = [
    *((strategy, "single") for strategy in STRATEGIES),
    ("naive", "shared"),
    ("naive", "per-task"),
    ("lwf", "per-task"),
]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def resident() -> Resident:
    return stripes(12)


@pytest.mark.parametrize(
    ("strategy", "head"), [("naive", "shared"), ("joint", "shared"), ("lwf", "per-task")]
)
def test_stages_equal_one_uninterrupted_run_bit_for_bit(
    strategy: str, head: str, resident: Resident, tmp_path: Path
) -> None:
    a = settings(strategy, head)
    staged = in_stages(a, resident, tmp_path)
    tasks = stream_tasks(S, CLASSES, resident, 3, 3)
    if strategy == "joint":
        learner = Learner(a, S, CLASSES, resident, 3)
        learner.restore(None, 2)
        losses = learner.learn(tasks, Memory(), quiet)
    else:
        learner = Learner(a, S, CLASSES, resident, 3)
        for count in (1, 2, 3):
            losses = learner.learn(tasks[:count], Memory(), quiet)
    tensors, meta = learner.state()
    assert_same(staged[3].tensors, tensors)
    assert staged[3].record["strategy"] == meta and staged[3].record["train_loss"] == losses
    row = staged[3].record["row"]
    assert row == accuracies(learner.strategy.model, tasks, a, CLASSES, resident) and len(row) == 3
    assert staged[3].record["average_accuracy"] == pytest.approx(sum(row) / 3)
    assert (staged[3].record["forgetting"] is None) == (strategy == "joint")


def test_online_ewc_is_resumable_too(resident: Resident, tmp_path: Path) -> None:
    a = dataclasses.replace(settings("ewc", "shared"), strategy_args=ONLINE)
    staged = in_stages(a, resident, tmp_path)
    learner = Learner(a, S, CLASSES, resident, 3)
    tasks = stream_tasks(S, CLASSES, resident, 3, 3)
    for count in (1, 2, 3):
        learner.learn(tasks[:count], Memory(), quiet)
    assert_same(staged[3].tensors, learner.state()[0])


def test_ewcs_state_does_not_grow_with_the_lineage(resident: Resident, tmp_path: Path) -> None:
    staged = in_stages(settings("ewc", "shared"), resident, tmp_path)
    assert {n: t.shape for n, t in staged[1].tensors.items()} == {
        n: t.shape for n, t in staged[3].tensors.items()
    }


def avalanche_run(strategy: str, a: AncestorSettings, resident: Resident, count: int) -> Any:
    """The same tasks through Avalanche's own strategy, datasets and DataLoaders, given our image
    order and learning rates.
    """
    load_avalanche()
    from avalanche.training.plugins import EvaluationPlugin, LRSchedulerPlugin
    from avalanche.training.supervised import EWC, Cumulative, LwF, Naive, SynapticIntelligence
    from torch.utils.data import DataLoader

    from evolve.data.batches import batch_count, batches

    kinds = {
        "naive": Naive,
        "ewc": EWC,
        "lwf": LwF,
        "cumulative": Cumulative,
        "si": SynapticIntelligence,
    }

    class Ours:
        def __init__(self, length: int, task: int) -> None:
            self.length, self.task, self.epoch = length, task, -1

        def __iter__(self) -> Any:
            self.epoch += 1
            order = torch.randperm(
                self.length, generator=generator(3, "ancestor-order", self.task, self.epoch)
            )
            yield from (p.tolist() for p in batches(order, a.batch))

        def __len__(self) -> int:
            return batch_count(self.length, a.batch)

    class Ordered(kinds[strategy]):  # type: ignore[misc]
        def make_train_dataloader(self, **kwargs: Any) -> None:
            order = Ours(len(self.adapted_dataset), self.clock.train_exp_counter + 1)
            self.dataloader = DataLoader(self.adapted_dataset, batch_sampler=order)

    model = build_ancestor(a, S, CLASSES, resident.size, 3)
    optimizer = torch.optim.SGD(
        model.parameters(), lr=a.lr, momentum=a.momentum, weight_decay=a.weight_decay
    )
    steps = torch.optim.lr_scheduler.MultiStepLR(
        optimizer, [int(m * a.epochs) for m in a.milestones], a.gamma
    )
    arguments = {
        "ewc": a.strategy_args,
        "lwf": {"alpha": 2.0, "temperature": 2.0},
        "si": {"si_lambda": 5000.0},
    }.get(strategy, {})
    run = Ordered(
        model=model,
        optimizer=optimizer,
        criterion=torch.nn.CrossEntropyLoss(),
        train_mb_size=a.batch,
        train_epochs=a.epochs,
        plugins=[LRSchedulerPlugin(steps)],
        evaluator=EvaluationPlugin(),
        **arguments,
    )
    for experience in make_benchmark(
        stream_tasks(S, CLASSES, resident, 3, count), resident, a.head, CLASSES
    ).train_stream:
        run.train(experience, eval_streams=[], reset_optimizer_state=True)
    return run


@pytest.mark.filterwarnings("ignore:No loggers specified")
@pytest.mark.parametrize("strategy", ["naive", "lwf", "cumulative"])
def test_the_weights_equal_those_of_avalanches_own_strategy(
    strategy: str, resident: Resident, tmp_path: Path
) -> None:
    a = settings(strategy, "single", augment=())
    ours = model_of(in_stages(a, resident, tmp_path, reference=True)[3])
    theirs = avalanche_run(strategy, a, resident, 3).model.state_dict()
    assert_same(ours, {name: tensor.contiguous() for name, tensor in theirs.items()})


@pytest.mark.parametrize(
    ("network", "strategy", "head"),
    [
        *(("vgg16", *working) for working in WORKING),
        *(
            (network, *working)
            for network in ("resnet18", "vit-small4")
            for working in (("ewc", "single"), ("naive", "shared"), ("lwf", "per-task"))
        ),
    ],
)
def test_the_fused_trunk_learns_what_the_reference_learns(
    network: str, strategy: str, head: str, resident: Resident, tmp_path: Path
) -> None:
    """Rounding apart, which BN over 12 images of one pixel lets grow from step to step: so the
    first task, slowly.
    """
    a = settings(strategy, head, lr=0.002, network=network)
    fast, plain = (
        in_stages(a, resident, tmp_path, tasks=1, reference=reference)[1]
        for reference in (False, True)
    )
    assert fast.record["train_loss"] == pytest.approx(plain.record["train_loss"], rel=1e-4)
    assert fast.tensors.keys() == plain.tensors.keys()
    for name, tensor in fast.tensors.items():
        other = plain.tensors[name]
        assert float((tensor - other).abs().max()) <= 2e-3 * max(1e-2, float(other.abs().max())), (
            name
        )


@pytest.mark.parametrize("arguments", [ARGUMENTS["ewc"], ONLINE])
def test_ewcs_closed_form_equals_avalanches_sum_over_tasks(
    arguments: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    load_avalanche()
    from types import SimpleNamespace

    from avalanche.training.plugins import EWCPlugin
    from avalanche.training.utils import ParamData

    from evolve.ancestor.strategies.regularisers import EWC

    draw = generator(0, "ewc")
    model = (
        torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Linear(4, 2))
        .double()
        .to(memory_format=torch.channels_last)
    )
    ours, theirs = EWC(**arguments), EWCPlugin(**arguments)
    data = SimpleNamespace(dataset=None)
    strategy = SimpleNamespace(
        model=model,
        _criterion=None,
        optimizer=None,
        experience=data,
        device=torch.device("cpu"),
        train_mb_size=1,
    )
    for task in range(4):
        strategy.clock = SimpleNamespace(train_exp_counter=task)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn(parameter.shape, generator=draw))
        results = []
        for plugin in (ours, theirs):
            model.zero_grad()
            strategy.loss = sum(parameter.sum() for parameter in model.parameters())
            plugin.before_backward(strategy)
            strategy.loss.backward()
            results.append(
                [
                    strategy.loss.detach(),
                    *(parameter.grad.clone() for parameter in model.parameters()),
                ]
            )
        torch.testing.assert_close(results[0], results[1], rtol=1e-6 if task else 0, atol=0)
        assert task == 0 or abs(float(results[0][0])) > 50
        values = {
            name: torch.rand(p.shape, generator=draw, dtype=p.dtype)
            for name, p in model.named_parameters()
        }
        for plugin in (ours, theirs):
            fixed = {
                name: ParamData(name, init_tensor=value.clone()) for name, value in values.items()
            }
            monkeypatch.setattr(
                plugin, "compute_importances", lambda *args, fixed=fixed, **kwargs: fixed
            )
            plugin.after_training_exp(strategy)


@pytest.mark.filterwarnings("ignore:No loggers specified")
def test_a_task_under_ewc_equals_avalanches_up_to_rounding(
    resident: Resident, tmp_path: Path
) -> None:
    """By the plain path: two channels a layer let one rounding flip a pixel's ReLU, and the
    networks part.
    """
    both = (settings(name, "single", augment=()) for name in ("ewc", "naive"))
    ours, naive = (
        model_of(in_stages(b, resident, tmp_path, tasks=2, reference=True)[2]) for b in both
    )
    a = settings("ewc", "single", augment=())
    theirs = avalanche_run("ewc", a, resident, 2).model.state_dict()
    for name, tensor in theirs.items():
        assert (ours[name] - tensor).abs().max() <= 1e-4 + 1e-2 * (
            naive[name] - tensor
        ).abs().max(), name


@pytest.mark.filterwarnings("ignore:No loggers specified")
def test_si_equals_avalanches_where_avalanche_keeps_copies(
    resident: Resident, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load_avalanche()
    from avalanche.training.plugins import SynapticIntelligencePlugin

    a = settings("si", "single", augment=())
    ours = model_of(in_stages(a, resident, tmp_path, reference=True)[3])
    broken = avalanche_run("si", a, resident, 3).model.state_dict()
    extract = SynapticIntelligencePlugin.extract_weights

    def copying(model: Any, target: Any, excluded: Any) -> None:
        extract(model, target, excluded)
        for value in target.values():
            value.data = value.data.clone()

    monkeypatch.setattr(SynapticIntelligencePlugin, "extract_weights", staticmethod(copying))
    mended = avalanche_run("si", a, resident, 3).model.state_dict()
    for name, tensor in ours.items():
        torch.testing.assert_close(tensor, mended[name].contiguous(), rtol=1e-4, atol=1e-6)
    assert not torch.equal(broken["trunk.head.weight"], mended["trunk.head.weight"]), (
        "fixed upstream: the mending can go"
    )


@pytest.mark.filterwarnings("ignore:No loggers specified")
@pytest.mark.parametrize("head", HEADS)
def test_accuracies_and_metrics_equal_avalanches(head: str, resident: Resident) -> None:
    load_avalanche()
    from avalanche.evaluation.metrics import accuracy_metrics, bwt_metrics, forgetting_metrics
    from avalanche.training.plugins import EvaluationPlugin

    from evolve.ancestor.metrics import backward_transfer, forgetting

    a = settings("naive", head, width=1 / 16, epochs=5, milestones=())
    tasks = stream_tasks(S, CLASSES, resident, 3, 3)
    benchmark = make_benchmark(tasks, resident, head, CLASSES)
    learner = Learner(a, S, CLASSES, resident, 3)
    strategy = learner.strategy
    plugin = EvaluationPlugin(
        accuracy_metrics(experience=True),
        bwt_metrics(stream=True),
        forgetting_metrics(stream=True),
        loggers=[],
    )
    strategy.plugins.insert(0, plugin)
    strategy.evaluator = plugin
    rows: list[list[float]] = []
    for count in (1, 2, 3):
        learner.learn(tasks[:count], Memory(), quiet)
        strategy.clock.train_exp_counter = count
        # Avalanche's metrics want to know which experience was trained last; ours trains a
        # benchmark of one.
        strategy.experience = benchmark.train_stream[count - 1]
        for metric in plugin.metrics:
            if (
                hasattr(metric, "train_task_id")
                or "BWT" in type(metric).__name__
                or "Forgetting" in type(metric).__name__
            ):
                metric.before_training_exp(strategy)
        metrics = strategy.eval(benchmark.test_stream[:count])
        theirs = [value for name, value in sorted(metrics.items()) if "Acc_Exp" in name][:count]
        rows.append(accuracies(strategy.model, tasks[:count], a, CLASSES, resident))
        assert rows[-1] == pytest.approx(theirs)
    assert len({value for row in rows for value in row}) > 2, "a flat matrix would prove nothing"
    assert backward_transfer(rows) == pytest.approx(
        next(v for n, v in metrics.items() if "BWT" in n)
    )
    first = next(
        v for n, v in metrics.items() if "Forgetting" in n
    )  # Avalanche's is against the first accuracy, not the best
    assert forgetting(rows) >= first - 1e-9


def test_global_random_state_is_neither_read_nor_changed(resident: Resident) -> None:
    def once() -> Accumulated:
        return accumulate(
            AccumulateRequest(
                settings("replay", "single"), S, CLASSES, resident, 3, 1, Memory(), quiet
            )
        )

    torch.manual_seed(1)
    first = once()
    torch.manual_seed(2)
    np.random.seed(2)
    random.seed(2)
    before = (torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate())
    assert_same(once().tensors, first.tensors)
    assert torch.equal(before[0], torch.get_rng_state())
    assert np.array_equal(before[1], np.random.get_state()[1]) and before[2] == random.getstate()


@pytest.mark.parametrize("head", HEADS)
def test_the_untrained_ancestors_trunk_is_the_same_under_every_head(
    head: str, resident: Resident
) -> None:
    done = accumulate(
        AccumulateRequest(
            AncestorSettings(width=1 / 32, head=head), S, CLASSES, resident, 3, 0, Memory(), quiet
        )
    )
    shared = accumulate(
        AccumulateRequest(
            AncestorSettings(width=1 / 32, head="shared"),
            S,
            CLASSES,
            resident,
            3,
            0,
            Memory(),
            quiet,
        )
    )
    trunk, expected = load_trunk(done.tensors), load_trunk(shared.tensors)
    assert all(
        torch.equal(trunk[name], expected[name]) for name in trunk if not name.startswith("head")
    )
    VGG(vgg16_plan(1 / 32), len(trunk["head.bias"])).load_state_dict(trunk)
    assert len(trunk["head.bias"]) == (len(CLASSES) if head == "single" else 3)


def test_per_task_heads_leave_other_tasks_heads_alone(resident: Resident, tmp_path: Path) -> None:
    done = in_stages(settings("naive", "per-task"), resident, tmp_path)
    start, first, second = (model_of(d) for d in done[:3])
    assert not torch.equal(start["trunk.head.weight"], first["trunk.head.weight"])
    assert torch.equal(
        first["trunk.head.weight"], second["trunk.head.weight"]
    )  # not even weight decay
    assert torch.equal(start["heads.0.weight"], first["heads.0.weight"]) and not torch.equal(
        first["heads.0.weight"], second["heads.0.weight"]
    )


def test_joint_does_not_depend_on_the_chain_and_outgrows_a_shared_head(
    resident: Resident, tmp_path: Path
) -> None:
    a = settings("joint", "shared")
    chained = in_stages(a, resident, tmp_path, tasks=2)[2]
    alone = accumulate(AccumulateRequest(a, S, CLASSES, resident, 3, 2, Memory(), quiet))
    assert_same(alone.tensors, chained.tensors)
    assert labelling(a) == "single" == alone.record["head"]
    assert len(load_trunk(alone.tensors)["head.bias"]) == len(CLASSES)


def test_replay_remembers_images_of_earlier_tasks_by_index(
    resident: Resident, tmp_path: Path
) -> None:
    done = in_stages(settings("replay", "single"), resident, tmp_path)[2]
    tasks = stream_tasks(S, CLASSES, resident, 3, 2)
    for group, task in enumerate(tasks):
        kept = done.tensors[f"strategy.{group}.index"]
        assert len(kept) == 10 and set(kept.tolist()) <= set(task.train.tolist())
        classes = [
            sorted(CLASSES)[label] for label in done.tensors[f"strategy.{group}.label"].tolist()
        ]
        assert classes == resident.labels[kept].tolist()


def test_training_learns(resident: Resident) -> None:
    a = settings("naive", "shared", epochs=12, width=1 / 8, augment=(), lr=0.05)
    done = accumulate(AccumulateRequest(a, S, CLASSES, resident, 3, 1, Memory(), quiet))
    assert done.record["train_loss"][-1] < 0.5 * done.record["train_loss"][0]
    assert done.record["row"][0] > 0.6


def test_a_loss_that_explodes_is_one_line_naming_the_setting(resident: Resident) -> None:
    with pytest.raises(
        UserError, match=r"ancestor\.lr = 1e\+30.*task 1, epoch 1; lower ancestor\.lr"
    ):
        accumulate(
            AccumulateRequest(
                settings("naive", "shared", lr=1e30), S, CLASSES, resident, 3, 1, Memory(), quiet
            )
        )


@pytest.mark.parametrize(
    ("strategy", "arguments", "expected"),
    [
        ("ewc", {"lamda": 1}, r"ancestor\.strategy_args\.lamda: .*decay_factor, ewc_lambda, mode"),
        ("naive", {"x": 1}, r"ancestor\.strategy_args\.x: .*takes none"),
        ("ewc", {"ewc_lambda": -1}, r"ewc_lambda = -1: expected a number of at least 0"),
        ("ewc", {"ewc_lambda": True}, "ewc_lambda = True"),
        ("ewc", {"ewc_lambda": float("nan")}, "ewc_lambda = nan"),
        ("ewc", {"mode": "fast"}, "mode = 'fast': allowed are separate, online"),
        ("ewc", {"mode": "online"}, "decay_factor: needed"),
        ("ewc", {"decay_factor": 0.5}, "decay_factor: needed"),
        ("replay", {"mem_size": 2.5}, "mem_size = 2.5: expected a whole number of at least 1"),
        ("lwf", {"temperature": "hot"}, "temperature = 'hot': expected a number"),
    ],
)
def test_wrong_arguments_are_named(strategy: str, arguments: dict[str, Any], expected: str) -> None:
    with pytest.raises(UserError, match=expected):
        check_strategy(
            dataclasses.replace(A, strategy=strategy, head="single", strategy_args=arguments)
        )


@pytest.mark.parametrize("strategy", ["replay", "cumulative"])
def test_rehearsal_under_a_shared_head_is_refused_with_its_reason(strategy: str) -> None:
    with pytest.raises(
        UserError,
        match=f'ancestor.head = "shared" with ancestor.strategy = "{strategy}".*contradict',
    ):
        check_strategy(settings(strategy, "shared"))
