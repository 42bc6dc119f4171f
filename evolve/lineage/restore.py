"""Computes a thinned input again before its tensors are read.

evolve.runs.snapshots says which results are thinned, and why.
"""

from __future__ import annotations

from collections.abc import Callable

from evolve.engine.stage import Stage
from evolve.engine.store import Result, Store


def whole(store: Store, key: str, compute: Callable[[Stage], None]) -> Result | None:
    """Get a result with its tensors, which are computed again where they were thinned.

    ``compute`` comes back here for that stage's own inputs, so it starts from the nearest whole
    one. Locks are taken from later stages to earlier ones only, so no two processes wait for each
    other.

    Args:
        store: where the result lies.
        key: the stage's key.
        compute: performs one stage.

    Returns:
        The result; None if the store has none.
    """
    result = store.get(key)
    if result is None or not result.thinned:
        return result
    with store.lock(key):
        result = store.get(key)
        # Another process may have done it while this one waited for the lock.
        if result is not None and result.thinned:
            kind, recipe = result.manifest["kind"], result.manifest["recipe"]
            label = f"snapshot {recipe.get('task', '')}"
            compute(Stage(kind, label, recipe, recipe["inputs"]))
    return store.get(key)
