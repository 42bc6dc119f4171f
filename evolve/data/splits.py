"""Which classes play which role: the ancestor's, the condenser's, the descendants' (SPEC 2). No class has two roles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from evolve.data.sources import ImageSet
from evolve.errors import UserError
from evolve.randomness import generator
from evolve.settings import DataSettings

# The CIFAR-FS split of SPEC 2, as torchvision's fine-label ids.
CIFAR_FS: Mapping[str, tuple[int, ...]] = {
    "ancestor": (
        *(0, 1, 3, 6, 9, 10, 11, 12, 13, 16, 17, 18, 20, 22, 23, 24, 25, 28, 29, 30, 31, 33, 35, 36, 37, 38, 39, 41, 43, 44, 45, 49),
        *(50, 51, 52, 53, 54, 56, 57, 59, 61, 63, 64, 65, 66, 67, 68, 72, 74, 75, 76, 78, 79, 80, 81, 82, 85, 88, 90, 91, 92, 93, 96, 97),
    ),
    "condense": (4, 7, 14, 15, 19, 26, 27, 32, 40, 47, 48, 55, 71, 73, 87, 89),
    "descend": (2, 5, 8, 21, 34, 42, 46, 58, 60, 62, 69, 70, 77, 83, 84, 86, 94, 95, 98, 99),
}
ROLES = ("ancestor", "condense", "descend")


@dataclass(frozen=True)
class Splits:
    """Class ids of the three roles, each sorted, pairwise disjoint."""

    ancestor: tuple[int, ...]
    condense: tuple[int, ...]
    descend: tuple[int, ...]


def make_splits(data: DataSettings, images: ImageSet) -> Splits:
    """The roles' class ids: listed ones as listed; the others ``data.split`` many, drawn by ``split_seed`` from the classes left.

    UserError, naming the key: a class listed twice or in two roles, an id that does not exist, more classes asked for than there are.
    """
    classes = len(images.class_names)
    listed = {"ancestor": data.ancestor_classes, "condense": data.condense_classes, "descend": data.descend_classes}
    _check_listed(listed, images)
    drawn = [role for role in ROLES if not listed[role]]
    if not drawn:
        return _splits(listed)
    if len(data.split) != len(ROLES):
        raise UserError(f"data.split = {list(data.split)}: give three numbers, classes for {', '.join(ROLES)}")
    taken = {class_id for ids in listed.values() for class_id in ids}
    left = [class_id for class_id in range(classes) if class_id not in taken]
    counts = {role: data.split[ROLES.index(role)] for role in drawn}
    if sum(counts.values()) > len(left):
        wanted = f"{sum(counts.values())} classes ({', '.join(f'{role} {count}' for role, count in counts.items())})"
        raise UserError(f"data.split asks for {wanted}, but {images.name} has {len(left)} to draw from; ask for fewer")
    order = torch.randperm(len(left), generator=generator(data.split_seed, "split")).tolist()
    chosen = dict(listed)
    for role, count in counts.items():
        chosen[role] = tuple(left[place] for place in order[:count])
        order = order[count:]
    return _splits(chosen)


def _splits(ids: Mapping[str, Sequence[int]]) -> Splits:
    return Splits(**{role: tuple(sorted(ids[role])) for role in ROLES})


def _check_listed(listed: Mapping[str, Sequence[int]], images: ImageSet) -> None:
    classes = len(images.class_names)
    owner: dict[int, str] = {}
    for role in ROLES:
        for class_id in listed[role]:
            key = f"data.{role}_classes"
            if not 0 <= class_id < classes:
                raise UserError(f"{key}: no class {class_id}; {images.name} has {classes} classes, ids 0 to {classes - 1}")
            if class_id in owner:
                where = "twice" if owner[class_id] == key else f"in {owner[class_id]} too"
                raise UserError(f"{key}: class {class_id} ({images.class_names[class_id]}) is listed {where}; a class has one role")
            owner[class_id] = key
