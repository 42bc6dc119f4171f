"""`evolve bench --kernels`: the compiled convolutions beside the library's, by shape."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor

from evolve.networks.fast.kernels import Convolution
from evolve.networks.vgg_plan import PAPER_SET, stack_plan, vgg16_plan

REPEATS = 21
BATCH, SIZE = 16, 32


def kernel_table() -> None:
    """Print milliseconds for forward, data and weight gradient, layer by layer.

    The layers are the descendant's (VGG8, batch 16, 32 px) at four widths.
    """
    torch.set_num_threads(1)
    table = Table(box=None, pad_edge=False)
    for title in ("layer", "oneDNN", "ours", "ratio", "Gflop/s"):
        table.add_column(title, no_wrap=True, justify="left" if title == "layer" else "right")
    for shape in shapes():
        library, ours = measured(shape)
        rate = 3 * 2 * 9 * BATCH * shape.side**2 * shape.c_in * shape.c_out / ours / 1e9
        name = f"{shape.c_in} -> {shape.c_out} @ {shape.side}x{shape.side}"
        table.add_row(
            name,
            f"{library * 1e3:.3f}",
            f"{ours * 1e3:.3f}",
            f"{library / ours:.2f}x",
            f"{rate:.0f}",
        )
    console = Console()
    about = f"one thread, {torch.backends.cpu.get_cpu_capability()}, torch {torch.__version__}"
    console.print(
        f"ms, forward + data gradient + weight gradient; Gflop/s counts the border's zeros; {about}"
    )
    console.print(table)


def shapes() -> Iterator[Convolution]:
    """Every distinct layer behind the first."""
    seen: set[Convolution] = set()
    for width in (0.125, 0.25, 0.5, 1.0):
        side = SIZE
        for number, block in enumerate(stack_plan(vgg16_plan(width), PAPER_SET)):
            for spec in block:
                shape = Convolution(side, spec.c_in, spec.c_out)
                if number and shape not in seen:
                    seen.add(shape)
                    yield shape
            side = max(1, side // 2)


def measured(shape: Convolution) -> tuple[float, float]:
    """Seconds by oneDNN and by the compiled kernels, in turn."""
    draw = torch.Generator().manual_seed(0)

    def normal(*size: int) -> Tensor:
        return torch.randn(size, generator=draw).contiguous(memory_format=torch.channels_last)

    x, g = (normal(BATCH, c, shape.side, shape.side) for c in (shape.c_in, shape.c_out))
    weight = normal(shape.c_out, shape.c_in, 3, 3)
    into = torch.zeros_like(weight)

    def library() -> None:
        F.conv2d(x, weight, None, 1, 1)
        _, g_weight, _ = torch.ops.aten.convolution_backward.default(
            g, x, weight, None, [1, 1], [1, 1], [1, 1], False, [0, 0], 1, [True, True, False]
        )
        into.add_(g_weight)

    def ours() -> None:
        shape.forward(x, weight)
        shape.data_gradient(g, weight)
        shape.weight_gradient(g, x, into)

    spent = [(_seconds(library), _seconds(ours)) for _ in range(REPEATS + 3)][3:]
    return statistics.median(a for a, _ in spent), statistics.median(b for _, b in spent)


def _seconds(work: Callable[[], None]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun
