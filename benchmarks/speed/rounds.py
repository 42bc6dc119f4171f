"""Interleaved rounds of one case: baseline, ours, baseline, ours, ...

Every round counts that no other program disturbed; one that was disturbed is repeated.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from .cases import Case
from .machine import Watch
from .processes import Process, one_core_taken

# seconds of rest before a chunk: OpenMP threads of the one before it still spin for a while
PAUSE = 0.1
QUIET = 0.1  # cores that other programs may use while a chunk runs on a machine that counts as idle
TRIES = 2  # rounds at most, for each that is wanted


@dataclass(frozen=True)
class Pace:
    """How long to measure.

    Attributes:
        rounds: how many rounds.
        seconds: what a chunk takes, at least about.
        sgemm: seconds of matrix products before and after a chunk.
        idle: whether only undisturbed rounds count; a smoke test takes them as they come.
    """

    rounds: int
    seconds: float
    sgemm: float
    idle: bool = True


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
        The baseline's choices, the chunks' sizes and the rounds, JSON-able: ``rounds`` count,
        ``disturbed`` ones do not.
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

    def turn() -> dict[str, Any]:
        sides: dict[str, Any] = {
            "baseline": chunk([plain], amounts["baseline"]),
            "ours": chunk(team, amounts["ours"]),
        }
        if case.busy:
            return sides
        return sides | _alone(team[0], amounts["ours"], pace.sgemm if share else 0.0)

    rounds = take_rounds(turn, pace, report)
    every([plain, *team], "shut")
    return {"baseline": info, "amounts": amounts, "processes": len(team)} | rounds


def take_rounds(
    turn: Callable[[], dict[str, Any]], pace: Pace, report: Callable[[str], None]
) -> dict[str, Any]:
    """Take rounds until enough of them were undisturbed, TRIES times as many at most.

    Args:
        turn: takes one round; its chunks say under "others" how many cores other programs used.
        pace: how many rounds, and whether they must be undisturbed.
        report: told what is being done.

    Returns:
        The ``rounds`` that count, the ``disturbed`` ones, and whether the former may be
        ``quoted``: they are as many as were wanted, and this is no smoke test.
    """
    kept: list[dict[str, Any]] = []
    disturbed: list[dict[str, Any]] = []
    while len(kept) < pace.rounds and len(kept) + len(disturbed) < TRIES * pace.rounds:
        again = f", {len(disturbed)} disturbed" if disturbed else ""
        report(f"round {len(kept) + 1} of {pace.rounds}{again}")
        done = turn()
        (disturbed if pace.idle and busiest(done) > QUIET else kept).append(done)
    quoted = pace.idle and len(kept) == pace.rounds
    return {"rounds": kept, "disturbed": disturbed, "quoted": quoted}


def busiest(turn: Mapping[str, Any]) -> float:
    """The most cores that other programs used in any chunk of a round; 0 where nobody can tell."""
    parts = [part for part in (turn, *turn.values()) if isinstance(part, Mapping)]
    return max((part["others"] for part in parts if "others" in part), default=0.0)


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

    def turn() -> dict[str, Any]:
        watch = Watch()
        spent: dict[str, Any] = process.ask("overhead", epochs)
        return spent | _said(watch)

    rounds = take_rounds(turn, pace, report)
    process.ask("shut")
    return {"epochs": epochs, "processes": 1} | rounds


def _said(watch: Watch) -> dict[str, float]:
    others = watch.others()
    return {} if others is None else {"others": others}


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
        ``images`` of all, ``seconds`` until the last one is done, and ``cpu`` seconds of the
        measuring processes. ``others`` says how many cores other programs used meanwhile (Linux).
    """
    every(processes, "prepare")
    time.sleep(PAUSE)
    watch, begun = Watch(), time.perf_counter()
    done = every(processes, "run", amount)
    seconds = time.perf_counter() - begun
    spent = {name: float(sum(part[name] for part in done)) for name in ("images", "cpu")}
    return spent | {"seconds": seconds} | _said(watch)


def calibrate(processes: Sequence[Process], seconds: float) -> int:
    """The least amount whose chunk takes about ``seconds`` or longer, found after a warm-up."""
    chunk(processes, 1)
    amount = 1
    while (spent := chunk(processes, amount)["seconds"]) < 0.9 * seconds:
        amount = max(amount + 1, math.ceil(amount * seconds / spent))
    return amount
