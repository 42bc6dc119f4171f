"""What a stage is: a pure computation, under the hash of all that determines its numbers."""

from __future__ import annotations

import copy
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from evolve.core.durable import canonical, plain

Place = tuple[str, str, str, "int | None", int]
"""Kind, method, whose, lineage length, draw."""
WORD = re.compile(r"[a-z][a-z0-9_-]*")


def stage_key(kind: str, recipe: Mapping[str, Any]) -> str:
    """The key of a stage: 40 hex digits of the sha256 of the canonical JSON of kind and recipe."""
    return hashlib.sha256(canonical({"kind": kind, "recipe": recipe}).encode()).hexdigest()[:40]


@dataclass(frozen=True)
class Stage:
    """One pure computation. ``kind`` and ``recipe`` make its key.

    The other fields say where it stands: for people (``label``), for the scheduler (``priority``,
    lower runs first) and for whoever looks for it (``place``).
    """

    kind: str  # "accumulate" | "condense" | "descend" | "fewshot"
    label: str
    # all that determines the numbers, JSON-able, the keys of the inputs among it
    recipe: Mapping[str, Any]
    inputs: Mapping[str, str]  # role -> key; the same stands in recipe["inputs"]
    priority: int = 0
    method: str = ""  # what is done, where a kind has several ways
    of: str = ""  # whose it is, where it is not the lineage's own
    length: int | None = None  # the lineage length that it belongs to, if it belongs to one
    draw: int = 0

    def __post_init__(self) -> None:
        if not WORD.fullmatch(self.kind):
            raise ValueError(f"stage kind {self.kind!r}: lower-case letters, digits, - and _ only")
        object.__setattr__(self, "recipe", plain(self.recipe, "recipe"))
        object.__setattr__(self, "inputs", dict(self.inputs))
        if self.recipe.get("inputs", {}) != self.inputs:
            raise ValueError(
                f"stage {self.label!r}: recipe['inputs'] must equal inputs, or the key would not "
                "depend on them"
            )

    @property
    def place(self) -> Place:
        """Where it stands in its lineage; no two stages of one lineage stand in the same place."""
        return self.kind, self.method, self.of, self.length, self.draw

    @cached_property
    def key(self) -> str:
        """What the result lies under in the store, see :func:`stage_key`."""
        return stage_key(self.kind, self.recipe)

    def labelled(self, label: str) -> Stage:
        """The same stage under another label.

        Its recipe is not checked, nor its key hashed, again.
        """
        stage = copy.copy(self)
        object.__setattr__(stage, "label", label)
        return stage

    def __hash__(self) -> int:
        return hash(self.key)
