"""evolve: a continual-learning simulator for the accumulate phase of Learngene.

Importing this imports no torch; the functions below do when they are called.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evolve.core import machine as _machine  # noqa: F401  (its docstring says why)

if TYPE_CHECKING:
    from torch import Tensor, nn

    from evolve.condensers.own import Images, Method
    from evolve.learngene.learngene import Learngene
    from evolve.networks.network import Network
    from evolve.runs.api import Loaded

__all__ = [
    "__version__",
    "condense",
    "inherit",
    "load_model",
    "load_run",
    "run",
    "save_ancestor",
]


def run(
    scenario: str,
    *,
    profile: str = "paper",
    seeds: int | Sequence[int] = 0,
    overrides: Mapping[str, Any] | None = None,
    out: str | PathLike[str] | None = None,
    **options: Any,
) -> Loaded:
    """Run or continue lineages, as `evolve run` does, and load what they measured.

    Args:
        scenario: a shipped scenario's name, or a file.
        profile: "paper" or "quick".
        seeds: one seed, or several that are pooled.
        overrides: "section.key" -> value.
        out: the folder; None: the command's default, below the working directory.
        options: others of `evolve run`, such as ``data="cifar100.zip"`` or ``workers=2``.

    Raises:
        evolve.core.errors.UserError: something given does not fit; one line.
        RuntimeError: a stage could not be computed.
    """
    from evolve.runs import api

    where = None if out is None else Path(out)
    return api.run(
        scenario, profile=profile, seeds=seeds, overrides=overrides, out=where, **options
    )


def load_run(*paths: str | PathLike[str], store: str | PathLike[str] | None = None) -> Loaded:
    """Load runs from their folders: tables as pandas frames, figures, learngenes, descendants.

    Args:
        paths: a run's folder; several of one scenario; or the folder of `evolve run --seeds`.
        store: their store; None: the one that each recorded.

    Raises:
        evolve.core.errors.UserError: a folder is no run's, or its store is not there.
    """
    from evolve.runs import api

    return api.load_run(*map(Path, paths), store=None if store is None else Path(store))


def condense(
    model: nn.Module | Mapping[str, Tensor],
    data: Images,
    *,
    network: str | None = None,
    width: float = 1.0,
    method: str | Method = "meta-network",
    seed: int = 0,
    settings: Mapping[str, Any] | None = None,
) -> Learngene:
    """The learngene of a network of one's own, trained anywhere (paper, 4.2).

    Args:
        model: the network or its state dict, under our names, torchvision's or timm's.
        data: condensing images: (uint8 [N, 3, H, W], int labels [N]), or a dataset whose items are
            (PIL image or uint8 tensor [3, H, W], label).
        network: a registered network's name; None: the one whose tensors these are.
        width: multiplier of its layers' channels.
        method: a condenser's name, or a function of one's own (docs/plugins.md).
        seed: draws everything random.
        settings: others of [condense], such as {"epochs": 10}.

    Returns:
        The learngene. ``save`` writes it; :func:`inherit` makes descendants of the file.

    Raises:
        evolve.core.errors.UserError: names what does not fit.
    """
    from evolve.condensers.own import condense_own

    return condense_own(
        model,
        data,
        network=network,
        width=width,
        method=method,
        seed=seed,
        settings=settings,
    )


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
