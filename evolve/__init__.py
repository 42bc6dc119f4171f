"""evolve: a continual-learning simulator for the accumulate phase of Learngene.

Importing this imports no torch; the functions below do when they are called.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evolve.core import machine as _machine  # noqa: F401  (its docstring says why)

if TYPE_CHECKING:
    from torch import Tensor

    from evolve.condensers.own import condense
    from evolve.core.version import __version__
    from evolve.networks.network import Network
    from evolve.runs.api import load_run, run

__all__ = [
    "__version__",
    "condense",
    "inherit",
    "load_model",
    "load_run",
    "run",
    "save_ancestor",
]


_DOORS = {
    "__version__": "evolve.core.version",
    "run": "evolve.runs.api",
    "load_run": "evolve.runs.api",
    "condense": "evolve.condensers.own",
}


def __getattr__(name: str) -> Any:
    """What lives in a room of its own, imported when somebody asks for it."""
    if name not in _DOORS:
        raise AttributeError(f"module 'evolve' has no attribute {name!r}")
    return getattr(import_module(_DOORS[name]), name)


def inherit(
    learngene: str | PathLike[str],
    num_classes: int,
    *,
    seed: int = 0,
    method: str = "stack",
    embeddings: str = "random",
    depth: int = 0,
    width: float = 1.0,
    descendant: int = 0,
) -> Network:
    """A network that inherits a learngene, as a torch module; all its parameters train.

    Fresh layers are drawn by (``seed``, ``descendant``). So the network equals that descendant of a
    lineage of this seed.

    Args:
        learngene: the learngene's file.
        num_classes: how many the network tells apart.
        seed: of the fresh layers.
        method: a registered inheritor; "stack" is the paper's.
        embeddings: "random" or "inherited", of a ViT.
        depth: with "repeat" or "linear", how many convolutions (VGG) or residual blocks (ResNet) a
            stage has, or how many blocks a ViT; 0: as many as the ancestor.
        width: the share of the channels that the network keeps (docs/inheritance.md).
        descendant: which draw of the fresh layers.

    Returns:
        Images [B, 3, H, W] -> logits [B, num_classes].

    Raises:
        evolve.core.errors.UserError: the file is no whole learngene; one line.
    """
    from evolve.learngene.model_file import chosen_settings
    from evolve.learngene.model_file import inherit as make

    chosen = chosen_settings(method, embeddings, depth, width)
    return make(Path(learngene), num_classes, seed, chosen, descendant)[0]


def load_model(path: str | PathLike[str]) -> Network:
    """The network of a file that `evolve inherit` wrote.

    Args:
        path: the file.

    Returns:
        Images [B, 3, H, W] -> logits [B, classes].

    Raises:
        evolve.core.errors.UserError: another kind of file.
    """
    from evolve.learngene.model_file import load

    return load(Path(path))


def save_ancestor(
    path: str | PathLike[str],
    state: Mapping[str, Tensor],
    *,
    network: str = "vgg16",
    width: float = 1.0,
    size: int = 32,
    provenance: Mapping[str, Any] | None = None,
) -> None:
    """Write the state dict of a registered network as an ancestor for `evolve condense`.

    It may have been trained anywhere.

    Args:
        path: the file.
        state: names may be ours, torchvision's (VGG) or timm's (ViT).
        network: the registered network.
        width: the network's.
        size: pixels of the images' side.
        provenance: where it comes from, JSON-able.

    Raises:
        evolve.core.errors.UserError: the state is another network's.
    """
    from evolve.learngene.ancestor_file import save_ancestor as save

    save(Path(path), network, width, size, state, provenance)
