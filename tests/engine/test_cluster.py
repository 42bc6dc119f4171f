"""Stages on a real Dask cluster: a scheduler and two workers, processes of their own that talk over
TCP.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from http.client import HTTPException
from pathlib import Path
from typing import Any

import pytest
from commands import environment, heed_signals, wait_until
from engine_stages import Interrupting, make

from evolve.core.errors import DataError, UserError
from evolve.engine.cluster import Cluster, chosen
from evolve.engine.cluster.crew import Dask
from evolve.engine.cluster.start import connected
from evolve.engine.cluster.task import Assignment, settle, unfit, versions
from evolve.engine.engine import run_stages
from evolve.engine.scheduler import (
    Event,
    Notice,
    StageDone,
    StageFailed,
    StageFailure,
    StageProgress,
)
from evolve.engine.store import Stage, Store

PERFORM = "engine_stages:perform"
ENVIRONMENT = environment()


def spawn(folder: Path, *words: str) -> subprocess.Popen[bytes]:
    out = (folder / f"{words[0]}-{time.monotonic_ns()}.out").open("wb")
    return subprocess.Popen(
        [sys.executable, "-m", "dask", *words],
        env=ENVIRONMENT,
        stdout=out,
        stderr=out,
        cwd=folder,
        start_new_session=True,
    )


@contextmanager
def scheduler(folder: Path, workers: int = 2, *more: str) -> Iterator[str]:
    """A scheduler's address; it and its workers end with the block."""
    file = folder / "scheduler.json"
    started = [
        spawn(
            folder,
            "scheduler",
            "--host",
            "127.0.0.1",
            "--port",
            "0",
            "--no-dashboard",
            "--scheduler-file",
            str(file),
        )
    ]
    try:
        wait_until(file.exists)
        wait_until(lambda: file.read_text().strip().endswith("}"))
        options = [
            "--scheduler-file",
            str(file),
            "--nthreads",
            "1",
            "--no-dashboard",
            "--host",
            "127.0.0.1",
            *more,
        ]
        started += [spawn(folder, "worker", *options) for _ in range(workers)]
        yield json.loads(file.read_text())["address"]
    finally:
        for process in reversed(started):
            os.killpg(process.pid, signal.SIGTERM)
        for process in started:
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with scheduler(tmp_path_factory.mktemp("dask")) as url:
        yield url


def run(root: Path, stages: Sequence[Stage], where: str, **more: Any) -> list[Event]:
    events: list[Event] = more.pop("events", [])
    run_stages(
        lambda: stages,
        root,
        PERFORM,
        more.pop("context", {}),
        Dask(Cluster(where)),
        events.append,
        **more,
    )
    return events


def lineage(length: int = 3) -> list[Stage]:
    stages: list[Stage] = []
    previous: dict[str, Stage] = {}
    for t in range(length):
        ancestor = make(f"ancestor {t}", **previous)
        gene = make(f"gene {t}", "random_network", ancestor=ancestor, priority=1)
        stages += [gene, make(f"side {t}", ancestor=ancestor, priority=2), ancestor]
        previous = {"previous": ancestor}
    return stages


def content(root: Path) -> dict[str, bytes]:
    """Every result's files, byte for byte; of the manifests all but how long it took and the seal
    over that.
    """
    files = {}
    for file in sorted(root.glob("results/*/*/*/*")):
        data = file.read_bytes()
        if file.name == "manifest.json":
            table = json.loads(data)
            table["provenance"].pop("spent", None)
            data = json.dumps(
                {name: value for name, value in table.items() if name != "seal"}
            ).encode()
        files[str(file.relative_to(root))] = data
    return files


def labels(events: Sequence[Event], kind: type) -> list[str]:
    return [event.stage.label for event in events if isinstance(event, kind)]  # type: ignore[union-attr]


def notices(events: Sequence[Event]) -> list[str]:
    return [event.text for event in events if isinstance(event, Notice)]


def traced(trace: Path) -> list[tuple[str, int]]:
    lines = trace.read_text().splitlines() if trace.exists() else []
    return [(line.rsplit(" ", 1)[0], int(line.rsplit(" ", 1)[1])) for line in lines]


# What is computed


@pytest.mark.slow
def test_two_workers_over_tcp_give_the_bytes_that_a_local_one_gives(
    tmp_path: Path, address: str
) -> None:
    stages = lineage()
    run_stages(lambda: stages, tmp_path / "local", PERFORM, {}, 1, lambda event: None)
    events = run(tmp_path / "dask", stages, address, context={"trace": tmp_path / "trace"})
    assert sorted(labels(events, StageDone)) == sorted(stage.label for stage in stages)
    assert sum(name.endswith(".safetensors") for name in content(tmp_path / "local")) == 3
    assert content(tmp_path / "dask") == content(tmp_path / "local")
    assert len(traced(tmp_path / "trace")) == len(stages) and os.getpid() not in {
        pid for _, pid in traced(tmp_path / "trace")
    }
    assert list((tmp_path / "dask" / "logs").iterdir()) == []
    again = run(tmp_path / "dask", stages, address, context={"trace": tmp_path / "trace"})
    assert len(traced(tmp_path / "trace")) == len(stages) and all(
        e.from_store for e in again if isinstance(e, StageDone)
    )


def test_two_clients_at_once_compute_each_stage_once(tmp_path: Path, address: str) -> None:
    stages = [make(name, "slow") for name in "abcdef"]
    trace, runs = tmp_path / "trace", []
    clients = [
        threading.Thread(
            target=lambda: runs.append(
                run(tmp_path / "s", stages, address, context={"trace": trace})
            )
        )
        for _ in range(2)
    ]
    for client in clients:
        client.start()
    for client in clients:
        client.join(60)
    assert [sorted(labels(events, StageDone)) for events in runs] == [list("abcdef")] * 2
    assert sorted(label for label, _ in traced(trace)) == list("abcdef")


def test_one_scheduler_serves_two_stores_at_once(tmp_path: Path, address: str) -> None:
    stages = [make("same", "slow")]
    clients = [
        threading.Thread(target=run, args=(tmp_path / name, stages, address)) for name in "ab"
    ]
    for client in clients:
        client.start()
    for client in clients:
        client.join(20)
    assert all(Store(tmp_path / name).has(stages[0].key) for name in "ab")


# What goes wrong


def test_a_worker_killed_in_the_middle_of_a_stage_loses_only_that(
    tmp_path: Path, address: str
) -> None:
    stages = [make("d", "die_once"), *lineage(2)]
    events = run(tmp_path, stages, address, context={"trace": tmp_path / "trace"})
    assert sorted(labels(events, StageDone)) == sorted(stage.label for stage in stages)
    assert any(
        text.startswith("d: its worker tcp://") and "trying once more" in text
        for text in notices(events)
    )
    assert len({pid for label, pid in traced(tmp_path / "trace") if label == "d"}) == 2
    assert list((tmp_path / "partial").iterdir()) == []


@pytest.mark.slow
def test_the_second_death_is_the_stages_failure_and_the_others_go_on(
    tmp_path: Path, address: str
) -> None:
    killer, good = make("killer", "die"), lineage(2)
    bad = make("bad", "refuse")
    after = make("after", gene=bad)
    broken = make("broken", "explode")
    events: list[Event] = []
    stages, context = [killer, bad, after, broken, *good], {"trace": tmp_path / "trace"}
    failed = run_stages(
        lambda: stages,
        tmp_path / "s",
        PERFORM,
        context,
        Dask(Cluster(address)),
        events.append,
        keep_going=True,
    )
    assert [text.startswith("killer: ") for text in notices(events)] == [
        True
    ]  # tried once more, and not again
    assert set(failed) == {killer.key, bad.key, after.key, broken.key}
    assert (
        "died twice" in failed[killer.key]
        and "fetch it again" in failed[bad.key]
        and "before it failed" in failed[after.key]
    )
    assert "ZeroDivisionError: first line" in failed[broken.key]
    store = Store(tmp_path / "s")
    assert (
        "Traceback" in store.log(broken.key).read_text()
        and "last words" in store.log(killer.key).read_text()
    )
    assert all(store.has(stage.key) for stage in good)
    assert sorted(labels(events, StageFailed)) == ["bad", "broken", "killer"]


def test_without_keep_going_the_first_failure_ends_the_run_and_releases_the_rest(
    tmp_path: Path, address: str
) -> None:
    with pytest.raises(DataError, match="fetch it again"):
        run(tmp_path, [make("bad", "refuse"), make("long", "patient")], address)
    with pytest.raises(StageFailure, match=r"broken: ZeroDivisionError.*logs"):
        run(tmp_path, [make("broken", "explode")], address)
    wait_until(lambda: not Store(tmp_path).locked(make("long", "patient").key), 5)
    assert not Store(tmp_path).has(make("long", "patient").key)


def test_an_interrupt_releases_running_stages_and_harms_nothing(
    tmp_path: Path, address: str
) -> None:
    stage = make("long", "patient")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, [stage], address, events=Interrupting())
    wait_until(lambda: not Store(tmp_path).locked(stage.key), 5)
    assert not Store(tmp_path).has(stage.key) and list((tmp_path / "tmp").iterdir()) == []


def test_an_unfit_worker_is_one_line(
    tmp_path: Path, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "evolve.engine.cluster.crew.versions", lambda: versions() | {"torch": "9.9"}
    )
    with pytest.raises(
        UserError,
        match=rf"worker tcp://.* has torch {versions()['torch']}, this command 9.9: .*same version",
    ) as caught:
        run(tmp_path, [make("a")], address, keep_going=True)
    assert "\n" not in str(caught.value)


def test_what_makes_a_worker_unfit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        monkeypatch.setenv(name, "1")
    root = Store(tmp_path / "s").root

    def why(threads: int = 1, root: Path = root, paths: Sequence[Path] = ()) -> str:
        return unfit(Assignment(make("a"), root, PERFORM, {}, versions(), paths, "t"), threads)

    assert why(paths=[tmp_path]) == ""
    assert "--nthreads 1" in why(threads=2)
    assert (
        "does not see the store" in why(root=tmp_path / "elsewhere")
        and not (tmp_path / "elsewhere").exists()
    )
    assert f"does not see {tmp_path / 'images'}" in why(paths=[tmp_path, tmp_path / "images"])
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "4")
    assert "OPENBLAS_NUM_THREADS=4" in why()


def test_a_result_that_shows_late_is_waited_for(tmp_path: Path) -> None:
    store, stage = Store(tmp_path), make("a")
    assert not settle(store, [stage.key], 0.3)
    late = threading.Timer(0.5, lambda: store.put(stage, {}, {}, {}))
    late.start()
    assert settle(store, [stage.key], 10)


def test_nobody_at_the_address_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evolve.engine.cluster.start.CONNECT_SECONDS", 1)
    with pytest.raises(UserError, match="--scheduler tcp://127.0.0.1:9: no scheduler answers"):
        run(tmp_path, [make("a")], "tcp://127.0.0.1:9")


def test_a_scheduler_that_goes_away_is_one_line(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("gone")
    with scheduler(folder, 1) as mine:
        pid = int(
            subprocess.run(
                ["pgrep", "-f", f"dask scheduler.*{folder}"],
                capture_output=True,
                text=True,
                check=True,
            ).stdout.split()[0]
        )

        def kill(event: Event) -> None:
            if isinstance(event, StageProgress):
                os.kill(pid, signal.SIGKILL)

        with pytest.raises(UserError, match="scheduler is gone"):
            run_stages(
                lambda: [make("long", "patient")], tmp_path, PERFORM, {}, Dask(Cluster(mine)), kill
            )


def test_a_share_of_a_gpu_goes_where_it_is_offered(tmp_path: Path, address: str) -> None:
    with pytest.raises(UserError, match=r"--gpu-share 0.25: no worker of .*--resources GPU=0.25"):
        run_stages(
            lambda: [make("a")],
            tmp_path / "s",
            PERFORM,
            {},
            Dask(Cluster(address, gpu_share=0.25)),
            lambda event: None,
        )
    (tmp_path / "d").mkdir()
    with scheduler(tmp_path / "d", 1, "--resources", "GPU=0.25") as gpus:
        run_stages(
            lambda: [make("a")],
            tmp_path / "s",
            PERFORM,
            {},
            Dask(Cluster(gpus, gpu_share=0.25)),
            lambda event: None,
        )
    assert Store(tmp_path / "s").has(make("a").key)


def test_a_local_cluster_ends_with_its_run(tmp_path: Path) -> None:
    stages = [make(name) for name in "abcd"]
    run_stages(
        lambda: stages,
        tmp_path / "s",
        PERFORM,
        {"trace": tmp_path / "trace"},
        Dask(Cluster("local", workers=2)),
        lambda event: None,
    )
    assert sorted(label for label, _ in traced(tmp_path / "trace")) == list("abcd")
    wait_until(
        lambda: not any(Path(f"/proc/{pid}").exists() for _, pid in traced(tmp_path / "trace")), 5
    )


def listening() -> set[str]:
    """The addresses that this process and its children listen at, in /proc/net/tcp's hex."""
    children = Path(f"/proc/{os.getpid()}/task").glob("*/children")
    pids = [os.getpid(), *(int(pid) for file in children for pid in file.read_text().split())]
    ours = set()
    for file in (file for pid in pids for file in Path(f"/proc/{pid}/fd").iterdir()):
        with suppress(OSError):
            ours.add(os.readlink(file).removeprefix("socket:[").rstrip("]"))
    lines = [line.split() for name in ("tcp", "tcp6") for line in open(f"/proc/net/{name}")]
    return {words[1] for words in lines if words[3] == "0A" and words[9] in ours}


def test_nobody_else_can_give_work_to_a_local_cluster() -> None:
    distributed = pytest.importorskip("distributed")
    before = listening()
    with connected(Cluster("local", workers=1)) as client:
        client.wait_for_workers(1)
        ports = listening() - before
        assert ports and all(place.startswith("0100007F:") for place in ports)
        for place in ports:  # Dask's status pages
            url = f"http://127.0.0.1:{int(place.partition(':')[2], 16)}/info/main/workers.html"
            with pytest.raises((OSError, HTTPException)):
                urllib.request.urlopen(url, timeout=2)
        address = client.scheduler.address
        own = distributed.Security.temporary()
        for where, security in ((address, own), (address.replace("tls", "tcp"), None)):
            with pytest.raises(OSError):
                distributed.Client(where, timeout=2, security=security, set_as_default=False)
        assert client.submit(int, "7").result() == 7


SCRIPT = """
import sys
from pathlib import Path
from engine_stages import make
from evolve.engine.cluster import Cluster
from evolve.engine.cluster.crew import Dask
from evolve.engine.engine import run_stages
if __name__ == "__main__":
    root = Path(sys.argv[1])
    run_stages(lambda: [make("long", "patient")], root, "engine_stages:perform", {"trace": f"{root}.trace"}, Dask(Cluster("local", workers=1)), print)
"""


def test_ctrl_c_ends_a_local_cluster_quietly(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    command = [sys.executable, str(tmp_path / "script.py"), str(tmp_path / "s")]
    parent = subprocess.Popen(
        command,
        env=ENVIRONMENT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
        preexec_fn=heed_signals,
    )
    wait_until(lambda: traced(tmp_path / "s.trace"))
    os.killpg(parent.pid, signal.SIGINT)  # as a terminal does: the workers get it too
    _, errors = parent.communicate(timeout=30)
    assert errors.decode().count("Traceback") == 1 and errors.decode().strip().endswith(
        "KeyboardInterrupt"
    ), errors.decode()
    assert not any(Path(f"/proc/{pid}").exists() for _, pid in traced(tmp_path / "s.trace"))
    assert (
        not Store(tmp_path / "s").locked(make("long", "patient").key)
        and list((tmp_path / "s" / "tmp").iterdir()) == []
    )


# The options


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ((None, 3, None, ()), ["--jobs needs --scheduler", "slurm"]),
        ((None, None, 0.5, ()), ["--gpu-share needs"]),
        (("slrm", None, None, ()), ["--scheduler slrm", "allowed", "slurm"]),
        (("local", 3, None, ()), ["--jobs is for a batch system"]),
        (("tcp://a:1", None, None, ("queue=x",)), ["--cluster is for a batch system"]),
        (("slurm", None, None, ("queue",)), ["--cluster queue", "KEY=VALUE"]),
    ],
)
def test_options_that_do_not_fit_are_refused(given: Any, words: Sequence[str]) -> None:
    with pytest.raises(UserError) as caught:
        chosen(*given, 0)
    assert all(word in str(caught.value) for word in words)


def test_options_that_fit() -> None:
    assert chosen(None, None, None, (), 4) is None
    assert chosen("slurm", 2, 0.5, ("queue=a", "env_extra=x", "env_extra=y"), 0) == Cluster(
        "slurm", 2, 0, 0.5, {"queue": "a", "env_extra": ["x", "y"]}
    )


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"queeu": "a", "memory": "1GB"}, ["--cluster queeu", "allowed", "queue", "walltime"]),
        ({"cores": "4"}, ["--cluster cores", "--workers"]),
        ({"queue": ["a", "b"]}, ["--cluster queue: given 2 times"]),
        ({}, ["--scheduler slurm", "--cluster memory=4GB"]),
    ],
)
def test_settings_that_a_batch_system_does_not_take_are_refused(
    tmp_path: Path, settings: dict[str, Any], words: Sequence[str]
) -> None:
    with pytest.raises(UserError) as caught:
        run_stages(
            lambda: [make("a")],
            tmp_path,
            PERFORM,
            {},
            Dask(Cluster("slurm", settings=settings)),
            lambda event: None,
        )
    assert all(word in str(caught.value) for word in words) and "\n" not in str(caught.value)
