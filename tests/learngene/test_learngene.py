"""The learngene: what it holds, its file, its shuffled control."""

from __future__ import annotations

import errno
import json
import os
import pickle
import re
import resource
import tempfile
from functools import cache
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from vgg_units import PAPER, PARTS

import evolve
from evolve.core.errors import UserError
from evolve.core.randomness import generator
from evolve.learngene import tensor_file
from evolve.learngene.learngene import Learngene, extract, load, shuffled
from evolve.networks.family import architecture
from evolve.networks.vgg import VGG, initialise
from evolve.networks.vgg_plan import layer_names, stack_plan, vgg16_plan

PLAN = vgg16_plan(1 / 16)


def ancestor() -> VGG:
    """A network whose every tensor, BN statistics too, is different from a fresh one's."""
    model = VGG(PLAN, 5)
    initialise(model, 1, "ancestor")
    draw = generator(1, "noise")
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point():
            tensor.add_(torch.rand(tensor.shape, generator=draw))
        else:
            tensor.fill_(41)
        assert name
    return model


@pytest.fixture
def gene() -> Learngene:
    learngene = extract(ancestor().state_dict(), PLAN, PAPER)
    learngene.provenance = {
        "lineage": 7,
        "seed": 0,
        "scenario": "glyphs-seq25",
        "key": "ab" * 20,
        "evolve": "0.1.0",
    }
    return learngene


def equal(first: Learngene, second: Learngene) -> bool:
    return list(first.layers) == list(second.layers) and all(
        torch.equal(first.layers[n][p], second.layers[n][p])
        and first.layers[n][p].dtype == second.layers[n][p].dtype
        for n in first.layers
        for p in PARTS
    )


@given(st.lists(st.sampled_from(layer_names(PLAN)), max_size=13))
@settings(max_examples=20, deadline=None)
def test_extract_copies_exactly_the_selected_layers(selected):
    model = ancestor()
    learngene = extract(model.state_dict(), PLAN, selected)
    assert list(learngene.layers) == [name for name in layer_names(PLAN) if name in selected]
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for name, parts in learngene.layers.items():
        assert tuple(parts) == PARTS
        for part, tensor in parts.items():
            assert torch.equal(tensor, before[f"layers.{name}.{part}"])
            tensor.zero_()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_extract_names_unknown_layers():
    with pytest.raises(ValueError, match="conv14"):
        extract(ancestor().state_dict(), PLAN, ["conv14"])


def test_file_round_trip(gene, tmp_path):
    path = tmp_path / "gene.safetensors"
    gene.save(path)
    loaded = load(path)
    assert (
        equal(loaded, gene)
        and loaded.ancestor_plan == PLAN
        and loaded.provenance == gene.provenance
    )
    assert os.listdir(tmp_path) == ["gene.safetensors"]
    first = path.read_bytes()
    loaded.save(path)  # over itself
    assert path.read_bytes() == first


def test_the_empty_learngene_round_trips(tmp_path):
    extract({}, PLAN, []).save(tmp_path / "none.safetensors")
    assert load(tmp_path / "none.safetensors").layers == {}


def test_a_stranger_can_open_the_file(gene, tmp_path):
    path = tmp_path / "gene.safetensors"
    gene.save(path)
    tensors = load_file(path)
    assert torch.equal(tensors["conv11/conv.weight"], gene.layers["conv11"]["conv.weight"])
    with safe_open(path, framework="pt") as file:
        about = json.loads(file.metadata()["evolve.learngene"])
    assert about["layers"] == list(PAPER) and about["provenance"]["lineage"] == 7
    assert (
        stack_plan(tensor_file.from_json(about["plan"]), about["layers"])[0][0].inherits == "conv1"
    )


def test_any_flipped_byte_or_truncation_is_refused(gene, tmp_path):
    """Every byte of the header, and bytes all over the tensors."""
    path = tmp_path / "gene.safetensors"
    gene.save(path)
    good = path.read_bytes()
    start = 8 + int.from_bytes(good[:8], "little")
    header = good[8:start].rstrip(b" ")
    places = [
        *range(0, 8),
        *range(8, 8 + len(header), 7),
        *range(start, len(good), len(good) // 60),
    ]
    for place in places:
        path.write_bytes(good[:place] + bytes([good[place] ^ 1]) + good[place + 1 :])
        with pytest.raises(UserError) as caught:
            load(path)
        assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    for length in (0, 4, 8, 100, start, len(good) - 1):
        path.write_bytes(good[:length])
        with pytest.raises(UserError):
            load(path)
    path.write_bytes(good + b"x")
    with pytest.raises(UserError):
        load(path)


def rewritten(path, change):
    """The file with its description changed by ``change`` (and, where asked, its checksum made to
    fit).
    """
    tensors = load_file(path)
    with safe_open(path, framework="pt") as file:
        about = json.loads(file.metadata()["evolve.learngene"])
    change(about, tensors)
    if about.pop("sign", False):
        about["sha256"] = tensor_file.digest(about, tensors)
    save_file(tensors, path, metadata={"evolve.learngene": json.dumps(about)})


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda a, t: a["provenance"].update(lineage=25), "altered or damaged"),
        (
            lambda a, t: t.update({"conv1/bn.bias": t["conv1/bn.weight"].clone()}),
            "altered or damaged",
        ),
        (lambda a, t: a.pop("sha256"), "altered or damaged"),
        (
            lambda a, t: a.update(format=2, sign=True),
            "has format 2, this version of evolve reads 1",
        ),
        (lambda a, t: a.update(format="a\n\x1b[2J"), r'has format "a\\n\\u001b\[2J", this'),
        (lambda a, t: a.update(format=[0] * 9999), r"has format \[[0, ]{1,210}\.\.\., this"),
        (lambda a, t: (t.pop("conv1/bn.bias"), a.update(sign=True)), "do not fit its plan"),
        (
            lambda a, t: (t.update({"conv1/bn.bias": torch.zeros(99)}), a.update(sign=True)),
            "has shape \\(99,\\)",
        ),
        (
            lambda a, t: a.update(layers=["conv1", "conv11", "conv12", "conv14"], sign=True),
            "do not fit its plan",
        ),
        (lambda a, t: a.update(layers=["conv1"], sign=True), "other tensors"),
        (lambda a, t: a.update(plan=[], sign=True), "not a plan"),
    ],
)
def test_altered_and_inconsistent_files_are_refused(gene, tmp_path, change, says):
    path = tmp_path / "gene.safetensors"
    gene.save(path)
    rewritten(path, change)
    with pytest.raises(UserError, match=says):
        load(path)


class Boom:
    def __reduce__(self):
        return (os.mkdir, ("pickle-was-executed",))


def test_foreign_files_are_refused_and_never_unpickled(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plain = tmp_path / "plain.safetensors"
    save_file({"a": torch.zeros(2)}, plain)
    pickled = tmp_path / "gene.pt"
    torch.save({"layers": Boom()}, pickled)
    raw = tmp_path / "gene.pkl"
    raw.write_bytes(pickle.dumps(Boom()))
    for path in (plain, pickled, raw):
        with pytest.raises(UserError, match="not a whole learngene file"):
            load(path)
    assert not (tmp_path / "pickle-was-executed").exists()
    for path in (tmp_path / "missing.safetensors", tmp_path):
        with pytest.raises(UserError, match="cannot be read"):
            load(path)


def test_a_full_disk_leaves_the_old_file(gene, tmp_path, monkeypatch):
    path = tmp_path / "gene.safetensors"
    gene.save(path)
    good = path.read_bytes()

    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    gene.provenance["lineage"] = 8
    with pytest.raises(UserError, match="No space left on device"):
        gene.save(path)
    assert path.read_bytes() == good and os.listdir(tmp_path) == ["gene.safetensors"]
    with pytest.raises(UserError, match="cannot be written"):
        gene.save(tmp_path / "no" / "folder.safetensors")


def test_shuffled_keeps_each_tensors_values_and_loses_their_order(gene):
    before = {n: {p: t.clone() for p, t in parts.items()} for n, parts in gene.layers.items()}
    mixed = shuffled(gene, 3, "shuffle")
    for name, parts in mixed.layers.items():
        for part, tensor in parts.items():
            original = before[name][part]
            assert tensor.shape == original.shape and tensor.dtype == original.dtype
            assert torch.equal(tensor.flatten().sort().values, original.flatten().sort().values)
            assert torch.equal(gene.layers[name][part], original)
        assert (parts["bn.running_var"] > 0).all()
        moved = (parts["conv.weight"] != before[name]["conv.weight"]).double().mean()
        assert moved > 0.8
    first, second = (mixed.layers[n]["bn.weight"] for n in ("conv12", "conv13"))
    orders = [
        torch.argsort(before[n]["bn.weight"])[torch.argsort(torch.argsort(t))]
        for n, t in (("conv12", first), ("conv13", second))
    ]
    assert not torch.equal(*orders)  # each tensor has its own permutation


def test_shuffled_depends_on_its_generator_alone(gene):
    torch.manual_seed(0)
    first = shuffled(gene, 3, "shuffle")
    torch.manual_seed(1)
    assert equal(first, shuffled(gene, 3, "shuffle"))
    assert not equal(first, shuffled(gene, 4, "shuffle")) and not equal(
        first, shuffled(gene, 3, "other")
    )
    permuted = {
        n: {
            p: t.contiguous(memory_format=torch.channels_last) if t.dim() == 4 else t
            for p, t in parts.items()
        }
        for n, parts in gene.layers.items()
    }
    assert equal(
        first, shuffled(Learngene(permuted, PLAN), 3, "shuffle")
    )  # memory layout is no part of a tensor's value


@cache
def small_file():
    """A learngene, and the bytes of its file."""
    gene = extract(ancestor().state_dict(), PLAN, ["conv2", "conv13"])
    with tempfile.TemporaryDirectory() as folder:
        gene.save(Path(folder) / "gene.safetensors")
        return gene, (Path(folder) / "gene.safetensors").read_bytes()


@given(
    st.lists(
        st.tuples(st.integers(0, 10**6), st.binary(max_size=6), st.integers(0, 6)),
        min_size=1,
        max_size=4,
    )
)
@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_random_corruption_gives_a_user_error_or_the_same_learngene(tmp_path, edits):
    """Bytes replaced, inserted or cut out anywhere."""
    path = tmp_path / "gene.safetensors"
    whole, data = small_file()
    for place, new, cut in edits:
        place %= len(data)
        data = data[:place] + new + data[place + cut :]
    path.write_bytes(data)
    try:
        assert equal(load(path), whole)
    except UserError as error:
        assert "\n" not in str(error)


LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 10**12),
    st.floats(),
    st.text(max_size=3),
    st.just([]),
    st.just({}),
    st.just([["conv1", 0.5]]),
    st.just([[]]),
)
PLANS = {
    name: json.loads(json.dumps(architecture(name, 1 / 32, 32).to_json()))
    for name in ("vgg16", "resnet18", "vit-small4")
}


def changed(value, draw):
    """``value`` with one thing in it replaced, removed or doubled."""
    if not isinstance(value, (dict, list)) or not value or draw(st.integers(0, 5)) == 0:
        return draw(LEAVES)
    keys = list(value) if isinstance(value, dict) else list(range(len(value)))
    key = draw(st.sampled_from(keys))
    mangled = dict(value) if isinstance(value, dict) else list(value)
    kind = draw(st.integers(0, 6))
    if kind == 0:
        del mangled[key]
    elif kind == 1 and isinstance(mangled, list):
        mangled.insert(key, mangled[key])
    else:
        mangled[key] = changed(mangled[key], draw)
    return mangled


@given(st.data(), st.sampled_from(sorted(PLANS)))
@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_a_signed_file_with_a_mangled_plan_is_refused_or_read(tmp_path, monkeypatch, data, name):
    """Whoever writes a file can also sign it: what the plan says is then all that is wrong."""
    monkeypatch.setattr(os, "fsync", lambda file: None)
    path = tmp_path / "gene.safetensors"
    plan = architecture(name, 1 / 32, 32)
    model = plan.build(1)
    layer = plan.layer_names[-1]
    tensors = {
        f"{layer}/{part}": model.state_dict()[f"layers.{layer}.{part}"]
        for part in plan.shapes(layer)
    }
    about = {"plan": PLANS[name], "layers": [layer], "provenance": {}}
    key = data.draw(st.sampled_from(["plan", "plan", "plan", "layers", "provenance"]))
    tensor_file.write(path, "learngene", about | {key: changed(about[key], data.draw)}, tensors)
    try:
        loaded = load(path)
        assert list(loaded.layers) == [layer] or loaded.layers == {}
        evolve.inherit(path, 2)
    except UserError as error:
        assert "\n" not in str(error)


def absurd(name, key, value):
    """A plan with one number in it made huge."""
    text = json.dumps(PLANS[name])
    old = re.search(rf'"{key}": \d+', text)
    return json.loads(text[: old.start()] + f'"{key}": {value}' + text[old.end() :])


@pytest.mark.parametrize("value", [60_000, 10**7, 10**15])
@pytest.mark.parametrize("name", ["vgg16", "resnet18", "vit-small4"])
def test_an_absurd_network_is_refused_before_memory_is_taken(tmp_path, name, value):
    wide = {"vgg16": "c_out", "resnet18": "c_out", "vit-small4": "dim"}[name]
    plan = absurd(name, wide, value)
    if name != "vit-small4":  # every layer as wide as the first
        plan = json.loads(
            re.sub(r'("c_in"|"c_out"): (?!3\b)\d+', rf"\1: {value}", json.dumps(plan))
        )
    path = tmp_path / "gene.safetensors"
    tensor_file.write(path, "learngene", {"plan": plan, "layers": [], "provenance": {}}, {})
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UserError, match="do not fit its plan"):
        load(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # KiB


def test_numbers_made_are_counted_before_they_are_made():
    with tensor_file.Bounded(1000):
        torch.zeros(10, 50)
        assert torch.nn.Linear(9, 9).weight.shape == (9, 9)
        with pytest.raises(ValueError, match="too large"):
            torch.empty(1 << 20, 1 << 20, 1 << 10)
