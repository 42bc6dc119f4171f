"""The page's pictures, each with its caption and the same in a table."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from html import escape
from typing import Any

from evolve.report import figures
from evolve.report.alpha_figure import alpha_figure, has_scores
from evolve.report.compare import Row as Compared
from evolve.report.curves import LineageRecord, Summary
from evolve.report.economy_figure import economy_figure, has_economy
from evolve.report.genome_figure import genome_figure
from evolve.report.page import pictures, tables
from evolve.report.page.dots import dots_figure
from evolve.report.page.section import Section
from evolve.report.page.svg import inline
from evolve.report.page.tips import add_tips, curve_tips
from evolve.report.table import Table
from evolve.report.verdict import gain_sentence


@dataclass(frozen=True)
class Picture:
    """A figure. ``svg``: an element (or an <img>), already safe; ``table``: the same in numbers or
    words.
    """

    svg: str
    caption: str
    table: Table


def dots(section: Section, compared: Mapping[str, Sequence[Compared]], ident: str) -> str:
    """The comparison's figure; none without two rows to compare. Its tables stand below it."""
    if section.batch is None or max((len(rows) for rows in compared.values()), default=0) < 2:
        return ""
    alt = (
        "Every method's mean with its 95 % interval, and its paired difference to the reference; "
        "the tables below hold the numbers."
    )
    return inline(partial(dots_figure, section.batch.batch, compared), f"{ident}-dots", alt)


def curves(section: Section, ident: str) -> Iterator[Picture]:
    """A batch: a panel a pairing, a curve a method. Runs: the lineage with all its controls."""
    if section.batch:
        untrained = any(record.tasks > 0 for _, record in section.measured)
        for number, panel in enumerate(
            pictures.panels(section.batch.batch, section.measured), start=1
        ):
            where = f" ({panel.title})" if panel.title else ""
            labels = ", ".join(line.label for line in panel.curves)
            alt = (
                f"Evolution curves{where}: accuracy and gain by lineage length for {labels}. "
                "The table below it holds the numbers."
            )
            draw = partial(_told_panel, panel, untrained)
            svg = inline(draw, f"{ident}-curve{number}", alt)
            caption = (
                f"Evolution curves{where}: mean over seeds and descendants, bars: 95 % interval. "
                "Hollow: lineage length 0, the untrained ancestor."
            )
            yield Picture(
                svg, caption, tables.numbers(f"Numbers of the figure{where}", panel.curves)
            )
        return
    for name, records in section.varieties.items():
        summary = section.summaries[name]
        alt = (
            f"Evolution curve of {section.title}: {gain_sentence(summary)} The table below it "
            "holds the numbers."
        )
        draw = partial(_told_lineage, records, summary)
        svg = inline(draw, f"{ident}-curve", alt)
        caption = (
            "The paired gain over lineage length with its 95 % interval, below it the accuracies "
            "that it comes from and the ancestor's own."
        )
        yield Picture(
            svg, caption, tables.numbers("Numbers of the figure", pictures.lineage_curves(records))
        )


def _told_panel(panel: pictures.Panel, untrained: bool) -> Any:
    """A panel's curves, whose points say their values."""
    figure = pictures.panel_figure(panel, untrained)
    for axes, metric in zip(figure.axes, ("accuracy", "gain"), strict=False):
        add_tips(axes, curve_tips(panel.curves, metric))
    return figure


def _told_lineage(records: Sequence[LineageRecord], summary: Summary) -> Any:
    """The evolution figure, whose points say their values."""
    figure = figures.evolution_figure(records, summary)
    lines = pictures.lineage_curves(records)
    gain, accuracy, *_ = figure.axes
    add_tips(gain, curve_tips(lines, "gain"))
    add_tips(accuracy, curve_tips(lines, "accuracy", least=min(1, summary.tasks)))
    return figure


def economy(section: Section, ident: str) -> Iterator[Picture]:
    """How much of the whole ancestor's gain is in how much of its weights.

    Of a batch all cases stand in one picture.
    """
    shown = {name: records for name, records in section.varieties.items() if has_economy(records)}
    if not shown:
        return
    alt = (
        "Share of the whole ancestor's gain against share of its weights inherited; "
        "the table below it holds the numbers."
    )
    svg = inline(lambda: economy_figure(shown), f"{ident}-economy", alt)
    caption = (
        "Economy of the gene: a mark a case and lineage length; bars: 95 % interval over tasks, "
        "or seeds and tasks."
    )
    yield Picture(svg, caption, tables.economy(shown))


def alphas(varieties: Mapping[str, Sequence[LineageRecord]], ident: str) -> Iterator[Picture]:
    """A picture of the choice for every genome whose layers were scored: the paper's Figure 2."""
    for number, names in enumerate(alike(varieties), start=1):
        records, text = varieties[names[0]], "; ".join(names)
        if not has_scores(records):
            continue
        alt = (
            f"How similar every pair of layers is at each lineage length in {text}, and which "
            "layers were chosen; the table below it holds the layers' scores."
        )
        svg = inline(
            partial(alpha_figure, records, text), f"{ident}-alpha{number}", alt, themed=False
        )
        caption = (
            f"alpha of {text}: ancestor layers by pseudo-descendant layers k, on the scale of a~ "
            "(a row's largest is its a~, Eq. 9). White: 1/L; blue bars and dots: inherited."
        )
        yield Picture(svg, caption, tables.scores(text, records))


def alike(varieties: Mapping[str, Sequence[LineageRecord]]) -> list[list[str]]:
    """The names of the cases, together where they inherited the same layers by the same scores."""
    alike: dict[Any, list[str]] = {}
    for name, records in varieties.items():
        seen = tuple(
            (
                r.seed,
                tuple(
                    (g.lineage, g.all_layers, g.selected, g.status, g.scores) for g in r.generations
                ),
            )
            for r in records
        )
        alike.setdefault(seen, []).append(name)
    return list(alike.values())


def genomes(varieties: Mapping[str, Sequence[LineageRecord]], ident: str) -> Iterator[Picture]:
    """A picture for every genome; cases that are alike share one."""
    for number, names in enumerate(alike(varieties), start=1):
        records, text = varieties[names[0]], "; ".join(names)
        alt = (
            f"Which layers were inherited at each lineage length in {text}; "
            "the table below it says the same in words."
        )
        draw = partial(genome_figure, records, names[0])
        svg = inline(draw, f"{ident}-genome{number}", alt, themed=False)
        caption = (
            f"Genome of {text}: blue with a dot: inherited; grey: not; hatched: fallback layers. "
            "Bars: how large the layers are, blue as often as they were inherited. Numbers above: "
            "% of the weights inherited."
        )
        yield Picture(svg, caption, tables.genome(text, records))


def explained(section: Section) -> Iterator[Picture]:
    """What `evolve explain` drew before: nothing is computed or drawn again."""
    for line in section.lines:
        for panel in line.panels:
            where = f"{line.folder.name}, lineage length {panel.lineage}"
            alt = f"Grad-CAM's maps over images, {where}; the table below it holds their numbers."
            data = base64.b64encode(panel.png).decode()
            image = f'<img src="data:image/png;base64,{data}" alt="{escape(alt)}">'
            caption = (
                f"Grad-CAM, {where}: where the evidence for a class comes from. {panel.about}; the "
                "first of them are shown."
            )
            yield Picture(image, caption, tables.explained(panel))
