"""Our side: the public functions, called as the engine calls them."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

from evolve.ancestor.accumulate import AccumulateRequest, accumulate
from evolve.ancestor.model import accuracies, build_ancestor
from evolve.condensers.batches import draw_images, split_meta, steps_per_epoch
from evolve.condensers.condense import condense_ancestor
from evolve.condensers.interface import Request
from evolve.data.resident import Resident
from evolve.data.streams import stream_tasks
from evolve.descendants.descendants import Group, downstream_tasks, train_together
from evolve.engine.checkpoint import FolderCheckpoint
from evolve.learngene.inheritance import inherit
from evolve.runs.estimate.timing import silent

from .cases import ANCESTOR_CLASSES, CONDENSE_CLASSES, DESCEND_CLASSES, Case
from .plain_condenser import untrained
from .work import barrier


class OurDescendants:
    """One generation's descendants, as one descend stage trains and tests them.

    An amount is epochs of all of them.
    """

    def __init__(self, case: Case, resident: Resident, number: int) -> None:
        self.d, self.resident, self.seed, self.sync = (
            case.settings.descend,
            resident,
            number,
            barrier(resident.device),
        )
        self.tasks = downstream_tasks(self.d, DESCEND_CLASSES, resident, number)
        self.members = range(self.d.descendants)
        self.models = [
            inherit(case.plan, None, self.d.classes_per_task, number, n).to(resident.device)
            for n in self.members
        ]
        self.start = [deepcopy(model.state_dict()) for model in self.models]
        self.info: dict[str, Any] = {"descendants": self.d.descendants}

    def prepare(self) -> None:
        """The weights of the beginning."""
        for model, start in zip(self.models, self.start, strict=True):
            model.load_state_dict(start)

    def run(self, amount: int) -> int:
        """``amount`` epochs; the images trained on."""
        train_together(
            self.models,
            Group(
                self.tasks,
                list(self.members),
                self.resident,
                replace(self.d, epochs=amount),
                self.seed,
            ),
            silent,
        )
        self.sync()
        return amount * sum(len(task.train) for task in self.tasks)


class OurAncestor:
    """The stream's first task, as one accumulate stage learns it.

    Set-up, tests and a checkpoint an epoch belong to it. An amount is epochs.
    """

    def __init__(self, case: Case, resident: Resident, number: int) -> None:
        a, s, self.sync = case.settings.ancestor, case.settings.stream, barrier(resident.device)
        start = AccumulateRequest(
            a, s, ANCESTOR_CLASSES, resident, 0, 0, _checkpoint(Path()), silent
        )
        self.request = replace(start, task=1, previous=accumulate(start))
        self.images = s.classes_per_task * (
            s.images_per_class or len(resident.indices(0, test=False))
        )
        self.folder = tempfile.TemporaryDirectory(prefix="evolve-bench-")
        self.info: dict[str, Any] = {}

    def prepare(self) -> None:
        """An empty folder for the checkpoints: a stage that finds one would go on there."""
        self.folder.cleanup()
        self.folder = tempfile.TemporaryDirectory(prefix="evolve-bench-")

    def run(self, amount: int) -> int:
        """``amount`` epochs; the images trained on."""
        a, checkpoint = replace(self.request.a, epochs=amount), _checkpoint(Path(self.folder.name))
        accumulate(replace(self.request, a=a, checkpoint=checkpoint))
        self.sync()
        return amount * self.images


class OurTests:
    """The ancestor's tests after the stream's last task: every image passes the trunk once.

    An amount is tests of all tasks so far.
    """

    def __init__(self, case: Case, resident: Resident, number: int) -> None:
        self.a, s, self.resident = case.settings.ancestor, case.settings.stream, resident
        self.sync = barrier(resident.device)
        self.tasks = stream_tasks(s, ANCESTOR_CLASSES, resident, 0, s.tasks)
        self.model = build_ancestor(self.a, s, ANCESTOR_CLASSES, case.settings.data.size, 0)
        self.model.to(resident.device).trunk.fused = True
        ends = range(1, len(self.tasks) + 1)
        self.info: dict[str, Any] = {"after_task": [self._images(end) for end in ends]}

    def _images(self, tasks: int) -> int:
        """Test images of the first so many tasks; a class that comes back counts once."""
        return len({image for task in self.tasks[:tasks] for image in task.test.tolist()})

    def prepare(self) -> None:
        """Nothing: a test leaves nothing behind."""

    def run(self, amount: int) -> int:
        """``amount`` times the tests; the images that passed."""
        for _ in range(amount):
            accuracies(self.model, self.tasks, self.a, ANCESTOR_CLASSES, self.resident)
        self.sync()
        return amount * int(self.info["after_task"][-1])


def _checkpoint(folder: Path) -> FolderCheckpoint:
    @contextmanager
    def scratch() -> Iterator[Path]:
        with tempfile.TemporaryDirectory(dir=folder) as inside:
            yield Path(inside)

    return FolderCheckpoint(folder / "kept", scratch)


class OurCondenser:
    """One condense stage, the ancestor's side and the final scores included.

    An amount is epochs.
    """

    def __init__(self, case: Case, resident: Resident, number: int) -> None:
        self.c, self.resident, self.seed, self.sync = (
            case.settings.condense,
            resident,
            number,
            barrier(resident.device),
        )
        self.plan, self.state = untrained(case)
        images = draw_images(
            [resident.indices(i, test=False) for i in CONDENSE_CLASSES],
            CONDENSE_CLASSES,
            self.c.images_per_class,
            number,
        )
        self.images = (
            steps_per_epoch(len(split_meta(images, self.c.meta_fraction, number)[0]), self.c.batch)
            * self.c.batch
        )
        self.info: dict[str, Any] = {}

    def prepare(self) -> None:
        """Nothing: every condensation starts afresh."""

    def run(self, amount: int) -> int:
        """``amount`` epochs; the training images they took."""
        c = replace(self.c, epochs=amount)
        condense_ancestor(
            Request(
                self.plan, self.state, {}, CONDENSE_CLASSES, self.resident, c, self.seed, silent
            )
        )
        self.sync()
        return amount * self.images
