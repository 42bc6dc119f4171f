"""The learngene: what it holds, its file, its shuffled control."""

from __future__ import annotations

import errno
import json
import os
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from evolve import tensor_file
from evolve.errors import UserError
from evolve.learngene import Learngene, extract, load, shuffled
from evolve.networks.plan import layer_names, stack_plan, vgg16_plan
from evolve.networks.vgg import VGG, initialise
from evolve.randomness import generator

PARTS = ("conv.weight", "conv.bias", "bn.weight", "bn.bias", "bn.running_mean", "bn.running_var", "bn.num_batches_tracked")
PAPER = ("conv1", "conv11", "conv12", "conv13")
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
    learngene.provenance = {"lineage": 7, "seed": 0, "scenario": "glyphs-seq25", "key": "ab" * 20, "evolve": "0.1.0"}
    return learngene


def equal(one: Learngene, two: Learngene) -> bool:
    return list(one.layers) == list(two.layers) and all(
        torch.equal(one.layers[n][p], two.layers[n][p]) and one.layers[n][p].dtype == two.layers[n][p].dtype
        for n in one.layers
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
    found = load(path)
    assert equal(found, gene) and found.ancestor_plan == PLAN and found.provenance == gene.provenance
    assert os.listdir(tmp_path) == ["gene.safetensors"]
    first = path.read_bytes()
    found.save(path)  # over itself
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
    assert stack_plan(tensor_file.from_json(about["plan"]), about["layers"])[0][0].inherits == "conv1"


def test_any_flipped_byte_or_truncation_is_refused(gene, tmp_path):
    """Every byte of the header, and bytes all over the tensors."""
    path = tmp_path / "gene.safetensors"
    gene.save(path)
    good = path.read_bytes()
    start = 8 + int.from_bytes(good[:8], "little")
    header = good[8:start].rstrip(b" ")
    places = [*range(0, 8), *range(8, 8 + len(header), 7), *range(start, len(good), len(good) // 60)]
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
    """The file with its description changed by ``change`` (and, where asked, its checksum made to fit)."""
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
        (lambda a, t: t.update({"conv1/bn.bias": t["conv1/bn.weight"].clone()}), "altered or damaged"),
        (lambda a, t: a.pop("sha256"), "altered or damaged"),
        (lambda a, t: a.update(format=2, sign=True), "has format 2, this version of evolve reads 1"),
        (lambda a, t: (t.pop("conv1/bn.bias"), a.update(sign=True)), "do not fit its plan"),
        (lambda a, t: (t.update({"conv1/bn.bias": torch.zeros(99)}), a.update(sign=True)), "has shape \\(99,\\)"),
        (lambda a, t: a.update(layers=["conv1", "conv11", "conv12", "conv14"], sign=True), "do not fit its plan"),
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
    orders = [torch.argsort(before[n]["bn.weight"])[torch.argsort(torch.argsort(t))] for n, t in (("conv12", first), ("conv13", second))]
    assert not torch.equal(*orders)  # each tensor has its own permutation


def test_shuffled_depends_on_its_generator_alone(gene):
    torch.manual_seed(0)
    one = shuffled(gene, 3, "shuffle")
    torch.manual_seed(1)
    assert equal(one, shuffled(gene, 3, "shuffle"))
    assert not equal(one, shuffled(gene, 4, "shuffle")) and not equal(one, shuffled(gene, 3, "other"))
    permuted = {n: {p: t.contiguous(memory_format=torch.channels_last) if t.dim() == 4 else t for p, t in parts.items()}
                for n, parts in gene.layers.items()}
    assert equal(one, shuffled(Learngene(permuted, PLAN), 3, "shuffle"))  # memory layout is no part of a tensor's value
