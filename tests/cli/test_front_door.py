"""What a user types first: how a scenario is named, what is asked, and how runs are looked at."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path

import click
import pytest
import tiny
from commands import evolve

from evolve.cli.run import Seeds
from evolve.runs.listing import watch


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two lineages that share their ancestors: the same but for the condenser."""
    place = tmp_path_factory.mktemp("front")
    (place / "small.toml").write_text(tiny.toml({"controls.shuffled": 0}))
    for method in ("cka", "random"):
        done = evolve(
            "run",
            "small.toml",
            "--set",
            f"condense.method={method}",
            cwd=place,
            env={"HOME": str(place)},
        )
        assert done.returncode == 0, done.stderr
    return place


def test_a_folder_says_what_was_set(runs: Path) -> None:
    names = sorted(path.name for path in (runs / "runs").iterdir() if path.name != "store")
    assert names == [f"small-paper-seed0-condense.method-{method}" for method in ("cka", "random")]


def test_runs_lists_them_and_how_far_they_are(runs: Path) -> None:
    shutil.copytree(runs / "runs", runs / "half", ignore=shutil.ignore_patterns("store"))
    broken = runs / "half" / "small-paper-seed0-condense.method-cka" / "run.json"
    broken.write_text("{")
    done = evolve("runs", cwd=runs)
    lines = done.stdout.splitlines()
    assert done.returncode == 0 and len(lines) == 3
    assert all("3 of 3" in line and "at 2" in line and "finished" in line for line in lines[1:])
    damaged = evolve("runs", "half", cwd=runs)
    assert damaged.returncode == 0 and "damaged" in damaged.stdout
    assert evolve("runs", "nowhere", cwd=runs).returncode == 2


def test_diff_names_the_setting_the_shared_stages_and_where_the_curves_part(runs: Path) -> None:
    a, b = sorted((runs / "runs").glob("small-*"))
    text = evolve("diff", str(a), str(b), cwd=runs).stdout
    line = next(line for line in text.splitlines() if line.startswith("condense.method"))
    assert line.split() == ["condense.method", '"cka"', '"random"']
    assert "3 of 3 accumulate, 0 of 3 condense" in text.replace("\n", " ")
    assert "part at lineage length 0" in text
    same = evolve("diff", str(a), str(a), cwd=runs).stdout
    assert "the settings and the seed are the same" in same and "at every length" in same


def test_watch_shows_what_another_process_has_computed_and_ends(runs: Path, capsys) -> None:
    folder = next((runs / "runs").glob("small-*-cka"))
    watch(folder, None, pause=lambda seconds: pytest.fail("there is nothing to wait for"))
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines[1:]] == [f"lineage {n}/2" for n in range(3)]


def test_watch_goes_on_as_results_come(runs: Path, tmp_path: Path, capsys) -> None:
    folder = next((runs / "runs").glob("small-*-cka"))
    store = tmp_path / "store"
    shutil.copytree(runs / "runs" / "store", store)
    results, aside = store / "results", tmp_path / "aside"
    results.rename(aside)
    results.mkdir()
    looks = []

    def later(seconds: float) -> None:
        looks.append(seconds)
        for part in list(aside.iterdir())[:: 1 if len(looks) > 1 else 2]:
            part.rename(results / part.name)

    watch(folder, store, later)
    assert len(looks) >= 2 and "lineage 2/2" in capsys.readouterr().out


def test_summary_as_json_is_the_file_s_content(runs: Path) -> None:
    folder = next((runs / "runs").glob("small-*-cka"))
    done = evolve("summary", str(folder), "--json", cwd=runs)
    printed, written = json.loads(done.stdout), json.loads((folder / "summary.json").read_text())
    assert printed["summary"] == written["summary"] and printed["verdict"] == written["verdict"]


@pytest.mark.parametrize(
    ("text", "seeds"),
    [("0-4", (0, 1, 2, 3, 4)), ("3", (3,)), ("2,5,7-9", (2, 5, 7, 8, 9)), ("1,1, 0", (1, 0))],
)
def test_seeds(text: str, seeds: tuple[int, ...]) -> None:
    assert Seeds().convert(text, None, None) == seeds


@pytest.mark.parametrize("text", ["", "a", "4-2", "-1", "0-", "0-99999", "0-999999999", "1;2", "²"])
def test_seeds_that_are_none(text: str) -> None:
    with pytest.raises(click.BadParameter, match="seeds"):
        Seeds().convert(text, None, None)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["run"], "no scenario; give the name"),
        (["run", "glyphs-seq25", "--scenario", "cifar-seq25"], "two scenarios"),
        (["plan"], "no scenario"),
        (["run", "glyphs-seq25", "--profile", "fast"], "'fast' is not one of 'quick', 'paper'"),
        (["run", "glyphs-seq25", "--seed", "1", "--seeds", "0-2"], "give one of them"),
    ],
)
def test_what_names_no_run_is_one_line(words: list[str], says: str) -> None:
    done = evolve(*words)
    assert done.returncode == 2 and says in done.stderr and done.stderr.count("\n") == 1


def test_a_run_of_days_says_first_what_it_takes(tmp_path: Path) -> None:
    place = tmp_path / "not-there.zip"
    done = evolve("run", "cifar-seq25", "--data", str(place / "x"), "--device", "cpu", cwd=tmp_path)
    first, second = done.stderr.splitlines()[:2]
    assert "cifar-seq25 (paper) takes about" in first and "169 MB" in first and "GB" in first
    assert (
        second.startswith("Smaller: cifar-seq25 (quick) takes about")
        and "--profile quick" in second
    )
    asked = evolve("run", "cifar-seq25", "--profile", "paper", "--data", "/nowhere/x", cwd=tmp_path)
    assert "takes about" not in asked.stderr  # who names the profile knows


def test_a_file_that_keeps_a_shipped_name_has_a_folder_of_its_own(tmp_path: Path) -> None:
    from evolve.core.shipped import shipped
    from evolve.lineage import scenario
    from evolve.runs.folder import default_out

    own = tmp_path / "mine.toml"
    own.write_text(shipped("scenario")["glyphs-seq25"].read_text())
    assert default_out(scenario.load(str(own), "quick"), 0).name.endswith("-mine-quick-seed0")
    chosen = scenario.load("glyphs-seq25", "quick", ["stream.tasks=4", "condense.method=cka"])
    assert default_out(chosen, 0).name == (
        "glyphs-seq25-quick-seed0-condense.method-cka-stream.tasks-4"
    )
    assert default_out(chosen, (0, 1, 2)).name.startswith("glyphs-seq25-quick-seeds0-2-")
    assert "seeds2_5_7" in default_out(chosen, (2, 5, 7)).name


def test_names_of_scenarios_and_settings_are_completed() -> None:
    from evolve.cli.options import complete, complete_setting

    context, option = click.Context(click.Command("x")), click.Option(["--x"])
    names = [item.value for item in complete("scenario")(context, option, "cifar-seq25")]
    assert sorted(names) == ["cifar-seq25", "cifar-seq25-resnet", "cifar-seq25-vit"]
    keys = [item.value for item in complete_setting(context, option, "condense.m")]
    assert "condense.method=" in keys and all(key.startswith("condense.m") for key in keys)


def test_help_groups_every_command() -> None:
    from evolve.cli.main import PURPOSES, cli

    grouped = [command.name for commands in PURPOSES.values() for command in commands]
    assert sorted(grouped) == sorted(cli.commands)
    text = evolve("--help").stdout
    assert (
        all(heading in text for heading in PURPOSES) and "..." not in text.partition("Options:")[2]
    )


def first_run(runs: Path) -> Path:
    return sorted((runs / "runs").glob("small-*"))[0]


def test_commands_to_go_on_hold_from_anywhere(runs: Path, tmp_path: Path) -> None:
    folder = first_run(runs)
    line = (folder / "scenario.toml").read_text().splitlines()[1]
    words = shlex.split(line.removeprefix("# Run it again: evolve "))
    paths = [words[words.index(f"--{name}") + 1] for name in ("scenario", "out", "store")]
    assert paths == [str(folder / "scenario.toml"), str(folder), str(runs / "runs" / "store")]
    again = evolve("plan", *words[1:], cwd=tmp_path)
    assert again.returncode == 0 and "left: nothing" in again.stdout, again.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_report_goes_into_a_folder(runs: Path, tmp_path: Path) -> None:
    done = evolve("report", str(first_run(runs)), "--out", ".", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
    # The page's own commands are those of the run's folder, whatever folder it is read from.
    near = evolve("report", ".", "--out", str(tmp_path / "near.html"), cwd=first_run(runs))
    assert near.returncode == 0, near.stderr
    assert (tmp_path / "near.html").read_bytes() == (tmp_path / "report.html").read_bytes()


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("store", "a\0b", "zero byte"),
        ("data_dir", "a\0b", "zero byte"),
        ("profile", "quick\x1b[2J", "profile"),
        ("scenario", "a\nb", "scenario"),
    ],
)
def test_what_run_json_may_not_hold_is_one_line(
    key: str, value: str, said: str, runs: Path, tmp_path: Path
) -> None:
    shutil.copytree(first_run(runs), tmp_path / "run")
    file = tmp_path / "run" / "run.json"
    facts = {k: v for k, v in json.loads(file.read_text()).items() if k != "seal"}
    file.write_text(json.dumps(facts | {key: value}))
    for command in ("resume", "summary", "report"):
        done = evolve(command, "run", cwd=tmp_path)
        (line,) = done.stderr.splitlines()
        assert done.returncode == 2 and line.isprintable() and "run.json" in line and said in line
