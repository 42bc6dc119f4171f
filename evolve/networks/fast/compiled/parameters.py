"""What is done to all parameters of a network at once, as machine code.

It is SGD's step, and a count of gradient entries. Kernels here take a table of tensors, int64
[tensors, columns] of addresses and sizes. Each tensor's numbers lie side by side in memory, in any
order that the tensors of one line of the table share. A network of an eighth of the width has a
thousand numbers a tensor, so that a call for each would take longer than the arithmetic.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from evolve.networks.fast.compiled import emit
from evolve.networks.fast.compiled.emit import POINTER, Code, Value
from evolve.networks.fast.compiled.kernel import kernel


def side_by_side(tensor: Tensor) -> bool:
    """Whether a tensor's numbers are all that lies in its stretch of memory.

    They lie in the plain order or that of channels_last.

    Args:
        tensor: any.
    """
    return (
        tensor.is_contiguous()
        or tensor.dim() == 4
        and tensor.is_contiguous(memory_format=torch.channels_last)
    )


@kernel("pip")
def sgd(code: Code, dtype: torch.dtype) -> None:
    """A kernel (table, tensors, rates): a step of SGD for all tensors of a table.

    A line is (parameter p, gradient g, momentum b, numbers), rates are [learning rate, momentum,
    decay]: b = momentum b + (g + decay p), p = p - rate b, as torch.optim.SGD; each product and its
    sum are rounded once.

    Args:
        code: what the kernel is written into.
        dtype: of all numbers.
    """
    table, tensors, rates = code.arguments
    b, lanes = code.b, emit.processor().width // dtype.itemsize
    rate, momentum, decay = (code.load(code.at(rates, n), 1) for n in range(3))
    less = b.fsub(code.const(-0.0), rate)

    def tensor(line: Value) -> None:
        p, g, held = (
            b.inttoptr(_entry(code, table, line, 4, column), POINTER) for column in range(3)
        )

        def some(at: Value, wide: int, _: Sequence[Value]) -> None:
            many = [code.spread(number, wide) for number in (less, momentum, decay)]
            places = [code.at(pointer, at) for pointer in (p, g, held)]
            p_old, g_old, b_old = (code.load(place, wide) for place in places)
            b_new = code.fma(many[1], b_old, code.fma(many[2], p_old, g_old))
            code.store(b_new, places[2])
            code.store(code.fma(many[0], b_new, p_old), places[0])

        numbers(code, _entry(code, table, line, 4, 3), lanes, some)

    code.loop(tensors, lambda line, _: tensor(line))


@kernel("pipp")
def above(code: Code, dtype: torch.dtype) -> None:
    """A kernel (table, tensors, threshold, counts): counts numbers greater than the threshold.

    A line is (tensor, numbers, place); its count is added to counts[place], int64.

    Args:
        code: what the kernel is written into.
        dtype: of the tensors' numbers.
    """
    table, tensors, threshold, counts = code.arguments
    b, lanes = code.b, emit.processor().width // dtype.itemsize
    limit = code.load(threshold, 1)

    def tensor(line: Value) -> None:
        pointer = b.inttoptr(_entry(code, table, line, 3, 0), POINTER)
        place = code.integer_at(counts, _entry(code, table, line, 3, 2))

        def some(at: Value, wide: int, held: Sequence[Value]) -> list[Value]:
            greater = code.greater(code.load(code.at(pointer, at), wide), code.spread(limit, wide))
            return [b.add(held[0], code.count(greater))]

        totals = numbers(code, _entry(code, table, line, 3, 1), lanes, some, [code.index(0)])
        b.store(b.add(code.integer(place, 0), totals[0]), place, align=8)

    code.loop(tensors, lambda line, _: tensor(line))


def _entry(code: Code, table: Value, line: Value, columns: int, column: int) -> Value:
    return code.integer(table, code.linear((line, columns), (1, column)))


def numbers(
    code: Code,
    count: Value,
    lanes: int,
    body: Callable[[Value, int, Sequence[Value]], Sequence[Value] | None],
    carried: Sequence[Value] = (),
) -> Sequence[Value]:
    """``body(offset, how many, values)`` for vectors of ``lanes`` numbers, then for single ones; as
    :meth:`Code.loop`.
    """
    whole = code.multiple(count, lanes)
    held = code.loop(whole, lambda at, values: body(at, lanes, values), carried, step=lanes)
    return code.loop(count, lambda at, values: body(at, 1, values), held, start=whole)
