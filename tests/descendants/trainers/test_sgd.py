"""SGD with one kernel for all parameters, against torch.optim.SGD in float64; and the count of
gradient entries, against torch's.
"""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from evolve.networks.fast import count_above as above
from evolve.networks.fast.compiled import emit, parameters
from evolve.networks.fast.sgd import CompiledSGD

SHAPES = st.sampled_from(
    [(1,), (7,), (16,), (33,), (5, 9), (4, 3, 3, 3), (8, 16, 3, 3), (2, 5, 1, 1), (0,)]
)


def parameters_of(
    shapes: list[tuple[int, ...]], dtype: torch.dtype, seed: int
) -> list[torch.nn.Parameter]:
    draw = torch.Generator().manual_seed(seed)
    tensors = [
        torch.randn(shape, dtype=torch.float64, generator=draw).to(dtype) for shape in shapes
    ]
    return [
        torch.nn.Parameter(t.contiguous(memory_format=torch.channels_last) if t.dim() == 4 else t)
        for t in tensors
    ]


def give(
    held: list[torch.nn.Parameter], seed: int, none: int = -1, plain_order: bool = False
) -> None:
    """New gradients; none for the parameter with number ``none``."""
    draw = torch.Generator().manual_seed(seed)
    for number, p in enumerate(held):
        g = torch.randn(p.shape, dtype=torch.float64, generator=draw).to(p.dtype)
        p.grad = None if number == none else g if plain_order else torch.empty_like(p).copy_(g)


def same(
    ours: list[torch.nn.Parameter], theirs: list[torch.nn.Parameter], tolerance: float
) -> None:
    for p, q in zip(ours, theirs, strict=True):
        torch.testing.assert_close(p.detach(), q.detach(), rtol=tolerance, atol=tolerance)


def both(
    held: list[torch.nn.Parameter], **given: float
) -> tuple[CompiledSGD, list[torch.nn.Parameter], torch.optim.SGD]:
    twins = copy.deepcopy(held)
    return CompiledSGD(held, **given), twins, torch.optim.SGD(twins, **given, foreach=False)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    shapes=st.lists(SHAPES, min_size=1, max_size=5),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    momentum=st.sampled_from([0.0, 0.5, 0.9]),
    decay=st.sampled_from([0.0, 5e-4, 0.3]),
    none=st.integers(-1, 4),
    plain_order=st.booleans(),
)
def test_steps_are_torchs(
    shapes: list[tuple[int, ...]],
    dtype: torch.dtype,
    momentum: float,
    decay: float,
    none: int,
    plain_order: bool,
) -> None:
    ours = parameters_of(shapes, dtype, 0)
    optimizer, theirs, peer = both(ours, lr=0.1, momentum=momentum, weight_decay=decay)
    for step in range(4):
        for held in (ours, theirs):
            give(held, step, none if step < 2 else -1, plain_order)
        for opt in (optimizer, peer):
            opt.param_groups[0]["lr"] = 0.1 / (step + 1)
            opt.step()
    same(ours, theirs, 1e-14 if dtype == torch.float64 else 1e-6)
    if momentum:
        for p, q in zip(ours, theirs, strict=True):
            torch.testing.assert_close(
                optimizer.state[p]["momentum_buffer"],
                peer.state[q]["momentum_buffer"],
                rtol=1e-6,
                atol=1e-6,
            )
            assert optimizer.state[p]["momentum_buffer"].stride() == p.stride()


def test_the_kernel_takes_the_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise the test above would hold for torch's own step just as well."""
    monkeypatch.setattr(torch.optim.SGD, "step", lambda *_: pytest.fail("torch stepped"))
    held = parameters_of([(4, 3, 3, 3), (7,)], torch.float32, 0)
    optimizer = CompiledSGD(held, lr=0.1, momentum=0.9)
    give(held, 1)
    optimizer.step()


@pytest.mark.parametrize("width", [16, 32])
def test_narrower_vectors_make_the_same_step(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    wide = parameters_of([(8, 16, 3, 3), (33,)], torch.float32, 0)
    narrow = copy.deepcopy(wide)
    for held in (wide, narrow):
        if held is narrow:
            monkeypatch.setattr(emit, "processor", lambda: emit.Processor(width, 16))
            parameters.sgd.cache_clear()
        give(held, 1)
        CompiledSGD(held, lr=0.1, momentum=0.9, weight_decay=0.1).step()
    parameters.sgd.cache_clear()
    assert all(torch.equal(p, q) for p, q in zip(wide, narrow, strict=True))


def test_tensors_that_were_replaced_are_followed() -> None:
    """A plugin may give a parameter other memory, a resumed task other momentum, a new task
    none.
    """
    ours = parameters_of([(4, 3, 3, 3), (7,)], torch.float64, 0)
    optimizer, theirs, peer = both(ours, lr=0.1, momentum=0.9, weight_decay=0.01)

    def replace(held: list[torch.nn.Parameter], sgd: torch.optim.Optimizer) -> None:
        held[0].data = held[0].data * 0.5

    def restore(held: list[torch.nn.Parameter], sgd: torch.optim.Optimizer) -> None:
        sgd.state[held[0]]["momentum_buffer"] = torch.full(held[0].shape, 2.0, dtype=torch.float64)

    def forget(held: list[torch.nn.Parameter], sgd: torch.optim.Optimizer) -> None:
        sgd.state.clear()

    for number, change in enumerate((replace, restore, forget)):
        for held, opt in ((ours, optimizer), (theirs, peer)):
            for step in range(2):
                give(held, 10 * number + step)
                opt.step()
            change(held, opt)
            give(held, 10 * number + 5)
            opt.step()
        same(ours, theirs, 1e-14)


@pytest.mark.parametrize("fused", [None, True])
def test_what_the_kernel_cannot_take_is_torchs(fused: bool | None) -> None:
    ours = parameters_of([(6,), (3, 4)], torch.float64, 0)
    ours[1] = torch.nn.Parameter(
        torch.arange(24.0, dtype=torch.float64).view(4, 6)[:, ::2].t()
    )  # not side by side in memory
    theirs = [torch.nn.Parameter(p.detach().clone()) for p in ours]
    optimizer, peer = (
        CompiledSGD(ours, lr=0.1, momentum=0.9, fused=fused),
        torch.optim.SGD(theirs, lr=0.1, momentum=0.9),
    )
    for step in range(3):
        for held, opt in ((ours, optimizer), (theirs, peer)):
            give(held, step)
            opt.step(lambda: torch.ones(())) if step == 2 else opt.step()
    same(ours, theirs, 1e-14)
    optimizer.zero_grad(set_to_none=False)
    assert all(p.grad is not None and not p.grad.any() for p in ours)
    optimizer.zero_grad()
    assert all(p.grad is None for p in ours)


def test_groups_have_rates_of_their_own() -> None:
    """And gradients laid out otherwise, whose copies must be there until all groups have
    stepped.
    """
    ours = parameters_of([(8, 16, 3, 3), (8, 16, 3, 3)], torch.float64, 0)
    theirs = copy.deepcopy(ours)

    def groups(held: list[torch.nn.Parameter]) -> list[dict[str, object]]:
        return [
            {"params": [held[0]], "lr": 0.1},
            {"params": [held[1]], "lr": 0.3, "weight_decay": 0.2},
        ]

    optimizer = CompiledSGD(groups(ours), lr=1.0, momentum=0.9)
    peer = torch.optim.SGD(groups(theirs), lr=1.0, momentum=0.9, foreach=False)
    for step in range(3):
        for held, opt in ((ours, optimizer), (theirs, peer)):
            give(held, step, plain_order=True)
            opt.step()
    same(ours, theirs, 1e-14)


def test_it_is_copied_with_what_it_steps() -> None:
    held = parameters_of([(7,), (4, 3, 3, 3)], torch.float64, 0)
    optimizer = CompiledSGD(held, lr=0.1, momentum=0.9)
    give(held, 0)
    optimizer.step()
    twins, twin = copy.deepcopy((held, optimizer))
    for params, opt in ((held, optimizer), (twins, twin)):
        give(params, 1)
        opt.step()
    assert all(torch.equal(p, q) for p, q in zip(held, twins, strict=True))
    assert all(a is not b for a, b in zip(held, twins, strict=True))


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    layers=st.lists(st.lists(SHAPES, max_size=3), min_size=1, max_size=4),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    threshold=st.sampled_from([0.0, -0.3, 0.7]),
)
def test_gradient_entries_above_the_threshold_are_counted(
    layers: list[list[tuple[int, ...]]], dtype: torch.dtype, threshold: float
) -> None:
    tensors = [[p.detach() for p in parameters_of(shapes, dtype, 3)] for shapes in layers]
    for layer in tensors:
        for t in layer:
            if t.numel() > 2:
                t.as_strided((1,), (1,), 0).fill_(float("nan"))
                t.as_strided((1,), (1,), 1).fill_(threshold)  # equal is not above
    assert above(tensors, threshold).tolist() == [
        sum(int((t > threshold).sum()) for t in layer) for layer in tensors
    ]
    assert above(
        [[t.t() for t in layer if t.dim() == 2] for layer in tensors], threshold
    ).tolist() == [
        sum(int((t > threshold).sum()) for t in layer if t.dim() == 2) for layer in tensors
    ]
