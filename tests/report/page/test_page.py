"""The page as a browser, a screen reader and a careful reader meet it."""

from __future__ import annotations

import errno
import os
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from page_runs import NAME, make_batch, make_run

from evolve.core.errors import UserError
from evolve.report import figures
from evolve.report.page.svg import inline
from evolve.report.page.write import render
from evolve.runs.read import Reader, report_folders

VOID = {"meta", "link", "br", "hr", "img", "input"}


class Page(HTMLParser):
    """Elements as (tag, attributes, text); refuses tags that do not close."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[int] = []
        self.elements: list[tuple[str, dict[str, str | None], list[str]]] = []
        self.feed(text)
        assert not self.open, [self.elements[i][0] for i in self.open]

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.elements.append((tag, dict(attrs), []))
        if tag not in VOID:
            self.open.append(len(self.elements) - 1)

    def handle_startendtag(self, tag: str, attrs: Any) -> None:
        self.elements.append((tag, dict(attrs), []))

    def handle_endtag(self, tag: str) -> None:
        assert self.elements[self.open[-1]][0] == tag, (self.elements[self.open[-1]][0], tag)
        self.open.pop()

    def handle_data(self, data: str) -> None:
        for i in self.open:
            self.elements[i][2].append(data)

    def all(self, *tags: str) -> list[tuple[str, dict[str, str | None], str]]:
        return [
            (tag, attrs, " ".join("".join(text).split()))
            for tag, attrs, text in self.elements
            if tag in tags
        ]

    def rows(self, caption: str) -> list[list[str]]:
        """The cells of the table whose caption starts so."""
        rows, here = [], False
        for tag, _, text in self.all("caption", "tr", "th", "td"):
            if tag == "caption":
                here = text.startswith(caption)
            elif here and tag == "tr":
                rows.append([])
            elif here:
                rows[-1].append(text)
        return rows


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    make_batch(
        folder / "batch", folder / "store", seconds=3.0, cpu_seconds=2.0, together=1, resumed=False
    )
    return folder


@pytest.fixture(scope="module")
def text(place: Path) -> str:
    return report_folders([place / "batch"], place / "page.html").read_text()


@pytest.fixture(scope="module")
def page(text: str) -> Page:
    return Page(text)


def test_nothing_is_loaded_from_elsewhere(page: Page, text: str) -> None:
    for _, attrs, _ in page.all(*{tag for tag, _, _ in page.elements}):
        for name in ("src", "href", "xlink:href", "data", "action"):
            assert (attrs.get(name) or "#").startswith(("#", "data:")), attrs
    assert not re.search(r"@import|url\((?!#)", text) and not page.all("link", "iframe", "object")
    assert "default-src 'none'" in text


def test_names_are_text_and_never_markup(page: Page, text: str) -> None:
    assert len(page.all("script")) == 1 and "<script>alert" not in text
    assert page.all("h1")[0][2] == f"A batch of {NAME}"
    assert any(row[0].startswith(NAME) for row in page.rows("Comparison by accuracy"))
    assert any(NAME in label for _, _, label in page.all("text")), (
        "the legend shows it as it is, its $ no formula"
    )


def test_every_reference_of_a_picture_is_met_once(page: Page, text: str) -> None:
    ids = [
        attrs["id"]
        for _, attrs, _ in page.all(*{tag for tag, _, _ in page.elements})
        if "id" in attrs
    ]
    assert len(ids) == len(set(ids))
    links = set(re.findall(r"url\(#([^)]*)\)", text)) | set(re.findall(r'href="#([^"]*)"', text))
    assert len(links) > 5 and links <= set(ids)


def test_headings_pictures_and_tables_can_be_read_aloud(page: Page) -> None:
    levels = [int(tag[1]) for tag, _, _ in page.all("h1", "h2", "h3", "h4")]
    assert (
        levels[0] == 1
        and levels.count(1) == 1
        and all(b - a <= 1 for a, b in zip(levels, levels[1:], strict=False))
    )
    pictures = page.all("svg")
    assert len(pictures) >= 2 and all(
        attrs["role"] == "img" and attrs["aria-label"] for _, attrs, _ in pictures
    )
    assert len(page.all("caption")) == len(page.all("table")) and all(
        caption for _, _, caption in page.all("caption")
    )
    assert all(attrs.get("scope") in ("row", "col") for _, attrs, _ in page.all("th"))
    assert page.all("html")[0][1]["lang"] == "en"


def test_the_contents_list_names_every_part_once_and_in_order(page: Page) -> None:
    links = [(attrs["href"], text) for _, attrs, text in page.all("a")]
    assert links == [(f"#{attrs['id']}", text) for _, attrs, text in page.all("h2")]
    titles = [text for _, text in links]
    assert {"In short", "What was run", "Comparison", "Reproduce"} <= set(titles)
    assert not page.all("h3") and len(titles) == len(set(titles))


def test_what_was_run_is_named(page: Page) -> None:
    """The method, and what the batch's lineages changed in the shipped scenario."""
    about = page.all("p")[0][2]
    assert "naive (ancestor.strategy)" in about and "meta-network (condense.method)" in about
    changed = page.rows("What differs from the shipped scenario")
    assert ["stream.tasks", "3"] in changed and ["descend.epochs", "2 | 3"] in changed
    assert all(row[0] != "ancestor.lr" for row in changed)
    assert "ancestor.lr" in [row[0] for row in page.rows("All settings")]


def test_points_say_their_values(page: Page) -> None:
    """Those of the curves, and those of the dots that stand before the comparison's tables."""
    tips = [text for _, _, text in page.all("title")]
    assert any(tip.startswith("plain, length 2: accuracy 33.00 [") for tip in tips)
    assert any(tip.startswith(f"{NAME}: +20.00 [") and "corrected p" in tip for tip in tips)
    dots, table = (
        next(i for i, (tag, attrs, text) in enumerate(page.elements) if matches(tag, attrs, text))
        for matches in (
            lambda tag, attrs, _: (attrs.get("aria-label") or "").startswith("Every method's mean"),
            lambda tag, _, text: tag == "caption" and "Comparison by acc" in "".join(text),
        )
    )
    assert dots < table


def test_black_and_white_of_pictures_follow_the_page(page: Page, text: str) -> None:
    assert "prefers-color-scheme: dark" in text and 'content="light dark"' in text
    styles = [attrs.get("style") or "" for _, attrs, _ in page.all("path", "text", "use")]
    followed = [style for style in styles if "var(--ink)" in style or "var(--paper)" in style]
    assert len(followed) > 50


def test_tables_and_pictures_scroll_inside_their_boxes(page: Page, text: str) -> None:
    for i, (tag, _, _) in enumerate(page.elements):
        if tag in ("table", "svg"):
            assert page.elements[i - 1][1].get("class") == "box", tag
    assert ".box { overflow-x: auto" in text and 'content="width=device-width' in text


def test_bold_is_what_the_test_supports(page: Page) -> None:
    best = [text for tag, attrs, text in page.all("tr") if attrs.get("class") == "best"]
    assert len(best) == 2 and all(text.startswith(NAME) for text in best)  # in accuracy and in gain
    assert any(line.startswith(f"{NAME} has the highest accuracy") for _, _, line in page.all("li"))
    assert any(
        line.startswith(f"{NAME} is above plain in accuracy: +20.00")
        for _, _, line in page.all("li")
    )
    assert any(
        line == "Not shown to differ from plain in accuracy: from-scratch."
        for _, _, line in page.all("li")
    )


@pytest.mark.usefixtures("no_rendering")
def test_without_an_effect_nothing_is_bold(tmp_path: Path) -> None:
    for seed in range(3):
        make_run(tmp_path / f"r{seed}", tmp_path / "store", seed)
    (section,) = Reader().sections([tmp_path / f"r{seed}" for seed in range(3)])
    assert [line.case.seed for line in section.lines] == [0, 1, 2]
    page = Page(render([section]))
    assert not [attrs for _, attrs, _ in page.all("tr") if attrs.get("class") == "best"]


def test_the_numbers_of_the_figure_are_the_records(page: Page) -> None:
    rows = page.rows("Numbers of the figure")
    assert [row[0] for row in rows] == ["lineage length", "0", "1", "2", "3"]
    assert rows[0][1:3] == ["plain: accuracy (%)", f"{NAME}: accuracy (%)"]
    assert all(
        row[1].startswith("33.00 [") and row[2].startswith("53.00 [") for row in rows[1:]
    )  # 30 + the seeds' 0..2, the tasks' 0, 2, 4


def test_cost_counts_every_stage_once_and_shares_what_is_shared(page: Page) -> None:
    head, *rows, total = page.rows("Cost")
    alone, shared = head.index("alone"), head.index("with sharing")
    accumulate = head.index("accumulate")
    assert (
        all(row[accumulate] == "8.0" for row in rows) and total[accumulate] == "24.0"
    )  # 4 stages of 2 s: three ancestors, six lineages
    assert sum(float(row[shared]) for row in rows) == pytest.approx(float(total[shared]), abs=0.31)
    assert sum(float(row[alone]) for row in rows) > float(total[alone])


@pytest.mark.usefixtures("no_rendering")
def test_a_time_that_is_not_known_whole_is_a_lower_bound(tmp_path: Path) -> None:
    make_run(
        tmp_path / "new",
        tmp_path / "store",
        0,
        seconds=3.0,
        cpu_seconds=2.0,
        together=1,
        resumed=True,
    )
    make_run(tmp_path / "whole", tmp_path / "store", 1)
    page = Page(
        report_folders([tmp_path / "new", tmp_path / "whole"], tmp_path / "p.html").read_text()
    )
    head, new, whole, _ = page.rows("Cost")
    assert new[head.index("accumulate")] == "≥ 8.0" and whole[head.index("accumulate")] == "4.0"
    assert any("lower bounds" in line for _, _, line in page.all("li"))


@pytest.mark.usefixtures("no_rendering")
def test_caveats_name_what_limits_the_claims(tmp_path: Path, page: Page) -> None:
    lines = " ".join(line for _, _, line in page.all("li"))
    assert (
        "Only 3 seeds" in lines
        and "rendered characters" in lines
        and "in 9 of 9 generations the condenser was tied" in lines
    )
    make_run(tmp_path / "short", tmp_path / "store", 0, upto=1)
    make_run(tmp_path / "none", tmp_path / "store", 1, upto=-1)
    page = Page(
        report_folders([tmp_path / "short", tmp_path / "none"], tmp_path / "p.html").read_text()
    )
    lines = " ".join(line for _, _, line in page.all("li"))
    assert (
        "No result, so in no table or figure: glyphs-seq25, seed 1." in lines
        and "seed 0 (2 of 4 generations)" in lines
    )


def test_it_says_how_to_make_it_again(page: Page, place: Path) -> None:
    texts = [text for _, _, text in page.all("pre")]
    assert texts[0] == "evolve batch 'b file.toml'"
    assert (
        f"evolve run --scenario {place}/batch/plain-seed0/scenario.toml --profile paper --seed 0"
        in texts[1]
    )
    assert any(r"\begin{tabular}" in text for text in texts) and any(
        "|---|" in text for text in texts
    )
    assert ["images", "glyphs, fingerprint ffffffff"] in page.rows("Versions")
    assert ["computed with", "evolve 9, torch 2 on cpu (made up)"] in page.rows("Versions")


def test_the_same_folders_give_the_same_bytes(
    text: str, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import matplotlib

    monkeypatch.setitem(matplotlib.rcParams, "font.size", 20)
    assert report_folders([place / "batch"], place / "again.html").read_text() == text
    assert matplotlib.rcParams["font.size"] == 20 and matplotlib.rcParams["svg.fonttype"] == "path"


@pytest.mark.filterwarnings("ignore:Glyph")
def test_a_picture_holds_a_name_of_any_characters() -> None:
    name = "".join(map(chr, (*range(1, 9), *range(11, 32), 0x7F, 0x9B, 0xFFFE, 0xFFFF)))

    def draw() -> Any:
        figure = figures.new_figure(2, 1)
        figure.suptitle(f"<{name}>")
        return figure

    assert inline(draw, "s1", "a picture").startswith("<svg")


@pytest.mark.usefixtures("no_rendering")
def test_batches_and_different_runs_stand_in_sections_of_their_own(place: Path) -> None:
    make_run(place / "a", place / "store")
    make_run(place / "b", place / "store", overrides=("descend.epochs=7",))
    combined = Page(
        report_folders(
            [place / "a", place / "b", place / "batch", place / "a"], place / "all.html"
        ).read_text()
    )
    batch, *runs = [text for _, _, text in combined.all("h2")]
    assert batch == f"A batch of {NAME}" and len(runs) == 2
    assert all(text.startswith("glyphs-seq25 paper, seed 0, data.size=16") for text in runs)
    links = {attrs["href"] for _, attrs, _ in combined.all("a")}
    assert {"#s1", "#s2", "#s3", "#s1-comparison", "#s3-settings"} <= links


@pytest.mark.usefixtures("no_rendering")
def test_refusals_are_one_line(
    tmp_path: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_run(tmp_path / "none", tmp_path / "store", upto=-1)
    for folders, words in (
        ([tmp_path], "neither a run's folder"),
        ([tmp_path / "none"], "no generation has been measured yet"),
    ):
        with pytest.raises(UserError, match=words) as caught:
            report_folders(folders, tmp_path / "p.html")
        assert "\n" not in str(caught.value)
    (tmp_path / "taken").write_text("x")
    with pytest.raises(UserError, match="taken"):
        report_folders([place / "batch"], tmp_path / "taken" / "p.html")

    replace = os.replace

    def full(source: Path, target: Path) -> None:
        if Path(target).suffix == ".html":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        replace(source, target)

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(
        UserError, match=r"full\.html: cannot be written \(No space left on device\)"
    ):
        report_folders([place / "batch"], place / "full.html")
