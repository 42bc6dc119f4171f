"""One descendant alone, where a test compares it with a group or needs no other."""

from __future__ import annotations

from collections.abc import Callable

from evolve.core.settings import DescendSettings
from evolve.data.resident import Resident
from evolve.descendants.descendants import DownstreamTask, Group, Trained, train_together
from evolve.networks.network import Network


def train_descendant(
    model: Network,
    task: DownstreamTask,
    resident: Resident,
    d: DescendSettings,
    seed: int,
    descendant: int,
    progress: Callable[[float, str], None],
    reference: bool = False,
) -> Trained:
    """:func:`train_together` for one descendant alone."""
    return train_together(
        [model], Group([task], [descendant], resident, d, seed), progress, reference=reference
    )[0]
