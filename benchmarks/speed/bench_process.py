"""What a measuring process does: opens a side, runs it under a clock, times this core's sgemm."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from typing import Any

import torch

from evolve.core.machine import usable_cores
from evolve.data.resident import Resident
from evolve.data.sources import load_images
from evolve.engine.devices import choose_device, repeatable
from evolve.engine.workers import keep_memory

from .cases import Case, bilevel
from .processes import Role
from .work import Side, barrier

SGEMM_SIDE = 1024


class BenchProcess:
    """The commands of :mod:`processes`; each returns something that travels through a pipe."""

    def __init__(self, role: Role) -> None:
        self.role, self.device = role, choose_device(role.device)
        if not role.plain:
            # As the engine's workers do. The baseline keeps the defaults of torch (TF32
            # convolutions among them) and of the system.
            torch.set_num_threads(1)
            keep_memory()
            repeatable(self.device)
        self.resident = Resident(load_images(role.data, None, role.cache), self.device)
        self.side: Any = None
        self.sync = barrier(self.device)

    def facts(self) -> dict[str, Any]:
        """Threads and process number, once imports are done."""
        return {"threads": torch.get_num_threads(), "pid": os.getpid()}

    def threads(self, number: int) -> None:
        """Compute with so many threads from now on."""
        torch.set_num_threads(number)

    def open(self, case: Case, seconds: float) -> dict[str, Any]:
        """Make a case's side ready in place of an earlier one.

        Args:
            case: what is measured.
            seconds: what a choice by measuring may take.

        Returns:
            What was chosen.
        """
        self.side = None
        self.side = self._plain(case, seconds) if self.role.plain else self._ours(case)
        info: dict[str, Any] = self.side.info
        return info

    def shut(self) -> None:
        """Let go of the side: a baseline's loader processes leave."""
        self.side = None

    def prepare(self) -> None:
        """Make the side ready to run; not timed."""
        self.side.prepare()
        self.sync()

    def run(self, amount: int) -> dict[str, float]:
        """Run the side: ``images`` trained on, the ``seconds`` that took, and this process's
        ``cpu`` seconds, all threads together.
        """
        begun, worked = time.perf_counter(), time.process_time()
        images = self.side.run(amount)
        return {
            "images": images,
            "cpu": time.process_time() - worked,
            "seconds": time.perf_counter() - begun,
        }

    def overhead(self, epochs: int) -> dict[str, float]:
        """See :class:`overhead.Overhead`."""
        seconds: dict[str, float] = self.side.measure(epochs)
        return seconds

    def sgemm(self, seconds: float) -> dict[str, float]:
        """Multiply matrices of 1024 x 1024 on this process's threads, in single precision.

        Returns:
            ``flops`` and ``seconds``.
        """
        left, right, out = (torch.rand(SGEMM_SIDE, SGEMM_SIDE) for _ in range(3))
        torch.mm(left, right, out=out)
        begun, count = time.perf_counter(), 0
        while (spent := time.perf_counter() - begun) < seconds:
            torch.mm(left, right, out=out)
            count += 1
        return {"flops": 2.0 * SGEMM_SIDE**3 * count, "seconds": spent}

    def _plain(self, case: Case, seconds: float) -> Side:
        from .plain_ancestor import PlainAncestor, PlainTests
        from .plain_condenser import PlainCondenser
        from .plain_descendants import PlainDescendants

        if case.kind == "condenser":
            return PlainCondenser(case, self.resident)
        if case.kind == "tests":
            return PlainTests(case, self.resident)
        # Our own bilevel condenser, under the same conditions. It is the last case, as the process
        # keeps them.
        if case.kind == "objectives":
            from .ours import OurCondenser

            torch.set_num_threads(1)
            keep_memory()
            return OurCondenser(
                replace(case, settings=bilevel(case.settings)), self.resident, self.role.number
            )
        candidates: tuple[int, ...] = (
            (0, min(8, usable_cores())) if self.device.type == "cuda" else (0, 2)
        )
        if case.cpu_time:
            candidates = (0,)
        baseline = PlainDescendants if case.kind == "descendants" else PlainAncestor
        return baseline(case, self.resident, candidates, seconds)

    def _ours(self, case: Case) -> Any:
        from .ours import OurAncestor, OurCondenser, OurDescendants, OurTests
        from .overhead import Overhead

        if case.kind == "overhead":
            return Overhead(case, self.resident)
        kinds = {
            "descendants": OurDescendants,
            "ancestor": OurAncestor,
            "tests": OurTests,
            "condenser": OurCondenser,
            "objectives": OurCondenser,
        }
        return kinds[case.kind](case, self.resident, self.role.number)
