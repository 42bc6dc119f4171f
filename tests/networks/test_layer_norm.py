"""LayerNorm's kernels against torch in float64; the same bits whatever the processor's vectors."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from evolve.networks.fast.compiled import emit, layer_norm
from evolve.networks.fast.compiled.emit import Processor

PROCESSORS = (Processor(64, 32), Processor(32, 16), Processor(16, 16))
KERNELS = layer_norm.normalised, layer_norm.normalised_gradient


def taken(rows: int, width: int, dtype: torch.dtype) -> list[Tensor]:
    """Rows x, weight, bias, and the gradient of the output."""
    draw = torch.Generator().manual_seed(rows)
    shapes = (rows, width), (width,), (width,), (rows, width)
    return [torch.randn(shape, generator=draw, dtype=dtype) for shape in shapes]


def passed(rows: int, width: int, dtype: torch.dtype) -> list[Tensor]:
    """The output, and the gradients that are added to ones."""
    x, weight, bias, g = taken(rows, width, dtype)
    out, mean, invstd = torch.empty_like(x), x.new_empty(rows), x.new_empty(rows)
    sums = [torch.ones_like(part) for part in (x, weight, bias)]
    calls = (out, x, weight, bias, mean, invstd), (sums[0], g, x, weight, mean, invstd, *sums[1:])
    for kernel, given_to in zip(KERNELS, calls, strict=True):
        kernel(width, dtype)(*(part.data_ptr() for part in given_to), rows)
    return [out, *sums]


@settings(max_examples=12, deadline=None, derandomize=True)
@given(st.integers(1, 9), st.sampled_from([1, 6, 8, 24, 48, 64, 112]))
def test_it_is_torchs(rows: int, width: int) -> None:
    out, *sums = passed(rows, width, torch.float64)
    *leaves, g = taken(rows, width, torch.float64)
    leaves = [leaf.requires_grad_() for leaf in leaves]
    wanted = F.layer_norm(leaves[0], (width,), *leaves[1:], layer_norm.EPS)
    torch.testing.assert_close(out, wanted.detach(), rtol=1e-9, atol=1e-9)
    for total, gradient in zip(sums, torch.autograd.grad(wanted, leaves, g), strict=True):
        torch.testing.assert_close(total - 1, gradient, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("width", [24, 64])
def test_every_processor_gives_the_same_bits(monkeypatch, width: int) -> None:
    results = []
    for processor in PROCESSORS:
        monkeypatch.setattr(emit, "processor", lambda processor=processor: processor)
        for kernel in KERNELS:
            kernel.cache_clear()  # type: ignore[attr-defined]
        results.append(passed(5, width, torch.float32))
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))
