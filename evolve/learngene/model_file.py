"""A descendant as a plain torch module and as a file.

A learngene becomes a network that its owner trains in his own code.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from evolve.core import toml
from evolve.core.durable import file_digest
from evolve.core.errors import UserError
from evolve.core.settings import InheritSettings
from evolve.learngene import learngene as gene_file
from evolve.learngene import tensor_file
from evolve.learngene.ancestor_file import misfit
from evolve.learngene.inheritance import inherit as fill
from evolve.learngene.inheritors import descendant as architecture_of
from evolve.networks.architecture import Architecture
from evolve.networks.foreign_names import sequential_names
from evolve.networks.network import Network

KIND = "model"
FORMATS = ("evolve", "plain")
MOST_CLASSES = 1 << 16


def inherit(
    path: Path, classes: int, seed: int, method: str, embeddings: str, descendant: int
) -> tuple[Network, dict[str, Any]]:
    """The descendant of a learngene's file; every parameter is to be trained.

    It equals descendant number ``descendant`` of a lineage of this ``seed``.

    Args:
        path: the learngene's file.
        classes: outputs of the head.
        seed: of the random layers.
        method: the inheritor's name.
        embeddings: "random" or "inherited".
        descendant: the descendant's number.

    Returns:
        The network, and where it comes from (JSON-able).

    Raises:
        UserError: the file is no learngene, or the inheritor is not known or cannot work with it.
    """
    if not 1 <= classes <= MOST_CLASSES:
        raise UserError(f"{classes} classes: allowed are 1 to {MOST_CLASSES}")
    chosen = chosen_settings(method, embeddings)
    gene = gene_file.load(path)
    if embeddings == "inherited":
        _check_embeddings(path, gene)
    ancestor = gene.ancestor_plan
    selected = [name for name in gene.layers if name in ancestor.layer_names]
    plan = architecture_of(ancestor, selected, chosen)
    try:
        with tensor_file.Bounded(tensor_file.LARGEST):
            model = fill(plan, gene, classes, seed, descendant)
    # A stranger's file may describe what no torch module can be.
    except (KeyError, ValueError, RuntimeError) as error:
        raise tensor_file.misfit(path, "learngene", error) from error
    return model, {
        "learngene": Path(path).name,
        "sha256": file_digest(Path(path)),
        "method": method,
        "embeddings": embeddings,
        "seed": seed,
        "descendant": descendant,
        "learngene_from": gene.provenance,
    }


def _check_embeddings(path: Path, gene: gene_file.Learngene) -> None:
    """Refuse to inherit embeddings that the network has not, or the learngene lacks."""
    carried = gene.ancestor_plan.carried
    if not carried:
        raise UserError(
            f"learngene {path}: its network has no embeddings to inherit; leave --embeddings out"
        )
    if missing := [name for name in carried if name not in gene.layers]:
        raise UserError(
            f"learngene {path}: it does not hold {', '.join(missing)}; leave --embeddings out"
        )


def chosen_settings(method: str, embeddings: str) -> InheritSettings:
    """A scenario's [inherit], checked by the same limits.

    Args:
        method: the inheritor's name.
        embeddings: "random" or "inherited".

    Raises:
        UserError: a value is not allowed.
    """
    settings: InheritSettings = toml.from_dict(
        {"inherit": {"method": method, "embeddings": embeddings}}, "evolve inherit"
    ).inherit
    return settings


def save(path: Path, model: Network, provenance: Mapping[str, Any], form: str = "evolve") -> None:
    """Write a network with its architecture.

    Args:
        path: the file.
        model: the network.
        provenance: JSON-able; where it comes from.
        form: "evolve": for :func:`load`; "plain": the tensors are named as in torchvision's or
            timm's modules, so that the network can be had without evolve too (`evolve inspect`
            prints the lines).

    Raises:
        UserError: it cannot be written, or there is no such module.
    """
    names = sequential_names(model.architecture)
    if form == "plain" and not names:
        raise UserError(
            "--format plain: neither torchvision nor timm has this network; leave --format out and "
            "load it with evolve.load_model"
        )
    state = {
        names[name] if form == "plain" else name: tensor
        for name, tensor in model.state_dict().items()
    }
    about = {"plan": model.architecture.to_json(), "form": form, "provenance": dict(provenance)}
    tensor_file.write(path, KIND, about, state)


def load(path: Path) -> Network:
    """Read the network of a file, in either form.

    Args:
        path: the file.

    Raises:
        UserError: the file is missing, foreign, truncated or altered.
    """
    plan, state = read(path, *tensor_file.read(path, KIND))
    model = plan.build(len(state["head.bias"]))
    model.load_state_dict(state)
    return model


def read(
    path: Path, about: Mapping[str, Any], tensors: Mapping[str, Tensor]
) -> tuple[Architecture, dict[str, Tensor]]:
    """The network of a file's description and tensors.

    Args:
        path: the file, for the error.
        about: the description.
        tensors: in either form.

    Returns:
        The architecture, and the state dict under our names.

    Raises:
        UserError: they do not fit each other.
    """
    try:
        plan = tensor_file.described(about["plan"])
        if about["form"] not in FORMATS:
            raise ValueError(f"form {about['form']!r}")
        ours = (
            {theirs: name for name, theirs in sequential_names(plan).items()}
            if about["form"] == "plain"
            else {}
        )
        state = {ours.get(name, name): tensor for name, tensor in tensors.items()}
        if problem := misfit(plan, state):
            raise ValueError(problem)
        return plan, state
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise tensor_file.misfit(path, KIND, error) from error
