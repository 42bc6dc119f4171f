from __future__ import annotations

import io
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
from evolve.runs.screens.display import Display
from evolve.runs.screens.rows import HEADINGS, Eta, compact, row
from evolve.runs.screens.screen import Screen


def descent(method: str, *accuracy: float) -> Descent:
    return Descent(1, method, accuracy, accuracy, (), (), (100,) * len(accuracy))


def generation(t: int, status: str = "selected") -> Generation:
    layers = tuple(f"conv{i}" for i in range(1, 14))
    pair = descent("inherited", 0.6, 0.7), descent("from-scratch", 0.55, 0.66)
    made = Generation(
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
    return replace(made, ancestor_accuracy=0.5)


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
    assert row(generation(3)) == ("3", "1 11-13", "0.0123", "50.0", "65.00 ± 63.53", "+4.50 ± 6.35")
    assert row(generation(3, "collapsed"))[1] == "1 11-13 (collapsed)"
    assert row(replace(generation(0), margin=math.nan, ancestor_accuracy=None))[2:4] == ("-", "-")
    assert Interval(0.5, math.nan, math.nan, 1).percent() == "50.00"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (99, "99 s"), (100, "2 min"), (12000, "3 h 20 min"), (400000, "4 d 15 h")],
)
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_eta_counts_only_work_of_this_run_and_counts_down() -> None:
    now = [0.0]
    eta = Eta(lambda: now[0])
    eta.set(50, 100)  # half came from the store
    assert eta.left() is None and eta.fraction == 0.5
    now[0] = 10
    eta.set(60, 100)
    assert eta.left() == pytest.approx(40)
    now[0] = 15
    assert eta.left() == pytest.approx(35)
    eta.set(100, 100)
    assert eta.left() == 0


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
        and "gain over from-scratch +4.50 ± 6.35 points" in text
    )


def test_stream_that_cannot_show_the_characters_gets_others() -> None:
    raw = io.BytesIO()
    with Display(
        "toy", "full", 0, "runs/tö", io.TextIOWrapper(raw, encoding="ascii", write_through=True)
    ) as display:
        display.generation(generation(1), 25)
        text = raw.getvalue().decode("ascii")
    assert "+4.50 +- 6.35" in text


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


def test_eighty_columns_show_every_cell_whole() -> None:
    display = Display("toy", "quick", 0, "runs", io.StringIO(), live=False)
    display.generation(generation(25, "collapsed"), 25)
    text = "\n".join(drawn(display, 80, 24))
    assert (
        all(cell in text for cell in (*row(generation(25, "collapsed")), *HEADINGS))
        and "…" not in text
    )


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
    assert text.rstrip().endswith("+4.50 ± 6.35") and "a [bold] notice" in text
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
