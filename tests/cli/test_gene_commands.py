"""Learngenes, ancestors and models as files: condense, export, inherit and inspect as a user calls
them, and from Python.
"""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest
import timm
import tiny
import torch
import torchvision
from commands import evolve as command
from safetensors.torch import save_file
from torch import nn

import evolve
from evolve.cli import file_table
from evolve.cli.main import cli
from evolve.core.errors import UserError
from evolve.engine.store import Store
from evolve.learngene import ancestor_file, tensor_file
from evolve.learngene.inheritance import inherit
from evolve.learngene.learngene import Learngene, extract, load, unflatten
from evolve.networks.family import architecture, from_json
from evolve.networks.foreign_names import plain_names
from evolve.networks.network import initialise
from evolve.runs.run import prepare_folder

TINY = tiny.toml(
    {
        "data.split": [4, 3, 3],
        "data.glyph_train": 8,
        "data.glyph_test": 4,
        "stream.classes_per_task": 2,
        "ancestor.width": 0.03125,
        "condense.method": "cka",
        "condense.selection": "top-k",
        "descend.classes_per_task": 2,
        "descend.shots": 4,
        **tiny.NO_CONTROLS,
    }
)


def call(*words: str) -> None:
    cli.main(list(words), standalone_mode=False)


def equal(first: Learngene, second: Learngene) -> bool:
    same = {n: list(p) for n, p in first.layers.items()} == {
        n: list(p) for n, p in second.layers.items()
    }
    return same and all(
        torch.equal(t, second.layers[n][p])
        for n, parts in first.layers.items()
        for p, t in parts.items()
    )


def stored(folder: Path) -> set[Path]:
    return set((folder / "runs/store/results").glob("*/*/*"))


def result(folder: Path, kind: str, **recipe: Any) -> Any:
    """The only result of a kind whose recipe says this."""
    store = Store(folder / "runs/store")
    results = [store.get(path.name) for path in (folder / "runs/store/results" / kind).glob("*/*")]
    (only,) = [r for r in results if r and recipe.items() <= r.manifest["recipe"].items()]
    return only


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished run, runs/a."""
    folder = tmp_path_factory.mktemp("genes")
    (folder / "tiny.toml").write_text(TINY)
    done = command("run", "--scenario", "tiny.toml", "--out", "runs/a", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def here(place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(place)
    return place


@pytest.fixture(scope="module")
def gene(place: Path) -> Path:
    return place / "runs/a/learngenes/lineage-02.safetensors"


def small(name: str, size: int = 32) -> Any:
    """A network with weights and statistics of its own."""
    model = architecture(name, 1 / 32, size).build(3)
    initialise(model, 5, "test")
    for key, tensor in model.state_dict().items():
        if key.endswith(("running_mean", "running_var", "bias")):
            tensor.uniform_(0.5, 1.5, generator=torch.Generator().manual_seed(1))
    return model.eval()


def gene_of(name: str, path: Path, size: int = 32, granularity: int = 2) -> Path:
    model = small(name, size)
    plan = model.architecture
    extract(model.state_dict(), plan, [*plan.layer_names[-granularity:], *plan.carried]).save(path)
    return path


# condense and export


def test_a_condensation_of_the_run_is_taken_from_its_store(here: Path) -> None:
    before = stored(here)
    call("condense", "--ancestor", "runs/a@2", "--out", "again.safetensors")
    learngene = load(Path("again.safetensors"))
    assert (
        equal(learngene, load(here / "runs/a/learngenes/lineage-02.safetensors"))
        and stored(here) == before
    )
    assert (
        learngene.provenance["lineage"] == 2
        and learngene.provenance["method"] == "cka"
        and learngene.provenance["status"] == "selected"
    )


def test_the_null_test_prints_tables_and_draws_them_where_it_is_told(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = stored(here)
    chosen = [
        word
        for text in ("method=meta-network", "meta_lr=0.05", "epochs=2")
        for word in ("--set", f"condense.{text}")
    ]
    null = ("condense", "--ancestor", "runs/a@2", "--null", "2", "--out", "null")
    call(*null, *chosen)
    output = capsys.readouterr().out
    assert "movement" in output and all(
        f"{kind:38}" in output
        for kind in ("other pseudo-descendants", "wrong images", "untrained ancestor")
    )
    assert output.count(" of 2") == 6 + 13 + 3 and stored(here) == before
    assert {path.name for path in Path("null").iterdir()} == {
        f"agreement.{kind}" for kind in ("png", "svg", "pdf", "csv")
    }
    rows = list(csv.DictReader(Path("null/agreement.csv").open()))
    assert len(rows) == 3 * 13 and {row["draws"] for row in rows} == {"2"}
    with pytest.raises(UserError, match=r"--out null: holds agreement\.csv already"):
        call(*null, *chosen)
    call("condense", "--ancestor", "runs/a@2", "--null", "1", "--set", "condense.method=similarity")
    output = capsys.readouterr().out
    assert "overlap" in output and "movement" not in output, "similarity's scores are no alpha"
    with pytest.raises(click.UsageError, match="'--out FILE'.*or '--null N'"):
        call("condense", "--ancestor", "runs/a@2")
    with pytest.raises(UserError, match="--null: condense.method = 'cka'"):
        call("condense", "--ancestor", "runs/a@2", "--null", "1")


@pytest.mark.slow
def test_a_granularity_is_decided_on_the_runs_own_condensing_classes(here: Path) -> None:
    script, before = Path(__file__).parents[2] / "benchmarks/ablations/granularity.py", stored(here)
    chosen = [
        word
        for text in ("meta_lr=0.05", "epochs=2", "trial_tasks=2", "selection=threshold")
        for word in ("--set", f"condense.{text}")
    ]
    words = [
        sys.executable,
        str(script),
        "runs/a@1",
        "runs/a@2",
        "--draws",
        "1",
        "--json",
        "granularity.json",
        *chosen,
    ]
    done = subprocess.run(words, text=True, capture_output=True, timeout=300)
    assert done.returncode == 0, done.stderr
    rows = json.loads(Path("granularity.json").read_text())["rows"]
    assert [(row["ancestor"], row["granularity"]) for row in rows] == [
        (f"runs/a@{n}", kind) for n in (1, 2) for kind in ("conv", "stage")
    ]
    assert (
        all(len(row["gains"]) == 2 and len(row["sets"]) == 1 for row in rows)
        and stored(here) == before
    )
    assert done.stdout.count("| runs/a@") == 4 and "conv less stage" in done.stdout
    refused = subprocess.run(
        [sys.executable, str(script), "runs/a"], text=True, capture_output=True, timeout=300
    )
    assert refused.returncode == 1 and "runs/a: give RUN@TASK" in refused.stderr


def test_another_condenser_is_computed_once_and_kept(here: Path) -> None:
    words = (
        "condense",
        "--ancestor",
        "runs/a@1",
        "--set",
        "condense.method=fixed",
        "--set",
        "condense.fixed=[3, 5]",
        "--force",
        "--out",
        "fixed.safetensors",
    )
    before = stored(here)
    call(*words)
    (new,) = stored(here) - before
    assert new.parent.parent.name == "condense"
    call(*words)
    assert stored(here) - before == {new}
    assert list(load(Path("fixed.safetensors")).layers) == ["conv3", "conv5"]
    taken = result(here, "accumulate", task=1).tensors("ancestor")
    assert torch.equal(
        load(Path("fixed.safetensors")).layers["conv5"]["conv.weight"],
        taken["model.trunk.layers.conv5.conv.weight"],
    )


def test_an_exported_ancestor_condenses_to_the_runs_own_learngene(here: Path) -> None:
    call("export", "runs/a@2", "--out", "ancestor.safetensors")
    ancestor = ancestor_file.load(Path("ancestor.safetensors"))
    assert (
        ancestor.record == result(here, "accumulate", task=2).record
        and ancestor.provenance["lineage"] == 2
    )
    before = stored(here)
    for _ in range(2):
        call(
            "condense",
            "--ancestor",
            "ancestor.safetensors",
            "--scenario",
            "tiny.toml",
            "--profile",
            "paper",
            "--out",
            "file.safetensors",
            "--force",
        )
        assert {path.parent.parent.name for path in stored(here) - before} == {
            "import",
            "condense",
        } and len(stored(here) - before) == 2
    learngene = load(Path("file.safetensors"))
    assert equal(learngene, load(here / "runs/a/learngenes/lineage-02.safetensors"))
    assert (
        learngene.provenance["ancestor_from"]["scenario"] == "tiny"
        and len(learngene.provenance["normalise"]["mean"]) == 3
    )


def test_a_state_dict_of_torchvisions_names_condenses(here: Path) -> None:
    torch.save(
        {"state_dict": {f"module.{name}": t for name, t in narrow_vgg().state_dict().items()}},
        "vgg.pth",
    )
    words = (
        "--network",
        "vgg16",
        "--width",
        "0.03125",
        "--size",
        "16",
        "--scenario",
        "tiny.toml",
        "--set",
        "condense.method=fixed",
    )
    call("condense", "--ancestor", "vgg.pth", *words, "--out", "vgg.safetensors")
    assert torch.equal(
        load(Path("vgg.safetensors")).layers["conv11"]["conv.weight"],
        narrow_vgg().features[34].weight,
    )


def test_what_helps_where_the_store_lacks_an_ancestor(here: Path, tmp_path: Path) -> None:
    """A joint ancestor of a length that is not measured is never trained, so no resume helps."""
    words = ("ancestor.strategy=joint", "stream.measure=2")
    run = tiny.opened(here / "tiny.toml", tmp_path / "joint", tmp_path / "store", *words)
    run.request.out.mkdir()
    prepare_folder(run, ["evolve"])
    with pytest.raises(UserError, match="at measured lineage lengths only; give one of 0, 2$"):
        call("export", f"{run.request.out}@1", "--out", "x")
    with pytest.raises(UserError, match="`evolve resume .*joint` computes it"):
        call("export", f"{run.request.out}@2", "--out", "x")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["condense", "--ancestor", "runs/a@3", "--out", "x"], "from 0 to 2"),
        (["condense", "--ancestor", "runs/a@two", "--out", "x"], "'two' is no lineage length"),
        (["condense", "--ancestor", "runs/a@-1", "--out", "x"], "'-1' is no lineage length"),
        (["condense", "--ancestor", "runs/b@1", "--out", "x"], "runs/b is not a run folder"),
        (["condense", "--ancestor", "missing.safetensors", "--out", "x"], "--scenario"),
        (
            [
                "condense",
                "--ancestor",
                "missing.safetensors",
                "--scenario",
                "tiny.toml",
                "--out",
                "x",
            ],
            "cannot be read",
        ),
        (
            ["condense", "--ancestor", "runs/a@1", "--set", "ancestor.epochs=2", "--out", "x"],
            "only condense",
        ),
        (
            ["condense", "--ancestor", "runs/a@1", "--set", "condense.method=best", "--out", "x"],
            "one of meta-network",
        ),
        (
            ["condense", "--ancestor", "runs/a@1", "--scenario", "tiny.toml", "--out", "x"],
            "leave --scenario",
        ),
        (["condense", "--ancestor", "runs/a@1", "--seed", "5", "--out", "x"], "leave --seed out"),
        (
            ["condense", "--ancestor", "runs/a@1", "--profile", "paper", "--out", "x"],
            "leave --profile out",
        ),
        (
            [
                "condense",
                "--ancestor",
                "a.pth",
                "--scenario",
                "tiny.toml",
                "--network",
                "foo",
                "--out",
                "x",
            ],
            "allowed are vgg16",
        ),
        (["condense", "--ancestor", "runs/a@1", "--out", "tiny.toml"], "is there already"),
        (["condense", "--ancestor", "runs/a@1", "--out", "no/x"], "in a folder that is there"),
        (["export", "tiny.toml", "--out", "x"], "expected RUN@TASK"),
        (
            ["inherit", "--learngene", "tiny.toml", "--classes", "3", "--out", "x"],
            "not a whole learngene file",
        ),
        (
            [
                "inherit",
                "--learngene",
                "runs/a/learngenes/lineage-01.safetensors",
                "--classes",
                "3",
                "--method",
                "best",
                "--out",
                "x",
            ],
            "stack",
        ),
        (
            [
                "inherit",
                "--learngene",
                "runs/a/learngenes/lineage-01.safetensors",
                "--classes",
                "3",
                "--embeddings",
                "inherited",
                "--out",
                "x",
            ],
            "no embeddings",
        ),
        (["inspect", "tiny.toml"], "not a whole file of evolve"),
        (["inspect", "runs"], "cannot be read"),
    ],
)
def test_every_refusal_is_one_line_and_writes_nothing(
    here: Path, words: list[str], says: str
) -> None:
    before = {path: path.stat().st_mtime_ns for path in here.iterdir()}
    with pytest.raises(UserError, match=says) as caught:
        call(*words)
    assert "\n" not in str(caught.value)
    assert {path: path.stat().st_mtime_ns for path in here.iterdir()} == before


def test_an_ancestor_of_another_image_size_is_refused(here: Path) -> None:
    model = small("vit-small4", 32)
    evolve.save_ancestor(
        "vit.safetensors", model.state_dict(), network="vit-small4", width=1 / 32, size=32
    )
    with pytest.raises(UserError, match="add --set data.size=32"):
        call(
            "condense",
            "--ancestor",
            "vit.safetensors",
            "--scenario",
            "tiny.toml",
            "--out",
            "y.safetensors",
        )


# inherit


@pytest.mark.parametrize("number", [0, 1])
def test_a_models_file_is_the_lineages_descendant(here: Path, gene: Path, number: int) -> None:
    call(
        "inherit",
        "--learngene",
        str(gene),
        "--classes",
        "2",
        "--descendant",
        str(number),
        "--out",
        "model.safetensors",
        "--force",
    )
    model = evolve.load_model("model.safetensors")
    condensed = result(
        here, "condense", inputs={"ancestor": result(here, "accumulate", task=2).manifest["key"]}
    )
    described = result(here, "descend", inputs={"learngene": condensed.manifest["key"]}).record[
        "plan"
    ]
    held = unflatten(condensed.tensors("learngene"), from_json(condensed.record["ancestor_plan"]))
    expected = inherit(from_json(described), held, 2, 0, number).state_dict()
    assert list(model.state_dict()) == list(expected) and all(
        torch.equal(t, expected[n]) for n, t in model.state_dict().items()
    )
    other = evolve.inherit(gene, num_classes=2, descendant=1 - number).state_dict()
    assert not torch.equal(other["head.weight"], expected["head.weight"])


@pytest.mark.parametrize("name", ["vgg16", "resnet18", "vit-small4"])
@pytest.mark.parametrize("method", ["stack", "repeat", "linear"])
def test_python_gives_a_module_that_trains_in_a_plain_loop(
    tmp_path: Path, name: str, method: str
) -> None:
    path = gene_of(name, tmp_path / "gene.safetensors")
    before = path.read_bytes()
    rng = torch.get_rng_state()
    model = evolve.inherit(path, num_classes=7, method=method, seed=3)
    assert torch.equal(torch.get_rng_state(), rng)
    old = [p.detach().clone() for p in model.parameters()]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    logits = model.train()(torch.randn(4, 3, 32, 32))
    assert logits.shape == (4, 7)
    nn.functional.cross_entropy(logits, torch.arange(4)).backward()
    assert all(p.requires_grad and p.grad is not None for p in model.parameters())
    optimizer.step()
    # A convolution's bias before BN gets no gradient but rounding.
    assert all(
        not torch.equal(a, p)
        for a, (n, p) in zip(old, model.named_parameters(), strict=True)
        if not n.endswith("conv.bias")
    )
    assert path.read_bytes() == before and load(path).layers
    name_, given = next(
        (own, given)
        for own, given in model.architecture.inherits().items()
        if set(given.values()) == {1.0}
    )
    part = next(iter(model.architecture.shapes(name_)))
    fresh = evolve.inherit(path, num_classes=7, method=method, seed=4)
    assert torch.equal(
        fresh.state_dict()[f"layers.{name_}.{part}"], load(path).layers[next(iter(given))][part]
    )


def test_inherited_embeddings(tmp_path: Path) -> None:
    path = gene_of("vit-small4", tmp_path / "gene.safetensors")
    held = load(path).layers["embed"]["pos_embed"]
    assert torch.equal(
        evolve.inherit(path, 3, embeddings="inherited").layers["embed"].pos_embed, held
    )
    assert not torch.equal(evolve.inherit(path, 3).layers["embed"].pos_embed, held)


@pytest.mark.parametrize("name", ["vgg16", "vit-small4"])
def test_a_plain_file_needs_no_evolve(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """The printed lines build the network from other libraries; its outputs are our module's."""
    monkeypatch.chdir(tmp_path)
    gene_of(name, Path("gene.safetensors"), granularity=5)
    for form in ("plain", "evolve"):
        call(
            "inherit",
            "--learngene",
            "gene.safetensors",
            "--classes",
            "4",
            "--format",
            form,
            "--out",
            f"{form}.safetensors",
        )
    lines = file_table.facts(Path("plain.safetensors"))["build"]
    assert "evolve" not in lines
    namespace: dict[str, Any] = {}
    exec(lines, namespace)
    images = torch.randn(3, 3, 32, 32)
    ours = evolve.inherit("gene.safetensors", 4).eval()
    with torch.no_grad():
        torch.testing.assert_close(
            namespace["model"].eval()(images), ours(images), rtol=1e-5, atol=1e-6
        )
        for form in ("plain", "evolve"):
            assert torch.equal(
                evolve.load_model(f"{form}.safetensors").eval()(images), ours(images)
            )


def test_a_resnet_has_no_plain_form(tmp_path: Path) -> None:
    path = gene_of("resnet18", tmp_path / "gene.safetensors")
    with pytest.raises(UserError, match="leave --format out"):
        call(
            "inherit",
            "--learngene",
            str(path),
            "--classes",
            "4",
            "--format",
            "plain",
            "--out",
            str(tmp_path / "x.safetensors"),
        )
    assert not (tmp_path / "x.safetensors").exists()


def test_import_evolve_imports_no_torch() -> None:
    code = (
        "import sys, evolve; print(callable(evolve.inherit) and 'torch' not in sys.modules and "
        "'numpy' not in sys.modules)"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip()
        == "True"
    )


# weights from elsewhere


class Narrow(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        layers: list[int | str] = []
        for block in architecture("vgg16", 1 / 32, 32):
            layers += [*(spec.c_out for spec in block), "M"]
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.features = torchvision.models.vgg.make_layers(layers, batch_norm=True)
            self.classifier = nn.Linear(3, 2)


def narrow_vgg() -> Any:
    return Narrow().eval()


def test_torchvisions_and_timms_weights_compute_the_same_here(tmp_path: Path) -> None:
    images = torch.randn(1, 3, 224, 224)
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        resnet, vit = (
            torchvision.models.resnet18(num_classes=9).eval(),
            timm.create_model("vit_tiny_patch16_224", num_classes=9, depth=12).eval(),
        )
        for name, width, theirs in (("resnet18", 1.0, resnet), ("vit-s16", 0.5, vit)):
            torch.save(theirs.state_dict(), tmp_path / "w.pth")
            ancestor = ancestor_file.import_weights(tmp_path / "w.pth", name, width, 224)
            ours = ancestor.architecture.build(9)
            ours.load_state_dict(ancestor.state)
            torch.testing.assert_close(ours.eval()(images), theirs(images), rtol=1e-4, atol=1e-5)
        vgg, small_images = narrow_vgg(), torch.randn(2, 3, 32, 32)
        evolve.save_ancestor(tmp_path / "a.safetensors", vgg.state_dict(), width=1 / 32)
        ancestor = ancestor_file.load(tmp_path / "a.safetensors")
        ours = ancestor.architecture.build(len(ancestor.state["head.bias"]))
        ours.load_state_dict(ancestor.state)
        torch.testing.assert_close(
            ours.eval().embed(small_images), vgg.features(small_images).mean((2, 3))
        )


def test_the_names_are_those_of_torchvisions_vgg16_bn() -> None:
    with torch.device("meta"):
        theirs = {
            n: tuple(t.shape)
            for n, t in torchvision.models.vgg16_bn(init_weights=False).state_dict().items()
            if n.startswith("features.")
        }
    plan = architecture("vgg16", 1.0, 32)
    shapes = {
        f"layers.{layer}.{part}": shape
        for layer in plan.layer_names
        for part, shape in plan.shapes(layer).items()
    }
    assert {plain: shapes[ours] for ours, plain in plain_names(plan).items()} == theirs


class Boom:
    def __reduce__(self) -> Any:
        return (os.mkdir, ("pickle-was-executed",))


def test_foreign_weights_are_refused_and_never_executed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"features.0.weight": Boom()}, "boom.pth")
    Path("text.pth").write_text("hello")
    torch.save([1, 2], "list.pth")
    Path("text.safetensors").write_text("hello")
    for name, says in (
        ("boom.pth", "needs code to be unpickled, which is never run"),
        ("text.pth", "not a whole checkpoint file"),
        ("list.pth", "of its 93 tensors are missing"),
        ("text.safetensors", "not a whole checkpoint file"),
    ):
        with pytest.raises(UserError, match=says) as caught:
            ancestor_file.import_weights(Path(name), "vgg16", 1 / 32, 32)
        assert "\n" not in str(caught.value)
    assert not Path("pickle-was-executed").exists()
    state = narrow_vgg().state_dict()
    for change, says in (
        ({"features.0.weight": torch.zeros(2, 3, 5, 5)}, r"has shape \(2, 3, 5, 5\)"),
        ({"features.0.weight": None}, "1 of its 93 tensors are missing"),
    ):
        torch.save({name: t for name, t in (state | change).items() if t is not None}, "other.pth")
        with pytest.raises(UserError, match=says):
            ancestor_file.import_weights(Path("other.pth"), "vgg16", 1 / 32, 32)


# inspect


def test_inspect_says_what_is_in_every_kind_of_file(
    here: Path, gene: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call("export", "runs/a@0", "--out", "zero.safetensors")
    call("inherit", "--learngene", str(gene), "--classes", "5", "--out", "five.safetensors")
    capsys.readouterr()
    for kind, path, head in (
        ("learngene", str(gene), None),
        ("ancestor", "zero.safetensors", [2]),
        ("model", "five.safetensors", [5]),
    ):
        call("inspect", path, "--json")
        facts = json.loads(capsys.readouterr().out)
        tensors = tensor_file.read(Path(path), kind)[1]
        assert facts["kind"] == kind and facts["parameters"] == sum(
            t.numel() for t in tensors.values()
        )
        assert sorted((tuple(row["shape"]), row["bytes"]) for row in facts["tensors"]) == sorted(
            (tuple(t.shape), t.nbytes) for t in tensors.values()
        )
        assert (
            next(
                (
                    row["shape"]
                    for row in facts["tensors"]
                    if row["layer"] == "head" and row["part"] == "bias"
                ),
                None,
            )
            == head
        )
        if kind == "learngene":
            whole = sum(
                t.numel()
                for n, t in ancestor_file.load(Path("zero.safetensors")).state.items()
                if not n.startswith("head")
            )
            assert facts["share"] == pytest.approx(facts["parameters"] / whole)
        call("inspect", path)
        shown = capsys.readouterr().out
        assert (
            "checksum is right" in shown
            and "scenario" in shown
            and all(row["layer"] in shown for row in facts["tensors"])
        )


def test_a_network_beyond_the_limits_is_refused(tmp_path: Path) -> None:
    state = narrow_vgg().state_dict()
    for options in ({"network": "vgg19"}, {"width": 1000.0}, {"width": float("inf")}, {"size": 4}):
        with pytest.raises(UserError, match="allowed are"):
            evolve.save_ancestor(tmp_path / "a.safetensors", state, **({"width": 1 / 32} | options))
    for width in ("inf", "1000", "0"):
        with pytest.raises(click.UsageError, match="range"):
            call(
                "condense",
                "--ancestor",
                "a.pth",
                "--network",
                "vgg16",
                "--width",
                width,
                "--out",
                "x",
            )


def test_a_strangers_names_and_words_do_nothing_to_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whoever writes a file can sign it: a layer's name that rich would read as markup, and
    provenance that a terminal would obey.
    """
    path = tmp_path / "gene[v2].safetensors"
    plan = architecture("vgg16", 1 / 32, 32)
    text = json.dumps(plan.to_json()).replace('"conv1"', '"[/a]"')
    parts = {part: torch.zeros(shape) for part, shape in plan.shapes("conv1").items()}
    about = {
        "plan": json.loads(text),
        "layers": ["[/a]"],
        "provenance": {"by": "\x1b]0;title\x07 \x1b[2J", "\x1b[31m": 1},
    }
    tensor_file.write(
        path, "learngene", about, {f"[/a]/{part}": tensor for part, tensor in parts.items()}
    )
    file_table.print_file(path, as_json=False)
    shown = capsys.readouterr().out
    assert (
        "[/a]" in shown
        and "gene[v2].safetensors" in shown.replace("\n", "")
        and "title" in shown
        and "\x1b" not in shown
        and "\x07" not in shown
    )
    tensor_file.write(path, "learngene", about | {"layers": ["\x1b[2J\n"]}, {})
    with pytest.raises(UserError) as caught:
        file_table.print_file(path, as_json=False)
    assert "\x1b" not in str(caught.value) and "\n" not in str(caught.value)


def test_files_that_no_module_can_be_are_refused_in_a_line(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    deep: Any = []
    for _ in range(900):
        deep = [deep]
    tensors = {"x": torch.zeros(1)}
    save_file(
        tensors,
        path,
        metadata={
            "evolve.learngene": json.dumps(
                {"format": 1, "provenance": {}, "plan": deep, "sha256": "0"}
            )
        },
    )
    with pytest.raises(UserError):
        load(path)
    evolve.save_ancestor(path, small("vgg16").state_dict(), width=1 / 32)
    about, state = tensor_file.read(path, "ancestor")
    tensor_file.write(path, "ancestor", about | {"record": "[" * 5000 + "]" * 5000}, state)
    with pytest.raises(UserError, match="do not fit"):
        ancestor_file.load(path)
    plan = architecture("vgg16", 1 / 32, 32)
    named = json.loads(json.dumps(plan.to_json()).replace('"conv1"', '"a.b"'))
    parts = {f"a.b/{part}": torch.zeros(shape) for part, shape in plan.shapes("conv1").items()}
    tensor_file.write(
        path, "learngene", {"plan": named, "layers": ["a.b"], "provenance": {}}, parts
    )
    with pytest.raises(UserError, match="do not fit"):
        evolve.inherit(path, 2)


@pytest.mark.parametrize("kind", ["ancestor", "model"])
def test_altered_ancestors_and_models_are_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "file.safetensors"
    if kind == "ancestor":
        evolve.save_ancestor(path, small("vgg16").state_dict(), width=1 / 32)
    else:
        call(
            "inherit",
            "--learngene",
            str(gene_of("vgg16", tmp_path / "gene.safetensors")),
            "--classes",
            "3",
            "--out",
            str(path),
        )
    read = {"ancestor": ancestor_file.load, "model": evolve.load_model}[kind]
    about, tensors = tensor_file.read(path, kind)
    good = path.read_bytes()
    for place in range(0, len(good), len(good) // 40):
        path.write_bytes(good[:place] + bytes([good[place] ^ 1]) + good[place + 1 :])
        with pytest.raises(UserError):
            read(path)
    for change in (
        {"plan": []}, {"plan": None}, {"form": "pickle", "record": "x"}, {"form": None, "network": None},
        {"form": [], "network": {"network": "vgg16", "width": 1.0, "size": 32}}, {"form": 1, "network": {"network": "nosuch", "width": 0.03125, "size": 32}},
    ):  # fmt: skip
        tensor_file.write(path, kind, about | change, tensors)
        with pytest.raises(UserError, match="do not fit its plan"):
            read(path)
    for name in (
        "head.bias",
        "layers.conv3.conv.weight"
        if kind == "ancestor"
        else next(n for n in tensors if n.endswith("conv.weight")),
    ):
        tensor_file.write(path, kind, about, {n: t for n, t in tensors.items() if n != name})
        with pytest.raises(UserError, match="missing"):
            read(path)
        tensor_file.write(path, kind, about, tensors | {name: torch.zeros(2, 2)})
        with pytest.raises(UserError, match="shape"):
            read(path)
    other = {"ancestor": "model", "model": "ancestor"}[kind]
    tensor_file.write(path, other, about, tensors)
    with pytest.raises(UserError, match=f"is the file of evolve for an? {other}"):
        read(path)
