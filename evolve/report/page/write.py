"""Makes the page: figures, tables and words section by section, filled into the template.

The file is replaced whole. The same folders and store give the same bytes.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evolve.core.durable import write_whole
from evolve.core.errors import UserError
from evolve.core.terminal import quoted
from evolve.core.version import __version__
from evolve.report import compare_tables as finish
from evolve.report import figures
from evolve.report.alpha_figure import alpha_figure, has_scores
from evolve.report.batch.figure import batch_figure
from evolve.report.compare import METRICS, compare
from evolve.report.curves import LineageRecord
from evolve.report.economy import learning, learning_sentence
from evolve.report.economy_figure import economy_figure, has_economy
from evolve.report.genome_figure import genome_figure
from evolve.report.page import pictures as curves
from evolve.report.page import tables, words
from evolve.report.page.section import Section
from evolve.report.page.svg import inline
from evolve.report.table import Table
from evolve.report.verdict import gain_sentence

if TYPE_CHECKING:
    from jinja2 import Environment

PAGE = "report.html"


@dataclass(frozen=True)
class Picture:
    """A figure. ``svg``: an element (or an <img>), already safe; ``table``: the same in numbers or
    words.
    """

    svg: str
    caption: str
    table: Table


@dataclass(frozen=True)
class Source:
    """A text to copy."""

    title: str
    text: str


def write_page(sections: Sequence[Section], out: Path) -> Path:
    """Write the page.

    Args:
        sections: what it tells about.
        out: the HTML file; its folder is made where it is not there.

    Returns:
        The file.

    Raises:
        UserError: the file cannot be written.
    """
    page = render(sections).encode(errors="backslashreplace")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"report {out}: its folder cannot be made ({error.strerror or error}); "
            "give another --out"
        ) from error
    return write_whole(out, page, "report")


def render(sections: Sequence[Section]) -> str:
    """The page's HTML. Everything in it but the figures is escaped by the template."""
    parts = [_part(section, f"s{number}") for number, section in enumerate(sections, start=1)]
    title = parts[0]["title"] if len(parts) == 1 else f"{len(parts)} reports"
    environment = _environment()
    assert environment.loader is not None, "_environment gives it one"
    own: dict[str, Any] = {
        name: environment.loader.get_source(environment, f"page.{name}")[0]
        for name in ("css", "js")
    }
    return environment.get_template("page.html").render(
        parts=parts, title=title, evolve=__version__, **own
    )


def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    return Environment(
        loader=PackageLoader("evolve.report.page", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def _part(section: Section, ident: str) -> dict[str, Any]:
    """What the template shows of one section, by name."""
    held = section.batch
    compared = (
        {metric: compare(held.batch, section.measured, metric) for metric in METRICS}
        if held
        else {}
    )
    verdicts = words.verdicts(section)
    return dict(
        ident=ident,
        title=section.title,
        about=_about(section),
        findings=words.findings(held.batch, compared) if held else [],
        figure=_figure(section, ident),
        verdict=[] if held else [line for _, line in verdicts],
        lineages=verdicts if held else [],
        caveats=words.caveats(section),
        comparison=tables.comparison(held.batch, compared) if held else [],
        note=finish.note(held.batch, compared) if held else "",
        sources=list(_sources(section, compared)),
        **_results(section, ident),
        **_origins(section),
    )


def _figure(section: Section, ident: str) -> dict[str, Any] | None:
    """The picture that a batch's file names, with its tables."""
    shown = batch_figure(section.batch.batch, section.measured) if section.batch else None
    if shown is None:
        return None
    alt = f"{shown.caption} The tables below it hold the numbers."
    svg = inline(shown.draw, f"{ident}-figure", alt)
    return dict(svg=svg, caption=shown.caption, tables=shown.tables)


def _results(section: Section, ident: str) -> dict[str, Any]:
    """Figures, and the tables that belong to no comparison."""
    varieties = section.varieties
    controls = (tables.effects(section.summaries), tables.ancestors(varieties))
    return dict(
        curves=list(_curves(section, ident)),
        economy=list(_economy(section, ident)),
        learning=[
            (name, line)
            for name, records in varieties.items()
            if (line := learning_sentence(learning(records)))
        ],
        controls=[table for table in controls if table],
        fewshot=tables.fewshot(varieties),
        alphas=list(_alphas(varieties, ident)),
        unscored=[
            "; ".join(names) for names in _alike(varieties) if not has_scores(varieties[names[0]])
        ],
        genomes=list(_genomes(varieties, ident)),
        explained=list(_explained(section)),
        cost=tables.cost(section.lines),
    )


def _origins(section: Section) -> dict[str, Any]:
    """Where the results come from, and how to compute them again."""
    held = section.batch
    images = {
        f"{line.case.scenario.settings.data.source}, fingerprint {line.facts['fingerprint']}"
        for line in section.lines
    }
    return dict(
        commands=_commands(section),
        versions=held.versions if held else section.lines[0].facts["versions"],
        makers=section.makers,
        images=sorted(images),
        rerun=[line.again for line in section.lines],
    )


def _about(section: Section) -> str:
    if section.batch:
        batch, seeds = section.batch.batch, sorted({line.case.seed for line in section.lines})
        return (
            f"Batch {batch.name}, profile {batch.profile}: {len(batch.cases)} lineages, "
            f"{len(batch.methods)} values of {batch.method}, "
            f"seeds {', '.join(map(str, seeds))}; {len(section.measured)} lineages have results."
        )
    seeds = [line.case.seed for line in section.lines]
    return (
        f"{section.lines[0].case.scenario.settings.title or section.lines[0].record.scenario}; "
        f"seed {', '.join(map(str, seeds))}."
    )


def _curves(section: Section, ident: str) -> Iterator[Picture]:
    """A batch: a panel a pairing, a curve a method. Runs: the lineage with all its controls."""
    if section.batch:
        untrained = any(record.tasks > 0 for _, record in section.measured)
        for number, panel in enumerate(
            curves.panels(section.batch.batch, section.measured), start=1
        ):
            where = f" ({panel.title})" if panel.title else ""
            labels = ", ".join(line.label for line in panel.curves)
            alt = (
                f"Evolution curves{where}: accuracy and gain by lineage length for {labels}. "
                "The table below it holds the numbers."
            )
            draw = partial(curves.panel_figure, panel, untrained)
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
        draw = partial(figures.evolution_figure, records, summary)
        svg = inline(draw, f"{ident}-curve", alt)
        caption = (
            "Evolution curve with every control, the paired gain and the ancestor. Band: "
            "95 % of the descendants."
        )
        yield Picture(
            svg, caption, tables.numbers("Numbers of the figure", curves.lineage_curves(records))
        )


def _economy(section: Section, ident: str) -> Iterator[Picture]:
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


def _alphas(varieties: Mapping[str, Sequence[LineageRecord]], ident: str) -> Iterator[Picture]:
    """A picture of the choice for every genome whose layers were scored: the paper's Figure 2."""
    for number, names in enumerate(_alike(varieties), start=1):
        records, text = varieties[names[0]], "; ".join(names)
        if not has_scores(records):
            continue
        alt = (
            f"How similar every pair of layers is at each lineage length in {text}, and which "
            "layers were chosen; the table below it holds the layers' scores."
        )
        svg = inline(partial(alpha_figure, records, text), f"{ident}-alpha{number}", alt)
        caption = (
            f"alpha of {text}: ancestor layers by pseudo-descendant layers k, on the scale of a~ "
            "(a row's largest is its a~, Eq. 9). White: 1/L; blue bars and dots: inherited."
        )
        yield Picture(svg, caption, tables.scores(text, records))


def _alike(varieties: Mapping[str, Sequence[LineageRecord]]) -> list[list[str]]:
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


def _genomes(varieties: Mapping[str, Sequence[LineageRecord]], ident: str) -> Iterator[Picture]:
    """A picture for every genome; cases that are alike share one."""
    for number, names in enumerate(_alike(varieties), start=1):
        records, text = varieties[names[0]], "; ".join(names)
        alt = (
            f"Which layers were inherited at each lineage length in {text}; "
            "the table below it says the same in words."
        )
        draw = partial(genome_figure, records, names[0])
        svg = inline(draw, f"{ident}-genome{number}", alt)
        caption = (
            f"Genome of {text}: blue with a dot: inherited; grey: not; hatched: fallback layers."
        )
        yield Picture(svg, caption, tables.genome(text, records))


def _explained(section: Section) -> Iterator[Picture]:
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


def _commands(section: Section) -> list[str]:
    """The commands that started it, as typed, each once."""
    typed = (
        [section.batch.command]
        if section.batch
        else [tuple(line.facts["command"]) for line in section.lines]
    )
    return [f"evolve {quoted(words[1:])}" for words in dict.fromkeys(typed) if words]


def _sources(section: Section, compared: Mapping[str, Any]) -> Iterator[Source]:
    if section.batch is None:
        return
    yield Source("Tables as Markdown", finish.markdown(section.batch.batch, compared))
    yield Source("Tables as LaTeX", finish.latex(section.batch.batch, compared))
    if section.batch.text:
        yield Source(
            f"The batch file, {os.path.basename(section.batch.batch.origin)}", section.batch.text
        )
