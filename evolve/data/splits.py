"""Which classes play which role: the ancestor's, the condenser's, the descendants' (paper, 5.1).

No class has two roles.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch

from evolve.core.errors import UserError
from evolve.core.randomness import generator
from evolve.core.settings import DataSettings
from evolve.data.sources import ImageSet

# The CIFAR-FS split, which is the authors' own, as torchvision's fine-label ids.
CIFAR_FS: Mapping[str, tuple[int, ...]] = {
    "ancestor": (
        *(
            0,
            1,
            3,
            6,
            9,
            10,
            11,
            12,
            13,
            16,
            17,
            18,
            20,
            22,
            23,
            24,
            25,
            28,
            29,
            30,
            31,
            33,
            35,
            36,
            37,
            38,
            39,
            41,
            43,
            44,
            45,
            49,
        ),
        *(
            50,
            51,
            52,
            53,
            54,
            56,
            57,
            59,
            61,
            63,
            64,
            65,
            66,
            67,
            68,
            72,
            74,
            75,
            76,
            78,
            79,
            80,
            81,
            82,
            85,
            88,
            90,
            91,
            92,
            93,
            96,
            97,
        ),
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
    """The roles' class ids in ``images``: listed ones as listed; the others ``data.split`` many,
    drawn by ``split_seed``.

    They are drawn from the classes left; of a source that brings its own split (miniImageNet), from
    that role's. A second source's condense and descend classes are listed by their ids in that
    source, and drawn from its classes; the ancestor's are the first one's. UserError, naming the
    key: a class listed twice or in two roles, an id that does not exist, more classes asked for
    than there are; or naming the class: it is the ancestor's in the first source and has another
    role in the second.
    """
    offsets = {"ancestor": 0, "condense": images.second, "descend": images.second}
    named = {
        "ancestor": data.ancestor_classes,
        "condense": data.condense_classes,
        "descend": data.descend_classes,
    }
    chosen = {role: tuple(class_id + offsets[role] for class_id in named[role]) for role in ROLES}
    _check_listed(named, offsets, images)
    drawn = [role for role in ROLES if not named[role]]
    if drawn and len(data.split) != len(ROLES):
        raise UserError(
            f"data.split = {list(data.split)}: give three numbers, classes for {', '.join(ROLES)}"
        )
    taken = {class_id for ids in chosen.values() for class_id in ids}
    for pool, roles in _pools(drawn, images):
        left = [class_id for class_id in pool if class_id not in taken]
        counts = {role: data.split[ROLES.index(role)] for role in roles}
        if sum(counts.values()) > len(left):
            wanted = (
                f"{sum(counts.values())} classes "
                f"({', '.join(f'{role} {count}' for role, count in counts.items())})"
            )
            source = images.source_of(pool[0]) + (
                "'s own split" if images.roles and roles[0] in images.roles else ""
            )
            raise UserError(
                f"data.split asks for {wanted}, but {source} has {len(left)} to draw from; ask for "
                "fewer"
            )
        order = torch.randperm(len(left), generator=generator(data.split_seed, "split")).tolist()
        for role, count in counts.items():
            chosen[role] = tuple(left[place] for place in order[:count])
            order = order[count:]
    if images.second:
        _check_shared(chosen, images)
    return Splits(**{role: tuple(sorted(chosen[role])) for role in ROLES})


def _pools(drawn: Sequence[str], images: ImageSet) -> Iterator[tuple[Sequence[int], list[str]]]:
    """What the roles are drawn from: (class ids, the roles that share them)."""
    own = images.roles or {}
    for role in drawn:
        if role in own:
            yield own[role], [role]
    first, second = range(images.second), range(images.second, len(images.class_names))
    for pool, roles in (
        ((first, ("ancestor",)), (second, ("condense", "descend")))
        if images.second
        else ((second, ROLES),)
    ):
        if sharing := [role for role in drawn if role in roles and role not in own]:
            yield pool, sharing


def _check_shared(chosen: Mapping[str, Sequence[int]], images: ImageSet) -> None:
    """Two sources may hold the same classes, and the same photographs of them: imagenet,
    miniimagenet and tinyimagenet all name ILSVRC's wnids.
    """
    learned = {images.class_names[class_id]: class_id for class_id in chosen["ancestor"]}
    shared = [
        (role, class_id)
        for role in ROLES[1:]
        for class_id in chosen[role]
        if images.class_names[class_id] in learned
    ]
    if shared:
        role, class_id = shared[0]
        name, places = (
            images.class_names[class_id],
            (learned[images.class_names[class_id]], class_id),
        )
        first, second = (
            f"class {images.own_id(place)} of {images.source_of(place)}" for place in places
        )
        also = f", and {len(shared) - 1} more are shared" if len(shared) > 1 else ""
        raise UserError(
            f"class {name} has two roles, ancestor ({first}) and {role} ({second}){also}; what the "
            "ancestor learned must not test its descendants: "
            "list classes that share no name in data.ancestor_classes, data.condense_classes and "
            "data.descend_classes, or choose another data.descend_source"
        )


def _check_listed(
    named: Mapping[str, Sequence[int]], offsets: Mapping[str, int], images: ImageSet
) -> None:
    owner: dict[int, str] = {}
    for role in ROLES:
        key, source = f"data.{role}_classes", images.source_of(offsets[role])
        classes = (
            (images.second or len(images.class_names))
            if role == "ancestor"
            else len(images.class_names) - images.second
        )
        for class_id in named[role]:
            if not 0 <= class_id < classes:
                raise UserError(
                    f"{key}: no class {class_id}; {source} has {classes} classes, ids 0 to "
                    f"{classes - 1}"
                )
            place = class_id + offsets[role]
            if place in owner:
                where = "twice" if owner[place] == key else f"in {owner[place]} too"
                raise UserError(
                    f"{key}: class {class_id} ({images.class_names[place]}) is listed {where}; a "
                    "class has one role"
                )
            owner[place] = key
