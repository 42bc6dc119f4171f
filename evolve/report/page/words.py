"""The page's sentences: what the data support, and what a reader must keep in mind.

Nothing is claimed that a test does not carry.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from evolve.report.compare import Batch
from evolve.report.compare import Row as Compared
from evolve.report.compare_tables import METRIC_WORDS, cells, power_words, reference_of
from evolve.report.curves import SEEDS_WANTED, title
from evolve.report.economy import economy, economy_sentence
from evolve.report.page.section import Section
from evolve.report.page.tables import timed
from evolve.report.trends import SEEDS_AS_UNITS
from evolve.report.verdict import gain_sentence, verdict


def about(section: Section) -> str:
    """What was measured, in a sentence."""
    if section.batch:
        batch, seeds = section.batch.batch, sorted({line.case.seed for line in section.lines})
        return (
            f"Batch {batch.name}, profile {batch.profile}: {len(batch.cases)} lineages, "
            f"{len(batch.methods)} values of {batch.method}, "
            f"seeds {', '.join(map(str, seeds))}; {len(section.measured)} lineages have results."
        )
    record = section.lines[0].record
    name = title(record.scenario, record.profile, [line.case.seed for line in section.lines], ())
    tasks = f"{record.tasks} task{'' if record.tasks == 1 else 's'}"
    return f"{name}: {tasks} learned by the ancestor, measured at {_lengths(section)}."


def _lengths(section: Section) -> str:
    """The lineage lengths that any of the runs has measured."""
    there = sorted({g.lineage for line in section.lines for g in line.record.generations})
    if there and there == list(range(there[0], there[-1] + 1)) and len(there) > 2:
        return f"lengths {there[0]} to {there[-1]}"
    return f"length{'' if len(there) == 1 else 's'} {', '.join(map(str, there))}"


def findings(batch: Batch, tables: Mapping[str, Sequence[Compared]]) -> list[str]:
    """The comparison in words.

    First the differences that hold after correction, then those that do not, then whether one row
    is best.

    Args:
        batch: the batch.
        tables: metric -> rows of the comparison.
    """
    lines = []
    for metric, rows in tables.items():
        reference, name = reference_of(batch, rows), METRIC_WORDS[metric]
        held = [row for row in rows if row.difference and row.difference.side]
        lines += [_difference(row, name, reference) for row in held]
        others = [row.method for row in rows if row.difference and row not in held]
        if others:
            lines.append(f"Not shown to differ from {reference} in {name}: {', '.join(others)}.")
        best = next((row for row in rows if row.best), None)
        if best:
            lines.append(
                f"{best.method} has the highest {name}; "
                "its difference to every other row is supported after correction."
            )
        elif len(rows) > 1:
            lines.append(f"No row is shown to be better in {name} than all the others.")
        if power := power_words(metric, rows):
            lines.append(power)
    return lines


def _difference(row: Compared, metric: str, reference: str) -> str:
    _, gap, p, _ = cells(row)
    assert row.difference is not None, "only rows with a difference are told of"
    side = "above" if row.difference.side > 0 else "below"
    return (
        f"{row.method} is {side} {reference} in {metric}: {gap} points "
        f"(corrected p {p if p.startswith('<') else f'= {p}'})."
    )


def verdicts(section: Section) -> list[tuple[str, str]]:
    """What each case's lineages show, pooled over seeds.

    Returns:
        (case, sentences).
    """
    return [
        (
            name,
            f"{gain_sentence(summary)} {economy_sentence(economy(section.varieties[name]))} "
            f"{verdict(summary)}",
        )
        for name, summary in section.summaries.items()
    ]


def caveats(section: Section) -> list[str]:
    """What limits the page's claims, most important first."""
    return [*_seeds(section), *_unfinished(section), *_generations(section), *_origins(section)]


def _seeds(section: Section) -> Iterator[str]:
    seeds = sorted({case.seed for case, _ in section.measured})
    if not seeds:
        return
    named = f"{len(seeds)} seed{'s' if len(seeds) > 1 else ''}"
    if section.batch and len(seeds) < SEEDS_AS_UNITS:
        yield (
            f"Only {named}: the tests count downstream tasks, not seeds, "
            "so they speak of these ancestors only."
        )
    elif len(seeds) < SEEDS_AS_UNITS:
        yield (
            f"Only {named}: a trend speaks of these ancestors and their tasks only; "
            f"from {SEEDS_AS_UNITS} seeds on it speaks of others."
        )
    elif len(seeds) < SEEDS_WANTED:
        yield f"Only {named}: intervals over so few are wide; {SEEDS_WANTED} are wanted."


def _unfinished(section: Section) -> Iterator[str]:
    nothing = [
        _named(line.case.name, line.case.seed)
        for line in section.lines
        if not line.record.generations
    ]
    if nothing:
        yield f"No result, so in no table or figure: {'; '.join(nothing)}."
    partly = []
    for line in section.lines:
        there, wanted = len(line.record.generations), len(line.record.lengths)
        if 0 < there < wanted:
            partly.append(
                f"{_named(line.case.name, line.case.seed)} ({there} of {wanted} generations)"
            )
    if partly:
        yield f"Unfinished; curves show only lengths that all seeds have: {'; '.join(partly)}."


def _generations(section: Section) -> Iterator[str]:
    for name, summary in section.summaries.items():
        start = f"{name}: " if section.batch else ""
        if summary.fallbacks:
            yield (
                f"{start}in {summary.fallbacks} of {summary.measured} generations the condenser "
                "was tied or had collapsed; "
                "the fallback layers were inherited (hatched in the genome picture)."
            )
        if summary.diverged:
            yield (
                f"{start}{summary.diverged} descendants diverged (the loss was not finite); "
                "their accuracy is chance and stands in the means."
            )
    drawing = [line for line in section.lines if line.draws]
    if any(
        g.status == "selected" and g.agreement is None
        for line in drawing
        for g in line.record.generations
    ):
        yield (
            "Layers were selected from one condensation each (condense.repeats = 1): "
            "whether another pseudo-descendant would choose the same is not known."
        )


def _origins(section: Section) -> Iterator[str]:
    if any(line.case.scenario.settings.data.source == "glyphs" for line in section.lines):
        yield (
            "The images are rendered characters: they show how the instrument works and are no "
            "evidence about photographs."
        )
    if len(section.makers) > 1:
        yield (
            f"Results come from different versions or devices ({'; '.join(section.makers)}); "
            "bit equality holds only within one."
        )
    if not timed(section.lines):
        yield "Some times are lower bounds (≥): the stage went on after an interruption."


def _named(case: str, seed: int) -> str:
    return f"{case}, seed {seed}"
