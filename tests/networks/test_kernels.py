"""The compiled kernels against torch and its autograd, in float64, over shapes; the same bits
whatever the processor's vectors.
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from evolve.networks.fast.compiled import convolution, emit, units, weights
from evolve.networks.fast.compiled.emit import Processor
from evolve.networks.fast.kernels import (
    EPS,
    Convolution,
    Norm,
    channels_last,
    rectified,
    rectified_gradient,
)

PROCESSORS = (Processor(64, 32), Processor(32, 16), Processor(16, 16), Processor(16, 32))
sides = st.sampled_from([1, 2, 3, 4, 5, 7, 8, 9, 16, 17, 20])
channels = st.sampled_from([1, 2, 3, 4, 5, 6, 8, 12, 16, 24])
whole = st.sampled_from([8, 16, 24, 32])  # channels of layers that Winograd's terms fit
layers = st.tuples(sides, channels, channels) | st.tuples(
    st.sampled_from([4, 8, 12, 16, 20]), whole, whole
)


def normal(*size: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    tensor = torch.randn(size, generator=torch.Generator().manual_seed(seed), dtype=dtype)
    return channels_last(tensor) if len(size) == 4 else tensor


def close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-11, atol=1e-11, check_stride=False)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.integers(1, 19), layers)
def test_the_convolution_is_torchs(batch: int, layer: tuple[int, int, int]) -> None:
    side, c_in, c_out = layer
    x, weight, g = (
        normal(batch, c_in, side, side),
        normal(c_out, c_in, 3, 3, seed=1),
        normal(batch, c_out, side, side, seed=2),
    )
    leaves = x.clone().requires_grad_(), weight.clone().requires_grad_()
    expected = F.conv2d(*leaves, padding=1)
    g_x, g_weight = torch.autograd.grad(expected, leaves, g)
    ours, into = Convolution(side, c_in, c_out), channels_last(torch.ones_like(weight))
    close(ours.forward(x, weight), expected.detach())
    close(ours.data_gradient(g, weight), g_x)
    ours.weight_gradient(g, x, into)
    close(into - 1, g_weight)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.integers(1, 19), layers)
def test_a_step_is_made_once_all_images_are_added_up(
    batch: int, layer: tuple[int, int, int]
) -> None:
    """SGD's, with a momentum that holds the decay; large maps go by in several stretches."""
    side, c_in, c_out = layer
    x, g, weight = (
        normal(batch, c_in, side, side),
        normal(batch, c_out, side, side, seed=2),
        normal(c_out, c_in, 3, 3, seed=1),
    )
    held, rates = (
        normal(c_out, c_in, 3, 3, seed=3),
        torch.tensor([-0.3, 0.9, 0.05], dtype=torch.float64),
    )
    gradient, momentum, stepped = (
        held.clone(memory_format=torch.channels_last),
        channels_last(held.clone()),
        channels_last(weight.clone()),
    )
    Convolution(side, c_in, c_out).weight_gradient(g, x, gradient)
    run = weights.weight_step(side, c_in, c_out, x.dtype)
    room = x.new_empty(convolution.room_for(side, c_in, c_out, x.dtype))
    run(*(part.data_ptr() for part in (momentum, stepped, rates, g, x, room)), batch)
    close(stepped, weight - 0.3 * gradient)
    close(momentum, 0.9 * gradient + 0.05 * stepped)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.integers(2, 9), st.sampled_from([2, 3, 4, 5, 8, 9, 16]), channels, st.booleans())
def test_bn_relu_and_pool_are_torchs(batch: int, side: int, count: int, pool: bool) -> None:
    c, bias = (3 * normal(batch, count, side, side) + 1).requires_grad_(), normal(count, seed=4)
    gamma, beta = normal(count, seed=1).requires_grad_(), normal(count, seed=2).requires_grad_()
    running, kept = (
        (normal(count, seed=5), normal(count, seed=6).exp()),
        (normal(count, seed=5), normal(count, seed=6).exp()),
    )
    expected = F.relu(
        F.batch_norm(c + bias.view(-1, 1, 1), *kept, gamma, beta, True, units.MOMENTUM, EPS)
    )
    expected = F.max_pool2d(expected, 2) if pool else expected
    g = normal(*expected.shape, seed=3)
    g_c, g_gamma, g_beta = torch.autograd.grad(expected, (c, gamma, beta), g)
    with torch.no_grad():
        norm = Norm.of_batch(c, gamma, beta, bias, running)
        actual, into = (
            rectified(c, norm, pool),
            (torch.ones(count, dtype=torch.float64), torch.ones(count, dtype=torch.float64)),
        )
        close(actual, expected.detach())
        close(rectified_gradient(g, c, norm, pool, *into), g_c)
        close(into[0] - 1, g_gamma)
        close(into[1] - 1, g_beta)
    for ours, torchs in zip(running, kept, strict=True):
        close(ours, torchs)
    tested = F.relu(F.batch_norm(c + bias.view(-1, 1, 1), *kept, gamma, beta, False, 0.0, EPS))
    close(
        rectified(c.detach(), Norm.in_eval(gamma.detach(), beta.detach(), bias, *running), pool),
        (F.max_pool2d(tested, 2) if pool else tested).detach(),
    )


def test_of_equal_pixels_the_first_receives_the_gradient() -> None:
    """As torch's pool; flat images have many such windows.

    Where none is above zero, none receives it.
    """
    c = channels_last(
        torch.tensor(
            [
                [1.0, 1.0, -2.0, -2.0],
                [1.0, 0.0, -2.0, -2.0],
                [3.0, 5.0, 0.0, 7.0],
                [5.0, 5.0, 7.0, 7.0],
            ],
            dtype=torch.float64,
        ).view(1, 1, 4, 4)
    )
    ones, zeros = torch.ones(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    plain = Norm(ones, zeros, zeros, zeros)  # invstd 0: BN itself passes everything on
    actual = rectified_gradient(
        channels_last(torch.ones(1, 1, 2, 2, dtype=torch.float64)),
        c,
        plain,
        True,
        zeros.clone(),
        zeros.clone(),
    )
    leaf = c.clone().requires_grad_()
    (expected,) = torch.autograd.grad(F.relu(F.max_pool2d(leaf, 2)).sum(), leaf)
    close(actual + expected.sum() / 16, expected)  # BN takes the mean gradient away


@pytest.mark.parametrize("corner", range(4))
def test_a_pool_passes_on_what_is_not_a_number(corner: int) -> None:
    c = normal(1, 1, 2, 2)
    c.view(-1)[corner] = torch.nan
    ones, zeros = torch.ones(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    assert rectified(c, Norm(ones, zeros, zeros, ones), True).isnan().all()


@pytest.mark.parametrize("pool", [False, True])
def test_what_is_not_a_number_stays_so(pool: bool) -> None:
    """A diverged network must show it."""
    c = normal(2, 4, 4, 4)
    c[1, 2, 3, 3] = torch.nan
    norm = Norm.of_batch(c, *(torch.ones(4, dtype=torch.float64) for _ in range(3)), None)
    result = rectified(c, norm, pool)
    assert result[:, 2].isnan().all() and not result[:, :2].isnan().any()


def all_of(side: int, c_in: int, c_out: int, batch: int, dtype: torch.dtype) -> list[Tensor]:
    """What every kernel makes of the same numbers."""
    x, weight = (
        normal(batch, c_in, side, side, dtype=dtype),
        normal(c_out, c_in, 3, 3, seed=1, dtype=dtype),
    )
    gamma, beta, bias = (normal(c_out, seed=seed, dtype=dtype) for seed in (2, 3, 4))
    running, into = (beta.clone(), gamma.abs()), channels_last(torch.zeros_like(weight))
    ours = Convolution(side, c_in, c_out)
    c = ours.forward(x, weight)
    norm = Norm.of_batch(c, gamma, beta, bias, running)
    results = [c, norm.scale, norm.shift, *running]
    for pool in (False, True):
        g_gamma, g_beta = torch.zeros_like(gamma), torch.zeros_like(beta)
        out = rectified(c, norm, pool)
        g = rectified_gradient(out + 1, c, norm, pool, g_gamma, g_beta)
        ours.weight_gradient(g, x, into)
        results += [out, g, g_gamma, g_beta, into.clone(), ours.data_gradient(g, weight)]
        stepped, momentum, rates = (
            channels_last(weight.clone()),
            channels_last(into.clone()),
            torch.tensor([-0.3, 0.9, 0.05], dtype=dtype),
        )
        room = x.new_empty(convolution.room_for(side, c_in, c_out, dtype))
        addresses = (part.data_ptr() for part in (momentum, stepped, rates, g, x, room))
        weights.weight_step(side, c_in, c_out, dtype)(*addresses, batch)
        results += [stepped, momentum]
    return results


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(20, 3, 8), (8, 16, 24), (4, 8, 32), (4, 12, 6), (2, 16, 32)])
def test_every_processor_gives_the_same_bits(monkeypatch, shape, dtype) -> None:
    """Vectors of 16, 32 or 64 bytes, 16 or 32 of them: the same sums in the same order.

    (This machine computes the wide ones piece by piece.)
    """
    results = []
    for processor in PROCESSORS:
        monkeypatch.setattr(emit, "processor", lambda processor=processor: processor)
        for kernel in (v for room in (convolution, units, weights) for v in vars(room).values()):
            if hasattr(kernel, "cache_clear"):
                kernel.cache_clear()
        results.append(all_of(*shape, 19, dtype))
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_image_is_convolved_alike_in_every_batch(dtype) -> None:
    """Tests go by in batches of many sizes; small maps share a tile with other images."""
    for side in (1, 2, 3, 4, 8):
        x, weight = normal(11, 8, side, side, dtype=dtype), normal(16, 8, 3, 3, seed=1, dtype=dtype)
        ours = Convolution(side, 8, 16)
        alone = torch.cat([ours.forward(x[n : n + 1], weight) for n in range(len(x))])
        assert torch.equal(ours.forward(x, weight), alone)


@pytest.mark.parametrize("layer", [(16, 16, 32), (8, 32, 16), (4, 64, 32)])
def test_fewer_products_round_little_more(layer: tuple[int, int, int]) -> None:
    """Winograd's layers beside torch's in float32, each against float64."""
    side, c_in, c_out = layer
    x, weight, g = (
        channels_last(part.float())
        for part in (
            normal(6, c_in, side, side).relu(),
            normal(c_out, c_in, 3, 3, seed=1),
            normal(6, c_out, side, side, seed=2),
        )
    )

    def by_torch(dtype: torch.dtype) -> tuple[Tensor, ...]:
        leaves = [part.to(dtype, copy=True).requires_grad_() for part in (x, weight)]
        out = F.conv2d(*leaves, padding=1)
        return (out.detach(), *torch.autograd.grad(out, leaves, g.to(dtype)))

    ours, into = Convolution(side, c_in, c_out), torch.zeros_like(weight)
    ours.weight_gradient(g, x, into)
    actual = ours.forward(x, weight), ours.data_gradient(g, weight), into
    exact = by_torch(torch.float64)
    for mine, torchs, truth in zip(actual, by_torch(torch.float32), exact, strict=True):
        assert (mine - truth).norm() < 6 * (torchs - truth).norm()  # its sums go by blocks


def test_a_weights_gradient_in_another_memory_order_is_refused() -> None:
    with pytest.raises(ValueError, match="channels_last"):
        Convolution(4, 2, 3).weight_gradient(
            normal(1, 3, 4, 4), normal(1, 2, 4, 4), torch.zeros(3, 2, 3, 3, dtype=torch.float64)
        )


def test_maps_in_another_memory_order_are_taken() -> None:
    x, weight = normal(2, 4, 5, 5), normal(8, 4, 3, 3, seed=1)
    assert torch.equal(
        Convolution(5, 4, 8).forward(x.contiguous(), weight.contiguous()),
        Convolution(5, 4, 8).forward(x, weight),
    )
