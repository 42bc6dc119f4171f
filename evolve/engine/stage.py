"""What a stage is: a pure computation, and the key that all that determines its numbers hashes to."""

from __future__ import annotations

import copy
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from evolve.core.durable import canonical, plain

WORD = re.compile(r"[a-z][a-z0-9_-]*")


def stage_key(kind: str, recipe: Mapping[str, Any]) -> str:
    """First 40 hex digits of the sha256 of the canonical JSON of kind and recipe."""
    return hashlib.sha256(canonical({"kind": kind, "recipe": recipe}).encode()).hexdigest()[:40]


@dataclass(frozen=True)
class Stage:
    """One pure computation of a lineage. ``label`` and ``priority`` (lower runs first) are not part of the key."""

    kind: str  # "accumulate" | "condense" | "descend" | "fewshot"
    label: str
    recipe: Mapping[str, Any]  # all that determines the numbers, JSON-able, the keys of the inputs among it
    inputs: Mapping[str, str]  # role -> key; the same stands in recipe["inputs"]
    priority: int = 0

    def __post_init__(self) -> None:
        if not WORD.fullmatch(self.kind):
            raise ValueError(f"stage kind {self.kind!r}: lower-case letters, digits, - and _ only")
        object.__setattr__(self, "recipe", plain(self.recipe, "recipe"))
        object.__setattr__(self, "inputs", dict(self.inputs))
        if self.recipe.get("inputs", {}) != self.inputs:
            raise ValueError(f"stage {self.label!r}: recipe['inputs'] must equal inputs, or the key would not depend on them")

    @cached_property
    def key(self) -> str:
        return stage_key(self.kind, self.recipe)

    def labelled(self, label: str) -> Stage:
        """The same stage under another label; its recipe is not checked, nor its key hashed, again."""
        made = copy.copy(self)
        object.__setattr__(made, "label", label)
        return made

    def __hash__(self) -> int:
        return hash(self.key)
