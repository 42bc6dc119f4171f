"""Training on a GPU without Python between the kernels: a CUDA graph a step, a branch a generation.

The descendants of a generation are one stack of networks
(:mod:`evolve.descendants.trainers.stacked`). The whole step (gather, crop, flip, forward, loss,
backward, update) of several generations is captured once and replayed. What differs from step to
step is drawn on the CPU and uploaded once an epoch; a counter on the device says which step's turn
it is. The numbers of a generation do not depend on which others are in the graph: each branch has
its own kernels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import accumulate

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.optim.sgd import sgd

from evolve.core.settings import DescendSettings
from evolve.data.resident import Resident
from evolve.descendants.trainers.graph_draws import CROP, FLIP, INDEX, LABEL, layout, pack
from evolve.descendants.trainers.group import Group, padded_tests
from evolve.descendants.trainers.stacked import Stack
from evolve.networks.fast import Recorder
from evolve.networks.vgg import VGG

TEST_BATCH = 64  # constant, so that a test image is treated alike in every group


class Branch:
    """Descendants in training, of one plan: their :class:`Stack`, and its momentum.

    Args:
        models: the descendants'.
        d: the settings.

    Attributes:
        total: each one's sum of losses over an epoch's images, float64 [K] on the device.
    """

    def __init__(self, models: Sequence[VGG], d: DescendSettings) -> None:
        self.stack, self.d = Stack(models), d
        self.parameters = list(self.stack.parameters.values())
        # From zero, momentum * 0 + g: what torch.optim.SGD makes of a first step.
        self.momentum = [torch.zeros_like(parameter) for parameter in self.parameters]
        self.total = torch.zeros(len(models), dtype=torch.float64, device=self.parameters[0].device)

    @property
    def size(self) -> int:
        """How many descendants."""
        return len(self.total)

    def state(self) -> list[Tensor]:
        """Every tensor that learning changes."""
        return [*self.parameters, *self.stack.buffers.values(), *self.momentum, self.total]

    def learn(self, images: Tensor, labels: Tensor, rate: Tensor) -> None:
        """Make one step of SGD; everything stays on the device.

        The gradients are taken at new leaves over the parameters' memory. A parameter's own
        autograd node remembers the stream of its first use, and one that is alive from outside
        (some old loss) would break a capture.

        Args:
            images: [K, B, 3, S, S].
            labels: [K, B].
            rate: the learning rate [1].
        """
        leaves = {
            name: parameter.detach().requires_grad_()
            for name, parameter in self.stack.parameters.items()
        }
        logits = self.stack.logits(images.to(self.parameters[0].dtype), leaves, True)
        losses = (
            F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none")
            .view(labels.shape)
            .mean(1)
        )
        gradients = torch.autograd.grad(losses.sum(), list(leaves.values()), allow_unused=True)
        self._update(
            [
                torch.zeros_like(p) if g is None else g
                for g, p in zip(gradients, self.parameters, strict=True)
            ],
            rate,
        )
        self.total += losses.detach() * labels.shape[1]

    @torch.no_grad()
    def _update(self, gradients: Sequence[Tensor], rate: Tensor) -> None:
        """torch's fused kernel reads the rate on the device.

        The foreach one would fetch it, which no graph can hold.
        """
        sgd(
            self.parameters,
            [gradient.contiguous() for gradient in gradients],
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
        """Which images the descendants get right in eval mode.

        Args:
            images: [K, B, 3, S, S].
            labels: [K, B].

        Returns:
            bool [K, B].
        """
        return (
            self.stack.logits(
                images.to(self.parameters[0].dtype), self.stack.parameters, False
            ).argmax(2)
            == labels
        )


def branches_of(models: Sequence[VGG], numbers: Sequence[int]) -> list[slice]:
    """The members in runs of one plan and of rising numbers: of a set, its generations.

    Args:
        models: the group's.
        numbers: the group's.
    """
    starts = [0]
    for member in range(1, len(models)):
        if models[member].plan != models[member - 1].plan or numbers[member] <= numbers[member - 1]:
            starts.append(member)
    return [slice(*pair) for pair in zip(starts, [*starts[1:], len(models)], strict=True)]


def each_branch(
    branches: Sequence[Branch], work: Callable[[Branch, slice], None], device: torch.device
) -> None:
    """Work on all branches side by side.

    Args:
        branches: in the order of their members.
        work: is given a branch and the places of its members.
        device: where they lie.
    """
    ends = list(accumulate(branch.size for branch in branches))
    Recorder.side_by_side(
        [
            partial(work, branch, slice(end - branch.size, end))
            for branch, end in zip(branches, ends, strict=True)
        ],
        device,
    )


class TrainStep:
    """One optimizer step of all branches, over static tensors.

    Args:
        branches: in the order of their members.
        resident: the images.
        augment: the augmentations.
        slots: int64 [steps, fields, members, images].
        rates: [steps].
    """

    def __init__(
        self,
        branches: Sequence[Branch],
        resident: Resident,
        augment: Sequence[str],
        slots: Tensor,
        rates: Tensor,
    ) -> None:
        self.branches, self.resident, self.slots, self.rates = branches, resident, slots, rates
        self.crop, self.flip = "crop" in augment, "flip" in augment
        self.counter = torch.zeros(1, dtype=torch.int64, device=slots.device)

    def images(self, slot: Tensor) -> Tensor:
        """The images that a slot describes.

        Args:
            slot: [fields, members, images].

        Returns:
            [members * images, 3, H, W].
        """
        count = slot[INDEX].numel()
        shift = slot[CROP].reshape(2, count, 1) if self.crop else None
        flip = slot[FLIP].reshape(count) != 0 if self.flip else None
        return self.resident.gather(slot[INDEX].reshape(count), shift, flip)

    def __call__(self) -> None:
        slot, rate = (
            self.slots.index_select(0, self.counter)[0],
            self.rates.index_select(0, self.counter),
        )
        images = self.images(slot).unflatten(0, slot.shape[1:])

        def learn(branch: Branch, mine: slice) -> None:
            branch.learn(images[mine], slot[LABEL, mine], rate)

        each_branch(self.branches, learn, self.slots.device)
        self.counter += 1


class Exam:
    """Tests all branches on one chunk, over static tensors, and fills ``right``.

    Args:
        branches: in the order of their members.
        resident: the images.
        index, labels: int64 [chunks, members, TEST_BATCH].
    """

    def __init__(
        self, branches: Sequence[Branch], resident: Resident, index: Tensor, labels: Tensor
    ) -> None:
        self.branches, self.resident, self.index, self.labels = branches, resident, index, labels
        self.right = torch.zeros(index.shape, dtype=torch.bool, device=index.device)
        self.counter = torch.zeros(1, dtype=torch.int64, device=index.device)

    def __call__(self) -> None:
        index, labels = (
            column.index_select(0, self.counter)[0] for column in (self.index, self.labels)
        )
        images = self.resident.gather(index.reshape(-1)).unflatten(0, index.shape)

        def test(branch: Branch, mine: slice) -> None:
            self.right[:, mine].index_copy_(
                0, self.counter, branch.right(images[mine], labels[mine])[None]
            )

        each_branch(self.branches, test, self.index.device)
        self.counter += 1


class GraphTrainer:
    """A :class:`evolve.descendants.trainers.group.Trainer` whose steps are one graph.

    A capture that fails raises here, and the models are as they were.

    Args:
        models: on the Resident's device; each generation may have an architecture of its own.
        group: their tasks, images and settings.
        capture: False runs the same steps without graphs; True on a CPU rehearses the capture (see
            :class:`Recorder`).
    """

    def __init__(self, models: Sequence[VGG], group: Group, capture: bool) -> None:
        self.group, self.shape = group, layout(group)
        self.branches = [
            Branch(models[part], group.d) for part in branches_of(models, group.numbers)
        ]
        device = group.resident.device
        recorder = Recorder(device, capture)
        self.block = torch.zeros(self.shape.numbers, dtype=torch.int64, device=device)
        # The fused kernel on a GPU reads a float32; on a CPU a float64 keeps the rate as it is.
        self.rates = torch.zeros(
            group.steps,
            dtype=torch.float32 if device.type == "cuda" else torch.float64,
            device=device,
        )
        self._next: tuple[int, Tensor] | None = None
        parts, rates = (
            self.shape.parts(self.block),
            self.rates.split([self.shape.body, group.steps - self.shape.body]),
        )
        used = [rate for rate in rates if len(rate)]
        self.steps = [
            TrainStep(self.branches, group.resident, group.d.augment, *tensors)
            for tensors in zip(parts, used, strict=True)
        ]
        self.exam = Exam(self.branches, group.resident, *_tests(group))
        state = [tensor for branch in self.branches for tensor in branch.state()]
        self._train = [recorder.record(step, [*state, step.counter]) for step in self.steps]
        self._examine = recorder.record(self.exam, [*state, self.exam.counter, self.exam.right])

    def epoch(self, epoch: int) -> list[float]:
        """See :class:`evolve.descendants.trainers.group.Trainer`."""
        self._start(epoch)
        if epoch + 1 < self.group.d.epochs:
            self._prepare(epoch + 1)
        totals = torch.cat([branch.total for branch in self.branches]).tolist()
        return [total / self.group.images for total in totals]

    def _prepare(self, epoch: int) -> None:
        """Draw and pack an epoch ahead of its start, while the GPU is busy."""
        block = pack(self.group, epoch)
        self._next = epoch, block.pin_memory() if self.block.is_cuda else block

    def _start(self, epoch: int) -> None:
        """Upload the epoch's draws and rates, and launch all its steps; nothing waits for them."""
        if self._next is None or self._next[0] != epoch:
            self._prepare(epoch)
        assert self._next is not None
        rates = torch.tensor(
            [self.group.rate(epoch, step) for step in range(self.group.steps)],
            dtype=self.rates.dtype,
        )
        # torch keeps pinned memory from new use until a copy out of it is done: none of this waits.
        self.block.copy_(self._next[1], non_blocking=True)
        self.rates.copy_(rates.pin_memory() if self.rates.is_cuda else rates, non_blocking=True)
        self._next = None
        self._replay()

    def _replay(self) -> None:
        """All steps of an epoch, on the draws that are uploaded."""
        for branch in self.branches:
            branch.total.zero_()
        for step, job in zip(self.steps, self._train, strict=True):
            step.counter.zero_()
            for _ in range(len(step.slots)):
                job()

    def correct(self) -> list[Tensor]:
        """See :class:`evolve.descendants.trainers.group.Trainer`."""
        self.exam.counter.zero_()
        for _ in range(len(self.exam.index)):
            self._examine()
        right = self.exam.right.transpose(0, 1).flatten(1).cpu()
        return [
            mine[: len(task.test)].clone()
            for mine, task in zip(right, self.group.tasks, strict=True)
        ]

    def close(self) -> None:
        """Hand out the weights; let the graphs and their memory go."""
        for branch in self.branches:
            branch.stack.unstack()
        del self.branches, self.steps, self.exam, self._train, self._examine


def _tests(group: Group) -> tuple[Tensor, Tensor]:
    """Indices and labels of all test images, on the device.

    int64 [chunks, members, TEST_BATCH] each, filled up with index 0, label -1.
    """
    device = group.resident.device
    index, labels = (
        column.view(group.size, -1, TEST_BATCH).transpose(0, 1).contiguous().to(device)
        for column in padded_tests(group.tasks, TEST_BATCH)
    )
    return index, labels
