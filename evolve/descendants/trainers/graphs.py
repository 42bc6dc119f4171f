"""Training on a GPU without Python between the kernels: one CUDA graph a step, one branch of it a descendant.

A small network at a batch of 16 keeps a GPU busy for microseconds a kernel, less than it takes Python to launch the next. So the
whole step (gather, crop, flip, forward, loss, backward, update) of several descendants is captured once and replayed. What differs
from step to step is drawn on the CPU and uploaded once an epoch; a counter on the device says which step's turn it is. The numbers
of a descendant do not depend on which others are in the graph: each branch has its own kernels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call
from torch.optim.sgd import sgd

from evolve.core.settings import DescendSettings
from evolve.data.resident import Resident
from evolve.descendants.trainers.graph_draws import CROP, FLIP, INDEX, LABEL, layout, pack
from evolve.descendants.trainers.group import Group, padded_tests
from evolve.networks.fast.graph_capture import Job, Recorder, side_by_side
from evolve.networks.vgg import VGG

TEST_BATCH = 256  # constant, so that a test image is treated alike in every group


class Branch:
    """A descendant in training: its model, its momentum, and the sum of its losses over an epoch's images, float64 on the device."""

    def __init__(self, model: VGG, d: DescendSettings) -> None:
        self.model, self.d = model, d
        self.names = [name for name, _ in model.named_parameters()]
        self.parameters = [parameter.detach() for parameter in model.parameters()]
        # From zero, momentum * 0 + g: what torch.optim.SGD makes of a first step.
        self.momentum = [torch.zeros_like(parameter) for parameter in self.parameters]
        self.total = torch.zeros((), dtype=torch.float64, device=self.parameters[0].device)

    @property
    def dtype(self) -> torch.dtype:
        return self.model.head.weight.dtype

    def state(self) -> list[Tensor]:
        """Every tensor that learning changes."""
        return [*self.parameters, *self.model.buffers(), *self.momentum, self.total]

    def learn(self, images: Tensor, labels: Tensor, rate: Tensor) -> None:
        """One step of SGD on images [B, 3, H, W] and labels [B] at ``rate`` [1]; everything stays on the device.

        The gradients are taken at new leaves over the parameters' memory. A parameter's own autograd node remembers the stream of
        its first use, and one that is alive from outside (some old loss) would break a capture.
        """
        self.model.train()
        leaves = [parameter.detach().requires_grad_() for parameter in self.parameters]
        logits = functional_call(self.model, dict(zip(self.names, leaves, strict=True)), (images.to(self.dtype),))
        loss = F.cross_entropy(logits, labels)
        self._update(torch.autograd.grad(loss, leaves), rate)
        self.total += loss.detach() * len(labels)

    @torch.no_grad()
    def _update(self, gradients: Sequence[Tensor], rate: Tensor) -> None:
        """torch's fused kernel reads the rate on the device; the foreach one would fetch it, which no graph can hold."""
        alike = [_laid_out(gradient, parameter) for gradient, parameter in zip(gradients, self.parameters, strict=True)]
        sgd(
            self.parameters,
            alike,
            list(self.momentum),
            fused=True,
            lr=rate,  # type: ignore[arg-type]  # torch 2.6 declares float and takes a tensor
            momentum=self.d.momentum,
            weight_decay=self.d.weight_decay,
            dampening=0.0,
            nesterov=False,
            maximize=False,
        )

    @torch.no_grad()
    def right(self, images: Tensor, labels: Tensor) -> Tensor:
        """Which images it gets right, bool [B]: eval mode."""
        self.model.eval()
        return self.model(images.to(self.dtype)).argmax(1) == labels


def _laid_out(tensor: Tensor, like: Tensor) -> Tensor:
    """The tensor in the memory order of ``like``, which the fused kernel insists on."""
    return tensor if tensor.stride() == like.stride() else torch.empty_like(like).copy_(tensor)


class TrainStep:
    """One optimizer step of all branches, over static tensors: ``slots`` [steps, fields, branches, images], ``rates`` [steps]."""

    def __init__(self, branches: Sequence[Branch], resident: Resident, augment: Sequence[str], slots: Tensor, rates: Tensor) -> None:
        self.branches, self.resident, self.slots, self.rates = branches, resident, slots, rates
        self.crop, self.flip = "crop" in augment, "flip" in augment
        self.counter = torch.zeros(1, dtype=torch.int64, device=slots.device)

    def images(self, slot: Tensor) -> Tensor:
        """The batches that ``slot`` [fields, branches, images] describes, [branches * images, 3, H, W]."""
        count = slot[INDEX].numel()
        shift = slot[CROP].reshape(2, count, 1) if self.crop else None
        flip = slot[FLIP].reshape(count) != 0 if self.flip else None
        return self.resident.gather(slot[INDEX].reshape(count), shift, flip)

    def __call__(self) -> None:
        slot, rate = self.slots.index_select(0, self.counter)[0], self.rates.index_select(0, self.counter)
        images = self.images(slot)
        shares = images.split(slot.shape[-1])

        def job(member: int, branch: Branch) -> Job:
            return lambda: branch.learn(shares[member], slot[LABEL, member], rate)

        side_by_side([job(*one) for one in enumerate(self.branches)], self.slots.device)
        self.counter += 1


class Exam:
    """Tests all branches on one chunk, over static tensors: ``index`` and ``labels`` int64 [chunks, branches, TEST_BATCH]; fills ``right``."""

    def __init__(self, branches: Sequence[Branch], resident: Resident, index: Tensor, labels: Tensor) -> None:
        self.branches, self.resident, self.index, self.labels = branches, resident, index, labels
        self.right = torch.zeros(index.shape, dtype=torch.bool, device=index.device)
        self.counter = torch.zeros(1, dtype=torch.int64, device=index.device)

    def __call__(self) -> None:
        index, labels = (column.index_select(0, self.counter)[0] for column in (self.index, self.labels))
        shares = self.resident.gather(index.reshape(-1)).split(TEST_BATCH)

        def job(member: int, branch: Branch) -> Job:
            def test() -> None:
                self.right[:, member].index_copy_(0, self.counter, branch.right(shares[member], labels[member])[None])

            return test

        side_by_side([job(*one) for one in enumerate(self.branches)], self.index.device)
        self.counter += 1


class Wave:
    """Descendants whose steps are one graph. ``start`` an epoch (nothing waits for it), then read its ``losses``."""

    def __init__(self, models: Sequence[VGG], group: Group, recorder: Recorder) -> None:
        self.group, self.shape = group, layout(group)
        self.branches = [Branch(model, group.d) for model in models]
        device = group.resident.device
        self.block = torch.zeros(self.shape.numbers, dtype=torch.int64, device=device)
        # The fused kernel on a GPU reads a float32; on a CPU a float64 keeps the rate as it is.
        self.rates = torch.zeros(group.steps, dtype=torch.float32 if device.type == "cuda" else torch.float64, device=device)
        self._next: tuple[int, Tensor] | None = None
        parts, rates = self.shape.parts(self.block), self.rates.split([self.shape.body, group.steps - self.shape.body])
        used = [rate for rate in rates if len(rate)]
        self.steps = [TrainStep(self.branches, group.resident, group.d.augment, *one) for one in zip(parts, used, strict=True)]
        self.exam = Exam(self.branches, group.resident, *_tests(group))
        state = [tensor for branch in self.branches for tensor in branch.state()]
        self._train = [recorder.record(step, [*state, step.counter]) for step in self.steps]
        self._examine = recorder.record(self.exam, [*state, self.exam.counter, self.exam.right])

    def prepare(self, epoch: int) -> None:
        """Draw and pack an epoch ahead of its start, while the GPU is busy."""
        block = pack(self.group, epoch)
        self._next = epoch, block.pin_memory() if self.block.is_cuda else block

    def start(self, epoch: int) -> None:
        """Upload the epoch's draws and rates, and launch all its steps."""
        if self._next is None or self._next[0] != epoch:
            self.prepare(epoch)
        assert self._next is not None
        rates = torch.tensor([self.group.rate(epoch, step) for step in range(self.group.steps)], dtype=self.rates.dtype)
        # torch keeps pinned memory from new use until a copy out of it is done, so none of this waits.
        self.block.copy_(self._next[1], non_blocking=True)
        self.rates.copy_(rates.pin_memory() if self.rates.is_cuda else rates, non_blocking=True)
        self._next = None
        self.replay()

    def replay(self) -> None:
        """All steps of an epoch, on the draws that are uploaded."""
        for branch in self.branches:
            branch.total.zero_()
        for step, job in zip(self.steps, self._train, strict=True):
            step.counter.zero_()
            for _ in range(len(step.slots)):
                job()

    def losses(self) -> list[float]:
        """Each descendant's mean loss of the epoch that was started last."""
        return [total / self.group.images for total in torch.stack([branch.total for branch in self.branches]).tolist()]

    def correct(self) -> list[Tensor]:
        self.exam.counter.zero_()
        for _ in range(len(self.exam.index)):
            self._examine()
        right = self.exam.right.transpose(0, 1).flatten(1).cpu()
        return [mine[: len(task.test)].clone() for mine, task in zip(right, self.group.tasks, strict=True)]


def _tests(group: Group) -> tuple[Tensor, Tensor]:
    """Indices and labels of all test images, on the device: int64 [chunks, members, TEST_BATCH] each, filled up with index 0, label -1."""
    device = group.resident.device
    index, labels = (
        column.view(group.size, -1, TEST_BATCH).transpose(0, 1).contiguous().to(device) for column in padded_tests(group.tasks, TEST_BATCH)
    )
    return index, labels


class GraphTrainer:
    """A :class:`evolve.descendants.trainers.group.Trainer`. The models must be on the Resident's device; each may have an
    architecture of its own.

    At most ``most`` descendants are in one graph; more train in waves of about equal size, one wave after the other. ``capture``
    False runs the same steps without graphs; True on a CPU rehearses the capture (see :class:`Recorder`). A capture that fails
    raises here, and the models are as they were.
    """

    def __init__(self, models: Sequence[VGG], group: Group, capture: bool, most: int | None = None) -> None:
        self.group = group
        recorder = Recorder(group.resident.device, capture)
        self.waves = [
            Wave(models[part], replace(group, tasks=group.tasks[part], numbers=group.numbers[part]), recorder)
            for part in waves(group.size, most or group.size)
        ]

    def epoch(self, epoch: int) -> list[float]:
        for wave in self.waves:
            wave.start(epoch)
        if epoch + 1 < self.group.d.epochs:
            for wave in self.waves:
                wave.prepare(epoch + 1)
        return [loss for wave in self.waves for loss in wave.losses()]

    def correct(self) -> list[Tensor]:
        return [right for wave in self.waves for right in wave.correct()]

    def close(self) -> None:
        """The weights have been in the given models all along; let the graphs and their memory go."""
        self.waves = []


def waves(count: int, most: int) -> list[slice]:
    """``count`` members in as few parts of at most ``most`` as there must be, the parts' sizes differing by one at most."""
    parts = -(-count // most)
    ends = [count * part // parts for part in range(parts + 1)]
    return [slice(*pair) for pair in zip(ends, ends[1:], strict=False)]
