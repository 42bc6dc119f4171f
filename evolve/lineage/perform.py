"""Computes one stage: fetches its inputs from the store, calls its room, and puts the result."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from evolve.core.durable import canonical
from evolve.core.errors import UserError, lacks_memory
from evolve.core.registry import check_marks
from evolve.core.spent import Progress, stopwatch
from evolve.engine.devices import choose_device, provenance
from evolve.engine.store import Result, Stage, Store, Thinned
from evolve.lineage.descend_outcomes import (
    OWN,
    Descendants,
    descend_outcome,
    descend_outcomes,
    fewshot_outcome,
    lr_scale,
    trained_descendants,
)
from evolve.lineage.images import resident_images
from evolve.lineage.outcomes import (
    Outcome,
    accumulate_outcome,
    condense_outcome,
    condense_request,
)
from evolve.lineage.restore import whole
from evolve.lineage.world import SET_LIMIT

if TYPE_CHECKING:
    from evolve.condensers.interface import Request

__all__ = [
    "SET_LIMIT",  # read by the engine (evolve.engine.scheduler.Sets)
    "InputLost",
    "condensation",
    "descendants",
    "perform_set",
    "perform_stage",
    "set_key",
]


_TRIES = 3  # to read an input that was computed again before somebody thins it again


def perform_stage(
    stage: Stage, store: Store, context: Mapping[str, Any], progress: Progress
) -> None:
    """Compute ``stage`` and put its result into ``store``.

    Args:
        stage: what to compute.
        store: where the inputs lie and the result goes.
        context: what cannot change a number: paths and the device.
        progress: is told the part done, 0..1, and what is being done.

    Raises:
        UserError: the images are not those the recipe was made for, a setting asks for more than
            they hold, or the GPU's memory is full.
        InputLost: an input was damaged.
    """
    rooms: Mapping[str, Callable[..., Outcome]] = {
        "accumulate": partial(accumulate_outcome, context),
        "condense": condense_outcome,
        "descend": descend_outcome,
        "fewshot": fewshot_outcome,
    }
    check_marks(stage.recipe)
    spent, resumed = stopwatch(), store.checkpoint(stage.key).folder.is_dir()
    resident = resident_images(context, stage.recipe)
    for left in reversed(range(_TRIES)):
        inputs = _inputs(stage, store, context, progress)
        try:
            with _room_on_gpu(stage):
                record, tensors = rooms[stage.kind](stage, inputs, resident, store, progress)
            break
        except Thinned:  # by another run that ended, between its computing and its reading
            if not left:
                raise
    store.put(
        stage, record, tensors, provenance(resident.device) | {"spent": spent(resumed=resumed)}
    )


def set_key(stage: Stage, context: Mapping[str, Any]) -> Hashable | None:
    """What "descend" stages have in common that may train together.

    A CPU gains nothing from more descendants at once. Nor does the plain path, which distillation
    always takes, and so does a learning rate of its own for inherited layers. One such stage must
    not lead others onto that path.

    Args:
        stage: any stage.
        context: names the device.

    Returns:
        The common key, on a GPU; None for a stage that goes alone.
    """
    if (
        stage.kind != "descend"
        or stage.recipe["arithmetic"].startswith("reference")
        or choose_device(context["device"]).type != "cuda"
    ):
        return None
    if stage.recipe["method"] == "distilled" or lr_scale(stage.recipe) != 1:
        return None
    return canonical({name: value for name, value in stage.recipe.items() if name not in OWN})


def perform_set(
    stages: Sequence[Stage], store: Store, context: Mapping[str, Any], progress: Progress
) -> None:
    """Train the descendants of several stages side by side, and put each stage's result.

    Every result is the one that :func:`perform_stage` would have put. The results are put at the
    end: all of them or, mostly, none.

    Args:
        stages: stages of one :func:`set_key`.
        store: where the inputs lie and the results go.
        context: what cannot change a number: paths and the device.
        progress: is told the part done, 0..1, and what is being done.

    Raises:
        UserError, InputLost: as :func:`perform_stage` does.
    """
    check_marks(stages[0].recipe)  # a set's are alike
    spent = stopwatch()
    inputs = [_inputs(stage, store, context, progress) for stage in stages]
    resident = resident_images(context, stages[0].recipe)
    outcomes = descend_outcomes(stages, inputs, resident, progress)
    about = provenance(resident.device) | {"spent": spent(len(stages))}
    for stage, (record, tensors) in zip(stages, outcomes, strict=True):
        store.put(stage, record, tensors, about)


@contextmanager
def _room_on_gpu(stage: Stage) -> Iterator[None]:
    """Say in one line that a GPU's memory is full."""
    try:
        yield
    except RuntimeError as error:
        if not lacks_memory(error):
            raise
        raise UserError(
            f"{stage.label}: the GPU's memory is full: give --workers 1, free what other programs "
            "hold there, or give --reference, which takes less and is a run of its own; finished "
            "stages are kept"
        ) from None


class InputLost(UserError):
    """An input was damaged and has been set aside; its run has to compute it again before this."""


def _inputs(
    stage: Stage, store: Store, context: Mapping[str, Any], progress: Progress
) -> dict[str, Result]:
    """The stage's inputs by role, with their tensors: a thinned snapshot is computed again."""

    def again(before: Stage) -> None:
        perform_stage(before, store, context, progress)

    results: dict[str, Result] = {}
    for role, key in stage.inputs.items():
        if (result := whole(store, key, again)) is None:
            raise InputLost(
                f"{store.root}: {stage.label} needs its {role}, stage {key[:12]}, which was damaged "
                "and is set aside: `evolve resume` the run that it belongs to, which computes it "
                "again, then repeat this command"
            )
        results[role] = result
    return results


def condensation(
    stage: Stage, store: Store, context: Mapping[str, Any], progress: Progress
) -> Request:
    """What a "condense" stage asks of its condenser, the ancestor fetched from the store.

    Args:
        stage: a "condense" stage.
        store: where the ancestor lies.
        context: what cannot change a number: paths and the device.
        progress: is told the part done, 0..1, and what is being done.

    Raises:
        UserError, InputLost: as :func:`perform_stage` does.
    """
    images = resident_images(context, stage.recipe)
    return condense_request(stage, _inputs(stage, store, context, progress), images, progress)


def descendants(
    stage: Stage, store: Store, context: Mapping[str, Any], progress: Progress
) -> Descendants:
    """The trained descendants of a "descend" stage, of which the store keeps only measurements.

    Args:
        stage: a "descend" stage.
        store: where its inputs lie.
        context: what cannot change a number: paths and the device.
        progress: is told the part done, 0..1, and what is being done.

    Raises:
        UserError, InputLost: as :func:`perform_stage` does.
    """
    inputs, images = (
        _inputs(stage, store, context, progress),
        resident_images(context, stage.recipe),
    )
    return trained_descendants([stage], [inputs], images, progress)[0]
