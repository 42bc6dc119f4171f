"""psi by second moments against the formula as it reads, with gradients and gradients of gradients,
in float64.
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from evolve.condensers.meta_network.layout import Projection, layout
from evolve.condensers.meta_network.matching import Frozen, Matcher, psi_reference

maps = st.lists(
    st.tuples(st.integers(1, 6), st.sampled_from([1, 2, 3, 4, 8])), min_size=1, max_size=4
)


def _tensors(
    ancestor, descendant, batch, seed
) -> tuple[list[Tensor], list[Tensor], list[Projection]]:
    draw = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw, dtype=torch.float64)

    channels = sum(c for c, _ in ancestor)
    targets = [normal(batch, c, s, s) for c, s in ancestor]
    features = [
        normal(batch, c, s, s).contiguous(memory_format=torch.channels_last).requires_grad_()
        for c, s in descendant
    ]
    h = [
        Projection(normal(channels, c).requires_grad_(), normal(channels).requires_grad_())
        for c, _ in descendant
    ]
    return targets, features, h


def _close(actual: Tensor, expected: Tensor) -> None:
    actual, expected = actual.detach(), expected.detach()
    assert float((actual - expected).abs().max()) <= 1e-10 * max(1.0, float(expected.abs().max()))


def _psi(
    matcher: Matcher, frozen: Frozen, features: list[Tensor], h: list[Projection], batch: int
) -> Tensor:
    """psi [B, L, K] out of L_meta, which is linear in alpha."""
    alpha = (
        features[0].new_zeros(batch, len(matcher.layout.ancestor), len(features)).requires_grad_()
    )
    return torch.autograd.grad(matcher.loss(frozen, alpha, features, h), alpha)[0] * batch


def _derivatives(loss: Tensor, leaves: list[Tensor]) -> list[Tensor]:
    """The loss, its gradients, and gradients of a fixed functional of those (a Hessian product)."""
    first = torch.autograd.grad(loss, leaves, create_graph=True)
    functional = sum(
        (g * torch.cos(torch.arange(g.numel(), dtype=g.dtype)).view(g.shape)).sum() for g in first
    )
    assert isinstance(functional, Tensor)
    return [loss, *first, *torch.autograd.grad(functional, leaves)]


@settings(max_examples=20, deadline=None, derandomize=True)
@given(ancestor=maps, descendant=maps, batch=st.integers(1, 3), seed=st.integers(0, 9))
def test_fast_loss_and_its_first_and_second_derivatives_equal_the_formula(
    ancestor, descendant, batch, seed
) -> None:
    targets, features, h = _tensors(ancestor, descendant, batch, seed)
    matcher = Matcher(layout(targets, features), targets[0])
    frozen = matcher.freeze(targets)
    plain = psi_reference(targets, features, h)
    assert plain.shape == (batch, len(ancestor), len(descendant))
    _close(_psi(matcher, frozen, features, h, batch), plain)
    alpha = torch.rand(
        plain.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    ).requires_grad_()
    leaves = [alpha, *features, *(p.weight for p in h), *(p.bias for p in h)]
    actual = _derivatives(matcher.loss(frozen, alpha, features, h), leaves)
    for a, b in zip(actual, _derivatives((alpha * plain).sum() / batch, leaves), strict=True):
        _close(a, b)


def test_both_ways_of_computing_are_covered() -> None:
    targets, features, _ = _tensors([(3, 8)], [(2, 8), (6, 2)], 1, 0)
    shape = layout(targets, features)
    assert [shape.moments(0), shape.moments(1)] == [True, False]


def test_psi_of_one_pair_by_hand() -> None:
    target, z = (
        torch.tensor([[[[3.0]]]], dtype=torch.float64),
        torch.tensor([[[[1.0]], [[2.0]]]], dtype=torch.float64),
    )
    h = [
        Projection(
            torch.tensor([[2.0, 0.5]], dtype=torch.float64),
            torch.tensor([4.0], dtype=torch.float64),
        )
    ]
    expected = (2.0 * 1 + 0.5 * 2 + 4 - 3) ** 2
    assert psi_reference([target], [z], h).item() == expected
    matcher = Matcher(layout([target], [z]), target)
    assert _psi(matcher, matcher.freeze([target]), [z], h, 1).item() == pytest.approx(expected)


def test_psi_reference_is_the_mean_square_over_channels_and_pixels_of_the_resized_map() -> None:
    targets, features, h = _tensors([(5, 2)], [(3, 4)], 2, 1)
    resized = F.interpolate(targets[0], (4, 4), mode="bilinear", align_corners=False)
    projected = (
        torch.einsum("oc,bchw->bohw", h[0].weight, features[0]) + h[0].bias[None, :, None, None]
    )
    _close(
        psi_reference(targets, features, h)[:, 0, 0],
        (projected - resized).pow(2).sum((1, 2, 3)) / (5 * 16),
    )


def test_frozen_side_is_per_image_and_counted() -> None:
    ancestor, descendant = [(4, 8), (3, 4), (2, 2)], [(3, 8), (9, 2)]
    targets, features, h = _tensors(ancestor, descendant, 5, 2)
    matcher = Matcher(layout(targets, features), targets[0])
    whole = matcher.freeze(targets)
    rows = torch.tensor([3, 0, 3])
    picked = _psi(matcher, whole[rows], [z[rows] for z in features], h, 3)
    _close(picked, _psi(matcher, whole, features, h, 5)[rows])
    joined = Frozen.join(
        [matcher.freeze([t[:2] for t in targets]), matcher.freeze([t[2:] for t in targets])], 5
    )
    _close(_psi(matcher, joined, features, h, 5), _psi(matcher, whole, features, h, 5))
    held = [
        whole.pooled,
        *whole.energy.values(),
        *whole.totals.values(),
        *(m for runs in whole.maps.values() for m in runs),
    ]
    assert matcher.numbers_per_image() * 5 == sum(t.numel() for t in held)


def test_float32_is_accurate_enough_to_train_on() -> None:
    targets, features, h = _tensors([(8, 8), (16, 4), (16, 2)], [(8, 8), (16, 2)], 4, 3)
    single = [t.float() for t in targets]
    matcher = Matcher(layout(single, features), single[0])
    narrow = [Projection(p.weight.float(), p.bias.float()) for p in h]
    fast = _psi(matcher, matcher.freeze(single), [z.float() for z in features], narrow, 4)
    assert torch.allclose(fast.double(), psi_reference(targets, features, h), rtol=1e-4)


def test_maps_that_are_not_square_are_refused() -> None:
    with pytest.raises(ValueError, match="square"):
        layout([torch.zeros(1, 2, 4, 2)], [torch.zeros(1, 2, 4, 4)])
