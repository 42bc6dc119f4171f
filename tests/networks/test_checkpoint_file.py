"""Foreign checkpoints: whatever door a file comes through, `ancestor.checkpoint` or
`condense --ancestor`, it gives the same tensors, or the same refusal.
"""

from __future__ import annotations

import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save as safetensors_bytes
from test_vit_checkpoint import PLAN, _prefixed, _timm
from timm.models.vision_transformer import checkpoint_filter_fn
from torch import Tensor

from evolve.core.errors import UserError
from evolve.learngene.ancestor_file import import_weights
from evolve.networks import checkpoint_file
from evolve.networks.vit_checkpoint import read

State = dict[str, Tensor]


def imported(file: Path) -> State:
    state = import_weights(file, "vit-small4", 0.125, 16).state
    return {name: tensor for name, tensor in state.items() if not name.startswith("head.")}


DOORS: tuple[Callable[[Path], State], ...] = (lambda file: read(file, PLAN), imported)


def zeros(state: State) -> State:
    return {name: torch.zeros_like(tensor) for name, tensor in state.items()}


def cast(state: State, kind: torch.dtype) -> State:
    return {name: tensor.to(kind) for name, tensor in state.items()}


FORMS: dict[str, Callable[[State], Any]] = {
    "compiled": lambda s: _prefixed(s, "_orig_mod."),
    "compiled in parallel": lambda s: {"state_dict": _prefixed(s, "module._orig_mod.")},
    "parallel, compiled": lambda s: {"model_state_dict": _prefixed(s, "_orig_mod.module.")},
    "a backbone": lambda s: _prefixed(s, "backbone."),
    "teacher and student": lambda s: {
        "student": _prefixed(zeros(s), "module.backbone."),
        "teacher": _prefixed(s, "backbone."),
    },
    "both in one dict": lambda s: {
        **_prefixed(zeros(s), "student.backbone."),
        **_prefixed(s, "teacher.backbone."),
    },
    "a student alone": lambda s: {"student": s, "epoch": 3},
    "float64": lambda s: cast(s, torch.float64),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_wrapping_gives_the_same_tensors_through_both_doors(
    form: str, tmp_path: Path
) -> None:
    state = {n: t for n, t in _timm().state_dict().items() if not n.startswith("head.")}
    torch.save(FORMS[form](state), tmp_path / "it.pth")
    for door in DOORS:
        taken = door(tmp_path / "it.pth")
        assert torch.equal(
            taken["layers.block7.attn.qkv.weight"], state["blocks.6.attn.qkv.weight"]
        )
        assert torch.equal(taken["layers.embed.pos_embed"], state["pos_embed"])
        assert len(taken) == len(state) and {t.dtype for t in taken.values()} == {torch.float32}


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_half_precision_and_another_image_size_as_timm_does(
    kind: torch.dtype, tmp_path: Path
) -> None:
    state = cast(_timm(24, classes=0).state_dict(), kind)
    torch.save(state, tmp_path / "it.pth")
    expected = checkpoint_filter_fn(cast(state, torch.float32), _timm(classes=0))
    for door in DOORS:
        taken = door(tmp_path / "it.pth")
        assert torch.equal(taken["layers.embed.pos_embed"], expected["pos_embed"])
        assert torch.equal(taken["layers.norm.weight"], state["norm.weight"].float())


def test_a_file_is_read_as_what_it_is_whatever_its_suffix(tmp_path: Path) -> None:
    state = {n: t for n, t in _timm().state_dict().items() if not n.startswith("head.")}
    (tmp_path / "it.pth").write_bytes(safetensors_bytes(state))
    torch.save(state, tmp_path / "it.safetensors")
    torch.save(state, tmp_path / "it.bin", _use_new_zipfile_serialization=False)
    for door in DOORS:
        for name in ("it.pth", "it.safetensors", "it.bin"):
            assert torch.equal(door(tmp_path / name)["layers.norm.bias"], state["norm.bias"])


def saved(change: Callable[[State], Any]) -> Callable[[Path], None]:
    return lambda file: torch.save(change(dict(_timm(classes=0).state_dict())), file)


def nan(state: State) -> State:
    state["blocks.3.mlp.fc1.bias"][5] = float("nan")
    return state


def unpacked(file: Path) -> None:
    """A zip of 30 MB that is 30 kB."""
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(30_000_000))


REFUSED: dict[str, tuple[Callable[[Path], Any], str]] = {
    "NaN": (saved(nan), r"its blocks\.3\.mlp\.fc1\.bias holds NaN"),
    "infinity in half precision": (
        saved(
            lambda s: (
                cast(s, torch.float64)
                | {"norm.bias": torch.full((24,), 1e300, dtype=torch.float64)}
            )
        ),
        "norm.bias holds NaN or infinity",
    ),
    "Git LFS": (
        lambda f: f.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\n"),
        "a Git LFS pointer.*git lfs pull",
    ),
    "a web page": (lambda f: f.write_bytes(b"\n<!DOCTYPE html><html>Sign in"), "a web page"),
    "gzip": (lambda f: f.write_bytes(b"\x1f\x8b\x08 and so on"), "unpack it first"),
    "empty": (lambda f: f.write_bytes(b""), "an empty file"),
    "text": (lambda f: f.write_bytes(b"hello"), "not a whole checkpoint file"),
    "a folder": (lambda f: f.mkdir(), "no regular file|cannot be read"),
    "nothing": (lambda f: None, "no such file"),
    "a packed zip": (unpacked, "not a whole checkpoint file"),
    "a nested pickle": (
        lambda f: f.write_bytes(b"\x80\x02" + b"(" * 50_000 + b"t" * 49_999 + b"."),
        "not a whole checkpoint file|needs code",
    ),
    "more than its bytes": (
        saved(lambda s: s | {"norm.bias": torch.zeros(1).expand(10**15)}),
        "more numbers than the file holds",
    ),
    "sparse": (saved(lambda s: s | {"norm.bias": torch.eye(24).to_sparse()}), "save it as dense"),
    "two of a name": (
        saved(lambda s: s | {"module.norm.bias": s["norm.bias"] + 1}),
        "holds norm.bias twice",
    ),
    "LayerScale": (
        saved(lambda s: s | {"blocks.0.ls1.gamma": torch.ones(24)}),
        r"its blocks\.0\.ls1\.gamma has no place",
    ),
    "escapes in a name": (
        saved(lambda s: s | {"\x1b[2J\n": torch.ones(1)}),
        r"its \\u001b\[2J\\n has no",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused_is_refused_in_one_line_at_both_doors(case: str, tmp_path: Path) -> None:
    make, says = REFUSED[case]
    file = tmp_path / "it.pth"
    make(file)
    for door in DOORS:
        with warnings.catch_warnings(record=True) as spoken:
            warnings.simplefilter("always")
            with pytest.raises(UserError, match=says) as caught:
                door(file)
        assert str(file) in str(caught.value) and "\n" not in str(caught.value)
        assert not spoken


def test_a_file_above_the_limit_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint_file, "LARGEST", 100)
    (tmp_path / "it.pth").write_bytes(b"\x80" * 101)
    for door in DOORS:
        with pytest.raises(UserError, match="has 101 bytes, more than 100"):
            door(tmp_path / "it.pth")
