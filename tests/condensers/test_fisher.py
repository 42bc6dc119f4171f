"""Fisher sensitivity against one backward pass an image, in float64."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from tiny_ancestors import VGG16, VIT, broken, request, resident, state
from torch import Tensor

from evolve.condensers import fisher
from evolve.condensers.condense import condense_ancestor
from evolve.condensers.fisher import drawn_labels, sensitivity
from evolve.core.errors import UserError
from evolve.core.randomness import generator
from evolve.networks.architecture import Architecture
from evolve.networks.network import Network


def double(architecture: Architecture) -> Network:
    model = architecture.build(5)
    model.load_state_dict(dict(state(architecture)))
    for module in model.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = False
    return model.double().eval()


def by_the_loop(
    model: Network, groups: tuple[tuple[str, ...], ...], images: Tensor, labels: Tensor
) -> list[float]:
    """Sum over images and parameters of (d log p / d theta * theta)^2."""
    sums = [0.0] * len(groups)
    for image, label in zip(images, labels, strict=True):
        model.zero_grad()
        F.log_softmax(model(image[None]), 1)[0, label].backward()
        for place, group in enumerate(groups):
            for layer in group:
                sums[place] += sum(
                    float(((p.grad * p.detach()) ** 2).sum())
                    for p in model.layers[layer].parameters()
                )
    return sums


@pytest.mark.parametrize("granularity", ["conv", "stage"])
@pytest.mark.parametrize("architecture", [VGG16, VIT], ids=["vgg", "vit"])
def test_sensitivity_equals_one_backward_pass_an_image(
    architecture: Architecture, granularity: str
) -> None:
    model, groups = double(architecture), architecture.integral_layers(granularity)
    images, labels = resident().batch(torch.arange(5)).double(), torch.tensor([0, 4, 2, 2, 1])
    scores = sensitivity(model, groups, images, labels)
    assert scores.tolist() == pytest.approx(by_the_loop(model, groups, images, labels), rel=1e-9)
    assert scores.min() > 0 and not model.training


def test_the_condensation_is_the_mean_over_the_meta_images_whatever_the_chunks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = request("fisher")
    done = condense_ancestor(asked)
    model, index = double(VGG16), asked.split.meta
    labels = drawn_labels(asked.ancestor(), resident(), index, generator(0, "fisher-labels"))
    expected = by_the_loop(model, asked.groups, resident().batch(index).double(), labels)
    assert done.scores.tolist() == pytest.approx(
        [score / len(index) for score in expected], rel=1e-4
    )
    assert done.alpha.shape == (13, 1) and done.status == "selected" and done.selected_by == "top-4"
    assert sorted(done.selected) == sorted(done.scores.argsort(descending=True)[:4].tolist())
    for name, limit in (("NUMBERS", 1), ("CHUNK", 2)):
        monkeypatch.setattr(fisher, name, limit)
        assert torch.allclose(condense_ancestor(request("fisher")).scores, done.scores, rtol=1e-4)


def test_it_does_not_change_with_the_multiple_that_bn_leaves_open() -> None:
    """conv3 times 10, its BN's statistics with it: the network is the same, F alone is a
    hundredth.
    """
    part = {name: tensor for name, tensor in state().items() if name.startswith("layers.conv3.")}
    factors = {"conv.weight": 10, "conv.bias": 10, "bn.running_mean": 10, "bn.running_var": 100}
    scaled = {
        name: tensor * factors.get(name.removeprefix("layers.conv3."), 1)
        for name, tensor in part.items()
    }
    first, other = (
        condense_ancestor(request("fisher")),
        condense_ancestor(request("fisher", weights=scaled)),
    )
    assert other.scores.tolist() == pytest.approx(
        first.scores.tolist(), rel=1e-2
    )  # BN's eps does not scale


def test_labels_are_drawn_from_the_prediction_and_by_the_generator_alone() -> None:
    model = VGG16.build(5).eval()
    with torch.no_grad():
        model.head.weight.zero_()
        model.head.bias.copy_(torch.tensor([0.5, 0.25, 0.125, 0.125, 1e-9]).log())
    before, index = torch.get_rng_state(), torch.arange(40).repeat(50)
    labels = drawn_labels(model, resident(), index, generator(1, "x"))
    assert torch.equal(labels, drawn_labels(model, resident(), index, generator(1, "x")))
    assert torch.bincount(labels, minlength=5).tolist() == pytest.approx(
        [1000, 500, 250, 250, 0], abs=75
    )
    assert torch.equal(before, torch.get_rng_state())


def test_repeats_draw_other_labels_and_keep_the_rule() -> None:
    """condense.selection is not read: the mean of the repeats is cut at top_k as each of them
    was.
    """
    done = condense_ancestor(request("fisher", repeats=3, top_k=5))
    single = [condense_ancestor(request("fisher", seed=seed, top_k=5)) for seed in (0, 1)]
    assert (
        len(done.selected) == 5
        and done.selected_by.startswith("top-5, mean")
        and len(done.repeats) == 3
    )
    assert done.repeats[0] == single[0].selected
    assert not torch.equal(single[0].alpha, single[1].alpha)


@pytest.mark.parametrize("architecture", [VGG16, VIT], ids=["vgg", "vit"])
def test_an_ancestor_that_diverged_is_a_user_error(architecture: Architecture) -> None:
    with pytest.raises(UserError, match=r"ancestor\.lr: .*not finite"):
        condense_ancestor(request("fisher", architecture, weights=broken(architecture)))


def test_an_ancestor_that_predicts_the_same_for_every_image_leaves_the_layers_tied() -> None:
    done = condense_ancestor(request("fisher", weights={"head.weight": torch.zeros(5, 16)}))
    assert (done.status, done.selected) == (
        "tied",
        (0, 10, 11, 12),
    ) and "fixed set, because the layers are tied" in done.selected_by
