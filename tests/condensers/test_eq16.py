"""The default condenser against Algorithm 1 with Eq. 16 written plainly, in float64: autograd,
torch's own SGD for theta, zeta and phi, psi by its formula; and that the choice does not depend on
the scale of the ancestor's features.

The reference shares with the code the order of the images (test_condense_batches), the first draw
of h and :func:`psi_reference` (test_matching).
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from test_bilevel_loop import PLAN, PSEUDO_PLAN, SEED, Case, forward
from tiny_ancestors import VGG16, asking, request, state
from torch import Tensor, nn

from evolve.condensers.batches import epoch_rows, meta_rows
from evolve.condensers.condense import condense_ancestor
from evolve.condensers.meta_network.layout import Projection
from evolve.condensers.meta_network.matching import psi_reference
from evolve.condensers.meta_network.meta_network import Condensation, attempts
from evolve.condensers.meta_network.phi import MetaNetwork
from evolve.condensers.meta_network.pseudo import Pseudo
from evolve.condensers.meta_network.written import Written
from evolve.condensers.selection import movement
from evolve.core.randomness import generator
from evolve.core.settings import CondenseSettings
from evolve.networks.vgg_plan import integral_layers

STEPS = 2  # an epoch
SETTINGS = CondenseSettings(
    epochs=2, batch=4, meta_batch=4, match_weight=0.7, lr=0.05, weight_decay=1e-2, meta_lr=0.05
)
CHANNELS = [spec.c_out for block in PLAN for spec in block]


class Plain:
    """Algorithm 1: per iteration a step of theta and zeta on L_cls + lambda L_meta of a training
    batch, then one of phi on L_meta of a meta batch.
    """

    def __init__(self, case: Case, c: CondenseSettings, zeta: tuple[Tensor, ...]) -> None:
        self.case, self.c = case, c
        self.names = [name for name, _ in case.pseudo.named_parameters()]
        self.w = [nn.Parameter(p.detach().clone()) for p in (*case.pseudo.parameters(), *zeta)]
        pairs = len(CHANNELS), len(PSEUDO_PLAN)
        self.fc = nn.Parameter(torch.zeros(sum(CHANNELS), pairs[1], dtype=torch.float64))
        self.bias = nn.Parameter(torch.ones(pairs, dtype=torch.float64))
        self.of_w = torch.optim.SGD(
            self.w, lr=c.lr, momentum=c.momentum, weight_decay=c.weight_decay
        )
        self.of_phi = torch.optim.SGD([self.fc, self.bias], lr=c.meta_lr)
        self.cosines = [
            torch.optim.lr_scheduler.CosineAnnealingLR(o, c.epochs * STEPS)
            for o in (self.of_w, self.of_phi)
        ]
        self.norms, self.losses = list[float](), list[tuple[float, float]]()

    def train(self) -> None:
        case, c = self.case, self.c
        metas = meta_rows(len(case.meta), c.meta_batch, SEED)
        for epoch in range(c.epochs):
            draws = generator(SEED, "condense-augment", epoch)
            for rows in epoch_rows(len(case.train), c.batch, SEED, epoch):
                images = case.resident.batch(case.train[rows], c.augment, draws)
                self.iterate(
                    images, case.train_labels[rows], case.resident.batch(case.meta[next(metas)])
                )

    def iterate(self, images: Tensor, labels: Tensor, meta: Tensor) -> None:
        self.of_w.zero_grad()
        classification = F.cross_entropy(self.descendant(images)[1], labels)
        (
            classification + self.c.match_weight * self.l_meta(images, self.alpha(images).detach())
        ).backward()
        self.of_w.step()
        self.of_phi.zero_grad()
        matching = self.l_meta(meta, self.alpha(meta))
        matching.backward()
        self.losses.append((float(classification.detach()), float(matching.detach())))
        self.norms.append(
            sum(float(p.grad.square().sum()) for p in (self.fc, self.bias) if p.grad is not None)
        )
        self.of_phi.step()
        for cosine in self.cosines:
            cosine.step()

    def l_meta(self, x: Tensor, alpha: Tensor) -> Tensor:
        zeta = self.w[len(self.names) :]
        h = [Projection(zeta[i], zeta[i + 1]) for i in range(0, len(zeta), 2)]
        return (
            (alpha * psi_reference(self.ancestor(x), self.descendant(x)[0], h)).sum((1, 2)).mean()
        )

    def alpha(self, x: Tensor) -> Tensor:
        rows = zip(self.ancestor(x), self.fc.split(CHANNELS), self.bias, strict=True)
        return torch.stack(
            [(z.mean((2, 3)) @ weight + bias).clamp(0, 6) for z, weight, bias in rows], 1
        )

    def ancestor(self, x: Tensor) -> list[Tensor]:
        return [
            z
            for block in forward(PLAN, self.case.ancestor.state_dict(), x, running=True)[0]
            for z in block
        ]

    def descendant(self, x: Tensor) -> tuple[list[Tensor], Tensor]:
        blocks, logits = forward(PSEUDO_PLAN, dict(zip(self.names, self.w, strict=False)), x)
        return [block[-1] for block in blocks], logits


def condensation(case: Case, c: CondenseSettings, reference: bool) -> Condensation:
    groups = integral_layers(PLAN, "conv"), integral_layers(PSEUDO_PLAN, "stage")
    networks = case.ancestor, case.pseudo
    return Condensation(asking(networks, groups, case.resident, case.meta, c, SEED, reference))


def close(actual: Tensor, expected: Tensor) -> None:
    assert actual.dtype == torch.float64 and actual.shape == expected.shape
    error = float((actual.detach() - expected.detach()).abs().max())
    assert error <= 1e-9 * max(1e-3, float(expected.detach().abs().max()))


@pytest.mark.parametrize("augment", [("crop",), ()], ids=["crop", "plain"])
@pytest.mark.parametrize("reference", [True, False], ids=["autograd", "written"])
def test_the_loop_is_algorithm_1_with_eq_16(reference: bool, augment: tuple[str, ...]) -> None:
    """Without augmentation the ancestor sees every training image once, whole; BN in eval mode
    makes that no difference.
    """
    case, c = Case(), replace(SETTINGS, augment=augment)
    run = condensation(case, c, reference)
    assert isinstance(run.losses, Pseudo if reference else Written)
    plain = Plain(case, c, run.state.params[len(run.pseudo.names) :])
    curves = run.train(case.train, case.train_labels, case.meta_labels, lambda fraction, text: None)
    plain.train()
    assert (run.on_training is None) == (augment != ())
    for actual, expected in zip(run.state.params, plain.w, strict=True):
        close(actual, expected)
    assert isinstance(run.state.phi, MetaNetwork)
    close(run.state.phi.weight, plain.fc)
    close(run.state.phi.bias, plain.bias)
    with torch.no_grad():
        expected = plain.alpha(case.resident.batch(case.meta)).mean(0)
    close(run.scores(), expected)
    assert 0.05 < movement(expected) < 1 and bool((expected < 1).all())
    assert curves["gradient"] == pytest.approx(plain.norms, rel=1e-5) and curves["iteration"] == [
        1,
        2,
        3,
        4,
    ]
    for name, losses in zip(
        ("classification", "matching"), zip(*plain.losses, strict=True), strict=True
    ):
        assert curves[name] == pytest.approx(list(losses), rel=1e-5)
    assert curves["alpha_mean"][-1] == pytest.approx(float(expected.mean()), rel=1e-6)


def test_the_fast_path_is_the_plain_one_but_for_rounding() -> None:
    fast, plain = (
        condense_ancestor(request("meta-network", epochs=2, meta_lr=0.03, reference=reference))
        for reference in (False, True)
    )
    assert movement(fast.alpha) > 0.01 and not torch.equal(fast.alpha, plain.alpha)
    assert torch.allclose(fast.alpha, plain.alpha, rtol=0, atol=0.01 * movement(plain.alpha))


def test_a_constant_rate_and_adam_are_other_steps() -> None:
    alphas = [
        condense_ancestor(request("meta-network", epochs=2, meta_lr=1e-3, **more)).alpha
        for more in (
            {},
            {"meta_schedule": "constant"},
            {"meta_optimizer": "adam"},
            {"meta_weight_decay": 0.5},
        )
    ]
    moved = [movement(alpha) for alpha in alphas]
    assert moved[1] > moved[0] and len(set(moved)) == 4


def scaled(factor: float) -> dict[str, Tensor]:
    """The ancestor with every feature ``factor`` times as large and the same function behind it."""
    weights = {}
    for number, layer in enumerate(VGG16.layer_names):
        for part in ("bn.weight", "bn.bias"):
            weights[f"layers.{layer}.{part}"] = state()[f"layers.{layer}.{part}"] * factor
        if number:
            weights[f"layers.{layer}.conv.weight"] = state()[f"layers.{layer}.conv.weight"] / factor
    return weights


@pytest.mark.parametrize("factor", [0.1, 1.0, 10.0])
def test_alpha_moves_far_enough_whatever_the_scale_of_the_features(factor: float) -> None:
    reach = 0.25
    done = condense_ancestor(
        request(
            "meta-network",
            weights=scaled(factor),
            epochs=3,
            meta_reach=reach,
            meta_lr=1e-4,
            augment=(),
        )
    )
    assert done.status == "selected", done.selected_by
    (moved,), (tried,), (rate,) = (
        done.effort[name] for name in ("movement", "attempts", "meta_lr")
    )
    assert moved == pytest.approx(movement(done.alpha)) and reach / 2 <= moved <= 2 * reach
    assert tried in (2, 3) and rate != 1e-4, "the paper's rate is none of these ancestors'"


def test_the_rate_that_is_found_is_tried_once_more_from_the_same_draws() -> None:
    asked = request("meta-network", epochs=3, meta_reach=0.25, meta_lr=1e-4)
    tried = attempts(Condensation(asked), asked, 0.25)
    alone = request("meta-network", epochs=3, meta_lr=tried[-1].rate)
    assert torch.equal(condense_ancestor(alone).alpha, tried[-1].alpha)
    assert tried[0].history["classification"][0] == tried[-1].history["classification"][0]


def test_alpha_that_hardly_moved_decides_nothing() -> None:
    """The same alpha, taken as it comes and asked to have moved further."""
    asked = request("meta-network", epochs=2, meta_lr=1e-4)
    alpha = condense_ancestor(asked).alpha
    from evolve.condensers.selection import select

    assert select(alpha, "threshold", 4, (0,)).status == "selected"
    chosen = select(alpha, "threshold", 4, (0,), reach=5 * movement(alpha))
    assert (chosen.status, chosen.selected) == (
        "tied",
        (0,),
    ) and "alpha hardly moved (mean |1 - alpha| = " in chosen.selected_by
