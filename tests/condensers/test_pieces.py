"""A piece's value, gradient and curvature against autograd on psi as the formula reads, in float64;
and the written-out losses of a network.
"""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from evolve.condensers.meta_network.frozen import Features
from evolve.condensers.meta_network.hypergradient import ByAutograd, Local
from evolve.condensers.meta_network.layout import Projection, as_flat, layout
from evolve.condensers.meta_network.matching import Matcher, psi_reference
from evolve.condensers.meta_network.pieces import Parts, piece
from evolve.condensers.meta_network.pseudo import Pseudo
from evolve.condensers.meta_network.written import Written
from evolve.networks.vgg import VGG, initialise
from evolve.networks.vgg_plan import integral_layers, stack_plan, vgg16_plan

maps = st.lists(
    st.tuples(st.integers(1, 5), st.sampled_from([1, 2, 3, 4, 8])), min_size=1, max_size=4
)


def close(actual: Tensor, expected: Tensor) -> None:
    assert actual.shape == expected.shape
    assert float((actual - expected).abs().max()) <= 1e-10 * max(1.0, float(expected.abs().max()))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    maps,
    st.tuples(st.integers(1, 6), st.sampled_from([1, 2, 3, 4, 8])),
    st.integers(1, 3),
    st.integers(0, 9),
)
def test_a_piece_is_psi_with_its_derivatives(
    ancestor: list[tuple[int, int]], descendant: tuple[int, int], batch: int, seed: int
) -> None:
    draw = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=draw, dtype=torch.float64)

    channels, side = descendant
    total = sum(c for c, _ in ancestor)
    targets = [normal(batch, c, s, s) for c, s in ancestor]
    z = (
        normal(batch, channels, side, side)
        .contiguous(memory_format=torch.channels_last)
        .requires_grad_()
    )
    h = Projection(normal(total, channels).requires_grad_(), normal(total).requires_grad_())
    alpha = normal(batch, len(ancestor)).requires_grad_()
    leaves = [z, h.weight, h.bias]
    psi = psi_reference(targets, [z], [h])[:, :, 0]
    value = (alpha * psi).sum()
    gradient = torch.autograd.grad(value, leaves, create_graph=True)
    along = [normal(*leaf.shape) for leaf in leaves]
    slope = sum(((g * v).sum() for g, v in zip(gradient, along, strict=True)), torch.zeros(()))
    *curved, mixed = torch.autograd.grad(slope, [*leaves, alpha])

    matcher = Matcher(layout(targets, [z]), z.detach())
    frozen = matcher.freeze(targets)
    result = piece(
        matcher,
        0,
        frozen,
        alpha.detach(),
        z.detach(),
        Projection(h.weight.detach(), h.bias.detach()),
    )
    close(result.value, value.detach())
    for ours, theirs in zip(result.gradient, (as_flat(gradient[0]), *gradient[1:]), strict=True):
        close(ours, theirs.detach())
    v = Parts(as_flat(along[0]), along[1], along[2])
    parts, psi_slope = result.products(v, curvature=True)
    close(psi_slope, mixed)
    assert parts is not None
    for ours, theirs in zip(parts, (as_flat(curved[0]), *curved[1:]), strict=True):
        close(ours, theirs)
    assert result.products(v, curvature=False)[0] is None


class Case:
    """A pseudo-descendant in front of an ancestor with maps of several sides."""

    def __init__(self, granularity: str) -> None:
        draw = torch.Generator().manual_seed(5)
        plan = vgg16_plan(1 / 32)
        pseudo_plan = stack_plan(plan, ("conv1", "conv6", "conv11"))
        ancestor, network = VGG(plan, 3).double(), VGG(pseudo_plan, 3).double()
        initialise(ancestor, 1, "ancestor")
        initialise(network, 2, "pseudo")
        self.x = torch.randn(4, 3, 16, 16, generator=draw, dtype=torch.float64).contiguous(
            memory_format=torch.channels_last
        )
        self.labels = torch.tensor([0, 1, 2, 0])
        targets = [
            f.detach() for f in Features(ancestor, integral_layers(plan, granularity))(self.x)
        ]
        groups = integral_layers(pseudo_plan, granularity)
        own = [f.detach() for f in Features(network, groups)(self.x)]
        matcher = Matcher(layout(targets, own), self.x)
        self.frozen, self.pseudo = matcher.freeze(targets), Pseudo(network, groups, matcher, seed=0)
        self.params = tuple(
            p + 0.05 * torch.randn(p.shape, generator=draw, dtype=p.dtype)
            for p in self.pseudo.initial
        )
        self.beta = tuple(torch.randn(p.shape, generator=draw, dtype=p.dtype) for p in self.params)
        self.alpha = 2 * torch.rand(
            4, len(targets), len(groups), generator=draw, dtype=torch.float64
        )
        fused = network.architecture.fast(16)
        assert fused is not None
        self.written = Written(fused, self.pseudo.network.places, matcher)


@pytest.mark.parametrize("granularity", ["conv", "stage"])
@pytest.mark.parametrize("loss", ["classification", "matching"])
def test_written_losses_are_autograds(granularity: str, loss: str) -> None:
    case = Case(granularity)
    pseudo = case.pseudo
    ours: Local
    if loss == "matching":
        theirs = ByAutograd(
            lambda p, a: pseudo.matching(case.frozen, case.x, a, p), case.params, case.alpha
        )
        ours = case.written.matching(case.frozen, case.x, case.alpha, case.params)
    else:
        theirs = ByAutograd(lambda p: pseudo.loss(case.x, case.labels, p), case.params, None)
        ours = case.written.classification(case.x, case.labels, case.params)
    for mine, reference in zip(ours.grads, theirs.grads, strict=True):
        close(mine, reference.detach())
    (curved, mixed), (wanted, wanted_mixed) = (
        ours.products(case.beta, True),
        theirs.products(case.beta, True),
    )
    assert (
        curved is not None
        and wanted is not None
        and max(float(w.abs().max()) for w in wanted) > 0.01
    )
    for mine, reference in zip(curved, wanted, strict=True):
        close(mine, reference)
    assert (mixed is None) == (wanted_mixed is None) == (loss == "classification")
    if mixed is not None and wanted_mixed is not None:
        close(mixed, wanted_mixed)
        nothing, alone = ours.products(case.beta, curvature=False)
        assert nothing is None and alone is not None
        close(alone, wanted_mixed)
