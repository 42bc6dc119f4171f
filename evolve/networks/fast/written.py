"""One network in training by passes that are written out, all its parameters in one flat tensor.

It is for networks whose passes are not one list of compiled kernels (:mod:`.flat`, the VGGs'). So
that nothing is spent on autograd's graph, and the optimizer steps one tensor instead of a hundred.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from array import array
from collections.abc import Hashable, Mapping
from typing import ClassVar, Protocol
from weakref import WeakValueDictionary

import torch
from torch import Tensor, nn

from evolve.networks.architecture import Architecture
from evolve.networks.fast.compiled import parameters
from evolve.networks.fast.cross_entropy import cross_entropy
from evolve.networks.network import Network

Tensors = dict[str, Tensor]
ALIGNED = 16  # numbers that a tensor's place is a multiple of, a cache line of float32


class Passes(Protocol):
    """A network's passes for one batch size. A pass overwrites what the last one kept."""

    def forward(self, images: Tensor) -> Tensor:
        """See :meth:`Trunk.forward`."""

    def backward(self, g: Tensor) -> None:
        """See :meth:`Trunk.backward`."""


class Trunk(ABC):
    """A network's passes from images to the head's input, over tensors on the CPU.

    A family's own class writes them. tests/networks/test_written.py and
    tests/networks/test_node.py hold them to the module and autograd in float64.

    Args:
        plan: the network's architecture.
        size: pixels of an image's side.
        w: every parameter, by its name in the network.
        g: its gradient. A pass adds to it.
        buffers: the network's buffers, which passes in training mode move.
        shared: its maps lie where those of others do, see :class:`Workspace`.
    """

    def __init__(
        self,
        plan: Architecture,
        size: int,
        w: Tensors,
        g: Tensors,
        buffers: Tensors,
        shared: bool = True,
    ) -> None:
        self.plan, self.size, self.w, self.g, self.buffers = plan, size, w, g, buffers
        self.shared = shared
        self._bound: dict[int, Passes] = {}

    @abstractmethod
    def bind(self, batch: int) -> Passes:
        """The passes of one batch size.

        Args:
            batch: images of a batch.
        """

    def bound(self, batch: int) -> Passes:
        """The same, bound at their first use."""
        if batch not in self._bound:
            self._bound[batch] = self.bind(batch)
        return self._bound[batch]

    def forward(self, images: Tensor) -> Tensor:
        """Embed images in training mode and keep what :meth:`backward` needs.

        Args:
            images: [B, 3, S, S].

        Returns:
            The head's input [B, c]; the next pass may overwrite it.
        """
        self._passes = self.bound(len(images))
        return self._passes.forward(images)

    def backward(self, g: Tensor) -> None:
        """Add the gradients of all parameters but the head's to :attr:`g`, which was zero.

        Args:
            g: that of the last :meth:`forward`'s output.
        """
        self._passes.backward(g)

    @abstractmethod
    def judged(self, images: Tensor) -> Tensor:
        """Embed images in eval mode; as :meth:`forward`."""


class Written:
    """Copies of a network's parameters and buffers on the CPU, and its optimizer over them.

    Args:
        network: what learns.
        size: pixels of an image's side.
        optimizer: "sgd" or "adamw", as :func:`evolve.networks.optimizers.make_optimizer` has them.
        momentum, decay: the optimizer's.

    Attributes:
        kind: the family's passes.
        w: every parameter, by its name in the network.
        g: its gradient.
        buffers: the network's buffers.
    """

    kind: ClassVar[type[Trunk]]

    def __init__(
        self, network: Network, size: int, optimizer: str, momentum: float, decay: float
    ) -> None:
        self.network, self.steps = network, 0
        named = {name: tensor.detach() for name, tensor in network.named_parameters()}
        self.buffers = {name: tensor.clone() for name, tensor in network.named_buffers()}
        parameter, self.w = laid_out(named)
        self.gradient, self.g = laid_out(named)
        for name, tensor in named.items():
            self.w[name].copy_(tensor)
        self.trunk = self.kind(network.architecture, size, self.w, self.g, self.buffers)
        self._update = (_AdamW if optimizer == "adamw" else _SGD)(
            parameter, self.gradient, momentum, decay
        )

    @torch.no_grad()
    def step(self, images: Tensor, labels: Tensor, rate: float) -> Tensor:
        """Take one step of the optimizer.

        Args:
            images: [B, 3, S, S].
            labels: [B].
            rate: the learning rate.

        Returns:
            The mean loss before the step, float64.
        """
        embedded = self.trunk.forward(images)
        loss, g = cross_entropy(self._classified(embedded), labels)
        self.gradient.zero_()
        torch.mm(g.t(), embedded, out=self.g["head.weight"])
        torch.sum(g, 0, out=self.g["head.bias"])
        self.trunk.backward(g @ self.w["head.weight"])
        self.steps += 1
        self._update(rate)
        return loss

    @torch.no_grad()
    def logits(self, images: Tensor) -> Tensor:
        """Classify images in eval mode.

        Args:
            images: [B, 3, S, S].

        Returns:
            [B, classes].
        """
        return self._classified(self.trunk.judged(images))

    def _classified(self, embedded: Tensor) -> Tensor:
        return torch.addmm(self.w["head.bias"], embedded, self.w["head.weight"].t())

    @torch.no_grad()
    def store(self) -> None:
        """Put what was learned into the network."""
        for name, tensor in (*self.network.named_parameters(), *self.network.named_buffers()):
            tensor.copy_(self.w[name] if name in self.w else self.buffers[name])
            if name.endswith("num_batches_tracked"):
                tensor += self.steps


class _SGD:
    """A step of SGD for one flat parameter, by the kernel of :class:`.sgd.CompiledSGD`."""

    def __init__(self, parameter: Tensor, gradient: Tensor, momentum: float, decay: float) -> None:
        self.tensors = parameter, gradient, torch.zeros_like(parameter)
        self.numbers = array("f" if parameter.dtype == torch.float32 else "d")
        self.numbers.extend((0.0, momentum, decay))
        addresses = (tensor.data_ptr() for tensor in self.tensors)
        self.table = array("q", (*addresses, parameter.numel()))
        self.kernel = parameters.sgd(parameter.dtype)

    def __call__(self, rate: float) -> None:
        self.numbers[0] = rate
        self.kernel(self.table.buffer_info()[0], 1, self.numbers.buffer_info()[0])


class _AdamW:
    """A step of torch's AdamW for one flat parameter."""

    def __init__(self, parameter: Tensor, gradient: Tensor, momentum: float, decay: float) -> None:
        leaf = nn.Parameter(parameter)
        leaf.grad = gradient
        self.optimizer = torch.optim.AdamW([leaf], weight_decay=decay, fused=True)

    def __call__(self, rate: float) -> None:
        self.optimizer.param_groups[0]["lr"] = rate
        self.optimizer.step()


_SHARED: WeakValueDictionary[Hashable, Tensor] = WeakValueDictionary()


class Workspace:
    """Memory for maps, which the passes of all networks of one shape may share.

    One learner passes at a time, and a pass reads nothing that it has not written. So a generation
    needs no more than one of its networks.

    Args:
        dtype: of the numbers.
        shared: whether it is shared.
    """

    def __init__(self, dtype: torch.dtype, shared: bool) -> None:
        self.dtype, self.shared = dtype, shared
        self._taken: list[Tensor] = []

    def take(self, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        """A tensor, whatever it holds; the n-th that is taken is that of any other with its shape.

        Args:
            shape: its shape.
            dtype: another one than the usual.
        """
        key = len(self._taken), shape, dtype or self.dtype
        tensor = _SHARED.get(key) if self.shared else None
        if tensor is None:
            tensor = torch.empty(shape, dtype=dtype or self.dtype)
            if self.shared:
                _SHARED[key] = tensor
        self._taken.append(tensor)
        return tensor


def laid_out(like: Mapping[str, Tensor]) -> tuple[Tensor, Tensors]:
    """Zeros for some tensors, all in one.

    Args:
        like: the tensors, of one dtype.

    Returns:
        The flat tensor, and :func:`views` into it.
    """
    numbers = sum(_room(tensor) for tensor in like.values())
    flat = torch.zeros(numbers, dtype=next(iter(like.values())).dtype)
    return flat, views(flat, like)


def views(flat: Tensor, like: Mapping[str, Tensor]) -> Tensors:
    """Views into a flat tensor of :func:`laid_out`.

    Args:
        flat: the flat tensor.
        like: the tensors that it was laid out for, whose memory order the views have.
    """
    seen, start = {}, 0
    for name, tensor in like.items():
        seen[name] = flat.as_strided(tensor.shape, tensor.stride(), start)
        start += _room(tensor)
    return seen


def _room(tensor: Tensor) -> int:
    return -(-tensor.numel() // ALIGNED) * ALIGNED
