"""`evolve bench --kernels`: every way of computing a convolution on this machine, by shape, beside what the rule picks."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator

import torch
from rich.console import Console
from rich.table import Table

from evolve.networks.kernels import PLACE, Kernel, Mixed, OneDnn, Product, Shape, Taps, as_column, as_maps, as_rows, order_of, pick
from evolve.networks.plan import PAPER_SET, stack_plan, vgg16_plan
from evolve.training.width import together

REPEATS = 21
BATCH, SIZE, DESCENDANTS = 16, 32, 5


def kernel_table() -> None:
    """The descendant's layers (VGG8, batch 16, 32 px) at four widths: milliseconds a network for forward, data and weight gradient."""
    torch.set_num_threads(1)
    table = Table(box=None, pad_edge=False)
    for title in ("layer", "networks", "oneDNN", "product", "mixed", "taps", "picked"):
        table.add_column(title, no_wrap=True, justify="left" if title in ("layer", "picked") else "right")
    for shape in shapes():
        wide = order_of(shape.side, ((shape.c_in, shape.c_out),), shape.groups)
        picked = type(pick(shape, wide)).__name__
        cells = [measured(kind, shape) for kind in (OneDnn, Product, Mixed, Taps)]
        table.add_row(f"{shape.c_in} -> {shape.c_out} @ {shape.side}x{shape.side}", str(shape.groups), *cells, picked)
    console = Console()
    console.print(f"ms a network, forward + data gradient + weight gradient; one thread, {torch.backends.cpu.get_cpu_capability()}, torch {torch.__version__}")
    console.print(table)


def shapes() -> Iterator[Shape]:
    """Every distinct layer behind the first, as many networks side by side as the trainer would put there."""
    seen: set[Shape] = set()
    for width in (0.125, 0.25, 0.5, 1.0):
        plan, side = stack_plan(vgg16_plan(width), PAPER_SET), SIZE
        groups = together(plan, DESCENDANTS)
        for number, block in enumerate(plan):
            for spec in block:
                shape = Shape(BATCH, side, spec.c_in, spec.c_out, groups)
                if number and shape not in seen:
                    seen.add(shape)
                    yield shape
            side = max(1, side // 2)


def measured(kind: Callable[[Shape], Kernel], shape: Shape) -> str:
    """Milliseconds a network, or a dash where this way does not serve the shape."""
    if kind is Taps and shape.groups > 1 or kind is not OneDnn and shape.side > 8:
        return "-"
    kernel = kind(shape)
    draw = torch.Generator().manual_seed(0)
    x, g = (torch.randn(shape.rows, shape.groups * c, generator=draw) for c in (shape.c_in, shape.c_out))
    x, g = (as_column(t) if kernel.order == PLACE else as_maps(t, shape.batch, shape.side) for t in (x, g))
    weight = torch.randn(shape.groups * shape.c_out, shape.c_in, 3, 3, generator=draw).contiguous(memory_format=torch.channels_last)
    into = torch.zeros_like(weight)
    spent = []
    for _ in range(REPEATS + 3):
        as_rows(x).add_(0)  # another input, as far as a kernel that keeps its columns can tell
        begun = time.perf_counter()
        kernel.forward(x, weight)
        kernel.data_gradient(g, weight)
        kernel.weight_gradient(g, x, into)
        spent.append(time.perf_counter() - begun)
    return f"{statistics.median(spent[3:]) / shape.groups * 1e3:.3f}"
