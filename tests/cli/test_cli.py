"""The command line itself: fast help, shown scenarios run again, one-line errors."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from commands import environment, evolve, evolve_process

from evolve.core.shipped import shipped
from evolve.lineage import scenario


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys, evolve.cli.main as c\nfor words in (['--help'], *([name, '--help'] for "
        "name in c.cli.commands)):\n"
    )
    code += " try: c.cli.main(words, standalone_mode=False)\n except SystemExit: pass\n"
    code += (
        "print([m for m in ('torch', 'numpy', 'scipy', 'matplotlib', 'avalanche', 'rich') if "
        "m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(), text=True, capture_output=True
    )
    assert done.stdout.strip().splitlines()[-1] == "[]"


def test_help_is_quick() -> None:
    spent = []
    for _ in range(5):
        begun = sum(
            os.times()[2:4]
        )  # CPU seconds of children: other work on the machine does not count
        assert evolve_process("--help").returncode == 0
        spent.append(sum(os.times()[2:4]) - begun)
    assert min(spent) < 0.3


def test_show_prints_a_file_that_loads_to_the_same_settings(tmp_path: Path) -> None:
    shown = evolve("show", "glyphs-seq25", "--profile", "quick", "--set", "ancestor.strategy=ewc")
    assert shown.returncode == 0, shown.stderr
    (tmp_path / "mine.toml").write_text(shown.stdout)
    expected = scenario.load("glyphs-seq25", "quick", ["ancestor.strategy=ewc"]).settings
    assert scenario.load(str(tmp_path / "mine.toml")).settings == expected


def test_scenarios_lists_all_with_cost() -> None:
    done = evolve("scenarios")
    assert done.returncode == 0, done.stderr
    for name in shipped("scenario"):
        line = next(line for line in done.stdout.splitlines() if line.split()[:1] == [name])
        assert "~" in line and scenario.load(name).settings.title.split(",")[0] in line


def test_a_wrong_option_is_one_line_and_code_2() -> None:
    done = evolve("show", "glyphs-seq52")
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.count("\n") == 1 and "did you mean glyphs-seq25" in done.stderr
