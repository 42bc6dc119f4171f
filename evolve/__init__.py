"""evolve: a continual-learning simulator for the accumulate phase of Learngene.

Importing this imports no torch; the functions below do when they are called.
"""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from evolve.networks.network import Network

__all__ = ["__version__", "inherit", "load_model", "save_ancestor"]


def inherit(
    learngene: str | PathLike[str],
    num_classes: int,
    *,
    seed: int = 0,
    method: str = "stack",
    embeddings: str = "random",
    descendant: int = 0,
) -> Network:
    """A network that inherits a learngene's file, as a torch module: images [B, 3, H, W] -> logits [B, num_classes]; all parameters train.

    ``method``: a registered inheritor ("stack" is the paper's). Fresh layers are drawn by (``seed``, ``descendant``), so it equals that
    descendant of a lineage of this seed. Raises evolve.core.errors.UserError, one line, for a file that is no whole learngene.
    """
    from evolve.learngene.model_file import inherit as make

    return make(Path(learngene), num_classes, seed, method, embeddings, descendant)[0]


def load_model(path: str | PathLike[str]) -> Network:
    """The network of a file that `evolve inherit` wrote. Raises evolve.core.errors.UserError for another file."""
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
    """Write the state dict of a registered network, trained anywhere, as an ancestor for `evolve condense`.

    Names may be ours, torchvision's (VGG) or timm's (ViT). ``provenance``: JSON-able. Raises evolve.core.errors.UserError for another network's.
    """
    from evolve.learngene.ancestor_file import save_ancestor as save

    save(Path(path), network, width, size, state, provenance)
