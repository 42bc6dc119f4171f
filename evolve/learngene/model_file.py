"""A descendant as a plain torch module and as a file: from a learngene to a network that its owner
trains in his own code.
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
    """The descendant of a learngene's file, every parameter of it to be trained, and where it comes
    from.

    Equal to descendant number ``descendant`` of a lineage of this ``seed``. UserError for a file
    that is no learngene, an inheritor that is not known or cannot work with it.
    """
    if not 1 <= classes <= MOST_CLASSES:
        raise UserError(f"{classes} classes: allowed are 1 to {MOST_CLASSES}")
    chosen = chosen_settings(method, embeddings)
    gene = gene_file.load(path)
    ancestor = gene.ancestor_plan
    if embeddings == "inherited" and not ancestor.carried:
        raise UserError(
            f"learngene {path}: its network has no embeddings to inherit; leave --embeddings out"
        )
    if missing := [
        name for name in ancestor.carried if embeddings == "inherited" and name not in gene.layers
    ]:
        raise UserError(
            f"learngene {path}: it does not hold {', '.join(missing)}; leave --embeddings out"
        )
    plan = architecture_of(
        ancestor, [name for name in gene.layers if name in ancestor.layer_names], chosen
    )
    try:
        with tensor_file.Bounded(tensor_file.LARGEST):
            model = fill(plan, gene, classes, seed, descendant)
    except (
        KeyError,
        ValueError,
        RuntimeError,
    ) as error:  # a stranger's file may describe what no torch module can be
        raise tensor_file.misfit(path, "learngene", error) from error
    made = {
        "learngene": Path(path).name,
        "sha256": file_digest(Path(path)),
        "method": method,
        "embeddings": embeddings,
    }
    return model, {
        **made,
        "seed": seed,
        "descendant": descendant,
        "learngene_from": gene.provenance,
    }


def chosen_settings(method: str, embeddings: str) -> InheritSettings:
    """As a scenario's [inherit], checked by the same limits. UserError."""
    found: InheritSettings = toml.from_dict(
        {"inherit": {"method": method, "embeddings": embeddings}}, "evolve inherit"
    ).inherit
    return found


def save(path: Path, model: Network, provenance: Mapping[str, Any], form: str = "evolve") -> None:
    """Write a network with its architecture.

    ``form`` "evolve": for :func:`load`; "plain": its tensors are named as torchvision's or timm's
    modules name them, so that it can be had without evolve too (`evolve inspect` prints the lines).

    UserError where that is impossible, or there is no such module.
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
    """The network of a file, in either form.

    UserError, one line, for a file that is missing, foreign, truncated or altered.
    """
    made, state = read(path, *tensor_file.read(path, KIND))
    model = made.build(len(state["head.bias"]))
    model.load_state_dict(state)
    return model


def read(
    path: Path, about: Mapping[str, Any], tensors: Mapping[str, Tensor]
) -> tuple[Architecture, dict[str, Tensor]]:
    """The architecture and the state dict, under our names, of a file's description and tensors.

    UserError where they do not fit each other.
    """
    try:
        made = tensor_file.described(about["plan"])
        if about["form"] not in FORMATS:
            raise ValueError(f"form {about['form']!r}")
        ours = (
            {theirs: name for name, theirs in sequential_names(made).items()}
            if about["form"] == "plain"
            else {}
        )
        state = {ours.get(name, name): tensor for name, tensor in tensors.items()}
        if problem := misfit(made, state):
            raise ValueError(problem)
        return made, state
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise tensor_file.misfit(path, KIND, error) from error
