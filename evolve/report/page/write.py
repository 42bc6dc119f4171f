"""Makes the page: figures, tables and words section by section, filled into the template.

The file is replaced whole. The same folders and store give the same bytes.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evolve.core.durable import result_folder, write_whole
from evolve.core.shipped import shipped
from evolve.core.terminal import quoted
from evolve.core.version import __version__
from evolve.report import compare_tables as finish
from evolve.report.alpha_figure import has_scores
from evolve.report.batch.figure import batch_figure
from evolve.report.compare import METRICS, compare
from evolve.report.economy import learning, learning_sentence
from evolve.report.page import gallery, tables, words
from evolve.report.page.section import Section
from evolve.report.page.svg import inline
from evolve.report.settings import changed, method_words, shared

if TYPE_CHECKING:
    from jinja2 import Environment

PAGE = "report.html"
# What _part names -> its heading, in the page's order
PARTS = {
    "about": "In short",
    "figure": "The picture",
    "findings": "What the comparison supports",
    "caveats": "Caveats",
    "settings": "What was run",
    "comparison": "Comparison",
    "curves": "Evolution curves",
    "lineages": "What the lineages show",
    "economy": "Economy of the gene",
    "learning": "Learning",
    "controls": "Controls",
    "fewshot": "Few-shot learners",
    "choice": "The choice of the learngene",
    "genomes": "Genomes",
    "explained": "Where the networks look",
    "cost": "Cost",
    "rerun": "Reproduce",
}


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
    result_folder(out.parent, "report")
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
    part = dict(
        ident=ident,
        title=section.title,
        about=words.about(section),
        settings=_settings(section),
        findings=words.findings(held.batch, compared) if held else [],
        figure=_figure(section, ident),
        verdict=[] if held else [line for _, line in verdicts],
        lineages=verdicts if held else [],
        caveats=words.caveats(section),
        dots=gallery.dots(section, compared, ident),
        comparison=tables.comparison(held.batch, compared) if held else [],
        note=finish.note(held.batch, compared) if held else "",
        sources=list(_sources(section, compared)),
        **_results(section, ident),
        **_origins(section),
    )
    there = {name for name in PARTS if part[name]} | {"cost"}
    there |= {"choice"} if part["unscored"] else set()
    return part | {"contents": {name: title for name, title in PARTS.items() if name in there}}


def _settings(section: Section) -> dict[str, Any]:
    """The method, what differs from the shipped scenario, and all settings."""
    records = [line.record for line in section.lines]
    return dict(
        method=method_words(records),
        changed=tables.settings("What differs from the shipped scenario", changed(records)),
        own=sorted({record.scenario for record in records} - set(shipped("scenario"))),
        every=tables.settings("All settings", shared(records)),
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
        curves=list(gallery.curves(section, ident)),
        economy=list(gallery.economy(section, ident)),
        learning=[
            (name, line)
            for name, records in varieties.items()
            if (line := learning_sentence(learning(records)))
        ],
        controls=[table for table in controls if table],
        fewshot=tables.fewshot(varieties),
        choice=list(gallery.alphas(varieties, ident)),
        unscored=[
            "; ".join(names)
            for names in gallery.alike(varieties)
            if not has_scores(varieties[names[0]])
        ],
        genomes=list(gallery.genomes(varieties, ident)),
        explained=list(gallery.explained(section)),
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
