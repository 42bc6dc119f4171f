"""What a run takes, said before any image is read, downloaded or made."""

from __future__ import annotations

import math

from evolve.core.settings import Scenario, descend_source
from evolve.core.spent import duration
from evolve.data.methods import PLUGGED, SOURCES
from evolve.runs.estimate import cost
from evolve.runs.estimate.counts import Counts

MAIN_GB, WORKER_GB = 0.6, 1.2  # resident (ps): glyphs and CIFAR-100 quick, 1.0 to 1.7 a worker


def needs(chosen: Scenario, workers: int, counts: Counts | None = None) -> str:
    """One line: how long, how much memory, and what is downloaded.

    Args:
        chosen: the scenario with its profile.
        workers: worker processes.
        counts: classes and images of its roles; None: the published ones.
    """
    settings = chosen.settings
    data = settings.data
    downloads = sum(
        SOURCES.get(source, PLUGGED).download for source in {data.source, descend_source(data)}
    )
    memory = MAIN_GB + WORKER_GB * workers
    text = (
        f"{settings.name} ({chosen.profile}) takes about "
        f"{duration(cost.estimate(settings, workers, counts))} with {workers} workers "
        f"and {math.ceil(memory)} GB of memory"
    )
    if downloads:
        text += f", and downloads {downloads} MB unless --data says where the images lie"
    return text + "."
