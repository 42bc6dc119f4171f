"""A stack of networks computes what each of them computes: outputs, gradients, statistics."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from evolve.core.randomness import generator
from evolve.descendants.trainers.stacked import Convolution, Stack
from evolve.networks.vgg import VGG, initialise
from evolve.networks.vgg_plan import stack_plan, vgg16_plan

PLAN = stack_plan(vgg16_plan(1 / 16), ("conv1", "conv3", "conv11"))


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=generator(seed, "stack"))


@settings(max_examples=30, deadline=None)
@given(
    members=st.integers(1, 3),
    c_in=st.integers(1, 4),
    c_out=st.integers(1, 4),
    images=st.integers(1, 3),
    side=st.integers(1, 7),
)
def test_the_convolution_is_torchs_one_member_after_the_other(members, c_in, c_out, images, side):
    x, weight = (
        normal(members, c_in, images, side, side).requires_grad_(),
        normal(members, c_out, c_in, 3, 3, seed=1).requires_grad_(),
    )
    g = normal(members, c_out, images, side, side, seed=2)
    ours = Convolution.apply(x, weight)
    theirs = torch.stack(
        [
            F.conv2d(inputs.transpose(0, 1), w, padding=1).transpose(0, 1)
            for inputs, w in zip(x, weight, strict=True)
        ]
    )
    torch.testing.assert_close(ours, theirs)
    for mine, other in zip(
        torch.autograd.grad(ours, (x, weight), g),
        torch.autograd.grad(theirs, (x, weight), g),
        strict=True,
    ):
        torch.testing.assert_close(mine, other)


def make(seed: int) -> VGG:
    """A network that has learned: its biases and statistics are not those of the beginning."""
    model = VGG(PLAN, 3)
    initialise(model, seed, "test")
    for number, (name, tensor) in enumerate(model.double().state_dict().items()):
        if tensor.dim() == 1:
            drawn = normal(*tensor.shape, seed=100 * seed + number)
            tensor.copy_(
                drawn.abs() + 0.5 if name.endswith(("running_var", "bn.weight")) else drawn
            )
    return model


@settings(max_examples=20, deadline=None)
@given(members=st.integers(1, 3), images=st.integers(2, 4), side=st.sampled_from([8, 16, 32]))
def test_a_stack_is_its_members_in_training_and_in_eval_mode(members, images, side):
    models = [make(seed) for seed in range(members)]
    stack, x = Stack(models), normal(members, images, 3, side, side, seed=3)
    leaves = {name: tensor.clone().requires_grad_() for name, tensor in stack.parameters.items()}
    for training in (True, False):
        ours = stack.logits(x, leaves, training)
        theirs = torch.stack(
            [model.train(training)(inputs) for model, inputs in zip(models, x, strict=True)]
        )
        torch.testing.assert_close(ours, theirs)
        gradients = torch.autograd.grad(
            ours.square().sum(), list(leaves.values()), allow_unused=True
        )
        for number, model in enumerate(models):
            own = torch.autograd.grad(
                theirs[number].square().sum(), list(model.parameters()), retain_graph=True
            )
            for name, gradient, expected in zip(leaves, gradients, own, strict=True):
                if not name.endswith("conv.bias"):  # in training BN takes it out again
                    torch.testing.assert_close(gradient[number], expected, rtol=1e-6, atol=1e-8)
    for number, model in enumerate(models):
        for name, statistic in model.named_buffers():
            torch.testing.assert_close(stack.buffers[name][number], statistic)


def test_what_a_stack_learned_goes_back_to_its_members():
    models = [make(0), make(1)]
    stack = Stack(models)
    for tensor in (*stack.parameters.values(), *stack.buffers.values()):
        tensor += 1
    before = [
        {name: tensor.clone() for name, tensor in model.state_dict().items()} for model in models
    ]
    stack.unstack()
    for model, old in zip(models, before, strict=True):
        for name, tensor in model.state_dict().items():
            torch.testing.assert_close(tensor, old[name] + 1)
