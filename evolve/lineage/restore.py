"""An input whose tensors were thinned is computed again before they are read (evolve.runs.snapshots
says who thins, and why).
"""

from __future__ import annotations

from collections.abc import Callable

from evolve.engine.stage import Stage
from evolve.engine.store import Result, Store


def whole(store: Store, key: str, compute: Callable[[Stage], None]) -> Result | None:
    """The result under ``key``, its tensors computed again where they were thinned; None if it is
    not there.

    ``compute`` performs one stage, and comes back here for that stage's own inputs: so the nearest
    whole one before it is where it starts. Locks are taken from later stages to earlier ones only,
    so no two processes wait for each other.
    """
    found = store.get(key)
    if found is None or not found.thinned:
        return found
    with store.lock(key):
        found = store.get(key)
        if (
            found is not None and found.thinned
        ):  # else another process has done it while this one waited
            recipe = found.manifest["recipe"]
            compute(
                Stage(
                    found.manifest["kind"],
                    f"snapshot {recipe.get('task', '')}",
                    recipe,
                    recipe["inputs"],
                )
            )
    return store.get(key)
