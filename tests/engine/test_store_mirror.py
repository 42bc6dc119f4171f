"""A store's mirror on a real S3 server: moto's, in a thread of its own, spoken to over HTTP."""

from __future__ import annotations

import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from commands import environment
from test_store import stage, tensors

from evolve.cli.main import cli
from evolve.core.errors import StoreError
from evolve.engine.store import Store

pytest.importorskip("s3fs")
ADDRESS = "s3://bucket/some/prefix"


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    server = pytest.importorskip("moto.server").ThreadedMotoServer("127.0.0.1", 0)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "a",
        "AWS_SECRET_ACCESS_KEY": "b",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    import s3fs

    urllib.request.urlopen(
        urllib.request.Request(f"http://{host}:{port}/moto-api/reset", method="POST")
    ).close()
    s3fs.S3FileSystem.clear_instance_cache()
    s3fs.S3FileSystem().mkdir("bucket")
    yield ADDRESS
    s3fs.S3FileSystem.clear_instance_cache()
    server.stop()


def mirrored(folder: Path, address: str = ADDRESS) -> Store:
    store = Store(folder, pytest.fail)
    store.mirror_at(address)
    return store


def files() -> list[str]:
    import s3fs

    paths: list[str] = s3fs.S3FileSystem(use_listings_cache=False).find("bucket")
    return paths


def test_what_one_machine_puts_another_gets(s3: str, tmp_path: Path) -> None:
    pushed = mirrored(tmp_path / "one").put(stage(), {"a": 1}, tensors(), {"who": "one"})
    other = mirrored(tmp_path / "two")
    assert (
        other.has(stage().key) and not other.has(stage(2).key) and other.get(stage(2).key) is None
    )
    pulled = other.get(stage().key)
    assert (
        pulled is not None
        and (pulled.record, pulled.manifest) == (pushed.record, pushed.manifest)
        and pulled.path.is_relative_to(tmp_path / "two")
    )
    assert torch.equal(pulled.tensors("model")["w"], tensors()["model"]["w"])
    assert other.put(stage(), {"a": 2}, tensors(), {}).record == {"a": 1}  # the first stays


def test_another_process_needs_only_the_folder(s3: str, tmp_path: Path) -> None:
    mirrored(tmp_path / "one").put(stage(), {"a": 1}, tensors(), {})
    mirrored(tmp_path / "two")
    script = (
        "import sys; from pathlib import Path; from evolve.engine.store import Store; "
        "print(Store(Path(sys.argv[1])).get(sys.argv[2]).record)"
    )
    words = [sys.executable, "-c", script, str(tmp_path / "two"), stage().key]
    done = subprocess.run(words, env=environment(), text=True, capture_output=True, timeout=60)
    assert done.stdout == "{'a': 1}\n", done.stderr


def test_a_push_that_is_cut_short_shows_nothing(
    s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = mirrored(tmp_path / "one")
    left = 2  # of three files and a manifest
    assert store.mirror is not None
    system = store.mirror._system
    pipe = system.pipe_file

    def dying(path: str, data: bytes) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise OSError("the network went away")
        pipe(path, data)

    with monkeypatch.context() as broken:
        broken.setattr(system, "pipe_file", dying)
        with pytest.raises(
            StoreError, match="mirror s3://bucket/some/prefix: the network went away"
        ):
            store.put(stage(), {"a": 1}, tensors(), {})
    assert len(files()) == 2 and not mirrored(tmp_path / "two").has(stage().key)
    assert store.get(stage().key) is not None  # kept here
    store.put(stage(), {"a": 1}, tensors(), {})  # and pushed when it is put again
    assert mirrored(tmp_path / "three").get(stage().key) is not None


def test_a_damaged_copy_is_no_result_and_is_replaced(s3: str, tmp_path: Path) -> None:
    import s3fs

    mirrored(tmp_path / "one").put(stage(), {"a": 1}, tensors(), {})
    victim = max(files(), key=lambda file: not file.endswith("manifest.json"))
    s3fs.S3FileSystem().pipe_file(victim, b"other bytes")
    two = mirrored(tmp_path / "two")
    assert two.get(stage().key) is None
    two.put(stage(), {"a": 1}, tensors(), {})
    assert mirrored(tmp_path / "three").get(stage().key) is not None


def test_an_address_that_does_not_serve_is_one_line(s3: str, tmp_path: Path) -> None:
    for address in ("nothing://x/y", "s3://no-such-bucket-here/x"):
        with pytest.raises(StoreError, match=address) as caught:
            mirrored(tmp_path / address[0], address).put(stage(), {}, {}, {})
        assert "\n" not in str(caught.value)
    assert Store(tmp_path / "n").mirror is None  # it was refused before it was written down


def test_an_address_is_a_store_for_every_command(
    s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mirrored(tmp_path / "one").put(stage(), {"a": 1}, tensors(), {})
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for _ in range(2):
        done = CliRunner().invoke(
            cli, ["store", "--store", ADDRESS, "mirror"], catch_exceptions=False
        )
        assert f"mirrored at {ADDRESS}" in done.output
    (folder,) = (tmp_path / "cache" / "evolve" / "stores").iterdir()
    assert Store(folder).get(stage().key) is not None


def test_a_store_that_gets_a_mirror_copies_what_it_has(s3: str, tmp_path: Path) -> None:
    store = Store(tmp_path / "one")
    store.put(stage(), {"a": 1}, tensors(), {})
    words = ["store", "mirror", ADDRESS, "--store", str(tmp_path / "one")]
    assert "1 results here" in CliRunner().invoke(cli, words, catch_exceptions=False).output
    assert mirrored(tmp_path / "two").get(stage().key) is not None
    off = CliRunner().invoke(
        cli, ["store", "mirror", "--off", "--store", str(tmp_path / "one")], catch_exceptions=False
    )
    assert "no mirror" in off.output and Store(tmp_path / "one").mirror is None


def test_an_address_in_the_environment_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """$EVOLVE_STORE as --store: an address is a local store that is mirrored there, not a folder of
    that name.
    """
    from evolve.runs.folder import default_store

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("EVOLVE_STORE", f"file://{tmp_path}/bucket")
    place = default_store(Path("runs/x"))
    assert place.is_relative_to(tmp_path / "cache") and Store(place).mirror is not None
    monkeypatch.setenv("EVOLVE_STORE", str(tmp_path / "plain"))
    assert default_store(Path("runs/x")) == tmp_path / "plain"
