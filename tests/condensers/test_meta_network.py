"""Whole condensations of a narrow ancestor on tiny images: determinism, collapse, fallbacks,
refusals.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from evolve.condensers.condense import condense_ancestor
from evolve.condensers.interface import Request, numbered_groups
from evolve.condensers.meta_network import frozen
from evolve.condensers.meta_network.phi import MetaNetwork
from evolve.core.errors import UserError
from evolve.core.settings import CondenseSettings
from evolve.data.resident import Resident
from evolve.data.sources import ImageSet
from evolve.networks.vgg import VGG
from evolve.networks.vgg_plan import PAPER_SET, integral_layers, stack_plan, vgg16_plan

PLAN = vgg16_plan(1 / 32)
QUICK = CondenseSettings(
    granularity="stage",
    epochs=1,
    batch=6,
    meta_batch=6,
    meta_fraction=0.34,
    meta_lr=3e-3,
    lr=0.05,
    augment=("crop",),
)


@pytest.fixture(scope="module")
def resident() -> Resident:
    draw = np.random.default_rng(0)
    labels = np.repeat(np.arange(4), 10)
    images = (
        draw.integers(0, 120, (40, 3, 16, 16), dtype=np.uint8)
        + (labels * 30).astype(np.uint8)[:, None, None, None]
    )
    is_test = np.tile(np.arange(10) == 9, 4)
    image_set = ImageSet(
        "noise", images, labels, is_test, tuple("abcd"), "f", (0.4, 0.4, 0.4), (0.2, 0.2, 0.2)
    )
    return Resident(image_set, torch.device("cpu"))


@pytest.fixture(scope="module")
def ancestor(resident: Resident) -> dict[str, Tensor]:
    """A network whose running statistics fit the images, so that its features are alive in eval
    mode.
    """
    model = VGG(PLAN, 5).train()
    with torch.no_grad():
        for _ in range(20):
            model(resident.batch(torch.arange(40)))
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def run(ancestor, resident, settings=QUICK, seed=0, progress=lambda fraction, text: None):
    return condense_ancestor(
        Request(PLAN, ancestor, {}, (0, 1, 3), resident, settings, seed, progress)
    )


@pytest.mark.parametrize("granularity", ["stage", "conv"])
def test_result_has_its_shapes_and_alpha_has_moved(ancestor, resident, granularity) -> None:
    seen: list[float] = []
    done = run(
        ancestor,
        resident,
        replace(QUICK, granularity=granularity),
        progress=lambda fraction, text: seen.append(fraction),
    )
    layers = len(integral_layers(PLAN, granularity))
    width = len(integral_layers(stack_plan(PLAN, PAPER_SET), granularity))
    assert done.alpha.shape == (layers, width)
    assert done.scores.shape == done.weights.shape == (layers,)
    assert torch.equal(done.scores, done.alpha.double().max(1).values)
    assert float(done.weights.sum()) == pytest.approx(1)
    assert float((done.alpha - 1).abs().max()) > 1e-3
    assert done.history["iteration"] == [1, 2, 3] and all(
        len(values) == 3 for values in done.history.values()
    )
    assert seen and all(0 <= fraction <= 1 for fraction in seen)


def test_same_seed_same_bits_other_seed_other_alpha_and_no_global_draw(ancestor, resident) -> None:
    before, kept = (
        torch.get_rng_state(),
        {name: tensor.clone() for name, tensor in ancestor.items()},
    )
    first, again, other = (
        run(ancestor, resident),
        run(ancestor, resident),
        run(ancestor, resident, seed=1),
    )
    assert torch.equal(first.alpha, again.alpha) and first.history == again.history
    assert not torch.equal(first.alpha, other.alpha)
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(kept[name], tensor) for name, tensor in ancestor.items())


def test_every_image_that_is_not_augmented_passes_the_ancestor_once_where_there_is_room(
    ancestor, resident, monkeypatch
) -> None:
    """Room for all that the matching needs, for the maps alone, for nothing: the same alpha; only
    the last computes maps again.
    """
    passed: list[int] = []
    forward = frozen.Features.forward

    def counting(self, x, logits=False):
        passed.append(
            0 if self.network.training or len(x) == 1 else len(x)
        )  # one image: the probe for the maps' sizes
        return forward(self, x, logits)

    monkeypatch.setattr(frozen.Features, "forward", counting)
    sides = (16, 8, 4, 2, 1)
    maps = (
        sum(block[-1].c_out * side**2 for block, side in zip(PLAN, sides, strict=True)) * 18 * 4
    )  # 9 meta images, 18 to train on
    alphas, counts = [], []
    for space in (2**40, maps, 0):
        passed.clear()
        monkeypatch.setattr(frozen, "room", lambda device, space=space: space)
        alphas.append(run(ancestor, resident, replace(QUICK, augment=(), epochs=2)).alpha)
        counts.append(sum(passed))
    assert counts[0] == counts[1] == 9 + 18 < counts[2]
    assert all(torch.allclose(alphas[0], other, rtol=1e-3) for other in alphas[1:])


def test_test_images_are_never_read(ancestor, resident, monkeypatch) -> None:
    read: set[int] = set()
    batch = Resident.batch

    def spy(self, index, *rest):
        read.update(index.tolist())
        return batch(self, index, *rest)

    monkeypatch.setattr(Resident, "batch", spy)
    run(ancestor, resident)
    assert read and not any(i % 10 == 9 for i in read)
    assert {i // 10 for i in read} == {0, 1, 3}


def test_a_step_that_is_too_large_collapses_and_is_not_selected_from(ancestor, resident) -> None:
    settings = replace(QUICK, meta_lr=20.0, epochs=4, fixed=(2, 5))
    done = run(ancestor, resident, settings)
    assert done.status == "collapsed"
    assert done.selected == (1, 4)
    assert "fixed set" in done.selected_by
    assert done.history["alpha_mean"][-1] < 0.05
    assert done.effort["attempts"] == [1] and done.effort["movement"][0] > 0.95
    calm = run(ancestor, resident, replace(settings, meta_reach=0.2))
    assert (
        calm.status == "selected"
        and calm.effort["attempts"][0] > 1
        and 0.1 <= calm.effort["movement"][0] <= 0.4
    )


def test_a_meta_network_that_cannot_move_is_tied(ancestor, resident) -> None:
    done = run(ancestor, resident, replace(QUICK, meta_lr=0.0, fixed=(1, 11, 12, 13)))
    assert done.status == "tied"
    assert done.selected == (0, 4)  # the paper's convs 1, 11, 12, 13 lie in stages 1 and 5
    assert torch.equal(done.alpha, torch.ones(5, 5))


def test_method_fixed_needs_no_images(ancestor) -> None:
    settings = CondenseSettings(method="fixed", granularity="conv", fixed=(13, 1))
    done = condense_ancestor(
        Request(PLAN, ancestor, {}, (0, 1), None, settings, 0, lambda fraction, text: None)
    )
    assert (done.selected, done.status) == ((0, 12), "fixed")


def test_a_fixed_layer_beyond_the_ancestor_is_named() -> None:
    groups = integral_layers(PLAN, "conv")
    assert numbered_groups(groups, (1, 11, 12, 13)) == (0, 10, 11, 12)
    with pytest.raises(UserError, match=r"condense.fixed = \[14\].*1 to 13"):
        numbered_groups(groups, (14,))


def test_a_condensation_that_diverges_selects_nothing_and_says_why(ancestor, resident) -> None:
    wild = run(ancestor, resident, replace(QUICK, lr=1e20, epochs=2, fixed=(2, 5)))
    assert (wild.status, wild.selected) == (
        "collapsed",
        (1, 4),
    ) and "condense.lr = 1e+20" in wild.selected_by
    assert not wild.alpha.any()


def test_an_ancestor_that_diverged_is_a_user_error_that_names_the_setting(
    ancestor, resident
) -> None:
    broken = ancestor | {
        "layers.conv3.conv.weight": torch.full_like(
            ancestor["layers.conv3.conv.weight"], float("nan")
        )
    }
    with pytest.raises(UserError, match="ancestor.lr"):
        run(broken, resident)


def test_meta_network_is_one_fc_a_pair_on_the_pooled_features() -> None:
    phi = MetaNetwork([2, 3], 4)
    pooled = torch.rand(6, 5)
    assert torch.equal(phi(pooled), torch.ones(6, 2, 4))
    with torch.no_grad():
        phi.weight.normal_(0, 3, generator=torch.Generator().manual_seed(0))
    alpha = phi(pooled)
    for l, part in enumerate((slice(0, 2), slice(2, 5))):
        for k in range(4):
            expected = (pooled[:, part] @ phi.weight[part, k] + phi.bias[l, k]).clamp(0, 6)
            assert torch.allclose(alpha[:, l, k], expected, atol=1e-6)
