from __future__ import annotations

import io
import itertools
import math
import re
import subprocess
import sys
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from evolve.core.spent import duration
from evolve.report.curves import Descent, Generation, Interval
from evolve.runs.estimate.forecast import Forecast
from evolve.runs.screens.display import Display
from evolve.runs.screens.rows import HEADINGS, Mark, compact, row, scale_of, strip
from evolve.runs.screens.screen import HIDDEN, Screen


def descent(method: str, *accuracy: float) -> Descent:
    return Descent(1, method, accuracy, accuracy, (), (), (100,) * len(accuracy))


def generation(t: int, status: str = "selected") -> Generation:
    layers = tuple(f"conv{i}" for i in range(1, 14))
    pair = descent("inherited", 0.6, 0.7), descent("from-scratch", 0.55, 0.66)
    g = Generation(
        t,
        ("conv1", "conv11", "conv12", "conv13"),
        layers,
        (),
        (),
        0.01234,
        status,
        "threshold",
        "",
        *pair,
    )
    return replace(g, ancestor_accuracy=0.5)


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


def drawn(display: Display, width: int, height: int) -> list[str]:
    screen = Screen(display, io.StringIO())
    screen.console = Console(
        file=io.StringIO(),
        width=width,
        height=height,
        force_terminal=True,
        color_system=None,
        markup=False,
    )
    with screen.console.capture() as captured:
        screen.console.print(screen.draw())
    return captured.get().splitlines()


def test_compact_names() -> None:
    assert compact(["conv1", "conv11", "conv12", "conv13"]) == "1 11-13"
    assert (
        compact(["conv2", "conv1"]) == "1 2"
        and compact([]) == "none"
        and compact(["stem", "block3"]) == "stem 3"
    )
    assert compact([f"conv{i}" for i in range(1, 40, 2)], 12) == "1 3 5 7 9 1…"


@given(st.sets(st.integers(1, 40)))
def test_compact_loses_no_layer(numbers: set[int]) -> None:
    text = compact([f"conv{n}" for n in numbers])
    back: set[int] = set()
    for part in text.replace("none", "").split():
        first, _, last = part.partition("-")
        back |= set(range(int(first), int(last or first) + 1))
    assert back == numbers


def test_row_in_percent_with_intervals_and_the_status_said() -> None:
    assert row(generation(3)) == ("3", "1 11-13", "0.0123", "50.0", "65.0 ± 63.5", "+4.5 ± 6.4")
    assert row(generation(3, "collapsed"))[1] == "1 11-13 (collapsed)"
    assert row(replace(generation(0), margin=math.nan, ancestor_accuracy=None))[2:4] == ("-", "-")
    assert Interval(0.5, math.nan, math.nan, 1).percent() == "50.00"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (99, "99 s"), (100, "2 min"), (12000, "3 h 20 min"), (400000, "4 d 15 h")],
)
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_plain_output_is_lines_without_control_characters() -> None:
    stream = io.StringIO()
    with Display("toy", "full", 0, "runs/toy", stream) as display:
        display.stage_started("accumulate 1")
        display.stage_progress("accumulate 1", 0.5, "epoch 1/2")
        display.stage_done("accumulate 1")
        display.notice("moved [red]x[/red] \x1b[31m away")
        display.generation(generation(1), 25)
    text = stream.getvalue()
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", text)
    assert len(text.splitlines()) == 3 and "[red]x[/red]" in text
    assert (
        "lineage 1/25: layers 1 11-13" in text
        and "gain over from-scratch +4.5 ± 6.4 points" in text
    )


def test_stream_that_cannot_show_the_characters_gets_others() -> None:
    raw = io.BytesIO()
    with Display(
        "toy", "full", 0, "runs/tö", io.TextIOWrapper(raw, encoding="ascii", write_through=True)
    ) as display:
        display.generation(generation(1), 25)
        text = raw.getvalue().decode("ascii")
    assert "+4.5 +- 6.4" in text


@pytest.mark.parametrize(("width", "height"), [(80, 24), (120, 40), (80, 10), (60, 12)])
@pytest.mark.parametrize("stages", [0, 2, 12])
def test_screen_fits_any_terminal(width: int, height: int, stages: int) -> None:
    display = Display("toy-scenario", "quick", 0, "/a/long/path" * 12, io.StringIO(), live=False)
    for t in range(26):
        display.generation(generation(t, "collapsed"), 26)
    for i in range(stages):
        display.stage_progress(f"descend {i} full-ancestor", 0.3, "epoch 3/50 loss 1.234 " * 4)
    lines = drawn(display, width, height)
    assert len(lines) < height and max(len(line) for line in lines) <= width
    shown = [int(line.split()[0]) for line in lines if re.match(r"\s*\d+\s", line)]
    assert len(shown) >= 2 and shown == list(range(26 - len(shown), 26))
    assert sum("full-ancestor" in line for line in lines) == min(
        stages, sum("%" in line and "epoch" in line for line in lines)
    )


def test_eighty_columns_show_cells_whole_and_the_curve() -> None:
    display = Display("toy", "quick", 0, "runs", io.StringIO(), live=False)
    display.generation(generation(25, "collapsed"), 25)
    cells = dict(zip(HEADINGS, row(generation(25, "collapsed")), strict=True))
    narrow, wide = ("\n".join(drawn(display, width, 24)) for width in (80, 120))
    for text, hidden in ((narrow, HIDDEN), (wide, ())):
        shown = [name for name in HEADINGS if name not in hidden]
        assert all(name in text and cells[name] in text for name in shown)
        assert "…" not in text and "●" in text and "○ from-scratch" in text
    assert not any(name in narrow for name in HIDDEN)


@given(
    st.lists(st.floats(0, 1), min_size=5, max_size=5),
    st.floats(0.01, 0.99),
    st.integers(12, 48),
)
def test_the_curve_s_marks_stand_in_the_order_of_their_accuracies(
    values: list[float], chance: float, width: int
) -> None:
    inherited, scratch, whole, *ends = values
    line = Mark(inherited, min(ends), max(ends), scratch, whole)
    scale = scale_of([line], chance)
    text = strip(line, chance, scale, width)
    assert len(text) <= width and "●" in text
    signs = {"●": inherited, "○": scratch, "◇": whole, "┊": chance}
    places = {sign: text.index(sign) for sign in signs if sign in text}
    for a, b in itertools.combinations(places, 2):
        assert (places[a] < places[b]) == (signs[a] < signs[b])


def test_the_counter_counts_every_measured_length_and_never_passes_the_total() -> None:
    forecast = Forecast(2)
    display = Display("toy", "quick", 0, "runs", io.StringIO(), live=False)
    display.expect(forecast, points=5, chance=0.2)
    for length in (0, 1, 2, 3, 4):  # an untrained ancestor's row is a row
        display.generation(generation(length), 4)
    assert "5 of 5 generations" in "\n".join(drawn(display, 120, 30))


def test_live_terminal_is_given_back_and_keeps_the_table() -> None:
    stream = Terminal()
    with (
        pytest.raises(KeyboardInterrupt),
        Display("toy", "full", 0, "runs", stream, live=True) as display,
    ):
        display.notice("a [bold] notice")
        for t in range(40):
            display.generation(generation(t), 40)
        raise KeyboardInterrupt
    text = stream.getvalue()
    assert "◇ whole ancestor" in text.splitlines()[-1] and "a [bold] notice" in text
    assert "+4.5 ± 6.4" in text.splitlines()[-2]
    assert text.rfind("\x1b[?25h") > text.rfind("\x1b[?25l")
    display.close()


def test_dumb_terminal_gets_plain_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    stream = Terminal()
    with Display("toy", "full", 0, "runs", stream) as display:
        display.generation(generation(1), 2)
    assert "\x1b" not in stream.getvalue()


def test_looking_on_costs_no_heavy_import() -> None:
    code = (
        "import evolve.runs.screens.display, evolve.report.files, evolve.report.tensorboard, "
        "evolve.report.figures, sys;"
    )
    code += "print(sorted({'torch', 'scipy', 'matplotlib', 'rich'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
