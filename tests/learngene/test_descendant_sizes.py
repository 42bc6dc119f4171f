"""Descendants of several sizes from one learngene: depth against its papers' formulas, width
against the wide network with all other channels masked (float64).
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from evolve.core.randomness import generator
from evolve.core.settings import InheritSettings
from evolve.learngene.channels import strongest
from evolve.learngene.inheritance import inherit
from evolve.learngene.inheritors import cut_down, descendant, kin, size_problem
from evolve.learngene.learngene import Learngene, extract
from evolve.networks.architecture import Architecture
from evolve.networks.family import architecture, from_json
from evolve.networks.network import Network
from evolve.networks.vit_plan import ViTPlan

VGG, RESNET = architecture("vgg16", 1 / 16, 32), architecture("resnet18", 1 / 16, 32)
VIT = architecture("vit-small4", 2 / 3, 8)  # two heads
ANCESTORS = [VGG, RESNET, VIT]
FULL = {RESNET: 2, VIT: 12}  # the depths that are the ancestors' own


def trained(ancestor: Architecture) -> Network:
    """A network in float64 whose tensors are all random, running statistics too."""
    model = ancestor.build(3).double().eval()
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point():
            drawn = torch.randn(tensor.shape, generator=generator(2, name), dtype=torch.float64)
            gain = (2 * len(tensor) / tensor.numel()) ** 0.5 if tensor.ndim > 1 else 0.2
            tensor.copy_(drawn.abs() + 0.5 if name.endswith("running_var") else gain * drawn)
            if name.endswith("bn.weight"):
                tensor += 1
    return model


def gene_of(ancestor: Architecture, layers: tuple[str, ...] = ()) -> Learngene:
    return extract(trained(ancestor).state_dict(), ancestor, layers or ancestor.all_layers)


def born(plan: Architecture, gene: Learngene | None) -> Network:
    return inherit(plan, gene, 3, 5, 0).double().eval()


def images(size: int) -> Tensor:
    draw = generator(3, "images")
    return torch.randn(4, 3, size, size, generator=draw, dtype=torch.float64)


@pytest.mark.parametrize("ancestor", ANCESTORS, ids=lambda plan: plan.family)
@pytest.mark.parametrize("method", ["repeat", "linear"])
def test_full_depth_and_width_are_the_descendants_without_the_settings(ancestor, method):
    some = ancestor.layer_names[::3]
    plain = descendant(ancestor, some, InheritSettings(method=method))
    full = InheritSettings(method=method, depth=FULL.get(ancestor, 0), width=1.0)
    assert descendant(ancestor, some, full) == plain
    assert cut_down(ancestor, full).anonymous() == ancestor.anonymous()
    assert cut_down(ancestor, InheritSettings()) == ancestor.whole()
    if method == "repeat":
        assert cut_down(ancestor, full) == ancestor.whole()


@pytest.mark.parametrize("ancestor", ANCESTORS, ids=lambda plan: plan.family)
@pytest.mark.parametrize(("method", "depth"), [("stack", 0), ("repeat", 1), ("linear", 3)])
def test_sizes_count_as_torch_counts_and_only_inherited_layers_differ_from_scratch(
    ancestor, method, depth
):
    some = ancestor.layer_names[1::2]
    chosen = InheritSettings(method=method, depth=depth, width=0.5)
    plan = from_json(descendant(ancestor, some, chosen).to_json())
    heir, scratch = born(plan, gene_of(ancestor, some)), born(plan.anonymous(), None)
    counted = sum(tensor.numel() for tensor in heir.layers.parameters())
    assert plan.trained(plan.all_layers) == counted
    wide = descendant(ancestor, some, InheritSettings(method=method, depth=depth))
    assert counted < 0.55 * wide.trained(wide.all_layers)
    assert heir(images(8)).shape == (4, 3)
    for own, place in plan.places().items():
        fresh = scratch.layers[place].state_dict()
        same = all(torch.equal(t, fresh[n]) for n, t in heir.layers[own].state_dict().items())
        assert same == (own not in plan.inherits()), own


def by_norm(weights: list[Tensor], few: int) -> list[int]:
    """The filters with the largest L1 norms (Li et al.), summed over convolutions."""
    norms = sum(np.abs(w.numpy()).sum((1, 2, 3)) for w in weights)
    return sorted(np.argsort(-norms)[:few].tolist())


def masked(wide: Network, kept: dict[str, list[int]]) -> None:
    """Set all other channels of the layers' outputs to zero."""
    for name, channels in kept.items():

        def hide(_module: nn.Module, _given: object, out: Tensor, keep: list[int] = channels):
            mask = torch.zeros(out.shape[1], dtype=out.dtype)
            mask[keep] = 1
            return out * mask[:, None, None]

        wide.layers[name].register_forward_hook(hide)


def test_a_narrow_vgg_is_the_wide_one_with_the_other_channels_masked():
    wide, plan = trained(VGG), cut_down(VGG, InheritSettings(width=0.5))
    weight = {name: wide.layers[name].conv.weight.detach() for name in VGG.layer_names}
    kept = {name: by_norm([w], len(w) // 2) for name, w in weight.items()}
    narrow = born(plan, gene_of(VGG))
    masked(wide, kept)
    torch.testing.assert_close(
        narrow.embed(images(32)), wide.embed(images(32))[:, kept["conv13"]], rtol=1e-4, atol=1e-9
    )


def test_a_narrow_resnet_is_the_wide_one_with_the_other_channels_masked():
    """A stage's residual stream is one set of channels, by all that is added to it."""
    wide, plan = trained(RESNET), cut_down(RESNET, InheritSettings(width=0.5))
    kept: dict[str, list[int]] = {}
    for stage in range(1, 5):
        blocks = [block for block in RESNET.blocks if block.stage == stage]
        ends = [block.convs[-1].name for block in blocks]
        shortcuts = [block.shortcut.name for block in blocks if block.shortcut]
        adds = [wide.layers[name].conv.weight.detach() for name in (*ends, *shortcuts)]
        kept |= dict.fromkeys(ends, by_norm(adds, len(adds[0]) // 2))
        for block in blocks:
            for conv in block.convs[:-1]:
                weight = wide.layers[conv.name].conv.weight.detach()
                kept[conv.name] = by_norm([weight], len(weight) // 2)
    narrow = born(plan, gene_of(RESNET))
    masked(wide, kept)
    torch.testing.assert_close(
        narrow.embed(images(32)), wide.embed(images(32))[:, kept["conv17"]], rtol=1e-4, atol=1e-9
    )


class MaskedNorm(nn.Module):
    """A LayerNorm over some of its channels; the others are zero."""

    def __init__(self, norm: nn.LayerNorm, keep: Tensor) -> None:
        super().__init__()
        self.norm, self.keep = norm, keep

    def forward(self, x: Tensor) -> Tensor:
        part = nn.functional.layer_norm(
            x[..., self.keep],
            (len(self.keep),),
            self.norm.weight[self.keep],
            self.norm.bias[self.keep],
            self.norm.eps,
        )
        return torch.zeros_like(x).index_copy(-1, self.keep, part)


@torch.no_grad()
def test_a_narrow_vit_is_the_wide_one_masked_but_that_layer_norms_see_only_what_is_kept():
    assert isinstance(VIT, ViTPlan)
    wide, plan = trained(VIT), cut_down(VIT, InheritSettings(width=0.5))
    assert (plan.heads, plan.dim) == (1, 64)
    narrow, blocks = born(plan, gene_of(VIT)), [wide.layers[name] for name in VIT.layer_names]
    adding = [m.weight for b in blocks for m in (b.attn.proj, b.mlp.fc2)]
    adding.append(wide.layers["embed"].patch_embed.proj.weight.flatten(1))
    strength = torch.stack([weight.abs().sum(1) for weight in adding]).sum(0)
    stream = strength.topk(plan.dim).indices.sort().values
    lost = sorted(set(range(VIT.dim)) - set(stream.tolist()))
    for name, block in zip(VIT.layer_names, blocks, strict=True):
        heads = block.attn.qkv.weight.abs().reshape(3, 2, -1).sum((0, 2)).topk(1).indices
        hidden = block.mlp.fc1.weight.abs().sum(1).topk(4 * plan.dim).indices
        idle = [n for n in range(VIT.dim) if n // 64 not in heads]
        block.attn.proj.weight[:, idle] = 0
        block.mlp.fc2.weight[:, sorted(set(range(4 * VIT.dim)) - set(hidden.tolist()))] = 0
        for module in (block.attn.proj, block.mlp.fc2):
            module.weight[lost] = 0
            module.bias[lost] = 0
        block.norm1, block.norm2 = (MaskedNorm(n, stream) for n in (block.norm1, block.norm2))
        assert name in plan.inherits()
    wide.layers["norm"] = MaskedNorm(wide.layers["norm"], stream)
    wide.layers["embed"].register_forward_hook(
        lambda _m, _g, out: out.index_fill(-1, torch.tensor(lost), 0)
    )
    torch.testing.assert_close(
        narrow.embed(images(8)), wide.embed(images(8))[:, stream], rtol=1e-4, atol=1e-5
    )


def test_a_narrow_head_narrows_itself_and_its_numbers_stay_paired():
    ancestor = architecture("vit-small4", 1 / 4, 8)  # one head of 48 numbers
    wide, plan = trained(ancestor), cut_down(ancestor, InheritSettings(width=0.5))
    assert isinstance(plan, ViTPlan) and (plan.heads, plan.dim) == (1, 24)
    keep = strongest(plan, gene_of(ancestor).layers)
    qkv = wide.layers["block1"].attn.qkv.weight.detach().reshape(3, 48, 48)
    numbers = qkv.abs().sum((0, 2)).topk(24).indices.sort().values
    own = born(plan, gene_of(ancestor)).layers["block1"].attn.qkv.weight.reshape(3, 24, 24)
    torch.testing.assert_close(
        own, qkv[:, numbers][..., keep["embedding"]], rtol=1e-6, atol=1e-6, check_dtype=False
    )


def test_channels_that_a_fresh_layer_feeds_are_chosen_by_the_weights_that_read_them():
    plan = descendant(VGG, ("conv1", "conv11", "conv12", "conv13"), InheritSettings(width=0.5))
    state = {name: trained(VGG).layers[name].state_dict() for name in plan.inherits()}
    reads = state["conv11"]["conv.weight"].transpose(0, 1)
    assert strongest(plan, state)["block4_entry"].tolist() == by_norm([reads], len(reads) // 2)


@pytest.mark.parametrize("depth", [1, 6, 15])
def test_linear_is_tlegs_formula_at_every_depth(depth):
    """theta_l = theta_B + (l / L) theta_A (arXiv 2312.05614), L the descendant's depth."""
    some = VIT.layer_names[:6:2]
    wide = trained(VIT)
    own = born(
        descendant(VIT, some, InheritSettings(method="linear", depth=depth)), gene_of(VIT, some)
    )
    for part in ("attn.qkv.weight", "mlp.fc2.bias", "norm1.weight"):
        held = np.stack([wide.layers[n].get_parameter(part).detach().numpy().ravel() for n in some])
        places = np.array([1, 3, 5]) / len(VIT.layer_names)
        slope, start = np.polyfit(places, held, 1)
        for number, name in enumerate(own.architecture.layer_names, start=1):
            expected = start + number / depth * slope
            actual = own.layers[name].get_parameter(part).detach().numpy().ravel()
            np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)


def test_repeat_at_another_depth_repeats_each_selected_layer_over_its_part_of_the_stage():
    some = (VIT.layer_names[0], VIT.layer_names[7])
    for depth, first in ((3, 1), (6, 3), (24, 15)):
        plan = descendant(VIT, some, InheritSettings(method="repeat", depth=depth))
        sources = [next(iter(mixture)) for mixture in plan.inherits().values()]
        assert sources == [some[0]] * first + [some[1]] * (depth - first)


def test_a_convolutional_stage_keeps_its_entry_and_its_resolution():
    for ancestor, entries in ((VGG, (0, 2, 4, 7)), (RESNET, (0, 5, 9, 13))):
        for depth in (1, 2, 4):
            plan = cut_down(ancestor, InheritSettings(method="repeat", depth=depth))
            stages = plan.integral_layers("stage")
            assert len(stages) == len(ancestor.integral_layers("stage"))
            for stage, entry in zip(stages, entries, strict=False):
                name = ancestor.layer_names[entry]
                assert plan.inherits()[stage[0]] == {name: 1.0}
            assert set(plan.inherits()) == set(plan.all_layers)  # shortcuts, too
            assert sum(map(len, kin(plan))) == len(plan.layer_names)


@pytest.mark.parametrize(
    ("ancestor", "chosen", "said"),
    [
        (VGG, {"depth": 2}, "inherit.depth = 2: .* allowed is 0, or inherit.method repeat or"),
        (VIT, {"width": 0.9}, "inherit.width = 0.9: nothing gets narrower"),
        (architecture("vit-small4", 1 / 12, 16), {"width": 0.5}, "nothing gets narrower"),
        (RESNET, {"width": 1 / 16}, "stages would be equally wide; allowed is 1"),
    ],
)
def test_sizes_that_cannot_be_are_one_line(ancestor, chosen, said):
    import re

    problem = size_problem(ancestor, InheritSettings(**chosen))
    assert problem is not None and "\n" not in problem and re.search(said, problem)
    assert size_problem(ancestor, InheritSettings(method="linear", depth=3)) is None
