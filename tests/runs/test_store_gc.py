"""What refers to a store, what does not, and that collecting the rest harms nobody: no training,
results are put by hand.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from commands import environment
from test_store import child, kill_at_operation

import evolve.runs.referrers
from evolve.cli.main import cli
from evolve.core.durable import from_json, to_json
from evolve.core.errors import UserError
from evolve.core.settings import AncestorSettings, CondenseSettings, Settings, StreamSettings
from evolve.engine.result import seal_of
from evolve.engine.stage import Stage
from evolve.engine.store import Store
from evolve.lineage.lineage import lineage
from evolve.lineage.world import World, ancestor_plan, facts, world_of
from evolve.runs.garbage import census, contents, garbage, references, remove, size_of
from evolve.runs.referrers import Card, card_files, read_card, register

SETTINGS = Settings(
    name="tiny",
    stream=StreamSettings(tasks=2),
    ancestor=AncestorSettings(width=1 / 16, strategy_args={"mem_size": 9}),
)


def a_world(seed: int = 0, **condense: Any) -> World:
    settings = replace(SETTINGS, condense=CondenseSettings(**condense))
    return World(
        settings, seed, "images", tuple(range(64)), tuple(range(64, 80)), tuple(range(80, 100))
    )


def a_run(folder: Path, store: Store, world: World) -> None:
    """A run folder and its card as `evolve run` leaves them."""
    folder.mkdir(parents=True, exist_ok=True)
    rest = {
        "scenario": "tiny",
        "profile": "paper",
        "store": str(store.root),
        "data_dir": None,
        "versions": {},
        "command": [],
    }
    (folder / "run.json").write_text(json.dumps(facts(world) | rest))
    register(store, folder, world, begun=True)


def fill(store: Store, world: World) -> dict[str, Stage]:
    """Put a result for every stage of the lineage."""
    plan = ancestor_plan(world.settings)
    gene = {"layers": list(plan.layer_names[7:]), "ancestor_plan": plan.to_json()}

    for _ in range(2):  # the second round puts the controls whose architecture a condensation names
        stages = {stage.key: stage for stage in lineage(world, store.record)}
        for stage in stages.values():
            record = gene if stage.kind == "condense" else {"label": stage.label}
            store.put(
                stage,
                record,
                {"ancestor": {"w": torch.ones(10)}} if stage.kind == "accumulate" else {},
                {},
            )
    return stages


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "runs" / "store")


@pytest.fixture
def two(store: Store) -> Iterator[tuple[dict[str, Stage], dict[str, Stage]]]:
    """Runs a and b beside the store, which share the ancestor and differ in the condenser."""
    first, second = a_world(), a_world(method="random")
    for name, world in (("a", first), ("b", second)):
        a_run(store.root.parent / name, store, world)
    yield fill(store, first), fill(store, second)


def cards(store: Store) -> list[Card]:
    return [read_card(store, file) for file in card_files(store)]


def keys(store: Store) -> set[str]:
    return {
        item.key for item in contents(store) if item.path.parent.parent.parent.name == "results"
    }


def command(*words: str) -> str:
    done = CliRunner().invoke(cli, ["store", *words], catch_exceptions=False)
    return done.output


# Who refers


def test_a_card_reads_back_as_the_same_world(store: Store) -> None:
    world = replace(a_world(3), reference=True, checkpoint="c0ffee")
    register(store, Path("somewhere"), world)
    (card,) = cards(store)
    assert (
        world_of(card.facts, "card") == world
        and card.folder == Path("somewhere").resolve()
        and card.ours
        and card.young
    )
    register(store, Path("somewhere"), world, begun=True)
    (card,) = cards(store)
    assert not card.young


def test_a_card_is_good_after_store_and_run_have_moved_together(
    store: Store, tmp_path: Path
) -> None:
    a_run(store.root.parent / "batch" / "case", store, a_world(1))
    shutil.move(store.root.parent, tmp_path / "moved")
    moved = Store(tmp_path / "moved" / "store")
    assert [run.folder for run in census(moved).runs] == [tmp_path / "moved" / "batch" / "case"]
    shutil.rmtree(tmp_path / "moved" / "batch")
    assert census(moved).runs == [] and len(census(moved).vanished) == 1


def test_a_card_counts_while_its_run_is_there_or_may_soon_be(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def judged() -> list[str]:
        result = census(store)
        return [run.note for run in result.runs] + ["gone"] * len(result.vanished)

    folder = tmp_path / "elsewhere" / "run"
    register(store, folder, a_world())
    assert judged() == ["opened within the last hour"]
    monkeypatch.setattr(evolve.runs.referrers, "GRACE", -1.0)
    assert judged() == ["gone"]
    a_run(folder, store, a_world())
    assert judged() == [""]
    a_run(folder, store, a_world(9))  # another run in its place
    assert sorted(judged()) == ["", "gone"]
    next(card for card in cards(store) if card.facts["seed"] == 9).file.unlink()
    shutil.rmtree(folder)
    (card,) = cards(store)
    told = from_json(card.file.read_bytes()) | {"host": "node7", "machine": "0"}
    card.file.write_bytes(to_json(told | {"seal": seal_of(told)}))
    assert judged() == ["on node7, cannot be seen from here"]
    assert census(store, forget=["node7"]).runs == []


# What goes


def test_gc_removes_exactly_what_no_run_refers_to(
    store: Store, two: tuple[dict[str, Stage], dict[str, Stage]]
) -> None:
    first, second = two
    assert first.keys() & second.keys() and first.keys() - second.keys()
    assert garbage(store, census(store)) == []
    shutil.rmtree(store.root.parent / "a")
    shown = garbage(store, census(store))
    assert {item.key for item in shown} == first.keys() - second.keys()
    before = size_of(store.root / "results")
    removed = remove(store, shown)
    assert removed == shown and keys(store) == second.keys()
    assert size_of(store.root / "results") == before - sum(item.size for item in removed)
    assert list((store.root / "tmp").iterdir()) == []


def test_leftovers_go_and_what_is_wanted_stays(
    store: Store, two: tuple[dict[str, Stage], dict[str, Stage]], tmp_path: Path
) -> None:
    wanted = next(iter(two[0]))
    for key in (wanted, "0" * 40):
        store.checkpoint(key).save({"w": torch.ones(3)}, {})
        store.log(key).write_text("trouble")
    (store.root / "damaged" / "x-1").mkdir()
    for name in (
        "glyphs-32-0123456789abcdef",
        "cifar100-32-0123456789abcdef",
        ".glyphs-64-0123456789abcdef.part",
    ):
        (store.root / "images" / name).mkdir(parents=True)
        (store.root / "images" / name / "pixels.npy").write_bytes(b"123")
    shown = garbage(store, census(store))
    assert {(item.kind, item.path.name) for item in shown} == {
        ("checkpoints", "0" * 40),
        ("logs", f"{'0' * 40}.log"),
        ("damaged", "x-1"),
        ("images", "cifar100-32-0123456789abcdef"),
        ("images", ".glyphs-64-0123456789abcdef.part"),
    }
    remove(store, shown)
    assert garbage(store, census(store)) == []


def test_imports_and_their_learngenes_stay_unless_all_is_said(
    store: Store, two: tuple[dict[str, Stage], dict[str, Stage]]
) -> None:
    imported = Stage("import", "import", {"content": "x", "inputs": {}}, {})
    gene = Stage(
        "condense", "of import", {"inputs": {"ancestor": imported.key}}, {"ancestor": imported.key}
    )
    ancestor = next(stage for stage in two[0].values() if stage.kind == "accumulate")
    other = Stage(
        "condense",
        "other settings",
        {"inputs": {"ancestor": ancestor.key}},
        {"ancestor": ancestor.key},
    )
    for stage in (imported, gene, other):
        store.put(stage, {}, {}, {})
    assert {item.key for item in garbage(store, census(store))} == {other.key}
    assert {item.key for item in garbage(store, census(store), everything=True)} == {
        other.key,
        gene.key,
        imported.key,
    }


def test_nothing_goes_while_a_card_cannot_be_read_or_no_run_is_known(
    store: Store, two: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(store.root.parent.parent)
    held = keys(store)
    for damaged in ("[]", "[" * 100_000, '{"run": {}}', "9" * 5000):
        (store.root / "runs" / "x.json").write_text(damaged)
        with pytest.raises(UserError, match=r"x\.json"):
            command("gc", "--yes")
        assert "unreadable" in command() and "runs/b" in command()

    def failing(path: Path, most: int) -> bytes:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as broken:
        broken.setattr(evolve.runs.referrers, "read_bounded", failing)
        with pytest.raises(UserError, match="cannot be read .Input/output error"):
            command("gc", "--yes")
    (store.root / "runs" / "x.json").unlink()
    for name in ("a", "b"):
        shutil.rmtree(store.root.parent / name)
    with pytest.raises(UserError, match="no run is known"):
        command("gc", "--yes")
    assert keys(store) == held


def test_a_run_whose_disk_is_not_mounted_is_not_gone(
    store: Store, two: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk is a folder here, and what is mounted is what we say."""
    disk = store.root.parent / "a"
    mounted = {str(disk), "/"}
    monkeypatch.setattr(os.path, "ismount", lambda path: str(path) in mounted)
    a_run(disk / "run", store, a_world(5))
    shutil.rmtree(disk / "run")
    assert [card.folder.name for card in census(store).vanished] == ["run"]
    mounted.remove(str(disk))
    result = census(store)
    assert result.vanished == [] and f"its disk is not mounted at {disk}" in {
        run.note for run in result.runs
    }
    host = next(card.host for card in cards(store))
    assert [card.folder.name for card in census(store, forget=[host]).vanished] == ["run"]


@pytest.mark.parametrize("damage", ["{", "[" * 100_000, "9" * 5000, "breadth", "x" * (17 << 20)])
def test_a_run_whose_file_is_damaged_counts_by_its_card_and_hinders_nobody(
    damage: str,
    store: Store,
    two: tuple[dict[str, Stage], dict[str, Stage]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(store.root.parent.parent)
    file = store.root.parent / "a" / "run.json"
    damaged = file.read_text().replace('"width"', '"breadth"') if damage == "breadth" else damage
    file.write_text(damaged)
    assert "run.json cannot be read" in command().replace("\n", " ")
    shutil.rmtree(store.root.parent / "b")
    command("gc", "--yes")
    assert keys(store) == set(two[0])


def test_what_is_being_computed_is_skipped(
    store: Store, two: tuple[dict[str, Stage], dict[str, Stage]]
) -> None:
    shutil.rmtree(store.root.parent / "a")
    shown = garbage(store, census(store))
    with store.lock(shown[0].key):
        assert child(lambda: remove(store, shown)) == 0
    assert keys(store) == two[1].keys() | {shown[0].key}


# Runs that start meanwhile


def test_a_run_that_opens_the_store_while_gc_waits_for_an_answer_loses_nothing(
    store: Store, two: tuple[dict[str, Stage], dict[str, Stage]]
) -> None:
    third = fill(store, a_world(method="similarity"))
    shutil.rmtree(store.root.parent / "a")
    script = "import sys; from evolve.cli.main import main; sys.argv[1:] = ['store', 'gc']; main()"
    place = {
        "cwd": store.root.parent.parent,
        "env": environment(),
        "text": True,
        "stdin": subprocess.PIPE,
        "stdout": subprocess.PIPE,
    }
    gc: subprocess.Popen[str] = subprocess.Popen([sys.executable, "-c", script], **place)  # type: ignore[call-overload]
    seen = ""
    while not seen.endswith("[y/N]:"):
        assert (letter := gc.stdout.read(1)), seen
        seen += letter
    register(
        store, store.root.parent / "again", a_world()
    )  # run a, begun anew; its folder is not written yet
    output, _ = gc.communicate("y\n", timeout=60)
    assert gc.returncode == 0 and "kept" in output
    assert keys(store) == two[0].keys() | two[1].keys() and third.keys() - keys(store)


def test_a_run_that_opens_the_store_while_things_are_removed_waits(store: Store) -> None:
    order = []

    def opens() -> None:
        register(store, Path("late"), a_world())
        order.append("registered")

    late = threading.Thread(target=opens)
    with store.gate():
        late.start()
        time.sleep(0.2)
        order.append("removed")
    late.join()
    assert order == ["removed", "registered"]


def test_a_gc_killed_anywhere_leaves_whole_results(
    store: Store, two: tuple[dict[str, Stage], dict[str, Stage]]
) -> None:
    shutil.rmtree(store.root.parent / "a")
    kept = two[1].keys()
    killed = []
    for at in (40, 120, 200, 280, 360):
        shown = garbage(store, census(store))

        def work(at: int = at, shown: Any = shown) -> None:
            kill_at_operation(at)
            remove(store, shown)

        killed.append(os.WIFSIGNALED(child(work)))
        again = Store(store.root, pytest.fail)
        assert all(again.get(key) is not None for key in keys(again)) and kept <= keys(again)
        assert list((store.root / "tmp").iterdir()) == []
    assert killed[0] and keys(store) == kept  # the last of them finished


# The screens


def test_the_listing_counts_shared_bytes_once(
    store: Store, two: tuple[dict[str, Stage], dict[str, Stage]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(store.root.parent.parent)
    monkeypatch.setenv("COLUMNS", "200")
    first, second = two
    output = command()
    rows = {
        line.split()[-1]: line.split()
        for line in output.splitlines()
        if line[0].isdigit() and " runs/" in line
    }
    assert rows["runs/a"][0] == str(len(first)) and rows["runs/b"][0] == str(len(second))
    assert f"{len(first.keys() & second.keys())} " in next(
        line for line in output.splitlines() if "stored once" in line
    )
    assert next(line for line in output.splitlines() if "of no run" in line).startswith("0 ")
    assert "nothing that no run refers to" in command("gc")


def test_gc_asks_and_a_dry_run_does_not_even(
    store: Store, two: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(store.root.parent.parent)
    shutil.rmtree(store.root.parent / "a")
    held = keys(store)
    assert "condense" in command("gc", "--dry-run")
    assert CliRunner().invoke(cli, ["store", "gc"], input="n\n").exit_code == 1
    assert keys(store) == held
    assert "removed" in command("gc", "--yes") and keys(store) < held


def test_a_mistyped_store_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no store\.json"):
        command("--store", str(tmp_path / "sotre"))
    assert not (tmp_path / "sotre").exists()


def test_every_reference_is_named_by_its_run(
    store: Store, two: tuple[dict[str, Stage], dict[str, Stage]]
) -> None:
    named = references(store, census(store).runs)
    assert (
        named[store.root.parent / "a"].keys() == two[0].keys()
        and named[store.root.parent / "b"].keys() == two[1].keys()
    )
