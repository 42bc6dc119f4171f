"""How the classes that there are are shared out among the roles. Free of torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from evolve.core.errors import UserError

ROLES = ("ancestor", "condense", "descend")
SHARES = {"ancestor": 64, "condense": 16, "descend": 20}  # the paper's, in % (data.split = [])
FEW = 2  # classes that every role needs, whatever else asks for more

# role -> the classes that it needs, and the setting that says so
Needs = Mapping[str, tuple[int, str]]


def shared_out(
    classes: int, roles: Sequence[str], needs: Needs, source: str = "the source"
) -> dict[str, int]:
    """Share classes out among roles by :data:`SHARES`, but to each what it needs.

    Args:
        classes: how many there are.
        roles: those that share them.
        needs: the classes that roles need at least.
        source: whose classes they are, for the error.

    Returns:
        Classes by role, all of them.

    Raises:
        UserError: there are too few; it says what needs how many.
    """
    least = {role: max(FEW, needs.get(role, (0, ""))[0]) for role in roles}
    if sum(least.values()) > classes:
        each = ", ".join(
            f"{role} {count}" + (f" ({needs[role][1]})" if role in needs else "")
            for role, count in least.items()
        )
        keys = " or ".join(dict.fromkeys(needs[role][1] for role in roles if role in needs))
        raise UserError(
            f"{source} has {classes} classes, and {sum(least.values())} are needed at least: "
            f"{each}; add classes{f' or lower {keys}' if keys else ''}"
        )
    whole = sum(SHARES[role] for role in roles)
    counts = {role: max(least[role], classes * SHARES[role] // whole) for role in roles}
    while sum(counts.values()) > classes:
        counts[max(roles, key=lambda role: counts[role] - least[role])] -= 1
    counts[roles[0]] += classes - sum(counts.values())
    return counts
