"""The whole condensation loop against Algorithm 1 written out: torch's own optimizers, autograd
through the look-ahead, float64.

The reference shares with the code only the order of the images (test_condense_batches) and the
first draw of h.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tiny_ancestors import asking
from torch import Tensor, nn

from evolve.condensers.batches import epoch_rows, meta_rows
from evolve.condensers.meta_network import meta_network
from evolve.condensers.meta_network.meta_network import Condensation
from evolve.core.randomness import generator
from evolve.core.settings import CondenseSettings
from evolve.data.resident import Resident
from evolve.data.sources import ImageSet
from evolve.networks.vgg import VGG, initialise
from evolve.networks.vgg_plan import Plan, integral_layers, stack_plan, vgg16_plan

SEED = 4
PLAN = vgg16_plan(1 / 32)[
    :3
]  # 7 convolutions at 8, 4 and 2 pixels: both ways of computing psi, and resizing both ways
PSEUDO_PLAN = stack_plan(PLAN, ("conv1", "conv6"))
STEPS = 2
SETTINGS = CondenseSettings(
    objective="bilevel", epochs=2, batch=4, meta_batch=4, lookahead=2, match_weight=0.7, lr=0.05, weight_decay=1e-2,
    meta_optimizer="adam", meta_schedule="constant", meta_lr=0.05, meta_weight_decay=1e-3,
)  # fmt: skip


class Double(Resident):
    """Images in float64."""

    def batch(
        self, index: Tensor, augment: tuple[str, ...] = (), generator: torch.Generator | None = None
    ) -> Tensor:
        return super().batch(index, augment, generator).double()


class Case:
    """Three classes of noise; an ancestor whose running statistics fit the images, and a
    pseudo-descendant with a head that is awake.
    """

    def __init__(self) -> None:
        draw = np.random.default_rng(0)
        labels = np.tile(np.arange(3), 7)
        images = (
            draw.integers(0, 150, (21, 3, 8, 8), dtype=np.uint8)
            + (labels * 40).astype(np.uint8)[:, None, None, None]
        )
        image_set = ImageSet(
            "noise",
            images,
            labels,
            np.zeros(21, dtype=bool),
            tuple("abc"),
            "f",
            (0.4, 0.4, 0.4),
            (0.2, 0.2, 0.2),
        )
        self.resident = Double(image_set, torch.device("cpu"))
        order = torch.from_numpy(draw.permutation(21))
        self.train, self.meta = order[:11], order[11:]  # 2 whole batches of 4 each
        self.train_labels, self.meta_labels = (
            self.resident.labels[self.train],
            self.resident.labels[self.meta],
        )
        self.ancestor, self.pseudo = VGG(PLAN, 5).double(), VGG(PSEUDO_PLAN, 3).double()
        initialise(self.ancestor, 1, "ancestor")
        initialise(self.pseudo, 2, "pseudo")
        with torch.no_grad():
            self.pseudo.head.weight.mul_(40)
            for _ in range(20):
                self.ancestor.train()(self.resident.batch(order))

    def condensation(self, c: CondenseSettings) -> Condensation:
        groups, pseudo_groups = integral_layers(PLAN, "conv"), integral_layers(PSEUDO_PLAN, "stage")
        networks = self.ancestor, self.pseudo
        return Condensation(
            asking(networks, (groups, pseudo_groups), self.resident, self.meta, c, SEED)
        )


@pytest.fixture
def case() -> Case:
    return Case()


def forward(
    plan: Plan, tensors: dict[str, Tensor], x: Tensor, running: bool = False
) -> tuple[list[list[Tensor]], Tensor]:
    """Every unit's map, block by block, and the logits."""
    blocks = []
    for block in plan:
        blocks.append([])
        for name in (f"layers.{spec.name}" for spec in block):
            x = F.conv2d(x, tensors[f"{name}.conv.weight"], tensors[f"{name}.conv.bias"], padding=1)
            if running:
                mean, var = tensors[f"{name}.bn.running_mean"], tensors[f"{name}.bn.running_var"]
            else:
                mean, var = x.mean((0, 2, 3)), x.var((0, 2, 3), correction=0)
            x = (x - mean[:, None, None]) / (var[:, None, None] + 1e-5).sqrt()
            x = F.relu(
                x * tensors[f"{name}.bn.weight"][:, None, None]
                + tensors[f"{name}.bn.bias"][:, None, None]
            )
            blocks[-1].append(x)
        x = F.max_pool2d(x, 2)
    return blocks, F.linear(x.mean((2, 3)), tensors["head.weight"], tensors["head.bias"])


class Algorithm1:
    """The authors' bilevel loop, written out.

    ``params``: theta by name, then h's weight and bias for each k.
    """

    def __init__(self, case: Case, c: CondenseSettings, zeta: tuple[Tensor, ...]) -> None:
        self.case, self.c = case, c
        theta = {name: p.detach().clone() for name, p in case.pseudo.named_parameters()}
        self.names = list(theta)
        self.params = [
            nn.Parameter(p) for p in (*theta.values(), *(z.detach().clone() for z in zeta))
        ]
        self.sgd = torch.optim.SGD(
            self.params, lr=c.lr, momentum=c.momentum, weight_decay=c.weight_decay
        )
        self.cosine = torch.optim.lr_scheduler.CosineAnnealingLR(self.sgd, c.epochs * STEPS)
        self.channels = [spec.c_out for block in PLAN for spec in block]
        self.fc = nn.Parameter(
            torch.zeros(sum(self.channels), len(PSEUDO_PLAN), dtype=torch.float64)
        )
        self.fc_bias = nn.Parameter(
            torch.ones(len(self.channels), len(PSEUDO_PLAN), dtype=torch.float64)
        )
        self.adam = torch.optim.Adam(
            [self.fc, self.fc_bias], lr=c.meta_lr, weight_decay=c.meta_weight_decay
        )

    def train(self) -> list[tuple[float, float]]:
        case, c, losses = self.case, self.c, []
        metas = meta_rows(len(case.meta), c.meta_batch, SEED)
        for epoch in range(c.epochs):
            draws = generator(SEED, "condense-augment", epoch)
            for rows in epoch_rows(len(case.train), c.batch, SEED, epoch):
                train = (
                    case.resident.batch(case.train[rows], c.augment, draws),
                    case.train_labels[rows],
                )
                chosen = next(metas)
                meta = case.resident.batch(case.meta[chosen]), case.meta_labels[chosen]
                losses.append(self.iterate(train, meta))
        return losses

    def iterate(
        self, train: tuple[Tensor, Tensor], meta: tuple[Tensor, Tensor]
    ) -> tuple[float, float]:
        classification, matching = (
            self.ce(train, self.params),
            self.matching(meta[0], self.alpha(meta[0]).detach(), self.params),
        )
        self.sgd.zero_grad()
        (classification + self.c.match_weight * matching).backward()
        self.sgd.step()
        outer = self.look_ahead(train, meta)
        self.fc.grad, self.fc_bias.grad = torch.autograd.grad(outer, [self.fc, self.fc_bias])
        self.adam.step()
        self.cosine.step()
        return float(classification.detach()), float(matching.detach())

    def look_ahead(self, train: tuple[Tensor, Tensor], meta: tuple[Tensor, Tensor]) -> Tensor:
        """CE on the outer batch, as a function of phi."""
        group, alpha = self.sgd.param_groups[0], self.alpha(meta[0])
        now: list[Tensor] = [p.detach().clone().requires_grad_() for p in self.params]
        buffers: list[Tensor] = [b.clone() for b in self.buffers()]
        for step in range(self.c.lookahead + 1):
            loss = (
                self.matching(meta[0], alpha, now)
                if step < self.c.lookahead
                else self.ce(train, now)
            )
            grads = torch.autograd.grad(loss, now, create_graph=True, materialize_grads=True)
            buffers = [
                group["momentum"] * b + g + group["weight_decay"] * p
                for b, g, p in zip(buffers, grads, now, strict=True)
            ]
            now = [p - group["lr"] * b for p, b in zip(now, buffers, strict=True)]
        return self.ce(train if self.c.outer == "train" else meta, now)

    def buffers(self) -> list[Tensor]:
        return [self.sgd.state[p]["momentum_buffer"] for p in self.params]

    def alpha(self, x: Tensor) -> Tensor:
        """[B, L, K]: ReLU6 of one FC a pair on the globally averaged map."""
        pooled = [z.mean((2, 3)) for z in self.ancestor(x)]
        pairs = zip(pooled, self.fc.split(self.channels), self.fc_bias, strict=True)
        return torch.stack([(z @ weight + bias).clamp(0, 6) for z, weight, bias in pairs], 1)

    def ancestor(self, x: Tensor) -> list[Tensor]:
        blocks, _ = forward(PLAN, self.case.ancestor.state_dict(), x, running=True)
        return [z for block in blocks for z in block]

    def descendant(self, x: Tensor, params: list[Tensor]) -> tuple[list[Tensor], Tensor]:
        blocks, logits = forward(PSEUDO_PLAN, dict(zip(self.names, params, strict=False)), x)
        return [block[-1] for block in blocks], logits

    def ce(self, batch: tuple[Tensor, Tensor], params: list[Tensor]) -> Tensor:
        return F.cross_entropy(self.descendant(batch[0], params)[1], batch[1])

    def matching(self, x: Tensor, alpha: Tensor, params: list[Tensor]) -> Tensor:
        """Mean over the images of the sum over pairs of alpha psi."""
        total = torch.zeros(len(x), dtype=torch.float64)
        h = params[len(self.names) :]
        for k, z in enumerate(self.descendant(x, params)[0]):
            layers = zip(
                self.ancestor(x),
                h[2 * k].split(self.channels),
                h[2 * k + 1].split(self.channels),
                strict=True,
            )
            for l, (target, weight, bias) in enumerate(layers):
                resized = F.interpolate(target, z.shape[-2:], mode="bilinear", align_corners=False)
                psi = (
                    (F.conv2d(z, weight[:, :, None, None], bias) - resized).square().mean((1, 2, 3))
                )
                total = total + alpha[:, l, k] * psi
        return total.mean()


@dataclass
class Both:
    run: Condensation
    history: dict[str, list[float]]
    plain: Algorithm1
    losses: list[tuple[float, float]]


def both(case: Case, c: CondenseSettings) -> Both:
    run = case.condensation(c)
    plain = Algorithm1(case, c, run.state.params[len(run.pseudo.names) :])
    assert run.pseudo.names == [f"network.{name}" for name in plain.names]
    history = run.train(
        case.train, case.train_labels, case.meta_labels, lambda fraction, text: None
    )
    return Both(run, history, plain, plain.train())


def close(actual: Tensor, expected: Tensor, what: str) -> None:
    assert actual.dtype == torch.float64 and actual.shape == expected.shape, what
    error = float((actual.detach() - expected.detach()).abs().max())
    assert error <= 1e-9 * max(1e-3, float(expected.detach().abs().max())), f"{what}: {error}"


def check(done: Both) -> None:
    run, plain, theta = done.run, done.plain, len(done.plain.names)
    for number, (actual, expected) in enumerate(zip(run.state.params, plain.params, strict=True)):
        close(
            actual,
            expected,
            f"theta {plain.names[number]}" if number < theta else f"zeta {number - theta}",
        )
    for number, (actual, expected) in enumerate(
        zip(run.state.buffers, plain.buffers(), strict=True)
    ):
        close(actual, expected, f"momentum {number}")
    for name, actual, expected in (
        ("weight", run.state.phi.weight, plain.fc),
        ("bias", run.state.phi.bias, plain.fc_bias),
    ):
        close(
            run.state.optimizer.state[actual]["exp_avg"],
            plain.adam.state[expected]["exp_avg"],
            f"phi's mean gradient, {name}",
        )
        close(actual, expected, f"phi {name}")
    with torch.no_grad():
        close(
            run.scores(), plain.alpha(plain.case.resident.batch(plain.case.meta)).mean(0), "scores"
        )
    for name, losses in zip(
        ("classification", "matching"), zip(*done.losses, strict=True), strict=True
    ):
        assert done.history[name] == pytest.approx(list(losses), rel=1e-5)


@pytest.mark.parametrize(("lookahead", "outer"), [(1, "meta"), (2, "meta"), (2, "train")])
def test_bilevel_loop_is_algorithm_1_with_the_look_ahead(case, lookahead, outer) -> None:
    done = both(case, replace(SETTINGS, lookahead=lookahead, outer=outer))
    check(done)
    assert (
        float(done.run.state.optimizer.state[done.run.state.phi.weight]["exp_avg"].abs().max())
        > 1e-3
    )
    alpha = done.run.scores()
    assert float(alpha.min()) > 0 and float((alpha - 1).abs().max()) > 0.05


@pytest.mark.parametrize("chunk", [3, 64])
def test_scores_are_the_mean_of_alpha_over_all_meta_images(case, monkeypatch, chunk) -> None:
    monkeypatch.setattr(meta_network, "CHUNK", chunk)
    run = case.condensation(SETTINGS)
    plain = Algorithm1(case, SETTINGS, ())
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        plain.fc.copy_(torch.randn(plain.fc.shape, generator=draw))
        run.state.phi.weight.copy_(plain.fc)
        each = torch.cat([plain.alpha(case.resident.batch(index[None])) for index in case.meta])
        assert len(each) == 10 and bool((each.std(0) > 0).any())
        close(run.scores(), each.mean(0), "scores")
