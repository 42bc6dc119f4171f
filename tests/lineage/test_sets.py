"""Several stages computed in one go: the same results as one by one, and a set that fails costs no
more than its culprit.
"""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import environment
from engine_stages import make
from test_engine import PERFORM, labels, lineage, run, values

from evolve.core.errors import DataError, UserError
from evolve.core.settings import AncestorSettings, DataSettings, DescendSettings, Settings
from evolve.data.sources import load_images
from evolve.engine.engine import (
    Event,
    Notice,
    StageDone,
    StageFailed,
    StageFailure,
    StageProgress,
    StageStarted,
    run_stages,
)
from evolve.engine.execution import execute
from evolve.engine.store import Stage, Store
from evolve.learngene.learngene import extract, flatten
from evolve.lineage import perform
from evolve.lineage.recipes import accumulate as accumulate_stage
from evolve.lineage.recipes import condense, descend, from_scratch
from evolve.lineage.world import World, paper_descendant
from evolve.networks.vgg import VGG, initialise
from evolve.networks.vgg_plan import stack_plan, vgg16_plan


def joined(tmp_path: Path, letters: str = "d") -> dict[str, Any]:
    """A context in which stages named with these letters may go together; what was computed
    together is traced.
    """
    return {"sets": letters, "trace": tmp_path / "trace"}


def traced(tmp_path: Path) -> list[str]:
    """What was computed together, "a+b", in order of starting."""
    return [line.split()[0] for line in (tmp_path / "trace").read_text().splitlines()]


def branching(count: int = 4) -> list[Stage]:
    """A short chain with several branches at each link."""
    chain = lineage(2)
    gene = next(stage for stage in chain if stage.label == "gene 1")
    return [*chain, *(make(f"descend 1{n}", gene=gene, priority=2) for n in range(count))]


# What goes together, and in which order


def test_sets_give_what_single_stages_give(tmp_path: Path) -> None:
    stages = branching()
    run(tmp_path / "single", stages, 0)
    for workers in (0, 1, 2):
        events = run(tmp_path / str(workers), stages, workers, context=joined(tmp_path))
        assert (
            sorted(labels(events, StageStarted))
            == sorted(labels(events, StageDone))
            == sorted(stage.label for stage in stages)
        )
        assert values(tmp_path / str(workers), stages) == values(tmp_path / "single", stages)
        assert list((tmp_path / str(workers) / "logs").iterdir()) == []


def test_a_set_takes_what_is_ready_up_to_the_limit_after_those_that_go_alone(
    tmp_path: Path,
) -> None:
    chain = make("a")
    stages = [
        *(make(f"d{n}", priority=1) for n in range(5)),
        make("c", priority=1),
        make("d5", after=chain, priority=1),
        chain,
        make("x", priority=2),
    ]
    run(tmp_path / "s", stages, 0, context=joined(tmp_path))
    assert traced(tmp_path) == ["a", "c", "d0+d1+d2", "d3+d4+d5", "x"]


def test_a_set_does_not_wait_to_fill_up(tmp_path: Path) -> None:
    chain = make("a", priority=3)
    run(
        tmp_path / "s",
        [make("d0"), make("d1"), make("d2", after=chain), chain],
        0,
        context=joined(tmp_path),
    )
    assert traced(tmp_path) == ["d0+d1", "a", "d2"]


def test_only_stages_of_one_key_go_together(tmp_path: Path) -> None:
    run(
        tmp_path / "s",
        [make(name) for name in ("d0", "e0", "x0", "d1", "e1", "x1")],
        0,
        context=joined(tmp_path, "de"),
    )
    assert traced(tmp_path) == ["x0", "x1", "d0+d1", "e0+e1"]


def test_one_worker_goes_on_with_the_chain_while_another_computes_a_set(tmp_path: Path) -> None:
    first = make("a0")
    second = make("a1", after=first)
    stages = [first, second, *(make(f"d{n}", "slow", priority=1) for n in range(3))]
    events = run(tmp_path / "s", stages, 2, context=joined(tmp_path))
    assert sorted(traced(tmp_path)) == ["a0", "a1", "d0+d1+d2"]
    assert labels(events, StageDone)[:2] == ["a0", "a1"]


def test_every_stage_of_a_set_reports_its_progress_and_its_share_of_the_time(
    tmp_path: Path,
) -> None:
    stages = [make(f"d{n}", "slow") for n in range(3)]
    events = run(tmp_path / "s", stages, 1, context=joined(tmp_path))
    assert {event.stage.label for event in events if isinstance(event, StageProgress)} == {
        "d0",
        "d1",
        "d2",
    }
    assert all(
        0.3 <= event.seconds < 0.6 for event in events if isinstance(event, StageDone)
    )  # of about 0.9 s


# What is there, held or lost


def executed(
    root: Path, stages: Sequence[Stage], context: dict[str, Any]
) -> dict[str, tuple[Any, ...]]:
    """How each stage of a set ended, by label."""
    ended: dict[str, tuple[Any, ...]] = {}
    names = {stage.key: stage.label for stage in stages}

    def send(key: str, *message: Any) -> None:
        if message[0] not in ("progress", "notice"):
            ended[names[key]] = message

    threads = torch.get_num_threads()
    execute(stages, Store(root), PERFORM, context, send)
    torch.set_num_threads(threads)
    return ended


def test_a_set_leaves_out_what_is_there_what_another_process_computes_and_what_lacks_an_input(
    tmp_path: Path,
) -> None:
    store = Store(tmp_path / "s")
    there, held, orphan, left = make("d0"), make("d1"), make("d2", mother=make("gone")), make("d3")
    run(store.root, [there], 0)
    with store.lock(held.key):
        ended = executed(store.root, [there, held, orphan, left], joined(tmp_path))
    assert (
        ended["d0"] == ("done", 0.0, True)
        and ended["d1"] == ("held",)
        and ended["d2"] == ("lost", "mother")
    )
    assert ended["d3"][0] == "done" and ended["d3"][2] is False and traced(tmp_path) == ["d3"]
    assert not any(store.locked(stage.key) for stage in (there, held, orphan, left))


def test_a_damaged_input_of_a_set_is_computed_again(tmp_path: Path) -> None:
    victim = make("victim")
    run(tmp_path, [victim], 0)
    saboteur = make("saboteur", "damage")
    children = [make("d0", victim=victim, after=saboteur), make("d1", after=saboteur)]
    events = run(
        tmp_path, [victim, saboteur, *children], context={"victim": victim.key, "sets": "d"}
    )
    assert Counter(labels(events, StageDone)) == {"victim": 2, "saboteur": 1, "d0": 1, "d1": 1}


SCRIPT = """
import sys
from pathlib import Path
from engine_stages import make
from evolve.engine.engine import run_stages
stages = [make(name, "slow") for name in sys.argv[2:]]
run_stages(lambda: stages, Path(sys.argv[1]), "engine_stages:perform", {"trace": sys.argv[1] + ".trace", "sets": "d"}, 2, lambda event: None)
"""


def test_two_runs_with_overlapping_sets_share_the_work(tmp_path: Path) -> None:
    names = [f"d{n}" for n in range(7)]
    command = [sys.executable, "-c", SCRIPT, str(tmp_path / "s")]
    pair = [
        subprocess.Popen([*command, *order], env=environment(), stderr=subprocess.PIPE)
        for order in (names, names[::-1])
    ]
    errors = [running.communicate(timeout=60)[1] for running in pair]
    assert [running.returncode for running in pair] == [0, 0], errors
    computed = [
        label
        for line in Path(f"{tmp_path}/s.trace").read_text().splitlines()
        for label in line.split()[0].split("+")
    ]
    assert sorted(computed) == names


# What goes wrong


@pytest.mark.parametrize("workers", [0, 1])
def test_a_user_error_in_a_set_is_its_own_stages(tmp_path: Path, workers: int) -> None:
    events: list[Event] = []
    stages = [make("d0"), make("d1", "refuse"), make("d2")]
    with pytest.raises(DataError, match="fetch it again"):
        run(tmp_path / "s", stages, workers, events=events, context=joined(tmp_path))
    assert labels(events, StageFailed) == ["d1"] and labels(events, StageDone) == ["d0"]
    notices = [event.text for event in events if isinstance(event, Notice)]
    assert (
        len(notices) == 1
        and "d0 and 2 more together" in notices[0]
        and "fetch it again" in notices[0]
    )


@pytest.mark.parametrize(
    ("does", "said"),
    [("explode", "ZeroDivisionError"), ("leave", "SystemExit"), ("forget", "without putting")],
)
def test_any_other_error_in_a_set_is_its_own_stages(tmp_path: Path, does: str, said: str) -> None:
    stages = [make("d0"), make("d1", does), make("d2")]
    with pytest.raises(StageFailure, match=f"^d1: .*{said}") as caught:
        run(tmp_path / "s", stages, 1, context=joined(tmp_path))
    log = tmp_path / "s" / "logs" / f"{stages[1].key}.log"
    assert str(log) in str(caught.value) and "Traceback" in log.read_text()


@pytest.mark.parametrize("workers", [1, 2])
def test_a_worker_killed_in_a_set_costs_nothing_but_time(tmp_path: Path, workers: int) -> None:
    stages = [make("d0"), make("d1", "die_once"), make("d2"), make("x", priority=1)]
    events = run(tmp_path / "s", stages, workers, context=joined(tmp_path))
    assert sorted(labels(events, StageDone)) == ["d0", "d1", "d2", "x"]
    assert sorted(traced(tmp_path)) == [
        "d0+d1+d2",
        "d1",
        "d2",
        "x",
    ]  # d0's result was there when the worker died
    assert [
        event.text
        for event in events
        if isinstance(event, Notice)
        and "signal 9" in event.text
        and "each once more, alone" in event.text
    ]
    assert (
        None not in values(tmp_path / "s", stages)
        and list((tmp_path / "s" / "partial").iterdir()) == []
    )


def test_a_set_that_succeeds_removes_what_earlier_failures_of_its_stages_left_in_the_logs(
    tmp_path: Path,
) -> None:
    stages = [make("d0"), make("d1")]
    Store(tmp_path / "s").log(stages[1].key).write_text("old traceback")
    run(tmp_path / "s", stages, 1, context=joined(tmp_path))
    assert traced(tmp_path) == ["d0+d1"] and list((tmp_path / "s" / "logs").iterdir()) == []


def test_a_stage_that_kills_its_set_and_then_itself_is_named(tmp_path: Path) -> None:
    events: list[Event] = []
    with pytest.raises(UserError, match=r"^d1: .*twice \(killed by signal 9"):
        run(
            tmp_path / "s",
            [make("d0"), make("d1", "die"), make("d2")],
            1,
            events=events,
            context=joined(tmp_path),
        )
    assert labels(events, StageFailed) == ["d1"] and "d2" not in labels(events, StageFailed)


# Descendants in a set


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    data = DataSettings(size=16, glyph_train=8, glyph_test=6)
    return {
        "data": data,
        "data_dir": None,
        "cache_dir": tmp_path_factory.mktemp("images"),
        "device": "cpu",
    }


def make_world(
    context: dict[str, Any], reference: bool = False, seed: int = 3, **changes: Any
) -> World:
    fingerprint = load_images(context["data"], None, context["cache_dir"]).fingerprint
    d = DescendSettings(
        descendants=2, classes_per_task=3, shots=7, epochs=2, batch=6, augment=("crop", "flip")
    )
    settings = Settings(
        "tiny",
        data=context["data"],
        ancestor=AncestorSettings(width=1 / 16),
        descend=replace(d, **changes),
    )
    return World(settings, seed, fingerprint, (0, 1, 2), (3, 4, 5), tuple(range(6, 12)), reference)


def make_generation(world: World, store: Store) -> list[Stage]:
    """Descend stages of every method that hangs from a learngene, with a learngene as a condenser
    might have put it.
    """
    gene = condense(world, 1, accumulate_stage(world, 0, None))
    ancestor, layers = vgg16_plan(1 / 16), ["conv1", "conv4", "conv12"]
    network = VGG(ancestor, 3)
    initialise(network, 1, "test")
    plan = stack_plan(ancestor, layers)
    store.put(
        gene,
        {"layers": layers},
        {"learngene": flatten(extract(network.state_dict(), ancestor, layers))},
        {},
    )
    methods = [descend(world, method, 1, gene) for method in ("inherited", "shuffled")]
    return [
        gene,
        *methods,
        from_scratch(world, plan, "1"),
        from_scratch(world, paper_descendant(world.settings), "paper's"),
    ]


@pytest.mark.parametrize("reference", [False, True], ids=["fused", "plain"])
def test_descendants_trained_in_a_set_are_bit_equal_to_those_trained_alone(
    tmp_path, images, monkeypatch, reference
):
    world, alone, together = (
        make_world(images, reference),
        Store(tmp_path / "alone"),
        Store(tmp_path / "set"),
    )
    for stage in make_generation(world, alone)[1:]:
        perform.perform_stage(stage, alone, images, lambda fraction, text: None)
    stages, events = make_generation(world, together), []
    monkeypatch.setattr(
        perform, "set_key", lambda stage, context: stage.kind if stage.kind == "descend" else None
    )
    run_stages(
        lambda: stages,
        together.root,
        "evolve.lineage.perform:perform_stage",
        images,
        0,
        events.append,
    )
    started = [place for place, event in enumerate(events) if isinstance(event, StageStarted)]
    assert len(started) == 4 and started == list(range(started[0], started[0] + 4))  # in one set
    for stage in stages[1:]:
        ours, theirs = together.get(stage.key), alone.get(stage.key)
        assert ours is not None and theirs is not None
        assert (
            ours.manifest["files"] == theirs.manifest["files"] and ours.record == theirs.record
        )  # the manifest holds the files' sha256
        assert (
            ours.manifest["provenance"]["spent"]["together"] == 4
            and theirs.manifest["provenance"]["spent"]["together"] == 1
        )
    assert len({str(together.get(stage.key).record["train_loss"]) for stage in stages[1:]}) == 4


def test_on_a_gpu_methods_and_architectures_go_together_but_nothing_else(
    tmp_path, images, monkeypatch
):
    world, store = make_world(images), Store(tmp_path)
    gene, *stages = make_generation(world, store)
    assert {perform.set_key(stage, images) for stage in [gene, *stages]} == {None}
    monkeypatch.setattr(perform, "choose_device", lambda name: torch.device("cuda"))
    (key,) = {perform.set_key(stage, images) for stage in stages}
    assert key is not None and perform.set_key(gene, images) is None
    for other in (
        make_world(images, seed=4),
        make_world(images, epochs=3),
        replace(world, descend_classes=(6, 7, 8)),
        replace(world, data="other"),
    ):
        assert perform.set_key(descend(other, "inherited", 1, gene), images) not in (key, None)
    assert perform.set_key(descend(make_world(images, True), "inherited", 1, gene), images) is None
