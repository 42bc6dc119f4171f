"""The few-shot stage: its key, its result out of a store, and its table in the report."""

import csv
import io
import json
import math
from dataclasses import fields, replace
from types import SimpleNamespace

import pytest
import torch
from scipy import stats

from evolve.cli import plan_tables as listing
from evolve.core.fewshot_settings import FewshotSettings
from evolve.core.settings import DataSettings
from evolve.data.sources import load_images
from evolve.descendants.fewshot.methods import LEARNERS
from evolve.engine.store import Store
from evolve.lineage import lineage, outcomes, recipes, scenario
from evolve.lineage.collect import collect
from evolve.lineage.perform import perform_stage
from evolve.lineage.world import World, paper_descendant
from evolve.report import fewshot_table
from evolve.report import files as report
from evolve.report.curves import Descent, Generation, LineageRecord
from evolve.report.page import tables
from evolve.runs.estimate import cost, timing

SPLIT = (tuple(range(64)), tuple(range(64, 80)), tuple(range(80, 100)))


def world(*overrides, data="images", split=SPLIT):
    words = ["stream.tasks=1", "fewshot.learners=" + json.dumps(list(LEARNERS)), *overrides]
    return World(scenario.load("glyphs-seq25", "quick", words).settings, 0, data, *split)


def stages(w):
    return {s.label: s for s in lineage.lineage(w, lambda key: None)}


def learner_keys(w):
    return {name: recipes.fewshot(w, name).key for name in LEARNERS}


def test_learners_add_their_stages_and_change_no_other():
    every, none = stages(world()), stages(world("fewshot.learners=[]"))
    added = {label for label in every if label not in none}
    assert added == {f"few-shot {name}" for name in LEARNERS}
    assert all(
        every[label].key == stage.key and "fewshot" not in stage.recipe
        for label, stage in none.items()
    )
    twice = stages(world('fewshot.learners=["maml", "maml"]'))
    assert twice["few-shot maml"].key == every["few-shot maml"].key


def other_value(name, value):
    return {"augment": (), "order": 1}.get(name, value + 0.5 if isinstance(value, float) else 7)


@pytest.mark.parametrize("name", [f.name for f in fields(FewshotSettings) if f.name != "learners"])
def test_a_setting_changes_the_keys_of_those_learners_that_read_it(name):
    base = world()
    fewshot = replace(
        base.settings.fewshot, **{name: other_value(name, getattr(base.settings.fewshot, name))}
    )
    after = learner_keys(replace(base, settings=replace(base.settings, fewshot=fewshot)))
    assert {learner for learner, key in learner_keys(base).items() if after[learner] != key} == {
        learner for learner in LEARNERS if name in LEARNERS[learner].reads
    }


@pytest.mark.parametrize(
    "word",
    [
        "descend.shots=3",
        "descend.descendants=2",
        "descend.classes_per_task=4",
        "descend.test_per_class=5",
        "ancestor.width=0.25",
    ],
)
def test_tasks_and_backbone_are_part_of_the_key(word):
    before, after = learner_keys(world()), learner_keys(world(word))
    assert all(before[name] != after[name] for name in LEARNERS)


@pytest.mark.parametrize(
    "word",
    [
        "descend.epochs=3",
        "descend.lr=0.5",
        "ancestor.epochs=2",
        "condense.method=fixed",
        "stream.tasks=3",
    ],
)
def test_what_descendants_and_ancestor_do_is_not(word):
    assert learner_keys(world()) == learner_keys(world(word))


def test_the_images_that_the_ancestor_may_see_are_part_of_the_key_where_they_are_capped():
    before, after = learner_keys(world()), learner_keys(world("stream.images_per_class=50"))
    assert all(before[name] != after[name] for name in LEARNERS)
    assert recipes.fewshot(world(), "maml").recipe["images_per_class"] == 0


def test_the_plain_path_changes_no_learner():
    w = world()
    assert learner_keys(w) == learner_keys(replace(w, reference=True))


def measured_context(store):
    data = DataSettings(source="glyphs", size=16, glyph_train=8, glyph_test=4)
    return {
        "data": data,
        "data_dir": None,
        "cache_dir": store.root.parent / "images",
        "device": "cpu",
    }


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """One learner's stage, computed into a store; (world, stage, store, its label's progress)."""
    place = tmp_path_factory.mktemp("few")
    context = measured_context(Store(place / "store"))
    images = load_images(context["data"], None, context["cache_dir"])
    words = [
        "fewshot.episodes=3",
        "fewshot.shots=2",
        "fewshot.queries=2",
        "descend.shots=3",
        "descend.descendants=2",
        "ancestor.width=0.03125",
    ]
    w = world(*words, 'fewshot.learners=["protonet"]', data=images.fingerprint)
    stage, store, reports = recipes.fewshot(w, "protonet"), Store(place / "store"), []
    perform_stage(stage, store, context, lambda done, text: reports.append((done, text)))
    return w, stage, store, reports


def test_the_result_holds_what_a_descendants_does(measured):
    w, stage, store, reports = measured
    result = store.get(stage.key)
    correct = result.tensors("correct")
    assert result.record["test_images"] == [20, 20] and set(correct) == {"task0", "task1"}
    assert result.record["accuracy"] == [
        correct[f"task{n}"].double().mean().item() for n in range(2)
    ]
    assert all(
        set(classes) <= set(w.descend_classes) and len(classes) == 5
        for classes in result.record["classes"]
    )
    assert len(result.record["losses"]) == 3 and result.record["plan"] == stage.recipe["plan"]
    done = [fraction for fraction, _ in reports]
    assert done == sorted(done) and done[-1] == 1.0 and "protonet" in reports[0][1]


class Stopped(Exception):
    pass


def test_an_interrupted_stage_goes_on_in_its_store(measured, tmp_path, monkeypatch):
    _, stage, whole, _ = measured
    monkeypatch.setattr(outcomes, "CHECKPOINT_SECONDS", 0.0)
    context, store, texts = measured_context(whole), Store(tmp_path / "store"), []

    def stopping(done, text):
        raise Stopped

    with pytest.raises(Stopped):
        perform_stage(stage, store, context, stopping)
    perform_stage(stage, store, context, lambda done, text: texts.append(text))
    assert "episode 2 of 3" in texts[0] and not any("episode 1 of 3" in text for text in texts)
    again, expected = store.get(stage.key), whole.get(stage.key)
    assert again.record == expected.record
    assert all(
        torch.equal(tensor, again.tensors("correct")[name])
        for name, tensor in expected.tensors("correct").items()
    )


def peeking(store, **changed):
    def peek(key):
        result = store.get(key) if store.has(key) else None
        return {**result.record, **changed} if result else None

    return peek


@pytest.mark.parametrize("changed", [{"losses": [1.0, math.nan, math.nan]}, {"undecided": 3}])
def test_a_learner_that_diverged_is_said_to_have(measured, changed):
    w, _, store, _ = measured
    assert [
        collect(w, peeking(store, **ok), "s", "quick", {}, {}).fewshot[0].diverged
        for ok in ({}, changed)
    ] == [False, True]


def test_collect_finds_it(measured):
    w, stage, store, _ = measured
    record = collect(w, peeking(store), "s", "quick", {}, {})
    assert record.fewshot[0].backbone == paper_descendant(w.settings).anonymous().describe()
    assert [row.method for row in record.fewshot] == ["protonet"]
    assert record.fewshot[0].accuracy == tuple(store.get(stage.key).record["accuracy"])


def descent(method, accuracy, length=0):
    return Descent(length, method, accuracy, accuracy, (), (), (10,) * len(accuracy))


def record(seed=0, shift=0.0):
    inherited = (0.6 + shift, 0.7, 0.65, 0.8)
    points = tuple(
        Generation(
            t,
            ("conv1",),
            ("conv1",),
            (),
            (),
            0.1,
            "fixed",
            "fixed",
            "8* M",
            descent("inherited", tuple(a * (t + 1) / 3 for a in inherited), t),
        )
        for t in range(3)
    )
    return LineageRecord(
        "toy",
        "full",
        seed,
        2,
        points,
        fewshot=(descent("protonet", (0.5, 0.7, 0.5, 0.6)), descent("maml", (0.4, 0.5, 0.6, 0.7))),
    )


def test_the_table_is_a_paired_t_interval_against_the_last_generation():
    first, protonet, maml = fewshot_table.table([record()])
    assert (first.method, protonet.method, maml.method) == ("inherited", "protonet", "maml")
    assert (
        first.accuracy.mean == pytest.approx(0.6875) and first.behind is None and first.lineage == 2
    )
    peer = stats.ttest_rel((0.6, 0.7, 0.65, 0.8), (0.5, 0.7, 0.5, 0.6)).confidence_interval(0.95)
    assert (protonet.behind.low, protonet.behind.high) == (
        pytest.approx(peer.low),
        pytest.approx(peer.high),
    )
    alone = fewshot_table.table([replace(record(), generations=())])
    assert [line.method for line in alone] == ["protonet", "maml"] and alone[0].behind is None


def test_seeds_are_pooled_and_only_learners_that_all_have():
    second = replace(record(1, 0.1), fewshot=record().fewshot[:1])
    lines = fewshot_table.table([record(), second])
    assert [line.method for line in lines] == ["inherited", "protonet"]
    assert lines[1].accuracy.n == 8 and lines[1].behind.mean == pytest.approx(0.125)


@pytest.mark.usefixtures("no_rendering")
def test_the_report_has_the_table_where_there_are_learners(tmp_path):
    files = report.render_report([record()])
    rows = list(csv.DictReader(io.StringIO(files["fewshot.csv"].decode())))
    assert [row["method"] for row in rows] == ["inherited", "protonet", "maml"] and rows[0][
        "inherited_minus"
    ] == ""
    assert float(rows[1]["inherited_minus"]) == pytest.approx(11.25) and rows[1]["tasks"] == "4"
    sentences = json.loads(files["summary.json"])["fewshot"]
    assert (
        sentences[1].startswith("protonet: 57.50 ± ")
        and "inherited (lineage 2) minus it: +11.25 ± " in sentences[1]
    )
    single = list(csv.DictReader(io.StringIO(files["descendants.csv"].decode())))
    assert [float(row["accuracy"]) for row in single if row["method"] == "maml"] == [
        40.0,
        50.0,
        60.0,
        70.0,
    ]
    without = report.render_report([replace(record(), fewshot=())])
    assert "fewshot.csv" not in without and "fewshot" not in json.loads(without["summary.json"])


def test_losses_are_thinned_by_means():
    from evolve.descendants.fewshot.measure import thinned

    losses = torch.arange(250.0).tolist()
    result = thinned(losses)
    assert (
        len(result) <= 100
        and result[0] == 1.0
        and thinned([]) == []
        and thinned([1.0, 2.0]) == [1.0, 2.0]
    )


def with_learner(**changed):
    first, *rest = record().fewshot
    return replace(record(), fewshot=(replace(first, **changed), *rest))


def test_a_learner_that_diverged_has_no_accuracy_and_no_difference():
    broken = with_learner(diverged=True)
    sentences = fewshot_table.sentences([broken])
    assert sentences[1] == "protonet: diverged (loss not finite)" and sentences[2].startswith(
        "maml: 55.00 ± "
    )
    row = list(fewshot_table.rows([broken]))[1]
    assert (
        row["note"] == "diverged (loss not finite)"
        and row["mean"] is row["inherited_minus"] is None
    )
    shown = tables.fewshot({"case": [broken]}).rows[1].cells
    assert shown == ("case", "protonet", "diverged (loss not finite)", "", "4")
    second = replace(record(1, 0.1))
    assert (
        fewshot_table.sentences([broken, second])[1]
        == "protonet: diverged (loss not finite) in 1 of 2 seeds"
    )


def test_other_architectures_are_named_beside_the_differences():
    """record()'s descendants are of "8* M"."""
    same, other = with_learner(backbone="8 M"), with_learner(backbone="8 8 M")
    assert not any("differ" in line for line in fewshot_table.sentences([same]))
    assert [row["same_backbone"] for row in fewshot_table.rows([same])] == [None, True, True]
    assert tables.fewshot({"case": [same]}).heads[2].startswith("accuracy")
    assert (
        fewshot_table.sentences([other])[-1]
        == "the architectures differ: learners 8 8 M; inherited 8 M (the condenser's choice)"
    )
    assert [(row["backbone"], row["same_backbone"]) for row in fewshot_table.rows([other])][:2] == [
        ("8 M", None),
        ("8 8 M", False),
    ]
    page = tables.fewshot({"case": [other]})
    assert (
        page.heads[2] == "architecture"
        and page.words == 3
        and [row.cells[2] for row in page.rows][:2] == ["8 M", "8 8 M"]
    )


def test_pre_training_costs_what_the_ancestors_images_do():
    """CIFAR-100's 500 images a class, while the descendants' source has fewer."""

    settings = scenario.load("cifar-fewshot", "paper").settings

    def seconds(**changed):
        return cost.seconds(replace(settings, **changed), "fewshot", {"learner": "baseline++"})

    assert seconds(stream=replace(settings.stream, images_per_class=50)) < 0.2 * seconds()
    assert (
        seconds(data=replace(settings.data, descend_source="glyphs", glyph_train=20))
        > 0.9 * seconds()
    )


def test_a_plan_scales_learners_by_a_descendants_steps_and_says_that_they_are_estimated(
    measured, monkeypatch, capsys
):
    """Although no descend stage is left to do."""
    w, stage, store, _ = measured
    kinds = []

    def ratio(kind, opened, resident, settings):
        kinds.append(kind)
        return 3.0

    monkeypatch.setattr(timing, "_ratio", ratio)
    place = measured_context(store)
    images = load_images(place["data"], place["data_dir"], place["cache_dir"])
    opened = SimpleNamespace(
        missing=lambda: [stage],
        stages=lambda: [stage],
        context=place,
        request=SimpleNamespace(
            device="cpu",
            scenario=SimpleNamespace(settings=w.settings),
            workers=1,
            data_dir=None,
            reference=False,
        ),
        world=w,
        counts=None,
    )
    assert timing.measure_speed(opened, images)["fewshot"] == 3.0 and kinds == ["descend"]

    def open_run(request, say, loaded):
        loaded[w.settings.data] = images
        return opened

    monkeypatch.setattr(listing, "open_run", open_run)
    monkeypatch.setattr(listing, "remaining_seconds", lambda opened: {stage.key: 10.0})
    monkeypatch.setattr(listing, "worker_count", lambda request, opened: 1)
    monkeypatch.setattr(listing, "needs", lambda chosen, workers, counts: "")
    listing.plan_table(opened.request)
    output = capsys.readouterr().out
    assert "few-shot: estimated, not timed" in output and "left: about 30 s" in output
