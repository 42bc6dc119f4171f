"""MTL's frozen network and first-order gradient; Reptile's step against plain training with torch's
own modules.
"""

from dataclasses import replace

import torch
import torch.nn.functional as F
from colours import ANCESTOR, QUICK, WAYS, course, network, resident
from torch import nn

from evolve.core.randomness import generator
from evolve.descendants.fewshot.episodes import Episodes
from evolve.descendants.fewshot.measure import make_learner
from evolve.descendants.fewshot.trunk import HEAD

SHORT = replace(QUICK, episodes=4, pretrain_epochs=1)


def silent(done, text):
    pass


def source(settings=SHORT):
    return Episodes(resident(), ANCESTOR, WAYS, settings, 0)


def test_mtl_starts_as_its_network_and_never_changes_it():
    learner = make_learner("mtl", network(), SHORT, WAYS, 0)
    images = source().episode(0).query
    assert torch.allclose(learner.embed(images), learner.network.eval().embed(images), atol=1e-6)
    learner.meta_train(source(), silent, course())
    assert not torch.allclose(
        learner.embed(images), learner.network.embed(images), atol=1e-3
    )  # scales and shifts have learned
    frozen = dict(learner.trunk.named_parameters())
    assert all(
        torch.equal(frozen[f"network.{name}"], p) for name, p in learner.network.named_parameters()
    )


def test_mtl_scales_kernels_and_shifts_neurons():
    learner = make_learner("mtl", network(), SHORT, WAYS, 0)
    images, name = source().episode(0).query, "network.layers.conv1.conv"
    with torch.no_grad():
        learner.scales[f"{name}.weight"].normal_(generator=torch.Generator().manual_seed(0))
        learner.shifts[f"{name}.bias"].normal_(generator=torch.Generator().manual_seed(1))
        plain = network().eval()
        plain.layers["conv1"].conv.weight *= learner.scales[f"{name}.weight"][:, :, None, None]
        plain.layers["conv1"].conv.bias += learner.shifts[f"{name}.bias"]
        assert torch.allclose(learner.embed(images), plain.embed(images), atol=1e-6)


def test_mtl_is_first_order_in_the_heads_start():
    learner, task = make_learner("mtl", network(), SHORT, WAYS, 0), source().episode(0)
    gradients = torch.autograd.grad(
        learner.outer_loss(task), [learner.start[name] for name in HEAD]
    )
    support = learner.embed(task.support).detach()
    weight, bias = (learner.start[name].detach().clone().requires_grad_() for name in HEAD)
    for _ in range(SHORT.mtl_steps):
        slopes = torch.autograd.grad(
            F.cross_entropy(F.linear(support, weight, bias), task.support_labels), (weight, bias)
        )
        weight, bias = (
            (p - SHORT.mtl_lr * g).detach().requires_grad_()
            for p, g in zip((weight, bias), slopes, strict=True)
        )
    loss = F.cross_entropy(
        F.linear(learner.embed(task.query).detach(), weight, bias), task.query_labels
    )
    assert all(
        torch.allclose(a, b, atol=1e-6)
        for a, b in zip(gradients, torch.autograd.grad(loss, (weight, bias)), strict=True)
    )


def test_a_full_reptile_step_over_two_tasks_is_the_mean_of_plain_trainings():
    s = replace(SHORT, episodes=2, meta_batch=2, reptile_step=1.0)
    learner, data = make_learner("reptile", network(), s, WAYS, 0), source(s)
    start = {name: p.clone() for name, p in learner.weights.items()}
    learner.meta_train(data, silent, course())
    reached = [plainly_trained(start, data.episode(number), number, s) for number in range(2)]
    for name, p in learner.weights.items():
        assert torch.allclose(p, (reached[0][name] + reached[1][name]) / 2, atol=2e-5), name


def plainly_trained(start, episode, number, s):
    body = network().train()
    head = nn.Linear(body.head.in_features, WAYS)
    head.load_state_dict({name.removeprefix("head."): start[name] for name in HEAD})
    optimizer = torch.optim.Adam(
        [*body.layers.parameters(), *head.parameters()], lr=s.reptile_lr, betas=(0.0, 0.999)
    )
    images, labels = (
        torch.cat([episode.support, episode.query]),
        torch.cat([episode.support_labels, episode.query_labels]),
    )
    draw = generator(0, "fewshot", "reptile", number)
    order = torch.randperm(len(images), generator=draw)
    parts = [
        *order.split(s.reptile_batch),
        *torch.randperm(len(images), generator=draw).split(s.reptile_batch),
    ]
    for chosen in parts[: s.reptile_steps]:
        optimizer.zero_grad()
        F.cross_entropy(head(body.embed(images[chosen])), labels[chosen]).backward()
        optimizer.step()
    named = {
        f"network.{name}": p.detach()
        for name, p in body.named_parameters()
        if not name.startswith("head.")
    }
    return named | {f"head.{name}": p.detach() for name, p in head.named_parameters()}


def test_a_reptile_step_of_no_share_moves_nothing():
    learner = make_learner("reptile", network(), replace(SHORT, reptile_step=0.0), WAYS, 0)
    start = {name: p.clone() for name, p in learner.weights.items()}
    learner.meta_train(source(), silent, course())
    assert all(torch.equal(start[name], p) for name, p in learner.weights.items())
