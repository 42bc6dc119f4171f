"""`evolve bench --answer`: CPU seconds until five seeds say how much inheriting gains.

The pieces of a lineage are timed in interleaved chunks, ours and what a user would otherwise write,
and added up as often as a lineage's plan has them; finished lineages say how much the gain spreads,
hence how many of them an answer takes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

from evolve.core.durable import to_json, write_whole
from evolve.core.errors import UserError
from evolve.core.version import __version__
from evolve.data.sources import load_images
from evolve.engine.devices import choose_device

from .bench import cache, check_json, refuse, say, wide
from .evidence import Finished, finished, published
from .machine import describe
from .pieces import MANY, ONE, OURS, Piece, Row, measure_piece, pieces, rows
from .precision import SEEDS, WANTED, Cost, Design, Variance, answering, designs
from .processes import crew
from .report import disturbances
from .rounds import Pace
from .summary import Spread

ROUNDS = 5
TARGET, AIM = 10.0, 20.0  # times fewer CPU seconds than the baseline


def answer_bench(
    only: Sequence[str],
    rounds: int | None,
    quick: bool,
    device: str,
    runs: Sequence[Path],
    json_file: Path | None,
) -> None:
    """Measure and print the table of answers.

    Args:
        only: names of pieces, for their times alone; none: all, and what follows from them.
        rounds: how many rounds a piece; None: the usual number.
        quick: a smoke test.
        device: "auto" or "cpu".
        runs: folders of finished runs or batches; none: the published lineages.
        json_file: where all numbers are written, whole, after every piece.

    Raises:
        UserError: an option is wrong, the runs cannot be timed, or the machine was not idle.
    """
    check_json(json_file)
    if device == "cuda":
        raise UserError("--answer counts CPU seconds: give --device cpu, or leave it out")
    lineages, source = finished(runs) if runs else published()
    every_piece = pieces(lineages, quick)
    chosen = _chosen(every_piece, only)
    pace = Pace(rounds or (1 if quick else ROUNDS), 0.0, 0.0, idle=not quick)
    about = {
        "evolve": __version__,
        "machine": describe(choose_device("cpu")),
        "pace": asdict(pace),
        "quick": quick,
        "lineages": source,
    }
    measured = _measured(chosen, pace, about, json_file)
    answer = Answer.of(lineages, measured, every_piece) if len(chosen) == len(every_piece) else None
    if answer:
        quoted = {"quoted": all(taken["quoted"] for taken in measured.values())}
        _write(json_file, about | quoted | {"pieces": measured} | answer.as_json())
    _print(about, measured, answer)
    refuse([name for name, taken in measured.items() if not taken["quoted"]], pace)


def _measured(
    chosen: Sequence[Piece], pace: Pace, about: dict[str, Any], json_file: Path | None
) -> dict[str, dict[str, Any]]:
    """Time the pieces one after the other; ``about`` learns torch's own number of threads."""
    data = chosen[0].case.settings.data
    measured: dict[str, dict[str, Any]] = {}
    with cache() as place, Console(stderr=True).status("starting") as status:
        with crew("cpu", place, 1, data) as (plain, (ours,)):
            status.update("drawing the images")
            load_images(data, None, place)
            threads = plain.ask("facts")["threads"]
            about["machine"] |= {"baseline_threads": threads}
            for piece in chosen:
                report = partial(say, status, piece.name)
                measured[piece.name] = measure_piece(piece, plain, ours, threads, pace, report)
                _write(json_file, about | {"pieces": measured})
    return measured


def _chosen(every_piece: Sequence[Piece], only: Sequence[str]) -> list[Piece]:
    names = [piece.name for piece in every_piece]
    for name in only:
        if name not in names:
            raise UserError(f"--only {name}: no such piece; there are {', '.join(names)}")
    return [piece for piece in every_piece if not only or piece.name in only]


def _write(file: Path | None, content: Mapping[str, Any]) -> None:
    if file is not None:
        write_whole(file, to_json(content), "--json")


@dataclass(frozen=True)
class Answer:
    """What all pieces together say.

    Attributes:
        table: the kinds of stages of one lineage.
        variance: how the gain spreads.
        costs: of one lineage, by side.
        ways: designs by name.
        design: the five-seed protocol that answers; None: there is none.
    """

    table: list[Row]
    variance: Variance
    costs: dict[str, Cost]
    ways: dict[str, Design | None]
    design: Design | None

    @staticmethod
    def of(
        lineages: Sequence[Finished],
        measured: Mapping[str, Mapping[str, Any]],
        timed: Sequence[Piece],
    ) -> Answer:
        """Add the pieces up.

        Args:
            lineages: whose stages are counted, and whose gains spread.
            measured: by piece, what was measured.
            timed: the pieces.
        """
        table, variance = rows(lineages, measured, timed), Variance.of(lineages)
        costs = {side: _cost(table, side, variance.design) for side in table[0].seconds}
        ways = designs(variance, costs[OURS])
        return Answer(table, variance, costs, ways, answering(variance, ways))

    def ratio(self, side: str) -> Spread:
        """A lineage's CPU seconds on a side over ours: median and range of the rounds."""
        totals = {
            each: [
                sum(turn) for turn in zip(*(row.seconds[each] for row in self.table), strict=False)
            ]
            for each in (side, OURS)
        }
        return Spread.of([a / b for a, b in zip(totals[side], totals[OURS], strict=True)])

    def best_draws(self, side: str) -> float:
        """See :meth:`Variance.best_draws`."""
        return self.variance.best_draws(self.costs[side].task, self.costs[side].draw)

    def as_json(self) -> dict[str, Any]:
        """Plain types."""
        named = {**self.ways, "the answer": self.design}
        return {
            "stages": [
                {
                    "stage": row.title,
                    "a_lineage": row.count,
                    "cpu_seconds": {side: row.middle(side) for side in row.seconds},
                }
                for row in self.table
            ],
            "variance": asdict(self.variance),
            "ratio": {side: asdict(self.ratio(side)) for side in self.costs if side != OURS},
            "best_draws": {side: self.best_draws(side) for side in self.costs},
            "designs": {
                name: asdict(design)
                | {
                    "half_width": self.variance.half(design),
                    "student": self.variance.student(design),
                    "cpu_seconds": {side: cost.of(design) for side, cost in self.costs.items()},
                }
                for name, design in named.items()
                if design
            },
        }


def _cost(table: Sequence[Row], side: str, shipped: Design) -> Cost:
    part = {
        name: sum(row.middle(side) for row in table if row.part == name)
        for name in ("chain", "task", "draw")
    }
    return Cost(
        part["chain"],
        part["task"] / shipped.tasks,
        part["draw"] / shipped.tasks / shipped.draws,
    )


def _print(
    about: Mapping[str, Any], measured: Mapping[str, Mapping[str, Any]], answer: Answer | None
) -> None:
    console, machine = wide(), about["machine"]
    quoted = about["quick"] or all(taken["quoted"] for taken in measured.values())
    lines = [
        f"{machine['cpu']}, {machine['cores']} cores, {machine['capability']}; torch "
        f"{machine['torch']}, Python {machine['python']}",
        "CPU seconds, one process after the other; "
        f"{about['pace']['rounds']} interleaved rounds, medians (least..most)",
    ]
    lines += ["--quick: a smoke test, too short to quote"] if about["quick"] else []
    for line in lines:
        console.print(line, highlight=False)
    if not quoted:
        console.print("[red]disturbed: not quoted[/]")
    elif answer is None:
        console.print(_pieces(measured), highlight=False)
    else:
        for table in (_stages(answer), _answers(answer)):
            console.print(table, highlight=False)
            console.print()
        for line in _words(answer, about["lineages"]):
            console.print(line, highlight=False)
    for line in disturbances(measured):
        console.print(line, style="dim", highlight=False)


def _grid(*titles: str) -> Table:
    grid = Table(box=None, pad_edge=False)
    for title in titles:
        grid.add_column(title, justify="left" if not title else "right", no_wrap=True)
    return grid


def _pieces(measured: Mapping[str, Mapping[str, Any]]) -> Table:
    """Pieces alone: CPU milliseconds an image, and the ratios."""
    grid = _grid("", "ours, ms an image", "baseline, one thread", "times")
    for name, taken in measured.items():
        each = [
            {side: 1000 * part["cpu"] / part["images"] for side, part in turn.items()}
            for turn in taken["rounds"] or taken["disturbed"]
        ]
        ours, plain = (median(turn[side] for turn in each) for side in (OURS, ONE))
        ratio = Spread.of([turn[ONE] / turn[OURS] for turn in each])
        grid.add_row(name, f"{ours:.3f}", f"{plain:.3f}", _times(ratio))
    return grid


def _stages(answer: Answer) -> Table:
    sides = [side for side in (OURS, ONE, MANY) if side in answer.costs]
    heads = {OURS: "ours, s", ONE: "baseline, s", MANY: "with torch's threads, s"}
    grid = _grid("", "a lineage", *(heads[side] for side in sides), "baseline / ours")
    for row in answer.table:
        ratio = Spread.of([a / b for a, b in zip(row.seconds[ONE], row.seconds[OURS], strict=True)])
        values = (f"{row.middle(side):,.0f}" for side in sides)
        grid.add_row(row.title, f"{row.count:.4g}", *values, _times(ratio))
    totals = (f"{sum(row.middle(side) for row in answer.table):,.0f}" for side in sides)
    grid.add_row("one lineage", "", *totals, _times(answer.ratio(ONE)))
    return grid


def _answers(answer: Answer) -> Table:
    grid = _grid(
        "", "seeds", "tasks", "draws", "±, points", "Student's ±", "ours, s", "baseline, s", "times"
    )
    for name, design in {**answer.ways, f"the answer, ± {WANTED:g}": answer.design}.items():
        if design is None:
            grid.add_row(name, *["-"] * 8)
            continue
        ours, plain = (answer.costs[side].of(design) for side in (OURS, ONE))
        widths = (answer.variance.half(design), answer.variance.student(design))
        grid.add_row(
            name,
            *map(str, (design.seeds, design.tasks, design.draws)),
            *(f"{width:.2f}" for width in widths),
            f"{ours:,.0f}",
            f"{plain:,.0f}",
            f"{plain / ours:.1f}x",
        )
    return grid


def _words(answer: Answer, source: str) -> list[str]:
    v, shipped = answer.variance, answer.variance.design
    deviations = (value**0.5 for value in (v.lineage, v.task, v.draw))
    spread = "standard deviations {:.1f} points between lineages, {:.1f} between tasks, {:.1f} "
    verdict = ""
    if answer.design:
        ours, plain = (answer.costs[side].of(answer.design) for side in (OURS, ONE))
        reached = plain / ours
        verdict = "aim met" if reached >= AIM else "met" if reached >= TARGET else "missed"
    times = "; ".join(
        f"{_times(answer.ratio(side))} with {name}"
        for side, name in ((ONE, "one thread"), (MANY, "torch's own threads"))
        if side in answer.costs
    )
    return [
        f"goal: {TARGET:g} times fewer CPU seconds to an answer, aim {AIM:g}: {verdict}",
        f"baseline / ours, a lineage: {times}",
        f"spread: {source}",
        spread.format(*deviations) + f"between draws; the {shipped.seeds} lineages' own interval "
        f"is {v.mean:+.2f} ± {v.printed:.2f}, by the model ± {v.half(shipped):.2f}",
        f"±: as `evolve summary` prints it (seeds, then tasks); Student's: over {SEEDS} seeds' means",
        "from-scratch draws that buy most: "
        + ", ".join(
            f"{answer.best_draws(side):.1f} {name}"
            for side, name in ((OURS, "ours"), (ONE, "baseline"))
        )
        + f"; shipped: {shipped.draws}",
    ]


def _times(ratio: Spread) -> str:
    return f"{ratio.median:.1f}x ({ratio.least:.1f}..{ratio.most:.1f})"
