"""torch.optim.SGD on a CPU with one kernel for all parameters: its own step takes many times as long as the arithmetic of a small network."""

from __future__ import annotations

from array import array
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from evolve.compiled import parameters


@dataclass
class _Known:
    """A parameter that the kernel can step, as it was when last looked at: valid while it lies at ``address``."""

    p: Tensor
    address: int
    stride: tuple[int, ...]
    numbers: int
    momentum: Tensor
    momentum_address: int


class CompiledSGD(torch.optim.SGD):
    """SGD with momentum and L2 decay, in :class:`torch.optim.SGD`'s terms and with its state.

    Steps by :func:`evolve.compiled.parameters.sgd`, which rounds a little less often; by torch's own step for parameters that the kernel cannot
    take (another device, dtype or memory order), without momentum, and for what nobody here asks for (nesterov, dampening, maximize).
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step of all parameters that have a gradient."""
        if closure is not None or not all(_plain(group) for group in self.param_groups):
            return super().step(closure)
        tables = [self._table(group) for group in self.param_groups]
        if None in tables:
            self._begin()
            return super().step()
        for group, table in zip(self.param_groups, tables, strict=True):
            assert table is not None
            dtype, entries = table
            numbers = array("f" if dtype == torch.float32 else "d", (group["lr"], group["momentum"], group["weight_decay"]))
            parameters.sgd(dtype)(entries.buffer_info()[0], len(entries) // 4, numbers.buffer_info()[0])
        return None

    def _table(self, group: dict[str, Any]) -> tuple[torch.dtype, array[int]] | None:
        """Dtype and the kernel's table of a group; None where torch has to step."""
        known: dict[int, _Known] = self.__dict__.setdefault("_known", {})  # not part of what torch copies, so made when missing
        dtype, table, kept = torch.float32, array("q"), []
        for p in group["params"]:
            if (g := p.grad) is None:
                continue
            one = known.get(id(p))
            if one is None or one.address != p.data_ptr() or one.momentum is not self.state[p].get("momentum_buffer"):
                if not _fits(p, group["params"][0].dtype):
                    return None
                one = known[id(p)] = self._look(p)
            if g.layout is not torch.strided or g.stride() != one.stride:
                g = torch.empty_like(p).copy_(g)
                kept.append(g)
            dtype = p.dtype
            table.extend((one.address, g.data_ptr(), one.momentum_address, one.numbers))
        self.__dict__["_kept"] = kept  # until the step is made
        return dtype, table

    def _begin(self) -> None:
        """Before torch steps what the kernel cannot take. Its fused step wants momentum for all parameters or for none, and on a CPU takes for granted
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
            state["momentum_buffer"] = torch.zeros_like(p) if b is None else torch.empty_like(p).copy_(b)
            b = state["momentum_buffer"]
        return _Known(p, p.data_ptr(), p.stride(), p.numel(), b, b.data_ptr())

    def zero_grad(self, set_to_none: bool = True) -> None:
        """As torch's, without its records."""
        if not set_to_none:
            super().zero_grad(set_to_none=False)
            return
        for group in self.param_groups:
            for p in group["params"]:
                p.grad = None


def _plain(group: dict[str, Any]) -> bool:
    """Whether the kernel knows what is asked for."""
    unknown = group["nesterov"] or group["dampening"] or group["maximize"] or isinstance(group["lr"], Tensor)
    return bool(group["momentum"] and not unknown)


def _fits(p: Tensor, dtype: torch.dtype) -> bool:
    """Whether the kernel takes ``p`` beside parameters of ``dtype``."""
    lies = p.is_contiguous() or p.dim() == 4 and p.is_contiguous(memory_format=torch.channels_last)
    return bool(lies and p.is_cpu and p.dtype is dtype and dtype in (torch.float32, torch.float64))
