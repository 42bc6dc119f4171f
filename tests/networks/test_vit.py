"""The ViT against timm's: parameters, outputs, draws; what its layers are; tokens of inherited
blocks.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys

import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from evolve.core.settings import InheritSettings
from evolve.learngene.inheritance import inherit
from evolve.learngene.inheritors import descendant
from evolve.learngene.learngene import extract
from evolve.networks.family import architecture, from_json
from evolve.networks.network import initialise
from evolve.networks.vit import ViT
from evolve.networks.vit_plan import ViTPlan, vit_s16, vit_small4

NARROW = vit_small4(0.125, 8)  # one head of 24, 2 x 2 patches and the class token
BLOCKS = NARROW.layer_names


def _peer(plan: ViTPlan, classes: int) -> VisionTransformer:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return VisionTransformer(
            img_size=plan.size,
            patch_size=plan.patch,
            embed_dim=plan.dim,
            depth=len(plan.blocks),
            num_heads=plan.heads,
            num_classes=classes,
        )


def _timm_name(name: str) -> str:
    """Ours -> timm's."""
    if name.startswith("layers.block"):
        number, _, part = name.removeprefix("layers.block").partition(".")
        return f"blocks.{int(number) - 1}.{part}"
    return name.removeprefix("layers.").removeprefix("embed.")


def _awake(model: ViT, seed: int = 3) -> ViT:
    """Biases, norms and the class token away from their rest, so that leaving one out is seen."""
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in model.parameters():
            tensor.add_(torch.randn(tensor.shape, generator=draw) * 0.1)
    return model


def _images(plan: ViTPlan, count: int = 2) -> Tensor:
    return torch.randn(count, 3, plan.size, plan.size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("network", "width", "size"),
    [
        ("vit-s16", 1.0, 32),
        ("vit-s16", 1 / 3, 224),
        ("vit-small4", 1.0, 32),
        ("vit-small4", 0.125, 12),
    ],
)
def test_outputs_and_parameters_are_timms(network: str, width: float, size: int) -> None:
    plan = architecture(network, width, size)
    assert isinstance(plan, ViTPlan)
    model, peer = _awake(plan.build(7)).eval(), _peer(plan, 7).eval()
    model.fused = True  # timm's default
    state = {_timm_name(name): tensor for name, tensor in model.state_dict().items()}
    assert {name: t.shape for name, t in state.items()} == {
        name: t.shape for name, t in peer.state_dict().items()
    }
    peer.load_state_dict(state)
    x = _images(plan)
    # Where nobody asks for gradients, passes of our own embed: tests/networks/test_node.py.
    assert torch.equal(model(x), peer(x))
    assert torch.equal(model.embed(x), peer.forward_head(peer.forward_features(x), pre_logits=True))
    with torch.no_grad():
        theirs = peer.forward_intermediates(
            x, return_prefix_tokens=True, output_fmt="NLC", intermediates_only=True
        )
        for own, (patches, prefix) in zip(model.features(x), theirs, strict=True):
            assert torch.equal(own, torch.cat([prefix, patches], 1))
        model.fused = False
        assert torch.allclose(model(x), peer(x), rtol=1e-4, atol=1e-5)


def test_the_paper_s_network_is_timms_vit_small() -> None:
    plan = vit_s16(1.0, 224)
    assert (plan.dim, plan.heads, len(plan.blocks)) == (384, 6, 12)
    with torch.device("meta"):
        peer = timm.create_model("vit_small_patch16_224", num_classes=0)
    assert plan.parameters == sum(p.numel() for p in peer.parameters())


def test_draws_have_timms_distributions_and_leave_the_global_state_alone() -> None:
    before = torch.get_rng_state()
    plan = vit_small4(1.0, 32)
    model, peer = plan.build(7), _peer(plan, 7)
    assert torch.equal(torch.get_rng_state(), before)
    assert float(model.head.weight.detach().std()) == pytest.approx(0.01, rel=0.1)
    theirs = dict(peer.named_parameters())
    for name, tensor in model.layers.named_parameters():
        own, other = tensor.detach(), theirs[_timm_name(f"layers.{name}")].detach()
        other = (
            other[other > -1] if other.dim() > 1 else other
        )  # without the strays named in vit.py
        rough = 6 / math.sqrt(own.numel())
        assert float(own.std()) == pytest.approx(float(other.std()), rel=rough, abs=1e-12), name
        assert float(own.mean()) == pytest.approx(
            float(other.mean()), abs=rough * float(other.std()) + 1e-12
        ), name
        if other.std() > 0:
            assert float(own.abs().max()) < 1.5 * float(other.abs().max()), name


def test_every_tensor_has_its_own_draw() -> None:
    """No two tensors of one shape are equal, and a block's draw depends on its name alone."""
    model = NARROW.build(3)
    drawn = [t for name, t in model.layers.named_parameters() if float(t.detach().std()) > 0]
    assert len(drawn) == 12 * 4 + 4
    for tensor in drawn:
        assert (
            sum(tensor.shape == other.shape and torch.equal(tensor, other) for other in drawn) == 1
        )
    shallow = NARROW.stacked(["block5"]).build(3)
    initialise(shallow, 0, names={**NARROW.stacked(["block5"]).places(), "block5": "block5"})
    assert torch.equal(
        shallow.layers["block5"].attn.qkv.weight, model.layers["block5"].attn.qkv.weight
    )  # type: ignore[union-attr]


def test_widths_and_sizes() -> None:
    sizes = {
        width: (vit_small4(width, 32).dim, vit_small4(width, 32).heads)
        for width in (2.0, 1.0, 0.5, 1 / 3, 0.25, 0.125, 1 / 64)
    }
    assert sizes == {
        2.0: (384, 6),
        1.0: (192, 3),
        0.5: (128, 2),
        1 / 3: (64, 1),
        0.25: (48, 1),
        0.125: (24, 1),
        1 / 64: (16, 1),
    }
    with pytest.raises(ValueError, match=r"30 pixels.*patches of 4.*data.size = 32"):
        vit_small4(1.0, 30)
    with pytest.raises(ValueError, match=r"8 pixels.*data.size = 16"):
        vit_s16(1.0, 8)
    with pytest.raises(ValueError, match="above 0"):
        vit_s16(0.0, 32)


def test_the_paper_s_descendant_is_the_lower_half() -> None:
    plan = vit_s16(1.0, 224)
    lower = plan.paper_descendant()
    assert list(lower.inherits()) == [f"block{n}" for n in range(1, 7)]
    assert lower.describe() == "384/16 B* B* B* B* B* B*"
    assert plan.named_set("authors", 0) == plan.named_set("paper", 0) == tuple(range(6))
    assert plan.named_set("last", 2) == (10, 11)
    assert plan.stacked(["block12", "block3"]).describe() == "384/16 B* B* B B B B"
    assert len(plan.stacked([f"block{n}" for n in range(1, 9)]).blocks) == 8
    assert (
        plan.integral_layers("stage")[1] == ("block3", "block4")
        and len(plan.integral_layers("conv")) == 12
    )
    with pytest.raises(ValueError, match="block13"):
        plan.stacked(["block13"])
    with pytest.raises(ValueError, match="granularity"):
        plan.integral_layers("pixel")


some = st.sets(st.sampled_from(BLOCKS))


@settings(max_examples=12, deadline=None, derandomize=True)
@given(chosen=some)
def test_any_set_makes_a_descendant_that_can_be_written_built_and_trained(chosen: set[str]) -> None:
    plan = NARROW.stacked(chosen)
    assert list(plan.inherits()) == [name for name in BLOCKS if name in chosen]
    assert len(plan.layer_names) == max(6, len(chosen))
    for original in (
        plan,
        plan.anonymous(),
        plan.with_inherited(
            {plan.layer_names[0]: {"block1": 0.5, "block2": 0.5}, "embed": {"embed": 1.0}}
        ),
    ):
        read = from_json(json.loads(json.dumps(original.to_json())))
        assert read == original and hash(read) == hash(original)
    model = plan.build(3)
    for layer in (*plan.layer_names, *plan.extras):
        built = {part: tuple(t.shape) for part, t in model.layers[layer].state_dict().items()}
        assert plan.shapes(layer) == built
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    losses = []
    for _ in range(2):
        loss = nn.functional.cross_entropy(
            model(_images(plan, 6)), torch.tensor([0, 1, 2, 0, 1, 2])
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[1] < losses[0] and all(p.grad is not None for p in model.parameters())


@settings(max_examples=8, deadline=None, derandomize=True)
@given(chosen=some.filter(bool), embeddings=st.sampled_from(["random", "inherited"]))
def test_inherited_blocks_give_the_ancestors_tokens_on_equal_input(
    chosen: set[str], embeddings: str
) -> None:
    """The oracle of the issue: on equal input every inherited block's tokens are the ancestor's;
    with inherited embeddings, a lower run's tokens are equal from the images on.
    """
    ancestor = _awake(NARROW.build(4)).eval()
    plan = descendant(NARROW, sorted(chosen), InheritSettings(embeddings=embeddings))
    model = inherit(
        plan, extract(ancestor.state_dict(), NARROW, [*chosen, "embed"]), 3, 0, 1
    ).eval()
    tokens = torch.randn(2, 5, NARROW.dim, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        for name in chosen:
            assert torch.equal(model.layers[name](tokens), ancestor.layers[name](tokens))
        x, scratch = _images(NARROW), inherit(plan.anonymous(), None, 3, 0, 1)
        ours, theirs = model.features(x), ancestor.features(x)
        for place, name in enumerate(plan.layer_names):
            lower = (
                embeddings == "inherited" and plan.layer_names[: place + 1] == BLOCKS[: place + 1]
            )
            assert torch.equal(ours[place], theirs[min(place, 11)]) == lower, name
    for name, place in plan.places().items():  # fresh layers are the from-scratch control's
        if name != "norm":
            part = "pos_embed" if name == "embed" else "attn.qkv.weight"
            equal = torch.equal(
                model.layers[name].state_dict()[part], scratch.layers[place].state_dict()[part]
            )
            assert equal == (name not in plan.inherits())


def test_the_whole_ancestor_as_its_own_descendant() -> None:
    ancestor = _awake(NARROW.build(4)).eval()
    whole = NARROW.whole()
    assert set(whole.inherits()) == {*BLOCKS, "embed", "norm"}
    model = inherit(
        whole, extract(ancestor.state_dict(), NARROW, [*BLOCKS, "embed", "norm"]), 3, 0, 0
    ).eval()
    with torch.no_grad():
        assert torch.equal(model.embed(_images(NARROW)), ancestor.embed(_images(NARROW)))


@pytest.mark.parametrize(
    "change",
    [
        {"heads": 5},
        {"dim": 0},
        {"size": 10},
        {"blocks": []},
        {"blocks": [{"name": "embed", "inherits": None}]},
        {"embed": 3},
        {"norm": [["block1", "x"]]},
        {"patch": "4"},
    ],
)
def test_json_of_no_vit_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="not a ViT"):
        from_json(NARROW.to_json() | change)


def test_estimates_agree_with_what_is_built() -> None:
    plan = vit_small4(1.0, 32)
    assert plan.parameters == sum(p.numel() for p in plan.build(1).layers.parameters())
    assert plan.numbers_out(32) == 13 * 65 * 192
    assert vit_s16(1.0, 224).macs(224) == pytest.approx(
        4.6, rel=0.02
    )  # published: 4.6 G (DeiT-S, arXiv 2012.12877)


def test_a_plan_needs_no_torch() -> None:
    code = (
        "import sys; from evolve.networks.vit_plan import vit_s16 as v; p = v(1.0, 224); "
        "p.parameters, p.to_json(), p.paper_descendant(); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
