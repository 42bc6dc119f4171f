"""Every kernel against torch's convolution and its autograd, in float64, over shapes; and the rule that picks one."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from evolve.networks.kernels import IMAGE, PLACE, Mixed, OneDnn, Product, Shape, Taps, as_column, as_maps, as_rows, order_of, pick

shapes = st.builds(
    Shape, batch=st.integers(1, 4), side=st.integers(1, 7), c_in=st.integers(1, 6), c_out=st.integers(1, 6), groups=st.integers(1, 3)
)


def check(kind: type, shape: Shape, wide: bool = False) -> None:
    draw = torch.Generator().manual_seed(shape.rows)

    def normal(*size: int) -> Tensor:
        return torch.randn(size, generator=draw, dtype=torch.float64)

    x, g = (as_maps(normal(shape.rows, shape.groups * c), shape.batch, shape.side) for c in (shape.c_in, shape.c_out))
    weight = normal(shape.groups * shape.c_out, shape.c_in, 3, 3).contiguous(memory_format=torch.channels_last)
    leaves = x.clone().requires_grad_(), weight.clone().requires_grad_()
    wanted = F.conv2d(*leaves, padding=1, groups=shape.groups)
    g_x, g_weight = torch.autograd.grad(wanted, leaves, g)
    kernel = kind(shape)
    if wide and isinstance(kernel, Product):
        kernel._turn = None  # the way wide layers go
    if kernel.order == PLACE:
        x, g, wanted, g_x = (as_column(_placed(t, shape)) for t in (x, g, wanted.detach(), g_x))
    into = torch.ones_like(weight)
    torch.testing.assert_close(kernel.forward(x, weight), wanted, rtol=1e-12, atol=1e-12, check_stride=False)
    torch.testing.assert_close(kernel.data_gradient(g, weight), g_x, rtol=1e-12, atol=1e-12, check_stride=False)
    kernel.weight_gradient(g, x, into)
    torch.testing.assert_close(into - 1, g_weight, rtol=1e-11, atol=1e-11, check_stride=False)


def _placed(maps: Tensor, shape: Shape) -> Tensor:
    """Rows in place order."""
    return as_rows(maps).view(shape.batch, shape.side**2, -1).transpose(0, 1).reshape(shape.rows, -1)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(shapes)
def test_library_and_product_are_torchs_convolution(shape: Shape) -> None:
    check(OneDnn, shape)
    check(Mixed, shape)
    check(Product, shape)
    check(Product, shape, wide=True)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(shapes)
def test_taps_are_torchs_convolution(shape: Shape) -> None:
    check(Taps, Shape(shape.batch, shape.side, shape.c_in, shape.c_out))


def test_a_product_sees_that_its_input_changed() -> None:
    """It keeps the last input's columns; an input changed in place, or another one, must not meet them."""
    shape = Shape(2, 3, 2, 2)
    kernel, weight = Product(shape), torch.ones(2, 2, 3, 3).contiguous(memory_format=torch.channels_last)
    x = as_maps(torch.ones(shape.rows, 2), 2, 3)
    first = kernel.forward(x, weight).clone()
    x.mul_(2)
    assert torch.equal(kernel.forward(x, weight), 2 * first)
    assert torch.equal(kernel.forward(x * 3, weight), 6 * first)


def test_taps_refuse_several_networks() -> None:
    with pytest.raises(ValueError, match="one network"):
        Taps(Shape(2, 2, 3, 3, groups=2))


def test_the_rule_follows_the_shape_alone() -> None:
    assert isinstance(pick(Shape(16, 16, 8, 16)), OneDnn) and isinstance(pick(Shape(16, 4, 32, 64)), Mixed) and isinstance(pick(Shape(16, 2, 64, 64, 5)), Product)
    assert isinstance(pick(Shape(16, 2, 512, 512), PLACE), Taps)
    assert order_of(2, ((512, 512), (512, 512)), 1) == PLACE
    assert order_of(2, ((512, 512), (64, 64)), 1) == IMAGE, "one narrow layer keeps the block in image order"
    assert order_of(2, ((512, 512),), 5) == IMAGE and order_of(8, ((512, 512),), 1) == IMAGE
