"""A network as data: what every family of networks says about itself.

Families are VGG, ResNet, ViT and those of plug-ins. Ancestor and descendant are both architectures;
a descendant's says which of its layers receive which of the ancestor's. Nothing here needs torch
until a network is built, so a process that only plans a lineage starts fast.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any, ClassVar

from evolve.core.registry import loaded
from evolve.core.setting import SETS

if TYPE_CHECKING:
    from evolve.networks.fast.shape import Fused
    from evolve.networks.network import Network

Groups = tuple[tuple[str, ...], ...]
Mixture = Mapping[str, float]
"""What one layer receives: ancestor's layers with their coefficients. {"conv11": 1.0} is a copy."""
Shapes = Mapping[str, tuple[int, ...]]
Axes = tuple[tuple[str | int, ...], ...]
"""What a tensor's dimensions count, one entry a dimension: its factors in order, each a fixed number
or the name of a group of channels that are kept or dropped together.
"""
BUFFERS = ("running_mean", "running_var", "num_batches_tracked")  # tensors that no one trains
GRANULARITIES = ("conv", "stage")


class Architecture(ABC):
    """One network without its weights. Equal architectures are equal and hashable.

    A family subclasses this with hashable fields. It registers its networks
    (:mod:`evolve.core.registry`) and, by :attr:`family`, its JSON form. *Integral layers* are what
    a condenser chooses among (paper, 4.1). A network may hold more layers (shortcuts, embeddings),
    its :attr:`extras`. They are inherited only with the whole ancestor, or where an inheritor says
    so. The head is no layer.
    """

    family: ClassVar[str]
    # "module:attribute" of what builds the network from (architecture, classes), of what makes fast
    # passes of (architecture, size), if anything, and of the names that others give its tensors.
    builder: ClassVar[str]
    passes: ClassVar[str | None] = None
    # By optimizer, what trains its network on a CPU in place of autograd: "module:attribute" of a
    # class, called with (network, size, optimizer, momentum, decay), that has step, logits, store.
    learners: ClassVar[Mapping[str, str]] = {}
    written: ClassVar[str] = "written"  # what a stage's key calls the learners' arithmetic
    foreign: ClassVar[str] = "evolve.networks.foreign_names:Foreign"

    # What it consists of.

    @property
    @abstractmethod
    def layer_names(self) -> tuple[str, ...]:
        """Every integral layer's name, from input to output."""

    @property
    def extras(self) -> tuple[str, ...]:
        """The other layers' names."""
        return ()

    @property
    def all_layers(self) -> tuple[str, ...]:
        """Every layer's name; these layers hold all tensors but the head's."""
        return (*self.layer_names, *self.extras)

    @property
    def carried(self) -> tuple[str, ...]:
        """Those extras that a learngene takes along, for inheritors that want them (a ViT's
        embeddings).
        """
        return ()

    @abstractmethod
    def integral_layers(self, granularity: str) -> Groups:
        """Groups of integral layers that are inherited as a whole; a condenser chooses among them.

        Args:
            granularity: "conv": each layer by itself; "stage": all layers of one resolution.

        Raises:
            ValueError: another granularity.
        """

    @abstractmethod
    def inherits(self) -> Mapping[str, Mixture]:
        """Own layer -> what it receives from the ancestor.

        A layer that is not named is fresh. It is empty for an ancestor.
        """

    @abstractmethod
    def places(self) -> Mapping[str, str]:
        """Own layer -> where it stands ("block2_1"), whatever it is called.

        The draw of a fresh layer depends on its place.
        """

    @abstractmethod
    def anonymous(self) -> Architecture:
        """The bare architecture: layers named by their place, nothing inherited."""

    # What can be made of it.

    @abstractmethod
    def stacked(self, selected: Iterable[str]) -> Architecture:
        """The descendant of some of this ancestor's layers, by the stacking rule (paper, 4.3).

        For the paper's set it is the paper's descendant.

        Args:
            selected: the layers' names.

        Raises:
            ValueError: the ancestor lacks a layer; the message names it.
        """

    def paper_descendant(self) -> Architecture:
        """The descendant of the paper's set: VGG8, ResNet12 or the 6-block ViT.

        The pseudo-descendant has this architecture, too.
        """
        return self.stacked(self.layer_names[place] for place in self.named_set("paper", 0))

    @abstractmethod
    def with_inherited(self, inherited: Mapping[str, Mixture]) -> Architecture:
        """This architecture with just these layers inherited from an ancestor.

        Args:
            inherited: own layer -> what it receives.

        Raises:
            ValueError: it lacks a layer.
        """

    def whole(self) -> Architecture:
        """This ancestor as its own descendant: every layer inherited."""
        return self.with_inherited({name: {name: 1.0} for name in self.all_layers})

    def resized(self, depth: int) -> Architecture:
        """This ancestor with another number of layers, named by their places; nothing is inherited.

        Args:
            depth: a VGG's convolutions of a stage, a ResNet's residual blocks of a stage, a ViT's
                blocks.

        Raises:
            ValueError: the family has no rule for it.
        """
        raise ValueError(f"networks of the family {self.family} have no rule for another depth")

    def narrowed(self, width: float) -> Architecture:
        """This network with fewer channels in every layer; it inherits the same layers.

        Args:
            width: the share of the channels that is kept (rounded, at least one).

        Raises:
            ValueError: the family has no rule for it, or the network cannot be so narrow.
        """
        raise ValueError(f"networks of the family {self.family} have no rule for another width")

    def axes(self, layer: str) -> Mapping[str, Axes]:
        """What the dimensions of a layer's tensors count, by the tensor's name.

        Dimensions of any layers that name one group are the same channels: a convolution's filters,
        its BN and the next convolution's input, say, or all that a residual stream adds up.

        Raises:
            KeyError: it lacks the layer.
            ValueError: the family has no rule for another width.
        """
        raise ValueError(f"networks of the family {self.family} have no rule for another width")

    @abstractmethod
    def named_set(self, name: str, count: int) -> tuple[int, ...]:
        """A fixed set of integral layers.

        Args:
            name: one of :data:`SETS`, such as "paper" and "authors" (their code's).
            count: how many layers "front" and "last" hold.

        Returns:
            0-based positions at granularity conv.
        """

    # What it looks like, in words and in JSON.

    @abstractmethod
    def describe(self) -> str:
        """One line in the paper's notation, "64* M 128 M ..."; * marks an inherited layer."""

    @abstractmethod
    def to_json(self) -> Any:
        """Plain values; :func:`evolve.networks.family.from_json` reads them back equal."""

    # The network itself.

    def build(self, classes: int) -> Network:
        """The module, initialised from seed 0, with a head for so many classes.

        An architecture of another package has a ``build`` of its own.
        """
        network: Network = loaded(self.builder)(self, classes)
        return network

    def fast(self, size: int) -> Fused | None:
        """Passes of its network by compiled kernels, on a CPU; None where it has none.

        A subclass whose network is not its family's says ``passes = None``.

        Args:
            size: pixels of an image's side.
        """
        return loaded(self.passes)(self, size) if self.passes else None

    def learner(self, optimizer: str) -> Callable[..., Any] | None:
        """What trains its network by passes of our own, on a CPU; None where autograd does.

        A subclass whose network is not its family's says ``learners = {}``.

        Args:
            optimizer: of ``evolve.core.settings.OPTIMIZERS``.
        """
        name = self.learners.get(optimizer)
        learner: Callable[..., Any] | None = loaded(name) if name else None
        return learner

    def shapes(self, layer: str) -> Shapes:
        """Shapes of a layer's tensors (parameters and buffers) by name.

        Raises:
            KeyError: it lacks the layer.
        """
        return _built_shapes(self)[layer]

    def state_shapes(self) -> Shapes:
        """Shapes of the whole network's tensors, under its state dict's names.

        The head, whose classes are open, is left out.
        """
        return {
            f"layers.{layer}.{part}": shape
            for layer in self.all_layers
            for part, shape in self.shapes(layer).items()
        }

    # What it costs (for estimates only; no number of a lineage depends on it).

    @abstractmethod
    def macs(self, size: int) -> float:
        """Multiply-adds of one image's forward pass at ``size`` pixels, in billions."""

    @abstractmethod
    def numbers_out(self, size: int) -> float:
        """Numbers that all layers of one image put out."""

    @cached_property
    def parameters(self) -> float:
        """Weights of all layers; the head is left out."""
        return self._weights(self.all_layers)

    def trained(self, layers: Iterable[str]) -> int:
        """Parameters of layers (extras too): what training changes, so no running statistics.

        Raises:
            KeyError: it lacks a layer.
        """
        return sum(
            _count(shape)
            for name in set(layers)
            for part, shape in self.shapes(name).items()
            if part.rpartition(".")[2] not in BUFFERS
        )

    def share(self, layers: Iterable[str]) -> float:
        """The part of :attr:`parameters` that layers (extras too) hold, in [0, 1].

        Raises:
            KeyError: it lacks a layer.
        """
        return self._weights(set(layers)) / self.parameters

    def _weights(self, layers: Iterable[str]) -> float:
        return float(sum(_count(shape) for name in layers for shape in self.shapes(name).values()))


def _count(shape: Sequence[int]) -> int:
    total = 1
    for side in shape:
        total *= side
    return total


@lru_cache(maxsize=64)
def _built_shapes(architecture: Architecture) -> Mapping[str, Shapes]:
    model = architecture.build(1)
    return {
        name: {part: tuple(t.shape) for part, t in layer.state_dict().items()}
        for name, layer in model.layers.items()
    }


def front_or_last(name: str, layers: int, count: int) -> tuple[int, ...]:
    """The first or last layers, 0-based.

    Args:
        name: "front" or "last".
        layers: how many there are.
        count: how many are taken.

    Raises:
        ValueError: ``count`` is more than there are, or the name is another.
    """
    if not 1 <= count <= layers:
        raise ValueError(f"{count} layers: from 1 to {layers}")
    if name == "front":
        return tuple(range(count))
    if name == "last":
        return tuple(range(layers - count, layers))
    raise ValueError(f"unknown set {name!r}; known: {', '.join(SETS)}")


def kept(channels: int, width: float) -> int:
    """How many of so many channels a share ``width`` of them is: rounded, at least one."""
    return max(1, round(channels * width))


def owners(groups: Groups) -> list[int]:
    """For each layer, in order, the position of the group that holds it.

    Args:
        groups: layer groups.
    """
    return [position for position, group in enumerate(groups) for _ in group]


def holders(groups: Groups, places: Iterable[int]) -> tuple[int, ...]:
    """The positions of the groups that hold some layers, ascending.

    Args:
        groups: groups of layers.
        places: 0-based positions of single layers.
    """
    owner = owners(groups)
    return tuple(sorted({owner[place] for place in places}))


def check_names(architecture: Architecture, selected: Iterable[str]) -> set[str]:
    """Return the selection as a set.

    Args:
        architecture: the ancestor.
        selected: names of integral layers.

    Raises:
        ValueError: the ancestor lacks a layer; the message names it.
    """
    wanted = set(selected)
    if unknown := wanted.difference(architecture.layer_names):
        raise ValueError(
            f"no such layers in the ancestor: {', '.join(sorted(unknown))}; it has "
            f"{', '.join(architecture.layer_names)}"
        )
    return wanted
