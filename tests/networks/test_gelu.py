"""GELU's kernel against torch in float64; the same bits whatever the processor's vectors."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from evolve.networks.fast.compiled import emit, gelu
from evolve.networks.fast.compiled.emit import Processor

PROCESSORS = (Processor(64, 32), Processor(32, 16), Processor(16, 16))


def passed(x: Tensor) -> tuple[Tensor, Tensor]:
    """The output, and the slope."""
    out, slope = torch.empty_like(x), x.clone()
    gelu.gelu(x.dtype)(out.data_ptr(), slope.data_ptr(), len(x))
    return out, slope


def numbers(dtype: torch.dtype) -> Tensor:
    """Numbers of every size, an odd count of them."""
    dense, far = torch.linspace(-12, 12, 4001, dtype=dtype), torch.tensor([-300.0, 300.0])
    small = torch.logspace(-30, 0, 301, dtype=dtype)
    return torch.cat([dense, small, -small, far.to(dtype)])


@pytest.mark.parametrize(
    ("dtype", "most"), [(torch.float64, 1e-14), (torch.float32, 1.5 * 2.0**-23)]
)
def test_it_is_torchs(dtype: torch.dtype, most: float) -> None:
    """To the dtype's rounding of numbers of their size, or of 1."""
    x = numbers(dtype)
    exact = x.double().clone().requires_grad_()
    wanted = F.gelu(exact)
    (gradient,) = torch.autograd.grad(wanted.sum(), exact)
    for ours, theirs in zip(passed(x), (wanted.detach(), gradient), strict=True):
        assert float(((ours.double() - theirs).abs() / theirs.abs().clamp_min(1.0)).max()) <= most


def test_small_outputs_keep_their_digits() -> None:
    """Where torch's own 1 + erf cancels."""
    x = torch.linspace(-9, -1, 500)
    exact = x.double() * torch.special.erfc(-x.double() / 2**0.5) / 2
    torch.testing.assert_close(passed(x)[0].double(), exact, rtol=2e-5, atol=0)


def test_what_is_no_number_stays_none() -> None:
    x = torch.tensor([float("nan"), 1.0] * 20)
    assert all(torch.equal(part.isnan(), x.isnan()) for part in passed(x))
    assert passed(torch.tensor([float("inf")] * 3))[0].isinf().all()


def test_every_processor_gives_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    results = []
    for processor in PROCESSORS:
        monkeypatch.setattr(emit, "processor", lambda processor=processor: processor)
        gelu.gelu.cache_clear()  # type: ignore[attr-defined]
        results.append(passed(numbers(torch.float32)))
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))
