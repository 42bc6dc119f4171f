"""A world: what one lineage is made of, and what follows from its settings alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from evolve.core import toml
from evolve.core.errors import UserError
from evolve.core.settings import Settings
from evolve.networks.architecture import Architecture
from evolve.networks.family import architecture

SET_LIMIT = 8  # stages that train as one set, in one graph, at most


# a stage's key -> its record, if it is in the store
Peek = Callable[[str], "Mapping[str, Any] | None"]


@dataclass(frozen=True)
class World:
    """What all stages of one lineage share."""

    settings: Settings
    seed: int
    data: str  # fingerprint of the images
    ancestor_classes: tuple[int, ...]
    condense_classes: tuple[int, ...]
    descend_classes: tuple[int, ...]
    # the plain path everywhere: the same mathematics, other rounding, so other keys
    reference: bool = False
    checkpoint: str = ""  # content (sha256) of the pretrained weights that the ancestor starts from

    @property
    def arithmetic(self) -> str:
        """What a stage's rounding depends on, for its key.

        On a CPU, VGGs have compiled passes (most layers by Winograd's terms), ResNets and ViTs
        written ones (networks/fast/written.py).
        """
        if self.reference:
            return "reference"
        plan = ancestor_plan(self.settings)
        if plan.passes:
            return "winograd"
        return "passes" if plan.learners else "fast"

    def computed(self, precision: str) -> str:
        """The arithmetic with a precision other than float32 behind it.

        Args:
            precision: the section's, see :func:`evolve.engine.precision.computing`.
        """
        return self.arithmetic if precision == "float32" else f"{self.arithmetic} {precision}"

    @property
    def roles(self) -> dict[str, tuple[int, ...]]:
        """The split of the classes, by role."""
        return {
            "ancestor": self.ancestor_classes,
            "condense": self.condense_classes,
            "descend": self.descend_classes,
        }


def ancestor_plan(settings: Settings) -> Architecture:
    """The ancestor's architecture."""
    return architecture(settings.ancestor.network, settings.ancestor.width, settings.data.size)


def paper_descendant(settings: Settings) -> Architecture:
    """The paper's descendant (VGG8, ResNet12, ...) at this width; the pseudo-descendant's plan."""
    return ancestor_plan(settings).paper_descendant()


def facts(world: World) -> dict[str, Any]:
    """A world as plain values, under the names that run.json has for them."""
    return {
        "seed": world.seed,
        "settings": toml.to_dict(world.settings),
        "fingerprint": world.data,
        "classes": {role: list(ids) for role, ids in world.roles.items()},
        "reference": world.reference,
        "checkpoint": world.checkpoint,
    }


def world_of(entries: Mapping[str, Any], origin: str) -> World:
    """Read a world back, the inverse of :func:`facts`.

    Args:
        entries: what :func:`facts` gave, or all of a run.json.
        origin: the file, for errors.

    Raises:
        UserError: an entry is missing, or this evolve does not know a setting; it names ``origin``.
    """
    try:
        settings = toml.from_dict(entries["settings"], origin)
        ancestor, condense, descend = (
            tuple(entries["classes"][role]) for role in ("ancestor", "condense", "descend")
        )
        return World(
            settings,
            entries["seed"],
            entries["fingerprint"],
            ancestor,
            condense,
            descend,
            entries["reference"],
            entries["checkpoint"],
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"{origin}: damaged ({error!r}): remove it, and `evolve resume` the run that it named, "
            "if there is one"
        ) from None


def described(world: World, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings, with whatever else two runs must share to be pooled.

    That is the images and their split, the arithmetic, and pretrained weights.

    Args:
        world: the lineage.
        settings: its settings as plain values.
    """
    split = {role: " ".join(map(str, ids)) for role, ids in world.roles.items()}
    start = {"pretrained": {"content": world.checkpoint}} if world.checkpoint else {}
    # What stays on disk changes no number, and of pretrained weights the content counts.
    places = ("keep", "checkpoint")
    ancestor = {name: value for name, value in settings["ancestor"].items() if name not in places}
    return {
        **settings,
        "ancestor": ancestor,
        "images": {"fingerprint": world.data, **split},
        "arithmetic": {"path": world.arithmetic},
        **start,
    }
