"""MAML and its kin against autograd through the unrolled loop, the first-order formula written by
hand, and ProtoNet.
"""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from colours import QUICK, WAYS, network
from torch import nn

from evolve.descendants.fewshot.episodes import Episode
from evolve.descendants.fewshot.gradient import GradientLearner, boil, fomaml, maml, protomaml
from evolve.descendants.fewshot.learner import Setup
from evolve.descendants.fewshot.measure import make_learner
from evolve.descendants.fewshot.trunk import HEAD, SupportNorm

S = replace(QUICK, inner_steps=3, inner_lr=0.2)


def setup(settings=S):
    return Setup(network().double(), settings, WAYS, 0)


def episode():
    draw = torch.Generator().manual_seed(3)
    labels = torch.arange(WAYS).repeat_interleave(3)
    images = torch.randn(2, 12, 3, 16, 16, generator=draw, dtype=torch.float64)
    return Episode(images[0], labels, images[1], labels)


def double_head(learner: GradientLearner) -> GradientLearner:
    for name in set(HEAD) & set(learner.weights):
        learner.weights[name] = learner.weights[name].detach().double().requires_grad_()
    return learner


def outer_gradient(learner, task):
    names = list(learner.weights)
    gradients = torch.autograd.grad(learner.outer_loss(task), [learner.weights[n] for n in names])
    return dict(zip(names, gradients, strict=True))


def module_of(learner):
    """The learner's network as plain modules with plain BN, in train mode: what a textbook would
    train.
    """
    module = network().double().train()
    module.load_state_dict(
        {n.removeprefix("network."): p.detach() for n, p in learner.weights.items()}, strict=False
    )
    return module


def unrolled(learner, task, create_graph):
    """theta', with autograd.grad at every step; and the start, as leaves."""
    start = {n: p.detach().clone().requires_grad_() for n, p in learner.weights.items()}
    current = start
    for _ in range(S.inner_steps):
        loss = F.cross_entropy(
            learner.logits(current, task.support, len(task.support)), task.support_labels
        )
        slopes = torch.autograd.grad(loss, list(current.values()), create_graph=create_graph)
        current = {n: p - S.inner_lr * g for (n, p), g in zip(current.items(), slopes, strict=True)}
    return start, current


def query_loss(learner, weights, task):
    logits = learner.logits(weights, torch.cat([task.support, task.query]), len(task.support))
    return F.cross_entropy(logits[len(task.support) :], task.query_labels)


def equal(first, second):
    return all(torch.allclose(first[n], second[n], rtol=1e-6, atol=1e-9) for n in first)


def test_second_order_is_autograd_through_the_unrolled_loop():
    learner, task = double_head(maml(setup())), episode()
    start, adapted = unrolled(learner, task, create_graph=True)
    expected = torch.autograd.grad(query_loss(learner, adapted, task), list(start.values()))
    gradient = outer_gradient(learner, task)
    assert equal(dict(zip(start, expected, strict=True)), gradient)
    assert not equal(
        outer_gradient(double_head(fomaml(setup())), task), gradient
    )  # the second-order terms are not nothing


def test_first_order_is_the_gradient_at_the_adapted_weights():
    learner, task = double_head(fomaml(setup())), episode()
    _, adapted = unrolled(learner, task, create_graph=False)
    leaves = {n: p.detach().requires_grad_() for n, p in adapted.items()}
    expected = torch.autograd.grad(query_loss(learner, leaves, task), list(leaves.values()))
    assert equal(dict(zip(leaves, expected, strict=True)), outer_gradient(learner, task))


def test_an_inner_step_is_a_step_of_sgd_on_the_plain_network():
    learner, task = double_head(maml(setup())), episode()
    plain = module_of(learner)
    head = nn.Linear(plain.head.in_features, WAYS).double()
    head.load_state_dict({n.removeprefix("head."): learner.weights[n].detach() for n in HEAD})
    parameters = [*plain.layers.parameters(), *head.parameters()]
    optimizer = torch.optim.SGD(parameters, lr=S.inner_lr)
    for _ in range(2):
        optimizer.zero_grad()
        F.cross_entropy(head(plain.embed(task.support)), task.support_labels).backward()
        optimizer.step()
    adapted = learner.adapt(task.support, task.support_labels, steps=2, order=1)
    expected = {
        f"network.{n}": p for n, p in plain.named_parameters() if not n.startswith("head.")
    } | {f"head.{n}": p for n, p in head.named_parameters()}
    assert expected.keys() == adapted.keys()
    assert equal(expected, adapted)


def test_boil_moves_the_body_alone_on_a_task_and_the_head_between_tasks():
    learner, task = double_head(boil(setup())), episode()
    adapted = learner.adapt(task.support, task.support_labels, steps=1, order=1)
    moved = {n for n, p in adapted.items() if not torch.allclose(p, learner.weights[n])}
    assert not moved & set(HEAD)
    assert {
        n for n in adapted if "conv.weight" in n or "bn" in n
    } <= moved  # not the convolutions' biases, which BN takes out again
    assert outer_gradient(learner, task)["head.weight"].abs().max() > 0


def test_protomaml_without_a_step_is_protonet():
    learner, task = protomaml(setup()), episode()
    weights = learner.adapt(task.support, task.support_labels, steps=0, order=1)
    logits = learner.logits(weights, torch.cat([task.support, task.query]), len(task.support))[
        len(task.support) :
    ]
    embedded = learner.trunk.embed(
        weights, torch.cat([task.support, task.query]), len(task.support)
    )
    support, query = embedded.split([len(task.support), len(task.query)])
    expected = make_learner("protonet", network().double(), S, WAYS, 0).log_probabilities(
        support, task.support_labels, query
    )
    assert torch.allclose(logits.log_softmax(1), expected)


def test_protomaml_learns_through_its_prototypes():
    """With no inner step the head is all that depends on the support set's embedding; a head held
    constant would lose that part.
    """
    task = episode()
    learner = protomaml(setup(replace(S, inner_steps=1, inner_lr=0.0)))
    gradient = outer_gradient(learner, task)
    start = {n: p.detach().requires_grad_() for n, p in learner.weights.items()}
    embedded = learner.trunk.embed(start, torch.cat([task.support, task.query]), len(task.support))
    centres = torch.stack(
        [embedded[: len(task.support)][task.support_labels == k].mean(0) for k in range(WAYS)]
    )
    loss = F.cross_entropy(
        -torch.cdist(embedded[len(task.support) :], centres).square(), task.query_labels
    )
    assert equal(
        dict(zip(start, torch.autograd.grad(loss, list(start.values())), strict=True)), gradient
    )


@pytest.mark.parametrize("rows", [5, 12])
def test_support_norm_is_bn_by_the_statistics_of_the_first_images(rows):
    draw = torch.Generator().manual_seed(0)
    bn = nn.BatchNorm2d(4, momentum=1.0).double()
    nn.init.uniform_(bn.weight), nn.init.uniform_(bn.bias)
    x = torch.randn(12, 4, 3, 3, generator=draw, dtype=torch.float64) * 3 + 1
    ours = SupportNorm(bn)
    ours.rows = rows
    result = ours(x)
    bn(x[:rows])
    biased = (rows * 9 - 1) / (rows * 9)
    bn.running_var *= biased
    assert torch.allclose(bn.eval()(x), result)
