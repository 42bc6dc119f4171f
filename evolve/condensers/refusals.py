"""What every condenser says of an ancestor that it cannot read."""

from __future__ import annotations

from evolve.errors import UserError


def ancestor_diverged(what: str) -> UserError:
    """The error for an ancestor whose ``what`` on the condensing images are not finite."""
    return UserError(f"ancestor.lr: the ancestor diverged, its {what} on the condensing images are not finite; lower ancestor.lr")
