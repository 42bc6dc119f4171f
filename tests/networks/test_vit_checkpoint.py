"""Pretrained weights in every form they come in, against timm's model that holds them; and what is
refused, in one line.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from strategy_runs import CLASSES, Memory, quiet, stripes
from timm.models.vision_transformer import VisionTransformer, checkpoint_filter_fn
from torch import Tensor

from evolve.ancestor.accumulate import Accumulated, AccumulateRequest, accumulate, load_trunk
from evolve.core.errors import UserError
from evolve.core.settings import AncestorSettings, StreamSettings
from evolve.engine.store import Store
from evolve.lineage import lineage, perform
from evolve.lineage.scenario import load
from evolve.lineage.world import World, ancestor_plan
from evolve.networks.vit_checkpoint import content, read
from evolve.networks.vit_plan import vit_small4

PLAN = vit_small4(0.125, 16)  # 4 x 4 patches


def _timm(
    size: int = 16, depth: int = 12, patch: int = 4, classes: int = 9, **more: Any
) -> VisionTransformer:
    """With every tensor away from its rest."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = VisionTransformer(
            img_size=size,
            patch_size=patch,
            embed_dim=24,
            depth=depth,
            num_heads=1,
            num_classes=classes,
            **more,
        )
        with torch.no_grad():
            for tensor in model.parameters():
                tensor.add_(torch.randn(tensor.shape) * 0.1)
    return model.eval()


def _same_features(file: Path, peer: VisionTransformer) -> None:
    model = PLAN.build(3).eval()
    model.fused = True
    taken = read(file, PLAN)
    assert set(taken) == {name for name in model.state_dict() if name.startswith("layers.")}
    model.load_state_dict(taken, strict=False)
    x = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(model.embed(x), peer.forward_features(x)[:, 0])


def _prefixed(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in state.items()}


FORMS: dict[str, Callable[[dict[str, Tensor]], Any]] = {
    "timm or DINO's backbone": lambda state: state,
    "timm's training": lambda state: {
        "epoch": 3,
        "arch": "vit",
        "state_dict": _prefixed(state, "module."),
    },
    "DeiT": lambda state: {"model": state},
    "DINO in full": lambda state: {
        "student": _prefixed(
            {name: torch.zeros_like(t) for name, t in state.items()}, "module.backbone."
        ),
        "teacher": _prefixed(state, "backbone.")
        | {"head.mlp.0.weight": torch.zeros(3, 24), "head.last_layer.weight_v": torch.zeros(2, 3)},
        "optimizer": {"state": {0: {"step": 1}}, "param_groups": [{"lr": 0.1}]},
        "epoch": 100,
        "args": argparse.Namespace(arch="vit_small", patch_size=16),
        "dino_loss": {"center": torch.zeros(1, 2)},
    },
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_timms_features(form: str, tmp_path: Path) -> None:
    peer = _timm()
    state = {
        name: tensor
        for name, tensor in peer.state_dict().items()
        if form == "timm's training" or not name.startswith("head.")
    }
    torch.save(FORMS[form](state), tmp_path / "it.pth")
    _same_features(tmp_path / "it.pth", peer)


def test_safetensors_in_half_precision(tmp_path: Path) -> None:
    peer = _timm().half().float()
    save_file(
        {name: tensor.half() for name, tensor in peer.state_dict().items()},
        tmp_path / "it.safetensors",
    )
    _same_features(tmp_path / "it.safetensors", peer)


@pytest.mark.parametrize("size", [8, 24])
def test_positions_of_another_image_size_are_resized_as_timm_does(
    size: int, tmp_path: Path
) -> None:
    state, peer = _timm(size).state_dict(), _timm()
    torch.save(state, tmp_path / "it.pth")
    peer.load_state_dict(checkpoint_filter_fn(state, peer))
    _same_features(tmp_path / "it.pth", peer)


class Evil:
    """Unpickled by code, it would leave a file behind."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return (os.mkdir, (str(self.mark),))


def _without(name: str) -> dict[str, Tensor]:
    return {key: tensor for key, tensor in _timm().state_dict().items() if key != name}


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: _timm(depth=13).state_dict(), "its blocks.12.norm1.weight has no place"),
        (lambda: _timm(depth=11).state_dict(), "holds no tensor blocks.11.norm1.weight"),
        (
            lambda: _timm(size=32, patch=8).state_dict(),
            r"patch_embed.proj.weight has shape \(24, 3, 8, 8\), not \(24, 3, 4, 4\)",
        ),
        (lambda: _timm(init_values=0.1).state_dict(), "its blocks.0.ls1.gamma has no place"),
        (lambda: _timm(reg_tokens=2).state_dict(), "pos_embed has shape"),
        (lambda: _without("cls_token"), "holds no tensor cls_token"),
        (lambda: {"layers.conv1.weight": torch.zeros(3)}, "holds no tensor cls_token"),
        (lambda: [1, 2], "holds no tensor cls_token"),
        (lambda: torch.zeros(3), "holds no tensor cls_token"),
    ],
)
def test_other_networks_are_refused_by_their_first_tensor(
    make: Callable[[], Any], words: str, tmp_path: Path
) -> None:
    torch.save(make(), tmp_path / "it.pth")
    with pytest.raises(
        UserError, match=f"{words}.*12 blocks, dimension 24 and patches of 4 pixels"
    ) as caught:
        read(tmp_path / "it.pth", PLAN)
    assert "\n" not in str(caught.value) and str(tmp_path / "it.pth") in str(caught.value)


def test_a_file_that_needs_code_is_refused_and_its_code_not_run(tmp_path: Path) -> None:
    torch.save(_timm().state_dict() | {"more": Evil(tmp_path / "mark")}, tmp_path / "it.pth")
    with pytest.raises(UserError, match="needs code to be unpickled, which is never run") as caught:
        read(tmp_path / "it.pth", PLAN)
    assert not (tmp_path / "mark").exists() and "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["it.pth", "it.safetensors"])
def test_files_that_are_absent_or_damaged(name: str, tmp_path: Path) -> None:
    for damage, words in (
        (None, "no such file"),
        (b"", "an empty file"),
        (b"PK\x03\x04 half", "not a whole checkpoint file"),
    ):
        if damage is not None:
            (tmp_path / name).write_bytes(damage)
        with pytest.raises(UserError, match=words) as caught:
            read(tmp_path / name, PLAN)
        assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="cannot be read"):
        content(tmp_path)


def _world(checkpoint: str) -> World:
    settings = load(
        "glyphs-seq25",
        "quick",
        ["ancestor.network=vit-small4", "ancestor.width=0.125", "data.size=16", "stream.tasks=2"],
    ).settings
    return World(
        settings,
        0,
        "images",
        tuple(range(9)),
        tuple(range(9, 13)),
        tuple(range(13, 20)),
        checkpoint=checkpoint,
    )


def test_the_content_is_in_every_key_that_hangs_from_the_ancestor_and_only_there() -> None:
    def keys(checkpoint: str) -> dict[str, str]:
        plan = ancestor_plan(_world("").settings)
        return {
            stage.label: stage.key
            for stage in lineage.lineage(
                _world(checkpoint),
                lambda key: {"ancestor_plan": plan.to_json(), "layers": ["block1"]},
            )
        }

    none, first, second = keys(""), keys("a"), keys("b")
    shared = {label for label in none if "from-scratch" in label}
    assert shared and {label for label in none if none[label] == first[label]} == shared == {
        label for label in none if first[label] == second[label]
    }


def test_the_stage_starts_from_the_file_and_refuses_another_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "it.pth"
    torch.save(_timm().state_dict(), file)
    stage = next(
        s
        for s in lineage.lineage(_world(content(file)), lambda key: None)
        if s.label == "accumulate 0"
    )

    class Nothing:
        size, device = 16, torch.device("cpu")

    monkeypatch.setattr(perform, "resident_images", lambda context, recipe: Nothing())
    store = Store(tmp_path / "store", lambda text: None)
    perform.perform_stage(stage, store, {"checkpoint": file}, lambda done, text: None)
    result = store.get(stage.key)
    assert result is not None
    trunk, expected = load_trunk(result.tensors("ancestor")), read(file, PLAN)
    assert all(torch.equal(trunk[name], tensor) for name, tensor in expected.items())
    assert float(trunk["head.weight"].std()) > 0  # drawn
    torch.save(_timm(classes=5).state_dict(), file)
    with pytest.raises(UserError, match="the file changed"):
        perform.perform_stage(stage, store, {"checkpoint": file}, lambda done, text: None)


def _at_rest(task: int, strategy: str, previous: Accumulated | None) -> dict[str, Tensor]:
    """The ancestor after a task at learning rate 0."""
    a = AncestorSettings(
        network="vit-small4", width=0.125, epochs=1, batch=12, lr=0.0, augment=(), strategy=strategy
    )
    done = accumulate(
        AccumulateRequest(
            a,
            StreamSettings(tasks=2, classes_per_task=3),
            CLASSES,
            stripes(),
            0,
            task,
            Memory(),
            quiet,
            previous=previous,
        )
    )
    return load_trunk(done.tensors)


@pytest.mark.parametrize("strategy", ["naive", "joint"])
def test_the_first_task_and_joint_training_begin_with_the_pretrained_layers(strategy: str) -> None:
    with torch.random.fork_rng():
        start = {
            name: torch.rand(t.shape)
            for name, t in vit_small4(0.125, 8).build(3).state_dict().items()
            if name.startswith("layers.")
        }
    model = vit_small4(0.125, 8).build(3)
    model.load_state_dict(start, strict=False)
    previous = Accumulated(
        {f"model.trunk.{name}": t for name, t in model.state_dict().items()}, {"task": 0}
    )
    trained = _at_rest(1, strategy, previous)
    assert all(torch.equal(trained[name], tensor) for name, tensor in start.items())
    assert not torch.equal(
        _at_rest(1, strategy, None)["layers.block1.attn.qkv.weight"],
        start["layers.block1.attn.qkv.weight"],
    )


def test_a_lineage_without_tasks_is_one_generation_with_its_controls() -> None:
    words = [
        "ancestor.network=vit-small4",
        "data.size=16",
        "stream.tasks=0",
        "ancestor.checkpoint=x",
        "controls.full_ancestor=3",
    ]
    words += ["controls.joint=1", "controls.distilled=2", "controls.draws=1"]
    settings = load("glyphs-seq25", "quick", words).settings
    world = World(
        settings,
        0,
        "images",
        tuple(range(9)),
        tuple(range(9, 13)),
        tuple(range(13, 20)),
        checkpoint="a",
    )
    plan = ancestor_plan(settings)
    labels = [
        stage.label
        for stage in lineage.lineage(
            world, lambda key: {"ancestor_plan": plan.to_json(), "layers": ["block1"]}
        )
    ]
    methods = ("inherited", "from-scratch", "shuffled", "full-ancestor", "distilled")
    first = ["descend paper's descendant from-scratch", "descend whole ancestor from-scratch"]
    assert labels == [
        *first,
        "accumulate 0",
        "condense 0",
        *(f"descend 0 {method}" for method in methods),
    ]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["stream.tasks=0"], "stream.tasks = 0.*ancestor.checkpoint"),
        (
            ["stream.tasks=0", "ancestor.checkpoint=x", "controls.untrained=false"],
            "controls.untrained = true",
        ),
        (
            ["ancestor.checkpoint=x", "ancestor.network=vgg16"],
            'only a ViT starts from one, ancestor.network is vgg16; allowed is ""',
        ),
    ],
)
def test_what_contradicts_itself_is_refused(words: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        load("glyphs-seq25", "quick", ["ancestor.network=vit-small4", "data.size=16", *words])
