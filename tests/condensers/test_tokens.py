"""psi of tokens against the formula as it reads, and the condensation of a tiny ViT against
autograd through the look-ahead, in float64.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_ancestors import asking
from torch import Tensor

from evolve.condensers.condense import condense_ancestor
from evolve.condensers.interface import Request
from evolve.condensers.meta_network.frozen import Features
from evolve.condensers.meta_network.hypergradient import LookAhead, Rule, unrolled
from evolve.condensers.meta_network.matchers import matcher_for
from evolve.condensers.meta_network.matching import Frozen, Matcher
from evolve.condensers.meta_network.meta_network import Batch, Condensation
from evolve.condensers.meta_network.tokens import TokenMatcher
from evolve.core.settings import CondenseSettings
from evolve.data.resident import Resident
from evolve.data.sources import ImageSet
from evolve.networks.network import initialise
from evolve.networks.vit import ViT
from evolve.networks.vit_plan import BlockSpec, ViTPlan

ANCESTOR = ViTPlan(4, 8, 16, 2, tuple(BlockSpec(f"block{n}") for n in range(1, 4)))
PSEUDO = replace(ANCESTOR, blocks=ANCESTOR.blocks[:2])
SETTINGS = CondenseSettings(
    objective="bilevel", meta_optimizer="adam", epochs=1, batch=4, meta_batch=4, lookahead=2, match_weight=0.1, lr=0.05, weight_decay=1e-2, meta_lr=0.01,
    augment=()
)  # fmt: skip


def _normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _psi(ancestor: list[Tensor], descendant: list[Tensor]) -> Tensor:
    """[B, L, K], as the formula reads: h is the identity."""
    return torch.stack(
        [
            torch.stack([(z - target).square().mean((1, 2)) for z in descendant], 1)
            for target in ancestor
        ],
        1,
    )


def _close(actual: Tensor, expected: Tensor) -> None:
    actual, expected = actual.detach(), expected.detach()
    assert actual.shape == expected.shape
    assert float((actual - expected).abs().max()) <= 1e-10 * max(1.0, float(expected.abs().max()))


def _derivatives(loss: Tensor, leaves: list[Tensor]) -> list[Tensor]:
    first = torch.autograd.grad(loss, leaves, create_graph=True)
    functional = sum(
        (g * torch.cos(torch.arange(g.numel(), dtype=g.dtype)).view(g.shape)).sum() for g in first
    )
    assert isinstance(functional, Tensor)
    return [loss, *first, *torch.autograd.grad(functional, leaves)]


few = st.integers(1, 4)


@settings(max_examples=20, deadline=None, derandomize=True)
@given(
    layers=few,
    descendants=few,
    tokens=few,
    dim=few,
    batch=st.integers(1, 3),
    seed=st.integers(0, 9),
)
def test_loss_and_its_first_and_second_derivatives_equal_the_formula(
    layers, descendants, tokens, dim, batch, seed
) -> None:
    targets = list(_normal(layers, batch, tokens, dim, seed=seed))
    features = [
        z.requires_grad_() for z in _normal(descendants, batch, tokens, dim, seed=seed + 100)
    ]
    alpha = _normal(batch, layers, descendants, seed=seed + 200).abs().requires_grad_()
    matcher = matcher_for(targets, features)
    assert isinstance(matcher, TokenMatcher)
    actual = _derivatives(
        matcher.loss(matcher.freeze(targets), alpha, features, []), [alpha, *features]
    )
    expected = _derivatives((alpha * _psi(targets, features)).sum() / batch, [alpha, *features])
    for a, b in zip(actual, expected, strict=True):
        _close(a, b)


def test_pooling_is_the_mean_over_the_embedding_and_the_frozen_side_is_per_image() -> None:
    targets, features = list(_normal(3, 5, 4, 6)), list(_normal(2, 5, 4, 6, seed=1))
    matcher = TokenMatcher(targets, features)
    whole = matcher.freeze(targets)
    assert matcher.pooled_sizes == (4, 4, 4)
    _close(whole.pooled, torch.stack([z.mean(-1) for z in targets], 1).flatten(1))
    held = [
        whole.pooled,
        *whole.energy.values(),
        *whole.totals.values(),
        *(m for runs in whole.maps.values() for m in runs),
    ]
    assert matcher.numbers_per_image() * 5 == sum(t.numel() for t in held)
    assert matcher.raw_numbers() * 5 == sum(t.numel() for t in targets)
    rows, alpha = torch.tensor([3, 0, 3]), _normal(3, 3, 2, seed=2)
    joined = Frozen.join(
        [matcher.freeze([t[:2] for t in targets]), matcher.freeze([t[2:] for t in targets])], 5
    )
    picked = [z[rows] for z in features]
    expected = (alpha * _psi([t[rows] for t in targets], picked)).sum() / 3
    _close(matcher.loss(joined[rows], alpha, picked, []), expected)


def test_the_way_follows_from_the_features() -> None:
    maps, tokens = [torch.zeros(1, 2, 4, 4)], [torch.zeros(1, 5, 3)]
    assert isinstance(matcher_for(maps, maps), Matcher) and isinstance(
        matcher_for(tokens, tokens), TokenMatcher
    )
    for other in (maps, [torch.zeros(1, 5)]):
        with pytest.raises(ValueError, match="maps of 4 dimensions or all tokens of 3"):
            matcher_for(tokens, other)
    with pytest.raises(ValueError, match=r"one shape \[T, D\].*\(5, 3\), \(5, 4\)"):
        matcher_for(tokens, [torch.zeros(1, 5, 4)])


class Double(Resident):
    """Images in float64."""

    def batch(
        self, index: Tensor, augment: tuple[str, ...] = (), generator: torch.Generator | None = None
    ) -> Tensor:
        return super().batch(index, augment, generator).double()


def _noise() -> ImageSet:
    """Three classes, told apart by brightness."""
    labels = np.tile(np.arange(3), 7)
    images = (
        np.random.default_rng(0).integers(0, 150, (21, 3, 8, 8), dtype=np.uint8)
        + (labels * 40).astype(np.uint8)[:, None, None, None]
    )
    return ImageSet(
        "noise",
        images,
        labels,
        np.zeros(21, dtype=bool),
        tuple("abc"),
        "f",
        (0.4, 0.4, 0.4),
        (0.2, 0.2, 0.2),
    )


class Case:
    """Noise, a ViT ancestor and a pseudo-descendant whose head is awake."""

    def __init__(self) -> None:
        self.resident = Double(_noise(), torch.device("cpu"))
        self.train, self.meta = torch.arange(0, 11), torch.arange(11, 21)
        self.ancestor, self.pseudo = ViT(ANCESTOR, 5).double(), ViT(PSEUDO, 3).double()
        initialise(self.ancestor, 1, "ancestor")
        initialise(self.pseudo, 2, "pseudo")
        with torch.no_grad():
            for tensor in (*self.ancestor.parameters(), *self.pseudo.parameters()):
                tensor.add_(_normal(*tensor.shape, seed=7) * 0.2)

    def condensation(self, c: CondenseSettings) -> Condensation:
        groups, pseudo_groups = ANCESTOR.integral_layers("conv"), PSEUDO.integral_layers("conv")
        networks = self.ancestor, self.pseudo
        return Condensation(
            asking(networks, (groups, pseudo_groups), self.resident, self.meta, c, 4)
        )

    def batch(self, run: Condensation) -> Batch:
        rows, labels = torch.tensor([0, 3, 5, 9]), self.resident.labels
        meta, train = self.resident.batch(self.meta[rows]), self.resident.batch(self.train[:4])
        return Batch(train, labels[self.train[:4]], meta, labels[self.meta[rows]], rows)


@pytest.mark.parametrize("lookahead", [1, 2])
def test_a_bilevel_iteration_of_a_vit_is_the_unrolled_look_ahead(lookahead: int) -> None:
    """theta's step by torch's SGD and psi by the formula; phi's gradient by autograd through all
    steps of a loss written out here.
    """
    case = Case()
    run = case.condensation(replace(SETTINGS, lookahead=lookahead))
    batch, rule = case.batch(run), Rule(SETTINGS.lr, SETTINGS.momentum, SETTINGS.weight_decay)
    names = [name for name, _ in case.pseudo.named_parameters()]
    assert len(run.state.params) == len(names), "the identity has no parameters"
    peer = ViT(PSEUDO, 3).double()
    targets = [z.detach() for z in case.ancestor.features(batch.meta)]

    def call(params, x: Tensor, what: str):
        class Probe(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.net = peer

            def forward(self, x: Tensor):
                return getattr(self.net, what)(x)

        return torch.func.functional_call(
            Probe(), {f"net.{n}": p for n, p in zip(names, params, strict=True)}, (x,)
        )

    def ce(params, x: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(call(params, x, "forward"), labels)

    def matching(params, weights: Tensor) -> Tensor:
        return (weights * _psi(targets, call(params, batch.meta, "features"))).sum() / len(
            batch.meta
        )

    ones = torch.ones(4, 3, 2, dtype=torch.float64)
    leaves = [p.detach().clone().requires_grad_() for p in run.state.params]
    (
        ce(leaves, batch.train, batch.train_labels) + SETTINGS.match_weight * matching(leaves, ones)
    ).backward()
    torch.optim.SGD(
        leaves, lr=rule.lr, momentum=rule.momentum, weight_decay=rule.weight_decay
    ).step()
    buffers = [
        p.grad + rule.weight_decay * before
        for p, before in zip(leaves, run.state.params, strict=True)
    ]  # type: ignore[operator]

    gradients = []
    run._phi_step = lambda pooled, alpha, gradient, share: gradients.append(gradient)  # type: ignore[method-assign]
    losses = run.iterate(batch, 1.0)
    for actual, expected in zip(run.state.params, leaves, strict=True):
        _close(actual, expected)
    look = LookAhead(
        matching=matching,
        train_loss=lambda params: ce(params, batch.train, batch.train_labels),
        outer_loss=lambda params: ce(params, batch.meta, batch.meta_labels),
        steps=lookahead,
    )
    _, expected = unrolled(look, ones, leaves, buffers, rule)
    _close(gradients[0], expected)
    assert float(expected.abs().max()) > 1e-6 and all(torch.isfinite(loss) for loss in losses)


def test_plain_attention_is_the_fused_one_and_differentiable_twice() -> None:
    case, x = Case(), _normal(2, 3, 8, 8, seed=5)
    assert not case.pseudo.fused
    plain = case.pseudo(x)
    weight = case.pseudo.layers["block1"].attn.qkv.weight  # type: ignore[union-attr]
    (first,) = torch.autograd.grad(plain.square().sum(), weight, create_graph=True)
    assert first.square().sum().requires_grad
    torch.autograd.grad(first.square().sum(), weight)
    case.pseudo.fused = True
    _close(case.pseudo(x), plain)
    assert all(case.pseudo.layers[name].attn.fused_attn for name in PSEUDO.layer_names)  # type: ignore[union-attr]


def test_groups_are_seen_at_their_last_block() -> None:
    case, x = Case(), _normal(2, 3, 8, 8, seed=5)
    seen = Features(case.ancestor, ANCESTOR.integral_layers("stage"))(x)
    every = case.ancestor.features(x)
    assert len(seen) == 2 and torch.equal(seen[0], every[1]) and torch.equal(seen[1], every[2])


@pytest.mark.parametrize("objective", ["bilevel", "eq16"])
def test_a_whole_condensation_scores_every_block(objective: str) -> None:
    resident, c = Resident(_noise(), torch.device("cpu")), replace(SETTINGS, objective=objective)
    request = Request(
        ANCESTOR,
        ViT(ANCESTOR, 5).state_dict(),
        {},
        (0, 1, 2),
        resident,
        c,
        0,
        lambda done, text: None,
    )
    state = torch.get_rng_state()
    first, second = condense_ancestor(request), condense_ancestor(request)
    assert torch.equal(torch.get_rng_state(), state)
    assert first.alpha.shape == (3, 1) and torch.equal(first.alpha, second.alpha)
    assert bool((first.alpha != 1).all()) and first.selected
