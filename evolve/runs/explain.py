"""Grad-CAM of one lineage length: ancestor, heirs and from-scratch descendants (Figures 7 and 8).

The ancestor and the learngene come from the store. The descendants are trained again by the run's
own stages, since the store keeps what they measured and not their weights.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from evolve.core.errors import UserError
from evolve.core.randomness import generator
from evolve.core.spent import Progress
from evolve.core.terminal import printable
from evolve.core.version import __version__
from evolve.data import photos
from evolve.data.boxes import Box, known_boxes, read_boxes
from evolve.data.resident import Resident
from evolve.engine.store import Stage
from evolve.lineage import recipes
from evolve.lineage.descend_outcomes import Descendants
from evolve.lineage.perform import condensation, descendants
from evolve.networks.gradcam import captum, grad_cam, map_sides
from evolve.networks.network import Network, frozen
from evolve.report.explain import Column, Explained
from evolve.runs.folder import resume_command
from evolve.runs.run import Run

LEAST = 4  # pixels a side of a map in which there is something to see


@dataclass(frozen=True)
class Question:
    """What is to be explained.

    Attributes:
        layers: the ancestor's; none: the learngene's last and one that is not inherited.
        count: how many images.
        images: a folder of photos; None: the descendants' test images.
        boxes: a CSV file with boxes of those photos.
        descendant: the only one that looks; None: each at its own task's images, or, at a user's
            photos, the first.
    """

    layers: tuple[str, ...] = ()
    count: int = 40
    images: Path | None = None
    boxes: Path | None = None
    descendant: int | None = None


@dataclass(frozen=True)
class Pictures:
    """The images, [N, 3, H, W], normalised.

    Of each: its name, its object's box, which descendant looks at it, and the place of its class in
    that descendant's task (-1: not known).
    """

    tensor: Tensor
    names: list[str]
    boxes: list[Box | None]
    owners: Tensor
    labels: Tensor


def explain(
    run: Run, length: int, ancestor: Stage, question: Question, progress: Progress
) -> Explained:
    """Look at the same images through the ancestor's layers and through descendants.

    Args:
        run: the run.
        length: the lineage length.
        ancestor: the ancestor's stage of that length.
        question: which layers and images.
        progress: is told the part done, 0..1, and what is being done.

    Raises:
        UserError: Captum is missing, the generation has not been condensed yet, or an option does
            not fit.
    """
    captum()  # before anything is trained
    world = run.world
    learngene = recipes.condense(world, length, ancestor)
    chosen = run.peek(learngene.key)
    if chosen is None:
        raise UserError(
            f"{run.request.out}@{length}: the store does not hold this generation's learngene; "
            f"`{resume_command(run.request.out)}` computes it"
        )
    request = condensation(learngene, run.store, run.context, progress)
    resident = request.resident
    network = frozen(request.architecture, request.state, resident.device)
    sides = map_sides(network, resident.size)
    layers = _checked(question.layers, sides) or default_layers(sides, chosen["layers"])
    stages = {
        "inherited": recipes.descend(world, "inherited", length, learngene),
        "from-scratch": recipes.from_scratch(world, recipes.heir(world, chosen), length),
    }
    groups = {
        name: descendants(stage, run.store, run.context, _named(progress, name))
        for name, stage in stages.items()
    }
    pictures = _pictures(run, question, groups["inherited"], resident)
    progress(1.0, "Grad-CAM")
    columns = [_of_ancestor(network, name, chosen["layers"], pictures) for name in layers]
    columns += _of_descendants(groups, layers, chosen["layers"], pictures, resident)
    facts = _facts(run, length, question) | {
        "reproduced": {name: _again(run, stages[name], group) for name, group in groups.items()}
    }
    pixels = (pictures.tensor * resident.std + resident.mean).permute(0, 2, 3, 1)
    return Explained(facts, _array(pixels), pictures.names, pictures.boxes, columns)


def default_layers(sides: Mapping[str, int], inherited: Sequence[str]) -> tuple[str, ...]:
    """The learngene's last layer and, of the layers that are not inherited, the one to compare.

    Layers whose maps are smaller than :data:`LEAST` pixels come last. The other layer is the
    nearest in depth whose maps are as large, if there is one: only such maps' numbers compare.

    Args:
        sides: pixels a side of the ancestor's maps, by layer, from input to output.
        inherited: the learngene's layers.
    """
    order = {name: place for place, name in enumerate(sides)}
    last = max(inherited, key=lambda name: (min(sides[name], LEAST), order[name]))

    def nearness(name: str) -> tuple[bool, bool, int, int]:
        away = abs(order[name] - order[last])
        return sides[name] == sides[last], sides[name] >= LEAST, -away, order[name]

    others = [name for name in sides if name not in inherited]
    return (last, max(others, key=nearness)) if others else (last,)


def _checked(layers: Sequence[str], sides: Mapping[str, int]) -> tuple[str, ...]:
    if unknown := next((name for name in layers if name not in sides), ""):
        raise UserError(
            f"--layer {unknown}: the ancestor has no such layer; it has {', '.join(sides)}"
        )
    return tuple(dict.fromkeys(layers))


def _named(progress: Progress, name: str) -> Progress:
    return lambda fraction, text: progress(fraction, f"training {name} again: {text}")


def _pictures(run: Run, question: Question, group: Descendants, resident: Resident) -> Pictures:
    most = len(group.tasks)
    if question.descendant is not None and question.descendant >= most:
        raise UserError(
            f"--descendant {question.descendant}: the run has {most}; give 0 to {most - 1}"
        )
    if question.images is not None:
        return _photos(question.images, question, resident)
    return _tests(run, question, group, resident)


def _tests(run: Run, question: Question, group: Descendants, resident: Resident) -> Pictures:
    """Test images of the descendants' tasks, in turn, each task's in an order drawn by the seed."""
    looking = range(len(group.tasks)) if question.descendant is None else [question.descendant]
    orders = {
        number: torch.randperm(
            len(group.tasks[number].test), generator=generator(run.world.seed, "explain", number)
        ).tolist()
        for number in looking
    }
    turns = math.ceil(question.count / len(looking))
    drawn = [
        (number, order[turn])
        for turn in range(turns)
        for number, order in orders.items()
        if turn < len(order)
    ][: question.count]
    index = torch.stack([group.tasks[number].test[place] for number, place in drawn])
    labels = torch.stack([group.tasks[number].test_labels[place] for number, place in drawn])
    data, data_dir = run.context["data"], run.context["data_dir"]
    boxes = known_boxes(data, data_dir, index.tolist(), len(resident.pieces[0]))
    classes = resident.labels[index.to(resident.device)].tolist()
    return Pictures(
        resident.batch(index),
        [printable(resident.class_names[class_id]) for class_id in classes],
        [boxes.get(place) for place in index.tolist()],
        torch.tensor([number for number, _ in drawn]),
        labels,
    )


def _photos(folder: Path, question: Question, resident: Resident) -> Pictures:
    """A user's own photos, in the order of their names."""
    names = photos.photos_below(folder)[: question.count]
    if not names:
        raise UserError(
            f"--images {folder}: no photos there; they end in {', '.join(photos.EXTENSIONS)}"
        )
    size = resident.size
    boxes = read_boxes(question.boxes, folder, names, size) if question.boxes else {}
    stacked = torch.stack(
        [torch.from_numpy(photos.decode(folder / name, size).copy()) for name in names]
    )
    pixels = stacked.permute(0, 3, 1, 2).to(resident.device, torch.float32) / 255
    return Pictures(
        (pixels - resident.mean) / resident.std,
        names,
        [boxes.get(name) for name in names],
        torch.full((len(names),), question.descendant or 0),
        torch.full((len(names),), -1),
    )


def _of_ancestor(
    network: Network, layer: str, inherited: Sequence[str], pictures: Pictures
) -> Column:
    """The ancestor at one of its layers, and the class that it ranks first: it knows no other."""
    targets = _ranked_first(network, pictures.tensor)
    role = "learngene" if layer in inherited else "not inherited"
    maps = grad_cam(network, layer, pictures.tensor, targets)
    names = [f"output {target}" for target in targets.tolist()]
    return Column("ancestor", layer, role, _array(maps), names)


def _of_descendants(
    groups: Mapping[str, Descendants],
    layers: Sequence[str],
    inherited: Sequence[str],
    pictures: Pictures,
    resident: Resident,
) -> list[Column]:
    """Heirs where they inherit the last of ``layers`` that is inherited, and the same place of
    those from scratch.
    """
    held = [name for name in layers if name in inherited] or [inherited[-1]]
    plan = groups["inherited"].plan
    slots = [own for own, mixture in plan.inherits().items() if held[-1] in mixture]
    slot = held[-1] if held[-1] in slots else slots[-1]
    at = {"inherited": slot, "from-scratch": plan.places()[slot]}
    roles = {"inherited": f"from {held[-1]}", "from-scratch": "same place"}
    return [
        _of_group(name, group, at[name], roles[name], pictures, resident)
        for name, group in groups.items()
    ]


def _of_group(
    name: str,
    group: Descendants,
    layer: str,
    role: str,
    pictures: Pictures,
    resident: Resident,
) -> Column:
    """Each image through the descendant that looks at it, for the image's own class if it is known.

    Else for the class that the descendant ranks first.
    """
    looked, maps, targets = list[Tensor](), list[Tensor](), list[str]()
    for number in pictures.owners.unique().tolist():
        places = torch.nonzero(pictures.owners == number).view(-1)
        images, labels = pictures.tensor[places], pictures.labels[places].to(pictures.tensor.device)
        model = group.models[number].eval()
        model.fused = False
        wanted = torch.where(labels < 0, _ranked_first(model, images), labels)
        looked.append(places)
        maps.append(grad_cam(model, layer, images, wanted))
        classes = group.tasks[number].classes
        names = [printable(resident.class_names[class_id]) for class_id in classes]
        targets += [names[target] for target in wanted.tolist()]
    order = torch.cat(looked).argsort()
    named = [targets[place] for place in order.tolist()]
    return Column(name, layer, role, _array(torch.cat(maps).cpu()[order]), named)


@torch.no_grad()
def _ranked_first(model: Network, images: Tensor) -> Tensor:
    ranked: Tensor = model(images).argmax(1)
    return ranked


def _array(tensor: Tensor) -> Any:
    return tensor.detach().cpu().double().numpy()


def _again(run: Run, stage: Stage, group: Descendants) -> bool | None:
    """Whether descendants that were trained again measure what the run's did; None: it has none."""
    held = run.peek(stage.key)
    return held["accuracy"] == [trained.last for trained in group.trained] if held else None


def _facts(run: Run, length: int, question: Question) -> dict[str, Any]:
    settings = run.world.settings
    return {
        "scenario": settings.name,
        "profile": run.request.scenario.profile,
        "seed": run.world.seed,
        "lineage": length,
        "source": str(question.images or "test images of the descendants' tasks"),
        "evolve": __version__,
    }
