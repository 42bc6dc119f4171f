"""Feature distillation against its formula written out, against the plain trainer, and on every
network.
"""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from evolve.core.errors import UserError
from evolve.core.randomness import generator
from evolve.core.registry import names
from evolve.core.settings import DescendSettings, InheritSettings
from evolve.data.resident import Resident
from evolve.data.sources import ImageSet
from evolve.descendants.descendants import downstream_tasks, train_together
from evolve.descendants.trainers.distill import DistillTrainer, Teacher, gap, listened, positions
from evolve.descendants.trainers.group import Group
from evolve.descendants.trainers.plain import PlainTrainer
from evolve.learngene.inheritance import inherit
from evolve.learngene.inheritors import descendant
from evolve.networks.architecture import Architecture
from evolve.networks.family import architecture
from evolve.networks.network import Network, initialise
from evolve.networks.vgg_plan import vgg16_plan

SIZE = 16
D = DescendSettings(
    descendants=2, classes_per_task=3, shots=7, epochs=2, batch=4, lr=0.02, augment=("crop", "flip")
)
ANCESTORS = {"vgg16": vgg16_plan(1 / 16), "vit-small4": architecture("vit-small4", 1 / 8, SIZE)}


@pytest.fixture(scope="module")
def resident() -> Resident:
    labels = torch.arange(8).repeat_interleave(14)
    noise = torch.randint(0, 160, (len(labels), 3, SIZE, SIZE), generator=generator(0, "images"))
    images = (noise + 10 * labels[:, None, None, None]).to(torch.uint8).numpy()
    is_test = (torch.arange(len(labels)) % 14 >= 8).numpy()
    image_set = ImageSet(
        "toy", images, labels.numpy(), is_test, tuple("abcdefgh"), "f", (0.4,) * 3, (0.25,) * 3
    )
    return Resident(image_set, torch.device("cpu"))


def ancestor_of(plan: Architecture) -> Network:
    """Frozen, with BN statistics of its own."""
    model = plan.build(5)
    initialise(model, 1, "ancestor")
    with torch.no_grad():
        model.train()(torch.randn(16, 3, SIZE, SIZE, generator=generator(1, "images")))
    return model.double().eval().requires_grad_(False)


def heirs(plan: Architecture, method: str = "stack", count: int = 2) -> list[Network]:
    chosen = [plan.layer_names[place] for place in plan.named_set("paper", 0)]
    heir = descendant(plan, chosen, InheritSettings(method=method))
    return [inherit(heir, None, 3, 5, number).double() for number in range(count)]


def group_of(resident: Resident, count: int = 2, **changes) -> Group:
    d = replace(D, **changes)
    return Group(downstream_tasks(d, range(8), resident, 5)[:count], range(count), resident, d, 5)


def images(count: int = 6) -> torch.Tensor:
    return torch.randn(count, 3, SIZE, SIZE, dtype=torch.float64, generator=generator(2, "images"))


def same(first: Network, second: Network) -> bool:
    return all(
        torch.equal(a, b)
        for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    )


@pytest.mark.parametrize("network", ANCESTORS)
def test_without_weight_it_is_training_from_scratch_bit_for_bit(resident, network) -> None:
    ours, group = heirs(ANCESTORS[network]), group_of(resident)
    theirs = [
        inherit(model.architecture.anonymous(), None, 3, 5, number).double()
        for number, model in enumerate(ours)
    ]
    distilled, plain = (
        DistillTrainer(ours, group, Teacher(ancestor_of(ANCESTORS[network]), 0.0)),
        PlainTrainer(theirs, group),
    )
    for epoch in range(D.epochs):
        assert distilled.epoch(epoch) == plain.epoch(epoch)
        assert all(
            torch.equal(a, b) for a, b in zip(distilled.correct(), plain.correct(), strict=True)
        )
    assert all(same(a, b) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("method", ["stack", "repeat", "linear"])
@pytest.mark.parametrize("network", ANCESTORS)
def test_the_loss_is_the_formula(resident, network, method) -> None:
    ancestor, (model,) = ancestor_of(ANCESTORS[network]), heirs(ANCESTORS[network], method, 1)
    labels, x, twin = torch.arange(6) % 3, images(), copy.deepcopy(model)
    loss = DistillTrainer([model.train()], group_of(resident, 1), Teacher(ancestor, 0.7)).loss(
        0, x, labels
    )
    shown, felt = (
        dict(zip(ancestor.architecture.layer_names, ancestor.features(x), strict=True)),
        twin.train().features(x),
    )
    expected = F.cross_entropy(twin(x), labels)
    inherited = twin.architecture.inherits()
    for z, name in zip(felt, twin.architecture.layer_names, strict=True):
        if name in inherited:
            hint = sum(share * shown[given] for given, share in inherited[name].items())
            expected = expected + 0.7 * ((z - hint) ** 2).mean()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-9)
    for ours, theirs in zip(
        torch.autograd.grad(loss, list(model.parameters()), allow_unused=True),
        torch.autograd.grad(expected, list(twin.parameters()), allow_unused=True),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize("network", ANCESTORS)
def test_hints_draw_the_features_near_and_leave_the_ancestor_alone(resident, network) -> None:
    ancestor = ancestor_of(ANCESTORS[network])
    before, distances = copy.deepcopy(ancestor), {}
    for weight in (0.0, 1.0):
        models, group = (
            heirs(ANCESTORS[network], count=1),
            group_of(resident, 1, epochs=8, batch=10),
        )
        teacher = Teacher(ancestor, weight)
        train_together(
            models,
            Group(group.tasks, [0], resident, group.d, 5),
            lambda fraction, text: None,
            teacher=teacher,
        )
        mixtures = positions(models[0])
        x = resident.batch(group.tasks[0].test).double()
        shown = dict(zip(ancestor.architecture.layer_names, ancestor.features(x), strict=True))
        felt = listened(models[0].train(), mixtures, x)[1]  # as trained: statistics of the batch
        distances[weight] = gap(
            felt, {name: shown[next(iter(mixture))] for name, mixture in mixtures.items()}
        ).item()
    assert distances[1.0] < 0.9 * distances[0.0]
    assert (
        same(ancestor, before)
        and not ancestor.training
        and all(p.grad is None for p in ancestor.parameters())
    )


@pytest.mark.parametrize("network", names("networks"))
def test_what_is_heard_is_the_networks_features_in_one_pass(network) -> None:
    """The layers' modules put out what ``features`` gives, at the resolution of the ancestor's
    layer that they would inherit.
    """
    ancestor = ancestor_of(architecture(network, 1 / 16, SIZE))
    for method in ("stack", "repeat"):
        (model,) = heirs(ancestor.architecture, method, 1)
        mixtures, x = positions(model), images(2)
        expected, features = (
            model.eval()(x),
            dict(zip(model.architecture.layer_names, model.features(x), strict=True)),
        )
        logits, felt = listened(model, mixtures, x)
        assert torch.equal(logits, expected) and felt.keys() == mixtures.keys() and len(felt) >= 4
        shown = dict(zip(ancestor.architecture.layer_names, ancestor.features(x), strict=True))
        for name, mixture in mixtures.items():
            assert torch.equal(felt[name], features[name])
            assert {felt[name].shape} == {shown[given].shape for given in mixture}
        felt.clear()
        model(x)
        assert not felt, "no hook is left behind"


def test_one_pass_moves_the_statistics_once(resident) -> None:
    (model,) = heirs(ANCESTORS["vgg16"], count=1)
    trainer = DistillTrainer(
        [model], group_of(resident, 1), Teacher(ancestor_of(ANCESTORS["vgg16"]), 1.0)
    )
    trainer.epoch(0)
    assert {int(unit.bn.num_batches_tracked) for unit in model.layers.values()} == {
        trainer.group.steps
    }


def test_a_hint_of_another_shape_is_a_users_error(resident) -> None:
    (model,) = heirs(ANCESTORS["vgg16"], count=1)
    wide = DistillTrainer(
        [model], group_of(resident, 1), Teacher(ancestor_of(vgg16_plan(1 / 8)), 1.0)
    )
    with pytest.raises(
        UserError,
        match=r"^controls.distilled: layer conv1 puts out \(4, 16, 16\), its hint is \(8, 16, "
        r"16\);.*set controls.distilled = 0$",
    ):
        wide.epoch(0)
