"""The store: keys, whole-or-nothing results under every crash, damage, full and read-only disks,
locks.
"""

from __future__ import annotations

import errno
import json
import math
import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import environment
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

import evolve.core.durable
import evolve.engine.result
import evolve.engine.store_folder
from evolve.core.durable import from_json, to_json
from evolve.core.errors import StoreError
from evolve.engine.checkpoint import ThrottledCheckpoint
from evolve.engine.store import Stage, Store, Thinned, stage_key

torch.set_num_threads(1)

finite = st.floats(allow_nan=False, allow_infinity=False)
names = st.text(min_size=1, max_size=5).filter(lambda name: not name.startswith("$"))


def json_values(numbers: st.SearchStrategy[float]) -> st.SearchStrategy[Any]:
    leaves = st.none() | st.booleans() | st.integers() | numbers | st.text(max_size=5)
    return st.recursive(
        leaves,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
        max_leaves=8,
    )


recipes = st.dictionaries(
    names.filter(lambda name: name != "inputs"), json_values(finite), max_size=4
)


def stage(number: int = 1) -> Stage:
    return Stage("condense", f"condense {number}", {"seed": number, "lr": 0.1, "inputs": {}}, {})


def tensors(seed: int = 0) -> dict[str, dict[str, Tensor]]:
    draw = torch.Generator().manual_seed(seed)
    return {
        "model": {"w": torch.randn(2, 3, 4, 4, generator=draw), "n": torch.tensor(7)},
        "extra": {"i": torch.arange(5)},
    }


def quiet(text: str) -> None:
    pass


def new_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget what this process has verified, as a new one would not know it."""
    monkeypatch.setattr(evolve.engine.result, "verified", {})


# Keys


@given(recipes, st.randoms())
def test_key_depends_on_the_recipe_only(recipe: dict[str, Any], random: Any) -> None:
    items = list(recipe.items())
    random.shuffle(items)
    first = Stage("descend", "a", recipe, {})
    assert (
        first.key
        == Stage("descend", "b", dict(items), {}, priority=3).key
        == stage_key("descend", json.loads(json.dumps(recipe)))
    )
    assert len(first.key) == 40
    assert first.key != Stage("condense", "a", recipe, {}).key


@given(recipes, recipes)
def test_different_recipes_have_different_keys(
    first: dict[str, Any], second: dict[str, Any]
) -> None:
    same = json.dumps(first, sort_keys=True) == json.dumps(second, sort_keys=True)
    assert (stage_key("descend", first) == stage_key("descend", second)) == same


def test_a_recipe_is_copied_and_must_name_its_inputs() -> None:
    layers = [1, 2]
    condense = Stage(
        "condense", "c", {"layers": layers, "inputs": {"ancestor": "k"}}, {"ancestor": "k"}
    )
    layers.append(3)
    assert condense.recipe["layers"] == [1, 2]
    with pytest.raises(ValueError, match="inputs"):
        Stage("condense", "c", {"inputs": {}}, {"ancestor": "k"})


@pytest.mark.parametrize("bad", [{1: 2}, {"a": {1, 2}}, {"a": Path("x")}, {"$float": "nan"}])
def test_a_recipe_that_json_would_change_is_refused(bad: Any) -> None:
    with pytest.raises(TypeError, match="recipe"):
        Stage("condense", "c", bad, {})


def test_a_recipe_with_nan_has_no_key() -> None:
    with pytest.raises(ValueError):
        _ = Stage("condense", "c", {"lr": math.nan}, {}).key


@given(json_values(st.floats()))
def test_json_reads_back_bit_for_bit(value: Any) -> None:
    text = to_json(value)
    assert repr(from_json(text)) == repr(value)
    json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


# Results


def test_a_result_reads_back_equal(tmp_path: Path) -> None:
    store = Store(tmp_path / "s")
    assert store.get(stage().key) is None and not store.has(stage().key)
    shared = torch.randn(3, 4, 5, 5).contiguous(memory_format=torch.channels_last)
    given = {
        "model": {
            "a": shared,
            "b": shared,
            "view": shared[1:],
            "half": shared.half(),
            "none": torch.empty(0, 3),
        },
        "empty": {},
    }
    record = {"loss": [math.nan, -math.inf, 0.1 + 0.2], "selected": (1, 2)}
    store.put(stage(), record, given, {"evolve": "0"})
    result = Store(tmp_path / "s").get(stage().key)
    assert result is not None and store.has(stage().key)
    assert repr(result.record) == repr(
        {"loss": [math.nan, -math.inf, 0.1 + 0.2], "selected": [1, 2]}
    )
    for name, group in given.items():
        read = result.tensors(name)
        assert read.keys() == group.keys()
        assert all(
            torch.equal(read[key], group[key]) and read[key].dtype == group[key].dtype
            for key in group
        )
    read = result.tensors("model")
    read["a"].add_(1)
    assert torch.equal(read["b"], shared) and torch.equal(result.tensors("model")["a"], shared)
    with pytest.raises(StoreError, match=r"has no other\.safetensors"):
        result.tensors("other")


@settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(recipes)
def test_the_stored_key_is_the_hash_of_the_stored_recipe(
    tmp_path: Path, recipe: dict[str, Any]
) -> None:
    condense = Stage("condense", "c", recipe, {})
    path = Store(tmp_path / "s").put(condense, {}, {}, {"loss": math.nan}).path
    manifest = json.loads((path / "manifest.json").read_text())
    assert path == tmp_path / "s" / "results" / "condense" / condense.key[:2] / condense.key
    assert stage_key(manifest["kind"], manifest["recipe"]) == path.name == manifest["key"]


def test_the_first_result_stays(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.put(stage(), {"who": 1}, {}, {})
    assert store.put(stage(), {"who": 2}, {}, {}).record == {"who": 1}


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


@pytest.mark.parametrize("name", ["manifest.json", "result.json", "model.safetensors"])
@pytest.mark.parametrize("damage", [truncate, flip, Path.unlink])
def test_damage_is_put_aside_reported_and_recomputed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, damage: Callable[[Path], None]
) -> None:
    messages: list[str] = []
    store = Store(tmp_path, messages.append)
    for count in (1, 2):
        result = store.put(stage(), {"a": 1}, tensors(), {})
        damage(result.path / name)
        new_process(monkeypatch)
        assert store.get(stage().key) is None and not store.has(stage().key)
        assert (tmp_path / "damaged" / f"{stage().key}-{count}").is_dir()
        assert (
            len(messages) == count
            and stage().key in messages[-1]
            and name in messages[-1]
            and "\n" not in messages[-1]
        )


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.floats(0, 1, exclude_max=True), st.integers(1, 255))
def test_no_flipped_byte_of_a_manifest_changes_what_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: float, mask: int
) -> None:
    store = Store(tmp_path, quiet)
    result = store.put(stage(), {"a": 1}, {}, {"version": "1"})
    file = result.path / "manifest.json"
    data = bytearray(file.read_bytes())
    data[int(place * len(data))] ^= mask
    file.write_bytes(data)
    new_process(monkeypatch)
    again = store.get(stage().key)
    assert again is None or (again.record, again.manifest) == (result.record, result.manifest)


def test_files_are_hashed_once_a_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path)
    store.put(stage(), {}, tensors(), {})
    new_process(monkeypatch)
    hashed: list[Path] = []
    original = evolve.engine.result.file_digest
    monkeypatch.setattr(
        evolve.engine.result, "file_digest", lambda path: (hashed.append(path), original(path))[1]
    )
    for _ in range(3):
        assert store.get(stage().key) is not None
    assert len(hashed) == 3 == len(set(hashed))


def test_a_file_that_changes_in_use_is_not_handed_out(tmp_path: Path) -> None:
    result = Store(tmp_path).put(stage(), {}, tensors(), {})
    flip(result.path / "model.safetensors")
    with pytest.raises(StoreError, match="model.safetensors"):
        result.tensors("model")


@pytest.mark.parametrize("name", ["result.json", "model.safetensors", "manifest.json"])
def test_a_file_that_changes_after_the_first_look_is_no_result(tmp_path: Path, name: str) -> None:
    """Also where its size and times stay."""
    messages: list[str] = []
    store = Store(tmp_path, messages.append)
    path = store.put(stage(), {"accuracy": 0.33}, tensors(), {"accuracy": 0.33}).path / name
    assert store.record(stage().key) == {"accuracy": 0.33}
    before = path.stat()
    data = path.read_bytes()
    path.write_bytes(data.replace(b"0.33", b"0.99") if b"0.33" in data else data[::-1])
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.read_bytes() != data and path.stat().st_size == before.st_size
    assert store.get(stage().key) is None
    assert f"{name} was changed" in messages[0]


# Crashes: a child that is killed at its n-th file operation, for every n


def child(work: Callable[[], object], die_at: int | None = None) -> int:
    """Run ``work`` in a fork; kill -9 it at its ``die_at``-th file operation.

    Returns its wait status.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid:
        return os.waitpid(pid, 0)[1]
    try:
        if die_at is not None:
            kill_at_operation(die_at)
        work()
        os._exit(0)
    finally:
        os._exit(1)


def kill_at_operation(number: int) -> None:
    """Count opens, renames, unlinks, mkdirs, half-written files and flushes of this process; die at
    the given one.
    """
    left = number

    def count() -> None:
        nonlocal left
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def in_halves(path: Path, data: bytes) -> None:
        with path.open("xb") as file:
            file.write(data[: len(data) // 2])
            file.flush()
            count()
            file.write(data[len(data) // 2 :])
        count()

    for module in (evolve.engine.store_folder, evolve.engine.checkpoint):
        module.write_file = in_halves  # type: ignore[attr-defined]
    watched = (
        "open",
        "os.rename",
        "os.remove",
        "os.mkdir",
        "os.rmdir",
        "shutil.rmtree",
        "fcntl.flock",
    )
    sys.addaudithook(lambda event, _: count() if event in watched else None)


def every_crash(work: Callable[[int], object]) -> Iterator[int]:
    """Run ``work(n)`` for n = 0, 1, ..., dying at its n-th operation, until it survives."""
    for number in range(500):
        status = child(partial(work, number), die_at=number)
        yield number
        if os.waitstatus_to_exitcode(status) == 0:
            assert number > 10, "the crash points were not counted"
            return
        assert os.WTERMSIG(status) == signal.SIGKILL
    pytest.fail("the work never ended")


def leftovers(store: Store) -> list[Path]:
    return [*(store.root / "tmp").iterdir(), *(store.root / "damaged").iterdir()]


def test_a_put_killed_anywhere_leaves_all_or_nothing(tmp_path: Path) -> None:
    def work(number: int) -> None:
        Store(tmp_path / str(number)).put(stage(), {"a": 1}, tensors(), {})

    stored = []
    for number in every_crash(work):
        store = Store(tmp_path / str(number), pytest.fail)
        stored.append(store.has(stage().key))
        result = store.get(stage().key) or store.put(stage(), {"a": 1}, tensors(), {})
        assert result.record == {"a": 1} and torch.equal(
            result.tensors("model")["w"], tensors()["model"]["w"]
        )
        assert leftovers(store) == []
    assert stored == sorted(stored) and not stored[0] and stored[-1]


def test_a_checkpoint_killed_anywhere_leaves_the_last_good_one(tmp_path: Path) -> None:
    saved = []
    store = Store(tmp_path)
    keep = store.checkpoint(stage().key)
    new = {"w": torch.full((50,), 2.0)}
    old = {"w": torch.full((50,), 1.0)}
    keep.save(old, {"epoch": 1})
    for _ in every_crash(lambda _: store.checkpoint(stage().key).save(new, {"epoch": 2})):
        loaded = Store(tmp_path).checkpoint(stage().key).load()
        assert loaded is not None
        state, meta = loaded
        assert torch.equal(state["w"], {1: old, 2: new}[meta["epoch"]]["w"])
        saved.append(meta["epoch"])
        keep.save(old, {"epoch": 1})
        assert len(list(keep.folder.iterdir())) == 1
        assert leftovers(store) == []
    assert saved[0] == 1 and saved[-1] == 2


def test_a_sparing_checkpoint_writes_when_it_is_time(tmp_path: Path) -> None:
    now = [0.0]
    keep = ThrottledCheckpoint(Store(tmp_path).checkpoint(stage().key), 10, lambda: now[0])
    seen = []
    for epoch in range(1, 7):
        now[0] = 4.0 * epoch
        keep.save({"w": torch.ones(2)}, {"epoch": epoch})
        loaded = keep.load()
        seen.append(loaded[1]["epoch"] if loaded else None)
    assert seen == [None, None, 3, 3, 3, 6]


def test_a_checkpoint_is_passed_over_when_damaged_and_gone_when_the_result_is_there(
    tmp_path: Path,
) -> None:
    store = Store(tmp_path)
    keep = store.checkpoint(stage().key)
    assert keep.load() is None
    keep.clear()
    keep.save({"w": torch.ones(9)}, {"losses": [math.nan, 0.1]})
    loaded = keep.load()
    assert loaded is not None and repr(loaded[1]) == repr({"losses": [math.nan, 0.1]})
    (file,) = keep.folder.iterdir()
    flip(file)
    assert keep.load() is None
    keep.save({"w": torch.zeros(9)}, {})
    assert keep.load() is not None and not file.exists()
    store.put(stage(), {}, {}, {})
    assert keep.load() is None and not keep.folder.exists()


def test_temporary_folders_of_the_living_are_left_alone(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with store.folder.scratch() as folder:
        status = child(lambda: Store(tmp_path) and None)
        assert status == 0 and folder.is_dir()
    assert leftovers(store) == []


# Thinning: the record stays, tensor files go and may come back

WHY = "the snapshot was thinned"


def thinned(store: Store, seed: int = 0) -> int:
    return store.thin(stage(seed + 1).key, ["model", "absent"], WHY)


def test_a_thinned_result_keeps_its_record_and_says_why_its_tensors_are_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path, pytest.fail)
    before = store.put(stage(), {"a": math.nan}, tensors(), {})
    size = (before.path / "model.safetensors").stat().st_size
    assert thinned(store) == size and not (before.path / "model.safetensors").exists()
    for _ in range(2):
        after = store.get(stage().key)
        assert after is not None and after.thinned and store.has(stage().key)
        assert repr(after.record) == repr({"a": math.nan}) and torch.equal(
            after.tensors("extra")["i"], torch.arange(5)
        )
        for result in (after, before):  # before: read while it was whole
            with pytest.raises(Thinned, match=WHY):
                result.tensors("model")
        new_process(monkeypatch)
    assert thinned(store) == 0 and store.thin("0" * 40, ["model"], WHY) == 0


def test_put_again_it_takes_the_same_bytes_and_no_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path, pytest.fail)
    whole = store.put(stage(), {"a": 1}, tensors(), {"machine": "one"})
    thinned(store)
    with pytest.raises(StoreError, match=r"model\.safetensors.*--store"):
        store.put(stage(), {"a": 1}, tensors(seed=1), {})
    result = store.get(stage().key)
    assert result is not None and result.thinned
    again = store.put(stage(), {"a": 2}, tensors(), {"machine": "two"})
    assert again.record == whole.record and again.manifest | {"seal": ""} == whole.manifest | {
        "seal": ""
    }
    new_process(monkeypatch)
    result = store.get(stage().key)
    assert result is not None and torch.equal(result.tensors("model")["w"], tensors()["model"]["w"])


def test_a_result_that_is_being_computed_is_not_thinned(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.put(stage(), {}, tensors(), {})
    with store.lock(stage().key):
        assert child(lambda: os._exit(thinned(Store(tmp_path)))) == 0
    result = store.get(stage().key)
    assert result is not None and not result.thinned


@pytest.mark.parametrize("back", [False, True])
def test_thinning_or_restoring_killed_anywhere_leaves_one_or_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, back: bool
) -> None:
    store = Store(tmp_path, pytest.fail)
    ended = []

    def work(number: int) -> None:
        if back:
            store.put(stage(number + 1), {"a": 1}, tensors(), {})
        else:
            thinned(store, number)

    for number in range(500):
        store.put(stage(number + 1), {"a": 1}, tensors(), {})
        if back:
            thinned(store, number)
        status = child(partial(work, number), die_at=number)
        new_process(monkeypatch)
        again = Store(tmp_path, pytest.fail)
        result = again.get(stage(number + 1).key)
        assert result is not None and result.record == {"a": 1} and leftovers(again) == []
        ended.append(result.thinned is not back)
        for lease in (tmp_path / "locks").glob("*.lease"):
            os.utime(lease, (time.time() - 3,) * 2)  # half written it is waited for
        thinned(again, number)  # finishes, whatever was left
        assert sorted(file.name for file in result.path.iterdir()) == [
            "extra.safetensors",
            "manifest.json",
            "result.json",
        ]
        again.put(stage(number + 1), {}, tensors(), {})
        if os.waitstatus_to_exitcode(status) == 0:
            break
    assert ended == sorted(ended) and not ended[0] and ended[-1] and number > 10


# Several processes


def test_processes_that_put_one_key_at_once_agree(tmp_path: Path) -> None:
    Store(tmp_path)
    start = time.monotonic() + 0.3
    for round_ in range(5):
        shared = stage(round_)
        children = []
        for who in range(4):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)
                pid = os.fork()
            if pid == 0:
                try:
                    time.sleep(max(0.0, start - time.monotonic()))
                    result = Store(tmp_path).put(shared, {"who": who}, tensors(who), {})
                    same = torch.equal(
                        result.tensors("model")["w"], tensors(result.record["who"])["model"]["w"]
                    )
                    os._exit(0 if same else 2)
                finally:
                    os._exit(1)
            children.append(pid)
        assert [os.waitpid(pid, 0)[1] for pid in children] == [0, 0, 0, 0]
        store = Store(tmp_path, pytest.fail)
        result = store.get(shared.key)
        assert result is not None and torch.equal(
            result.tensors("model")["w"], tensors(result.record["who"])["model"]["w"]
        )
        assert leftovers(store) == []


def test_a_lock_keeps_others_out_and_dies_with_its_holder(tmp_path: Path) -> None:
    store = Store(tmp_path)
    script = "import sys, time; from pathlib import Path; from evolve.engine.store import Store\n"
    script += "with Store(Path(sys.argv[1])).lock('k'): print('held', flush=True); time.sleep(60)"
    holder = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, env=environment()
    )
    assert holder.stdout is not None and holder.stdout.readline() == b"held\n"
    assert store.locked("k") and not store.locked("other")
    with store.lock("other", waiting=lambda: pytest.fail("nobody holds it")):
        pass
    waited = []

    def waiting() -> None:
        waited.append(True)
        holder.kill()

    with store.lock("k", waiting):
        assert holder.wait(5) == -signal.SIGKILL
    assert waited == [True] and not store.locked("k")
    holder.stdout.close()


# Disks and folders that do not serve


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EIO])
def test_a_disk_error_is_one_line_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    store = Store(tmp_path)
    store.checkpoint(stage().key).save({"w": torch.ones(3)}, {"epoch": 1})

    def fail(handle: int) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as broken:
        broken.setattr(os, "fsync", fail)
        for attempt in (
            lambda: store.put(stage(), {}, tensors(), {}),
            lambda: store.checkpoint(stage().key).save({"w": torch.zeros(3)}, {"epoch": 2}),
        ):
            with pytest.raises(StoreError) as caught:
                attempt()
            assert str(tmp_path) in str(caught.value) and "\n" not in str(caught.value)
    loaded = store.checkpoint(stage().key).load()
    assert not store.has(stage().key) and leftovers(store) == []
    assert loaded is not None and loaded[1] == {"epoch": 1}


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)], capture_output=True
    )
    if done.returncode:
        pytest.skip("cannot mount a small disk here")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def test_a_really_full_and_a_really_read_only_disk(small_disk: Path) -> None:
    root = small_disk / "store"
    store = Store(root)
    store.put(stage(1), {"a": 1}, tensors(), {})
    with pytest.raises(StoreError, match="full") as caught:
        store.put(stage(2), {}, {"big": {"w": torch.zeros(1 << 19)}}, {})
    assert str(root) in str(caught.value) and not store.has(stage(2).key) and leftovers(store) == []
    store.put(stage(3), {}, {}, {})
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    again = Store(root)
    for attempt in (
        lambda: store.put(stage(4), {}, {}, {}),
        lambda: again.put(stage(4), {}, {}, {}),
        lambda: Store(small_disk / "new"),
    ):
        with pytest.raises(StoreError, match="read-only"):
            attempt()
    assert again.read_only and not store.read_only and not again.locked(stage(4).key)
    assert again.record(stage(1).key) == {"a": 1} and again.put(stage(1), {"a": 1}, tensors(), {})


@pytest.mark.parametrize(
    ("content", "said"),
    [('{"format": 2}', "format 2"), *((bad, "cannot be read") for bad in ("{", "[]", ""))],
)
def test_another_format_is_refused(tmp_path: Path, content: str, said: str) -> None:
    (tmp_path / "store.json").write_text(content)
    with pytest.raises(StoreError, match=said) as caught:
        Store(tmp_path)
    assert "store.json" in str(caught.value) and "\n" not in str(caught.value)


def test_a_folder_of_something_else_or_a_file_is_refused_and_untouched(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(StoreError, match="not a store"):
        Store(tmp_path)
    with pytest.raises(StoreError, match="thesis.tex.*file is in the way"):
        Store(tmp_path / "thesis.tex" / "store")
    with pytest.raises(StoreError, match="thesis.tex.*file is in the way"):
        Store(tmp_path / "thesis.tex")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_looking_at_a_store_needs_no_torch(tmp_path: Path) -> None:
    Store(tmp_path).put(stage(), {"a": 1}, tensors(), {})
    script = (
        "import sys; from pathlib import Path; import evolve.engine.engine; from "
        "evolve.engine.store import Store\n"
    )
    script += (
        "assert Store(Path(sys.argv[1])).get(sys.argv[2]).record == {'a': 1}; assert "
        "'torch' not in sys.modules"
    )
    subprocess.run(
        [sys.executable, "-c", script, str(tmp_path), stage().key], check=True, env=environment()
    )
