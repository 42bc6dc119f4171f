"""Which continual strategies there are: their arguments, the heads they work with, and why the others cannot run here.

Imports neither torch nor Avalanche, so that settings and the command line may read it; ``evolve.strategies`` holds the strategies.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from evolve.errors import UserError

if TYPE_CHECKING:
    from evolve.settings import AncestorSettings

ALL = ("shared", "per-task", "single")
SEPARATE = ("single", "per-task")
CONTRADICTS = "a class that recurs has another label in each task, so earlier images would contradict new ones"


@dataclass(frozen=True)
class Argument:
    """What a scenario may write under ``ancestor.strategy_args``: a number from ``least`` to ``most``, or one of ``choices``."""

    default: Any
    kind: type = float
    least: float = 0
    most: float = math.inf
    choices: tuple[str, ...] = ()

    def fits(self, value: Any) -> bool:
        if self.kind is str:
            return value in self.choices
        if self.kind is bool:
            return isinstance(value, bool)
        number = isinstance(value, int if self.kind is int else (int, float)) and not isinstance(value, bool)
        return number and self.least <= value <= self.most and math.isfinite(value)

    def allowed(self) -> str:
        """The rest of an error's sentence."""
        if self.kind is str:
            return f"allowed are {', '.join(self.choices)}"
        if self.kind is bool:
            return "expected true or false"
        limits = f"of at least {self.least:g}" if self.most == math.inf else f"from {self.least:g} to {self.most:g}"
        return f"expected {'a whole number' if self.kind is int else 'a number'} {limits}"


@dataclass(frozen=True)
class Strategy:
    """A strategy's arguments, the heads it works with and ``why`` not the others."""

    arguments: Mapping[str, Argument] = field(default_factory=dict)
    heads: tuple[str, ...] = ALL
    why: str = ""


TABLE: dict[str, Strategy] = {
    "naive": Strategy(),
    "ewc": Strategy(
        {
            "ewc_lambda": Argument(1.0),
            "mode": Argument("separate", str, choices=("separate", "online")),
            "decay_factor": Argument(None, most=1),
        }
    ),
    "si": Strategy({"si_lambda": Argument(1.0), "eps": Argument(1e-7, least=1e-30)}),
    "lwf": Strategy({"alpha": Argument(1.0), "temperature": Argument(2.0, least=1e-3)}),
    "replay": Strategy({"mem_size": Argument(200, int, 1)}, SEPARATE, CONTRADICTS),
    "cumulative": Strategy(heads=SEPARATE, why=CONTRADICTS),
    "joint": Strategy(),
}
STRATEGIES = tuple(TABLE)


def check_strategy(a: AncestorSettings) -> dict[str, Any]:
    """The strategy's arguments with their defaults. Raises UserError naming the argument, or the strategy that cannot
    work with the head, what is allowed and why.
    """
    known = TABLE[a.strategy]
    if a.head not in known.heads:
        heads = " or ".join(f'"{head}"' for head in known.heads)
        raise UserError(f'ancestor.head = "{a.head}" with ancestor.strategy = "{a.strategy}": {known.why}; set ancestor.head to {heads}')
    for name, value in a.strategy_args.items():
        _check_argument(a.strategy, name, value, known.arguments)
    chosen = {name: argument.default for name, argument in known.arguments.items()} | dict(a.strategy_args)
    if a.strategy == "ewc" and (chosen["mode"] == "online") != (chosen["decay_factor"] is not None):
        raise UserError('ancestor.strategy_args.decay_factor: needed with mode = "online", and only there; a number from 0 to 1')
    return chosen


def _check_argument(strategy: str, name: str, value: Any, known: Mapping[str, Argument]) -> None:
    where = f"ancestor.strategy_args.{name}"
    if name not in known:
        allowed = f"it takes {', '.join(sorted(known))}" if known else "it takes none"
        raise UserError(f"{where}: not an argument of strategy {strategy}; {allowed}")
    if not known[name].fits(value):
        raise UserError(f"{where} = {value!r}: {known[name].allowed()}")
