"""batch.json: what a batch's folder says about itself, and TensorBoard's view of the whole
batch.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.plugins.base_plugin import TBContext
from tensorboard.plugins.hparams.hparams_plugin import HParamsPlugin
from werkzeug.test import Client

sys.path.insert(0, str(Path(__file__).parents[2] / "report" / "page"))  # the made-up runs
from page_runs import NAME, make_batch

from evolve.core.errors import UserError
from evolve.report import figures
from evolve.report.curves import LineageRecord
from evolve.report.tensorboard import HEADLINE
from evolve.runs.batch.board import columns, write_board
from evolve.runs.batch_folder import BATCH_FILE, check_folder, read_batch_file, write_batch_file
from evolve.runs.read import Reader


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("folder")
    make_batch(folder / "b", folder / "store", seeds=(0, 1))
    return folder


def test_a_batch_reads_back_as_it_was(place: Path) -> None:
    held = read_batch_file(place / "b")
    assert held.command == ("/usr/bin/evolve", "batch", "b file.toml") and held.batch.methods == (
        "plain",
        NAME,
    )
    assert (
        held.batch.controls == ("from-scratch",)
        and held.batch.reference == "plain"
        and held.batch.axes == {"descend.epochs": (2, 3)}
    )
    case = held.batch.cases[-1]
    assert (case.name, case.seed, case.pairing, case.values) == (
        NAME,
        1,
        ("descend.shots=6",),
        {"descend.epochs": 3},
    )
    assert (
        case.scenario.settings.descend.epochs == 3
        and (place / "b" / case.folder / "run.json").is_file()
    )


def test_the_command_that_began_it_stays_until_the_batch_is_another(
    place: Path, tmp_path: Path
) -> None:
    batch = read_batch_file(place / "b").batch
    write_batch_file(batch, tmp_path, ["evolve", "batch", "first"])
    before = (tmp_path / BATCH_FILE).read_bytes()
    write_batch_file(batch, tmp_path, ["evolve", "batch", "second"])
    assert (tmp_path / BATCH_FILE).read_bytes() == before
    write_batch_file(replace(batch, cases=batch.cases[:1]), tmp_path, ["evolve", "batch", "third"])
    assert json.loads((tmp_path / BATCH_FILE).read_text())["command"][-1] == "third"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda text: "{", "damaged"),
        (lambda text: text.replace('"format": 1', '"format": 7'), "format 7"),
        (lambda text: text.replace('"cases"', '"cased"'), "'cases' is missing"),
        (lambda text: text.replace("plain-seed0", "gone-seed0"), "gone-seed0: not a run folder"),
    ],
)
def test_damage_is_one_line(place: Path, change: Any, words: str) -> None:
    file = place / "b" / BATCH_FILE
    whole = file.read_text()
    file.write_text(change(whole))
    try:
        with pytest.raises(UserError, match=words) as caught:
            read_batch_file(place / "b")
        assert "\n" not in str(caught.value)
    finally:
        file.write_text(whole)


def test_tensorboard_filters_cases_by_axis(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """TensorBoard's own HPARAMS plug-in, asked over its own interface, on what it reads from the
    folder.
    """
    monkeypatch.setattr(figures, "pixels", lambda draw: np.zeros((4, 4, 3), np.uint8))
    (section,) = Reader().sections([place / "b"])
    batch = read_batch_file(place / "b").batch
    assert columns(batch, section.measured)["descend.epochs"] == [2, 3]
    for _ in range(2):  # a repetition replaces what it wrote
        write_board(batch, section.measured, place / "b")
    events = EventMultiplexer().AddRunsFromDirectory(str(place / "b"))
    events.Reload()
    cases = {case.folder for case in batch.cases}
    assert {run.partition("/tensorboard/")[0] for run in events.Runs()} - {"."} == cases
    declared = events.PluginRunToTagToContent("hparams").items()
    experiments = [run for run, tags in declared if "_hparams_/experiment" in tags]
    assert experiments == ["."], "of several TensorBoard takes any"
    apps = HParamsPlugin(
        TBContext(
            logdir=str(place / "b"),
            multiplexer=events,
            data_provider=MultiplexerDataProvider(events, "b"),
        )
    ).get_plugin_apps()

    def ask(path: str, question: dict[str, Any]) -> Any:
        return json.loads(Client(apps[path]).post(path, json=question).get_data())

    experiment = ask("/experiment", {})
    choices = {info["name"]: info["domainDiscrete"] for info in experiment["hparamInfos"]}
    assert choices == {
        "case": [NAME, "plain"],
        "method": [NAME, "plain"],
        "descend.epochs": [2, 3],
        "seed": [0, 1],
    }
    assert [info["name"]["tag"] for info in experiment["metricInfos"]] == list(HEADLINE)
    filters = [{"hparam": "method", "filterDiscrete": [NAME]}]
    question = {
        "startIndex": 0,
        "sliceSize": 99,
        "allowedStatuses": ["STATUS_UNKNOWN", "STATUS_RUNNING", "STATUS_SUCCESS"],
        "colParams": filters,
    }
    groups = ask("/session_groups", question)["sessionGroups"]
    assert len(groups) == 2 and {group["hparams"]["descend.epochs"] for group in groups} == {3}
    last = [
        m["value"]
        for group in groups
        for m in group["metricValues"]
        if m["name"]["tag"] == HEADLINE[2]
    ]
    assert sorted(last) == pytest.approx([51.9, 53])


def test_axes_of_several_types_can_still_be_shown(place: Path, tmp_path: Path) -> None:
    batch = read_batch_file(place / "b").batch
    records = [
        (c, LineageRecord("toy", "quick", c.seed, 1, (), settings={"descend": {"epochs": e}}))
        for c, e in zip(batch.cases, (1, "x", 2, 3), strict=True)
    ]
    write_board(batch, records, tmp_path)
    assert any(path.name.endswith(".evolve") for path in tmp_path.iterdir())


def test_a_batch_takes_no_folder_that_holds_something_else(place: Path, tmp_path: Path) -> None:
    batch = read_batch_file(place / "b").batch
    check_folder(batch, place / "b")
    check_folder(batch, tmp_path)
    (tmp_path / batch.cases[0].folder).mkdir()  # begun, and killed before batch.json
    check_folder(batch, tmp_path)
    with pytest.raises(UserError, match="lineages that this command leaves out"):
        check_folder(replace(batch, cases=batch.cases[:1]), place / "b")
    with pytest.raises(UserError, match="the folder of a run"):
        check_folder(batch, place / "b" / batch.cases[0].folder)
    (tmp_path / "table.md").write_text("mine")
    with pytest.raises(UserError, match="not empty and not a batch"):
        check_folder(batch, tmp_path)


@pytest.mark.parametrize("key", ["profile", "title", "method"])
def test_what_no_figure_can_hold_is_refused(key: str, place: Path, tmp_path: Path) -> None:
    described = json.loads((place / "b" / BATCH_FILE).read_text())
    (tmp_path / BATCH_FILE).write_text(json.dumps(described | {key: "a\x1b[2J"}))
    with pytest.raises(UserError, match=rf"{BATCH_FILE}: {key} = .*control characters"):
        read_batch_file(tmp_path)
