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
from evolve.data.shares import ROLES, Needs, shared_out
from evolve.data.sources import ImageSet

# The CIFAR-FS split, which is the authors' own, as torchvision's fine-label ids.
CIFAR_FS: Mapping[str, tuple[int, ...]] = {
    role: tuple(map(int, ids.split()))
    for role, ids in {
        "ancestor": """
            0 1 3 6 9 10 11 12 13 16 17 18 20 22 23 24 25 28 29 30 31 33 35 36 37 38 39 41
            43 44 45 49 50 51 52 53 54 56 57 59 61 63 64 65 66 67 68 72 74 75 76 78 79 80 81
            82 85 88 90 91 92 93 96 97
        """,
        "condense": "4 7 14 15 19 26 27 32 40 47 48 55 71 73 87 89",
        "descend": "2 5 8 21 34 42 46 58 60 62 69 70 77 83 84 86 94 95 98 99",
    }.items()
}


@dataclass(frozen=True)
class Splits:
    """Class ids of the three roles, each sorted, pairwise disjoint."""

    ancestor: tuple[int, ...]
    condense: tuple[int, ...]
    descend: tuple[int, ...]


def make_splits(data: DataSettings, images: ImageSet, needs: Needs | None = None) -> Splits:
    """Choose the class ids of each role.

    Listed classes are as listed; the others are drawn by data.split_seed, as many as data.split
    says, or where that is empty as :func:`shared_out` does. They are drawn from the classes left
    or, of a source that brings its own split (miniImageNet), from that role's. A second source's
    condense and descend classes are listed by their ids in that source, and drawn from its classes;
    the ancestor's are the first one's. No class is drawn whose name has a role in the other source.

    Args:
        data: the scenario's [data].
        images: the classes that there are.
        needs: the classes that roles need at least.

    Returns:
        Ids in ``images``.

    Raises:
        UserError: a class is listed twice or in two roles, does not exist, or is listed as the
            ancestor's in one source and in another role in the other; or there are fewer classes
            than asked for.
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
    if drawn and len(data.split) not in (0, len(ROLES)):
        raise UserError(
            f"data.split = {list(data.split)}: give three numbers, classes for {', '.join(ROLES)}"
        )
    taken = {class_id for ids in chosen.values() for class_id in ids}
    for pool, roles in sorted(_pools(drawn, images), key=lambda p: "ancestor" not in p[1]):
        left = [class_id for class_id in pool if class_id not in taken]
        places = torch.randperm(len(left), generator=generator(data.split_seed, "split")).tolist()
        order = _apart([left[place] for place in places], chosen, images)
        if data.split:
            counts = {role: data.split[ROLES.index(role)] for role in roles}
        else:
            counts = shared_out(len(order), roles, needs or {}, _owner(roles, images))
        if sum(counts.values()) > len(order):
            raise _too_few(counts, len(order), roles, images)
        for role, count in counts.items():
            chosen[role] = tuple(order[:count])
            order = order[count:]
    if images.second:
        _check_shared(chosen, images)
    return Splits(**{role: tuple(sorted(chosen[role])) for role in ROLES})


def _owner(roles: Sequence[str], images: ImageSet) -> str:
    """Whose classes the roles share: the source's, or its own split's."""
    source = images.source_of(0 if roles[0] == "ancestor" else images.second)
    return f"{source}'s own split" if roles[0] in (images.roles or {}) else source


def _too_few(
    counts: Mapping[str, int], left: int, roles: Sequence[str], images: ImageSet
) -> UserError:
    """The error for roles that ask for more classes than the ``left`` ones of a source."""
    each = ", ".join(f"{role} {count}" for role, count in counts.items())
    return UserError(
        f"data.split asks for {sum(counts.values())} classes ({each}), but "
        f"{_owner(roles, images)} has {left} to draw from; ask for fewer, or share out what there "
        "is with data.split = []"
    )


def _pools(drawn: Sequence[str], images: ImageSet) -> Iterator[tuple[Sequence[int], list[str]]]:
    """What the roles are drawn from: (class ids, the roles that share them)."""
    own = images.roles or {}
    for role in drawn:
        if role in own:
            yield own[role], [role]
    first, second = range(images.second), range(images.second, len(images.class_names))
    shared = ((first, ROLES[:1]), (second, ROLES[1:])) if images.second else ((second, ROLES),)
    for pool, roles in shared:
        if sharing := [role for role in drawn if role in roles and role not in own]:
            yield pool, sharing


def _apart(
    drawn: Sequence[int], chosen: Mapping[str, Sequence[int]], images: ImageSet
) -> list[int]:
    """The drawn classes, in their order, without those whose name the other source gave a role."""
    if not images.second:
        return list(drawn)
    names = {images.class_names[class_id] for ids in chosen.values() for class_id in ids}
    return [class_id for class_id in drawn if images.class_names[class_id] not in names]


def _check_shared(chosen: Mapping[str, Sequence[int]], images: ImageSet) -> None:
    """Refuse a class of the ancestor's that has another role in the other source.

    Two sources may hold the same photographs of it: imagenet, miniimagenet and tinyimagenet all
    name ILSVRC's wnids.
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
        name = images.class_names[class_id]
        first, second = (
            f"class {images.own_id(place)} of {images.source_of(place)}"
            for place in (learned[name], class_id)
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
        classes = len(images.class_names) - images.second
        if role == "ancestor" and images.second:
            classes = images.second
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
