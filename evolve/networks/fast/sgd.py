"""torch.optim.SGD on a CPU with one kernel for all parameters.

Its own step takes many times as long as the arithmetic of a small network.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from evolve.networks.fast.compiled import parameters


@dataclass
class _Known:
    """A parameter that the kernel can step, as it was when last looked at.

    It is valid while the parameter lies at ``address``.
    """

    p: Tensor
    address: int
    stride: tuple[int, ...]
    numbers: int
    momentum: Tensor
    momentum_address: int


class CompiledSGD(torch.optim.SGD):
    """SGD with momentum and L2 decay, in :class:`torch.optim.SGD`'s terms and with its state.

    It steps by :func:`evolve.networks.fast.compiled.parameters.sgd`, which rounds a little less
    often; by torch's own step for parameters that the kernel cannot take (another device, dtype or
    memory order), without momentum, and for what nobody here asks for (nesterov, dampening,
    maximize).
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step of all parameters that have a gradient.

        Args:
            closure: as torch's.
        """
        if closure is not None or not all(_plain(group) for group in self.param_groups):
            return super().step(closure)
        tables = [self._table(group) for group in self.param_groups]
        if None in tables:
            self._begin()
            return super().step()
        for group, table in zip(self.param_groups, tables, strict=True):
            if table is not None and table[1]:
                self._run(group, *table)
        return None

    def _run(self, group: dict[str, Any], entries: array[int], gradients: Sequence[Tensor]) -> None:
        """The step of one group, by its table; ``gradients`` are alive as long as that names their
        addresses.
        """
        dtype = group["params"][0].dtype
        numbers = array(
            "f" if dtype == torch.float32 else "d",
            (group["lr"], group["momentum"], group["weight_decay"]),
        )
        parameters.sgd(dtype)(entries.buffer_info()[0], len(gradients), numbers.buffer_info()[0])

    def _table(self, group: dict[str, Any]) -> tuple[array[int], list[Tensor]] | None:
        """The kernel's table of a group and the gradients in it; None where torch has to step."""
        seen: dict[int, _Known] = self.__dict__.setdefault(
            "_known", {}
        )  # not part of what torch copies, so made when missing
        table, gradients = array("q"), []
        for p in group["params"]:
            if (g := p.grad) is None:
                continue
            entry = seen.get(id(p))
            if (
                entry is None
                or entry.address != p.data_ptr()
                or entry.momentum is not self.state[p].get("momentum_buffer")
            ):
                if not _fits(p, group["params"][0].dtype):
                    return None
                entry = seen[id(p)] = self._look(p)
            if g.layout is not torch.strided or g.stride() != entry.stride:
                g = torch.empty_like(p).copy_(g)
            gradients.append(g)
            table.extend((entry.address, g.data_ptr(), entry.momentum_address, entry.numbers))
        return table, gradients

    def _begin(self) -> None:
        """Before torch steps what the kernel cannot take.

        Its fused step wants momentum for all parameters or for none, and on a CPU takes for granted
        that a parameter's numbers lie side by side.
        """
        for group in self.param_groups:
            for p in group["params"]:
                group["fused"] = group["fused"] and not p.is_cpu
                if p.grad is not None and self.state[p].get("momentum_buffer") is None:
                    self.state[p]["momentum_buffer"] = torch.zeros_like(p)

    def _look(self, p: Tensor) -> _Known:
        state = self.state[p]
        b = state.get("momentum_buffer")
        if b is None or b.stride() != p.stride():
            state["momentum_buffer"] = (
                torch.zeros_like(p) if b is None else torch.empty_like(p).copy_(b)
            )
            b = state["momentum_buffer"]
        return _Known(p, p.data_ptr(), p.stride(), p.numel(), b, b.data_ptr())

    def zero_grad(self, set_to_none: bool = True) -> None:
        """As torch's, without its records.

        Args:
            set_to_none: as torch's.
        """
        if not set_to_none:
            super().zero_grad(set_to_none=False)
            return
        for group in self.param_groups:
            for p in group["params"]:
                p.grad = None


def _plain(group: dict[str, Any]) -> bool:
    """Whether the kernel knows what is asked for."""
    unknown = (
        group["nesterov"]
        or group["dampening"]
        or group["maximize"]
        or isinstance(group["lr"], Tensor)
    )
    return bool(group["momentum"] and not unknown)


def _fits(p: Tensor, dtype: torch.dtype) -> bool:
    """Whether the kernel takes ``p`` beside parameters of ``dtype``."""
    return (
        parameters.side_by_side(p)
        and p.is_cpu
        and p.dtype is dtype
        and dtype in (torch.float32, torch.float64)
    )
