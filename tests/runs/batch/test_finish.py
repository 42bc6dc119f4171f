"""What a batch writes and prints, whatever its names are."""

from __future__ import annotations

import numpy as np
import pytest
from test_compare import SCENARIO, record

from evolve.report import compare as room
from evolve.report.compare import Batch, Case
from evolve.report.compare_tables import latex, markdown
from evolve.report.page.words import findings
from evolve.runs.screens.batch import print_tables

ODD = "[3, 4] ours [/b] ^ ~ > | 5 % a_b"


@pytest.fixture
def comparison():
    cases = tuple(Case(m, s, m, (), {}, SCENARIO) for m in ("plain", ODD) for s in range(3))
    batch = Batch("toy", "", "quick", "toy.toml", "method", "plain", cases)
    rng = np.random.default_rng(0)
    records = [(case, record(case.seed, rng.uniform(0.5, 0.7, (2, 4)))) for case in cases]
    return batch, {"accuracy": room.compare(batch, records, "accuracy")}


def test_a_name_is_shown_as_it_is_and_no_number_is_cut(comparison, capsys):
    """No markup, and a pipe of 80 columns gets whole lines."""
    print_tables(*comparison)
    shown = capsys.readouterr().out
    row = next(line for line in shown.splitlines() if ODD in line)
    d = comparison[1]["accuracy"][1].difference
    assert (
        f"{d.interval.mean:+.2f} [{d.interval.low:+.2f}, {d.interval.high:+.2f}]" in row
        and "p (Holm)" in shown
    )


def test_latex_takes_no_name_for_a_command(comparison):
    text = latex(*comparison)
    row = next(line for line in text.splitlines() if "ours" in line)
    assert (
        row.startswith("{}[3, 4]")
        and r"\textasciicircum{} \textasciitilde{} $>$" in row
        and r"5 \% a\_b" in row
    )


def test_markdown_rows_keep_their_cells(comparison):
    row = next(line for line in markdown(*comparison).splitlines() if "ours" in line)
    assert row.replace(r"\|", "").count("|") == 6


def test_every_form_of_the_table_says_what_it_could_have_seen(comparison, capsys):
    batch, tables = comparison
    size = room.power(tables["accuracy"])
    words = f"A difference of {size:.1f} points in accuracy would have been found 8 times in 10."
    print_tables(batch, tables)
    assert size == tables["accuracy"][1].difference.resolvable > 0
    assert all(
        words in text
        for text in (markdown(batch, tables), latex(batch, tables), capsys.readouterr().out)
    )
    assert words in findings(batch, tables)


def test_a_table_without_a_test_claims_no_power(comparison):
    batch, tables = comparison
    alone = {"accuracy": tables["accuracy"][:1]}
    assert "8 times in 10" not in markdown(batch, alone) + latex(batch, alone)
