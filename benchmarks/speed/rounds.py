"""Interleaved rounds of one case: baseline, ours, baseline, ours, ... every one of them counts."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from .cases import Case
from .machine import busy_cores
from .processes import Process, one_core_taken

# seconds of rest before a chunk: OpenMP threads of the one before it still spin for a while
PAUSE = 0.1


@dataclass(frozen=True)
class Pace:
    """How long to measure.

    Attributes:
        rounds: how many rounds.
        seconds: what a chunk takes, at least about.
        sgemm: seconds of matrix products before and after a chunk.
    """

    rounds: int
    seconds: float
    sgemm: float


def measure(
    case: Case,
    plain: Process,
    ours: Sequence[Process],
    pace: Pace,
    device: str,
    report: Callable[[str], None],
) -> dict[str, Any]:
    """Measure a case.

    Args:
        case: what is measured.
        plain: the baseline's process.
        ours: our processes.
        pace: how long.
        device: "cpu" or "cuda".
        report: told what is being done.

    Returns:
        The baseline's choices, the chunks' sizes and the rounds, JSON-able.
    """
    with ExitStack() as stack:
        taken = stack.enter_context(one_core_taken()) if case.busy else None
        measured = (
            _overhead(case, ours[0], pace, report)
            if case.kind == "overhead"
            else _compare(case, plain, ours, pace, device, report)
        )
        return measured | ({"core_taken": taken} if case.busy else {})


def _compare(
    case: Case,
    plain: Process,
    ours: Sequence[Process],
    pace: Pace,
    device: str,
    report: Callable[[str], None],
) -> dict[str, Any]:
    team = list(ours) if case.together else [ours[0]]
    report("getting ready")
    info = plain.ask("open", case, 2 * pace.seconds)
    every(team, "open", case, 0.0)
    amounts = {"baseline": calibrate([plain], pace.seconds), "ours": calibrate(team, pace.seconds)}
    share = device == "cpu" and not case.busy and case.kind in ("descendants", "ancestor")
    rounds = []
    for number in range(pace.rounds):
        report(f"round {number + 1} of {pace.rounds}")
        turn: dict[str, Any] = {
            "baseline": chunk([plain], amounts["baseline"]),
            "ours": chunk(team, amounts["ours"]),
        }
        if not case.busy:
            turn |= _alone(team[0], amounts["ours"], pace.sgemm if share else 0.0)
        rounds.append(turn)
    every([plain, *team], "shut")
    return {"baseline": info, "amounts": amounts, "processes": len(team), "rounds": rounds}


def _alone(process: Process, amount: int, sgemm: float) -> dict[str, Any]:
    """Ours on one thread of an otherwise idle machine; for ``sgemm`` seconds before and after it,
    that thread's matrix products.
    """
    if not sgemm:
        return {"alone": chunk([process], amount)}
    before = process.ask("sgemm", sgemm)
    alone = chunk([process], amount)
    return {"alone": alone, "sgemm": [before, process.ask("sgemm", sgemm)]}


def _overhead(
    case: Case, process: Process, pace: Pace, report: Callable[[str], None]
) -> dict[str, Any]:
    report("getting ready")
    process.ask("open", case, 0.0)
    begun = process.ask("overhead", 2)
    epoch = begun["iterations"] / 2 * (begun["strategy"] + begun["bare"])
    epochs = max(2, math.ceil(2 * pace.seconds / epoch))
    rounds = []
    for number in range(pace.rounds):
        report(f"round {number + 1} of {pace.rounds}")
        rounds.append(process.ask("overhead", epochs))
    process.ask("shut")
    return {"epochs": epochs, "processes": 1, "rounds": rounds}


def every(processes: Sequence[Process], command: str, *arguments: Any) -> list[Any]:
    """Give a command to all processes, which work at once; their answers."""
    for process in processes:
        process.send(command, *arguments)
    return [process.answer() for process in processes]


def chunk(processes: Sequence[Process], amount: int) -> dict[str, float]:
    """Run so much in all processes at once.

    Args:
        processes: who works.
        amount: epochs or iterations.

    Returns:
        ``images`` of all and ``seconds`` until the last one is done. ``others`` says how many cores
        other programs kept busy just before, while all of ours rested (Linux).
    """
    every(processes, "prepare")
    others = busy_cores(PAUSE)
    begun = time.perf_counter()
    done = every(processes, "run", amount)
    seconds = time.perf_counter() - begun
    return {"images": float(sum(part["images"] for part in done)), "seconds": seconds} | (
        {} if others is None else {"others": others}
    )


def calibrate(processes: Sequence[Process], seconds: float) -> int:
    """The least amount whose chunk takes about ``seconds`` or longer, found after a warm-up."""
    chunk(processes, 1)
    amount = 1
    while (spent := chunk(processes, amount)["seconds"]) < 0.9 * seconds:
        amount = max(amount + 1, math.ceil(amount * seconds / spent))
    return amount
