"""Strategies against Avalanche's own, run by Avalanche on its own loaders; and what ours mend or
refuse, shown in Avalanche's own.
"""

from __future__ import annotations

import copy
import inspect
import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from strategy_runs import CLASSES, SEED, A, S, assert_same, in_stages, model_of, settings, stripes
from torch import Tensor, nn
from torch.utils.data import DataLoader

from evolve.ancestor.accumulate import check_strategy
from evolve.ancestor.methods import REFUSED, STRATEGIES
from evolve.ancestor.model import build_ancestor
from evolve.core.errors import UserError
from evolve.core.randomness import derive_seed, generator, reseed
from evolve.core.registry import names
from evolve.data.resident import Resident
from evolve.data.streams import load_avalanche, make_benchmark, stream_tasks

load_avalanche()

from avalanche.models import SimpleMLP  # noqa: E402
from avalanche.models.packnet import PackNetModel  # noqa: E402
from avalanche.training import plugins, supervised  # noqa: E402
from avalanche.training.plugins.feature_distillation import FeatureDistillationPlugin  # noqa: E402
from avalanche.training.templates import SupervisedMetaLearningTemplate, SupervisedTemplate  # noqa: E402

from evolve.ancestor.strategies.projections import AGEM, GEM  # noqa: E402
from evolve.data.batches import batches  # noqa: E402

pytestmark = [
    pytest.mark.filterwarnings("ignore:No loggers specified"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]
BATCH = 10  # a task has 24 or 25 images, and Avalanche's MAS cannot have a rest of one


@cache
def images() -> Resident:
    return stripes()


def order_of(count: int, task: int, epoch: int) -> list[Tensor]:
    return batches(
        torch.randperm(count, generator=generator(SEED, "ancestor-order", task, epoch)), BATCH
    )


def memory_order(count: int, size: int, task: int, epoch: int) -> Iterator[Tensor]:
    """Our permutations without end of the places in a memory."""
    draw, size = generator(SEED, "ancestor-memory", task, epoch), min(size, count)
    while True:
        yield from (
            places
            for places in torch.randperm(count, generator=draw).split(size)
            if len(places) == size
        )


def columns_of(dataset: Any, places: Tensor) -> list[Tensor]:
    """Images, labels and whatever else the dataset holds, stacked."""
    columns = zip(*(dataset[int(place)] for place in places), strict=True)
    return [torch.stack([torch.as_tensor(value) for value in column]) for column in columns]


def avalanches(base: type, **arguments: Any) -> Any:
    """Avalanche's strategy over its own DataLoader of its own dataset, in our order, with our seeds
    and learning rates.
    """

    class Ours(base):  # type: ignore[misc]
        def make_train_dataloader(self, **kwargs: Any) -> None:
            task, count, epochs = (
                self.clock.train_exp_counter + 1,
                len(self.adapted_dataset),
                iter(range(A.epochs)),
            )

            class Order:
                def __iter__(self) -> Iterator[list[int]]:
                    return (places.tolist() for places in order_of(count, task, next(epochs)))

            self.dataloader = DataLoader(self.adapted_dataset, batch_sampler=Order())

        def _before_training_exp(self, **kwargs: Any) -> None:
            reseed(derive_seed(SEED, "ancestor", self.clock.train_exp_counter + 1))
            super()._before_training_exp(reset_optimizer_state=True, **kwargs)

        def _before_training_epoch(self, **kwargs: Any) -> None:
            task, epoch = self.clock.train_exp_counter + 1, self.clock.train_exp_epochs
            reseed(derive_seed(SEED, "ancestor", task, epoch))
            for group in self.optimizer.param_groups:
                group["lr"] = A.lr * A.gamma ** (epoch >= 1)
            if getattr(self, "replay_loader", None) is not None:
                self.replay_loader = self._remembered(
                    self.storage_policy.buffer, self.batch_size_mem, task, epoch
                )
            for plugin in self.plugins:
                if isinstance(plugin, plugins.MIRPlugin) and plugin.replay_loader is not None:
                    plugin.replay_loader = self._remembered(
                        plugin.dataset, plugin.subsample, task, epoch
                    )
            super()._before_training_epoch(**kwargs)

        def _remembered(
            self, dataset: Any, size: int, task: int, epoch: int
        ) -> Iterator[list[Any]]:
            for places in memory_order(len(dataset), size, task, epoch):
                yield columns_of(dataset, places)

        def _after_training_exp(self, **kwargs: Any) -> None:
            reseed(derive_seed(SEED, "ancestor", self.clock.train_exp_counter + 1, "after"))
            super()._after_training_exp(**kwargs)
            for plugin in self.plugins:
                if isinstance(plugin, plugins.MIRPlugin) and plugin.replay_loader is not None:
                    plugin.dataset = plugin.replay_loader.gi_frame.f_locals[
                        "loader"
                    ].dataset  # its memory without some classes

    a = settings("naive", "single")
    model = build_ancestor(a, S, CLASSES, images().size, SEED)
    run = Ours(
        model=model,
        optimizer=torch.optim.SGD(
            model.parameters(), lr=A.lr, momentum=A.momentum, weight_decay=A.weight_decay
        ),
        criterion=nn.CrossEntropyLoss(),
        train_mb_size=BATCH,
        train_epochs=A.epochs,
        evaluator=plugins.EvaluationPlugin(),
        **arguments,
    )
    state = torch.get_rng_state()
    for experience in make_benchmark(
        stream_tasks(S, CLASSES, images(), SEED, 3), images(), "single", CLASSES
    ).train_stream:
        run.train(experience, eval_streams=[])
    torch.set_rng_state(state)
    return run


def ours(strategy: str, folder: Path, **more: Any) -> dict[str, Tensor]:
    a = settings(strategy, "single", augment=(), batch=BATCH, **more)
    return model_of(in_stages(a, images(), folder, reference=True)[3])


def theirs(run: Any) -> dict[str, Tensor]:
    return {name: tensor.contiguous() for name, tensor in run.model.state_dict().items()}


class Gem(supervised.GEM):  # type: ignore[misc]
    """Avalanche's GEM with our choice of patterns, and our solver in the place of the one that is
    not installed.
    """

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        (plugin,) = (p for p in self.plugins if isinstance(p, plugins.GEMPlugin))
        solver = GEM(6, plugin.memory_strength)

        def update(dataset: Any, task: int, batch_size: int) -> None:
            kept = torch.randperm(len(dataset))[:6]
            plugin.memory_x[task], plugin.memory_y[task], plugin.memory_tid[task] = columns_of(
                dataset, kept
            )

        def solve(g: Tensor) -> Tensor:
            solver.G = plugin.G
            return solver.solve_quadprog(g)

        plugin.update_memory, plugin.solve_quadprog = update, solve


class Walk(plugins.RWalkPlugin):  # type: ignore[misc]
    """Avalanche's RWalk where it goes back to training."""

    def before_training_iteration(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        super().before_training_iteration(strategy, *args, **kwargs)
        strategy.model.train()


class Mas(plugins.MASPlugin):  # type: ignore[misc]
    """Avalanche's MAS whose measuring leaves BN's statistics as they were."""

    def _get_importance(self, strategy: Any) -> Any:
        kept = copy.deepcopy(list(strategy.model.buffers()))
        importance = super()._get_importance(strategy)
        for buffer, before in zip(strategy.model.buffers(), kept, strict=True):
            buffer.copy_(before)
        return importance


HELD = {"lambda_reg": 50.0, "alpha": 0.5}
WALK = {"ewc_lambda": 10.0, "delta_t": 3}


@pytest.mark.parametrize(
    ("strategy", "base", "arguments"),
    [
        ("mas", supervised.Naive, {"plugins": [Mas(**HELD)]}),
        ("rwalk", supervised.Naive, {"plugins": [Walk(**WALK)]}),
        ("gdumb", supervised.GDumb, {"mem_size": 20}),
        ("der", supervised.DER, {"mem_size": 20, "batch_size_mem": 6}),
        ("er-ace", supervised.ER_ACE, {"mem_size": 20, "batch_size_mem": 6}),
        ("mir", supervised.MIR, {"mem_size": 20, "batch_size_mem": 4, "subsample": 8}),
        ("gem", Gem, {"patterns_per_exp": 6, "memory_strength": 0.5}),
        ("cwr-star", supervised.CWRStar, {"cwr_layer_name": "trunk.head"}),
    ],
)
def test_the_weights_equal_those_of_avalanches_own(
    strategy: str, base: Any, arguments: dict[str, Any], tmp_path: Path
) -> None:
    assert_same(ours(strategy, tmp_path), theirs(avalanches(base, **arguments)))


def test_from_scratch_learns_what_avalanches_does_and_forgets_bns_statistics_too(
    tmp_path: Path,
) -> None:
    result, expected = (
        ours("from-scratch", tmp_path),
        theirs(avalanches(supervised.FromScratchTraining)),
    )
    statistics = [name for name in result if "running" in name or "tracked" in name]
    assert_same(
        {n: t for n, t in result.items() if n not in statistics},
        {n: t for n, t in expected.items() if n not in statistics},
    )
    assert not torch.equal(result[statistics[0]], expected[statistics[0]]), (
        "fixed upstream: the mending can go"
    )


def test_mas_without_our_mending_has_the_last_classes_statistics(tmp_path: Path) -> None:
    result, broken = ours("mas", tmp_path), theirs(avalanches(supervised.MAS, **HELD))
    statistics = [name for name in result if "running" in name or "tracked" in name]
    assert_same(
        {n: t for n, t in result.items() if n not in statistics},
        {n: t for n, t in broken.items() if n not in statistics},
    )
    assert not torch.equal(result[statistics[0]], broken[statistics[0]]), (
        "fixed upstream: the mending can go"
    )


def test_rwalk_without_our_mending_never_trains_bn(tmp_path: Path) -> None:
    statistics = "trunk.layers.conv1.bn.running_mean"
    broken = theirs(avalanches(supervised.Naive, plugins=[plugins.RWalkPlugin(**WALK)]))
    assert not torch.equal(ours("rwalk", tmp_path)[statistics], broken[statistics]), (
        "fixed upstream: the mending can go"
    )
    assert broken[statistics].count_nonzero() == 0


def two_steps(
    plugin: Any, sample: list[Tensor], memory_format: torch.memory_format
) -> list[Tensor]:
    """Gradients of a small network after A-GEM's hooks around one step."""
    draw = generator(0, "agem")
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4, 2)).to(
        memory_format=memory_format
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=draw))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    strategy = SimpleNamespace(
        model=model,
        optimizer=optimizer,
        _criterion=nn.CrossEntropyLoss(),
        device=torch.device("cpu"),
    )
    plugin.sample_from_memory = lambda: sample
    plugin.before_training_iteration(strategy)
    optimizer.zero_grad()
    nn.CrossEntropyLoss()(
        model(sample[0]), 1 - sample[1]
    ).backward()  # all labels wrong: it goes against the memory
    plain = [parameter.grad.clone() for parameter in model.parameters()]
    plugin.after_backward(strategy)
    projected = [parameter.grad.contiguous() for parameter in model.parameters()]
    assert not all(torch.equal(g, before) for g, before in zip(projected, plain, strict=True)), (
        "nothing was projected"
    )
    return projected


def test_agems_projection_equals_avalanches() -> None:
    draw = generator(1, "agem")
    sample = [
        torch.randn(8, 3, 3, 3, generator=draw),
        torch.randint(0, 2, (8,), generator=draw),
        torch.zeros(8),
    ]
    mine, other = AGEM(6, 6), plugins.AGEMPlugin(6, 6)
    mine.patterns, other.buffers = [None], [None]
    expected = two_steps(other, sample, torch.contiguous_format)
    torch.testing.assert_close(
        two_steps(mine, sample, torch.contiguous_format), expected, rtol=0, atol=0
    )
    torch.testing.assert_close(two_steps(mine, sample, torch.channels_last), expected)
    with pytest.raises(RuntimeError, match="view size"):  # no longer: the two hooks can go
        two_steps(other, sample, torch.channels_last)


@pytest.mark.parametrize("strength", [0.0, 0.5])
def test_gems_step_is_the_optimum_of_its_quadratic_programme(strength: float) -> None:
    """Karush, Kuhn and Tucker: v within its bounds, the gradient nowhere downhill into them, and
    flat where v is free.
    """
    draw = generator(2, "gem")
    for tasks in (1, 4, 9):
        plugin = GEM(1, strength)
        plugin.G = torch.randn(tasks, 30, generator=draw)
        g = torch.randn(30, generator=draw) - plugin.G[0]
        moved = (plugin.solve_quadprog(g).double() - g.double()).numpy()
        memories = plugin.G.double().numpy()
        v, *_ = np.linalg.lstsq(memories.T, moved, rcond=None)
        slope = memories @ (memories.T @ v + g.double().numpy()) + 1e-3 * v
        assert (v >= strength - 1e-4).all() and (slope >= -1e-3).all()
        np.testing.assert_allclose((v - strength) * slope, 0, atol=1e-3)
        assert strength > 0 or (memories @ (moved + g.double().numpy()) >= -1e-2).all(), (
            "the step hurts a task"
        )


class Bare(nn.Module):
    """Some classifier; its batches need BN statistics."""

    def __init__(self) -> None:
        super().__init__()
        self.flat, self.first, self.bn, self.last = (
            nn.Flatten(),
            nn.Linear(192, 8),
            nn.BatchNorm1d(8),
            nn.Linear(8, 6),
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.last(self.bn(self.first(self.flat(x))))
        return out


def test_mas_without_our_mending_cannot_have_a_last_batch_of_one_image() -> None:
    plugin = plugins.MASPlugin()
    dataset = [(torch.randn(3), 0, 0)] * 5
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    strategy = SimpleNamespace(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), 0.1),
        device="cpu",
        train_mb_size=2,
    )
    strategy.experience = SimpleNamespace(dataset=dataset)
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        plugin._get_importance(strategy)


def test_lfl_without_our_mending_leaves_the_network_in_eval_mode() -> None:
    model, plugin = SimpleMLP(), plugins.LFLPlugin(1.0)
    plugin.prev_model = copy.deepcopy(model)
    model.train()
    plugin.penalty(torch.randn(2, 784), model, 1.0)
    assert not model.training, "fixed upstream: the mending can go"


def test_feature_distillations_other_mode_is_left_out_since_it_cannot_run() -> None:
    class Watched(Bare):
        features = torch.zeros(2, 3)

    plugin = FeatureDistillationPlugin(mode="mse")
    plugin.prev_model = model = Watched()
    with pytest.raises(TypeError, match="dim"):
        plugin.before_backward(
            SimpleNamespace(model=model, mb_x=torch.randn(2, 3, 8, 8), mb_task_id=None, loss=0)
        )


# Refused: what Avalanche's own does on this stream.


def icarl(optimizer: Any, evaluator: Any) -> Any:
    parts = {
        "feature_extractor": nn.Sequential(nn.Flatten(), nn.Linear(192, 8)),
        "classifier": nn.Linear(8, 6),
        "optimizer": optimizer,
    }
    more = {
        "memory_size": 12,
        "buffer_transform": None,
        "fixed_memory": True,
        "train_mb_size": 12,
        "eval_mb_size": 12,
    }
    return supervised.ICaRL(**parts, **more, evaluator=evaluator)


ATTEMPTS: dict[str, tuple[Any, type[Exception], str]] = {
    "pnn": (
        lambda model, **more: supervised.PNNStrategy(model=model, **more),
        AssertionError,
        "requires a PNN",
    ),
    "packnet": (
        lambda model, **more: supervised.PackNet(model=PackNetModel(model), **more),
        ValueError,
        "not yet support norms",
    ),
    "bic": (
        lambda model, **more: supervised.BiC(model=model, mem_size=12, **more),
        AttributeError,
        "no setter",
    ),
    "mer": (
        lambda model, **more: supervised.MER(model=model, **more),
        ValueError,
        "more than 1 value per channel",
    ),
    "icarl": (
        lambda model, optimizer, evaluator, **more: icarl(optimizer, evaluator),
        AttributeError,
        "benchmark",
    ),
}


@pytest.mark.parametrize("strategy", ATTEMPTS)
def test_what_is_refused_for_failing_fails(strategy: str) -> None:
    """When one of these no longer raises, look at whether it may run."""
    make, error, message = ATTEMPTS[strategy]
    model = Bare()
    with torch.random.fork_rng(), pytest.raises(error, match=message):
        common = {
            "train_mb_size": 12,
            "train_epochs": 1,
            "evaluator": plugins.EvaluationPlugin(),
            "criterion": nn.CrossEntropyLoss(),
        }
        run = make(model, optimizer=torch.optim.SGD(model.parameters(), 0.01), **common)
        for experience in make_benchmark(
            stream_tasks(S, CLASSES, images(), SEED, 3), images(), "single", CLASSES
        ).train_stream:
            run.train(experience, eval_streams=[])
    assert strategy in REFUSED


def test_rar_is_refused_since_the_ancestor_cannot_be_traced() -> None:
    model = build_ancestor(settings("naive", "single"), S, CLASSES, images().size, SEED)
    with pytest.raises(Exception, match="Proxy|trace"):
        torch.fx.symbolic_trace(model)


def test_gss_is_refused_since_it_leaves_gradients_behind() -> None:
    model, plugin = Bare(), plugins.GSS_greedyPlugin(mem_size=8, input_size=[3, 8, 8])
    strategy = SimpleNamespace(
        model=model,
        mb_x=torch.randn(4, 3, 8, 8),
        mb_y=torch.tensor([0, 1, 2, 3]),
        device="cpu",
        _criterion=nn.CrossEntropyLoss(),
    )
    for _ in range(2):
        plugin.after_forward(strategy)
    assert model.first.weight.grad.count_nonzero() > 0, (
        "the step's own gradient is then added to this one"
    )


AVALANCHES = {  # every strategy of Avalanche 0.6 and the name it has here
    "AETraining": "autoencoder",
    "AGEM": "agem",
    "AR1": "ar1",
    "BiC": "bic",
    "CWRStar": "cwr-star",
    "CoPE": "cope",
    "Cumulative": "cumulative",
    "DER": "der",
    "ER_ACE": "er-ace",
    "ER_AML": "er-aml",
    "EWC": "ewc",
    "ExpertGateStrategy": "expert-gate",
    "FeatureReplay": "feature-replay",
    "FromScratchTraining": "from-scratch",
    "GDumb": "gdumb",
    "GEM": "gem",
    "GSS_greedy": "gss-greedy",
    "GenerativeReplay": "generative-replay",
    "ICaRL": "icarl",
    "JointTraining": "joint",
    "LFL": "lfl",
    "LearningToPrompt": "l2p",
    "LwF": "lwf",
    "MAS": "mas",
    "MER": "mer",
    "MIR": "mir",
    "Naive": "naive",
    "OnlineNaive": "online-naive",
    "PNNStrategy": "pnn",
    "PackNet": "packnet",
    "Replay": "replay",
    "SCR": "scr",
    "StreamingLDA": "slda",
    "SynapticIntelligence": "si",
    "VAETraining": "vae",
    # plugins without a strategy of their own
    "RWalkPlugin": "rwalk",
    "RARPlugin": "rar",
    "FeatureDistillationPlugin": "feature-distillation",
    "CurrentDataNCMUpdate": "ncm",
    "MemoryNCMUpdate": "ncm",
    "NCMOracle": "ncm",
    "CurrentDataFeCAMUpdate": "fecam",
    "MemoryFeCAMUpdate": "fecam",
    "FeCAMOracle": "fecam",
}


def test_every_strategy_of_avalanche_runs_or_is_refused_by_name() -> None:
    templates = (SupervisedTemplate, SupervisedMetaLearningTemplate)
    strategies = {
        name
        for name, cls in vars(supervised).items()
        if inspect.isclass(cls) and issubclass(cls, templates) and cls not in templates
    }
    strategies |= {"OnlineNaive"} & set(vars(supervised))  # a function since it is deprecated
    extra = {
        name
        for name, cls in vars(plugins).items()
        if inspect.isclass(cls) and name.endswith(("Update", "Oracle", "WalkPlugin", "RARPlugin"))
    }
    extra |= {"FeatureDistillationPlugin"}
    assert strategies | extra == set(AVALANCHES)
    assert not set(STRATEGIES) & set(REFUSED)
    assert tuple(STRATEGIES) == tuple(names("strategies"))
    assert set(AVALANCHES.values()) | {"la-maml"} >= set(STRATEGIES)
    assert set(AVALANCHES.values()) <= set(STRATEGIES) | set(REFUSED)


@pytest.mark.parametrize("strategy", REFUSED)
def test_a_refused_strategy_is_one_line_with_its_reason_and_what_works(strategy: str) -> None:
    with pytest.raises(UserError) as caught:
        check_strategy(settings(strategy, "single"))
    text = str(caught.value)
    assert (
        text.startswith(
            f'ancestor.strategy = "{strategy}" cannot run here: {REFUSED[strategy]}; these can: '
            "naive, "
        )
        and "\n" not in text
    )


@pytest.mark.parametrize(
    ("strategy", "head"),
    [
        (s, h)
        for s, record in STRATEGIES.items()
        for h in ("shared", "per-task", "single")
        if h not in record.heads
    ],
)
def test_a_head_that_contradicts_is_refused_with_the_reason_and_the_heads_that_work(
    strategy: str, head: str
) -> None:
    heads = " or ".join(f'"{name}"' for name in STRATEGIES[strategy].heads)
    with pytest.raises(
        UserError,
        match=f'ancestor.head = "{head}" with ancestor.strategy = "{strategy}": .+; set '
        f"ancestor.head to {heads}$",
    ):
        check_strategy(settings(strategy, head))


@pytest.mark.parametrize(
    ("strategy", "arguments", "expected"),
    [
        ("cwr-star", {"freeze": 1}, "freeze = 1: expected true or false"),
        (
            "replay",
            {"policy": "newest"},
            "policy = 'newest': allowed are experience-balanced, class-balanced, reservoir",
        ),
        (
            "der",
            {"mem_size": 10},
            r"batch_size_mem = 64: more than ancestor.strategy_args.mem_size = 10",
        ),
        (
            "mir",
            {"subsample": 5},
            r"batch_size_mem = 10: more than ancestor.strategy_args.subsample = 5",
        ),
        ("gem", {"patterns_per_experience": 1}, "expected a whole number of at least 2"),
    ],
)
def test_arguments_that_cannot_work_are_named(
    strategy: str, arguments: dict[str, Any], expected: str
) -> None:
    with pytest.raises(UserError, match=expected):
        check_strategy(settings(strategy, "single", strategy_args=arguments))


def test_the_documentation_lists_every_strategy_with_its_arguments_and_every_refusal() -> None:
    text = (Path(__file__).parents[2] / "docs" / "strategies.md").read_text()
    rows = {line.split("`")[1]: line for line in text.splitlines() if line.startswith("| `")}
    assert set(rows) == set(STRATEGIES) | set(REFUSED)
    for name, record in STRATEGIES.items():
        written = dict(re.findall(r"`(\w+)` \(([^,)]+)", rows[name].split("|")[3]))
        defaults = {key: argument.default for key, argument in record.arguments.items()}
        assert written.keys() == defaults.keys()
        for key, default in defaults.items():
            if isinstance(default, (int, float)):
                assert json.loads(written[key]) == default
            elif default is not None:
                assert written[key].startswith(f'"{default}"')
    assert all(reason in rows[name] for name, reason in REFUSED.items())
