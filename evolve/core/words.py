"""Names that stages, results and reports share."""

from __future__ import annotations

import hashlib
import re

PROFILES = ("quick", "paper")  # of scenarios and batches
TRACKERS = ("wandb", "mlflow")  # their packages' names, and the extras that install them
PAPERS = "paper's descendant"
WHOLE = "whole ancestor"
"""Architectures that have a from-scratch control of their own.

The second is also what condenser "trial" always tries: every layer inherited, extras too, as
control full-ancestor does.
"""


def slug(name: str) -> str:
    """A name as a folder's.

    A long one ends in its hash, since file systems allow some 255 bytes.
    """
    readable = re.sub(r"[^\w.]+", "-", name).strip("-.") or "case"
    return (
        readable
        if len(readable) <= 60
        else f"{readable[:50]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
    )
