"""This machine's GPUs as places for worker processes: as many a GPU as its free memory holds.

We ask nvidia-smi, which comes with every driver. A process that asks through CUDA takes hundreds of
megabytes of each GPU itself. Where nvidia-smi does not answer (ROCm, a slice of a GPU), workers
choose for themselves: the first device.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from evolve.core.settings import Settings
from evolve.data.resident import DEVICE_SHARE
from evolve.engine.devices import PART
from evolve.lineage.world import SET_LIMIT, ancestor_plan

CONTEXT_BYTES = 1 << 30  # CUDA's context, its libraries and their workspaces, in every process
MOST = 4  # processes on one GPU: they take turns on it, and each has a core's work to do
UNFOLDED = 4  # times a network's outputs, as training by stacked networks holds them
_SECONDS = 20


@dataclass(frozen=True)
class Gpu:
    """One GPU.

    Attributes:
        name: what CUDA_VISIBLE_DEVICES takes.
        free: bytes that are free now.
        total: bytes in all.
        model: its model's name.
    """

    name: str
    free: int
    total: int
    model: str = ""


def visible() -> list[Gpu]:
    """The GPUs that this process may use, in its order, if they are of one model.

    Two models would round differently.

    Returns:
        The GPUs. None of them where the models differ, where nvidia-smi is missing or names others
        than CUDA_VISIBLE_DEVICES does, or where its numbers may be other GPUs' than CUDA's: it
        counts by bus, CUDA the fastest first.
    """
    fields = "--query-gpu=index,uuid,memory.free,memory.total,name"
    try:
        answer = subprocess.run(
            ["nvidia-smi", fields, "--format=csv,noheader,nounits"],
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            check=True,
        )
        rows = [
            [cell.strip() for cell in line.split(",")]
            for line in answer.stdout.splitlines()
            if line.strip()
        ]
        by_index = {
            index: Gpu(uuid, int(free) << 20, int(total) << 20, model)
            for index, uuid, free, total, model in rows
        }
    except (OSError, ValueError, subprocess.SubprocessError):
        return []
    wanted = os.environ.get("CUDA_VISIBLE_DEVICES")
    chosen = (
        list(by_index.values())
        if wanted is None
        else _named([name.strip() for name in wanted.split(",") if name.strip()], by_index)
    )
    return chosen if len({gpu.model for gpu in chosen}) == 1 else []


def _named(names: Sequence[str], by_index: Mapping[str, Gpu]) -> list[Gpu]:
    """The GPUs by index, or by the beginning of their UUID, as CUDA reads them.

    None for an index that may be another GPU to CUDA.
    """
    alike = (
        len({gpu.model for gpu in by_index.values()}) == 1
        or os.environ.get("CUDA_DEVICE_ORDER") == "PCI_BUS_ID"
    )
    if not alike and any(name in by_index for name in names):
        return []
    chosen = [
        by_index.get(name)
        or next((gpu for gpu in by_index.values() if gpu.name.startswith(name)), None)
        for name in names
    ]
    named = [gpu for gpu in chosen if gpu is not None]
    return named if len(named) == len(names) else []


def bytes_each(settings: Settings, image_bytes: int, gpus: Sequence[Gpu]) -> int:
    """Bytes that one worker may take of a GPU, by estimate.

    The sum of CUDA's context, the images where they are held there, and the largest of three: a set
    of descendants (none larger than the ancestor), an ancestor's step, a condensation. Each of
    these holds weights, gradients, momentum and their copy at the start, and each layer's outputs
    for its batches three times over. Descendants' maps lie unfolded, too, nine times as large.

    Args:
        settings: the run's.
        image_bytes: size of the decoded images.
        gpus: where they would be held.
    """
    plan, d, c = ancestor_plan(settings), settings.descend, settings.condense
    weights, outputs = 16 * plan.parameters, 12 * plan.numbers_out(settings.data.size)
    descend = SET_LIMIT * d.descendants * (weights + d.batch * UNFOLDED * outputs)
    condense = 2 * weights + (c.batch + (2 + c.lookahead) * c.meta_batch) * outputs
    held = image_bytes if image_bytes <= DEVICE_SHARE * min(gpu.total for gpu in gpus) else 0
    return (
        CONTEXT_BYTES
        + held
        + int(max(descend, weights + settings.ancestor.batch * outputs, condense))
    )


def places(gpus: Sequence[Gpu], need: int, most: int) -> list[Mapping[str, str]]:
    """One environment a worker, GPU after GPU in turn.

    At least one worker a GPU, then as many as its free memory holds, up to :data:`MOST` a GPU. A
    worker sees its GPU alone, and takes no more than its share of what is free there now.

    Args:
        gpus: this machine's.
        need: bytes that one worker takes.
        most: workers in all.
    """
    counts = {gpu.name: min(MOST, max(1, gpu.free // need)) for gpu in gpus}
    turns = [gpu for turn in range(MOST) for gpu in gpus if turn < counts[gpu.name]][: max(1, most)]
    return [
        {"CUDA_VISIBLE_DEVICES": gpu.name, PART: f"{_part(gpu, turns.count(gpu)):.6f}"}
        for gpu in turns
    ]


def _part(gpu: Gpu, workers: int) -> float:
    """A worker's share of a GPU's whole memory, for what it allocates; its context comes on top.

    One alone on a full GPU may try.
    """
    part = (gpu.free / workers - CONTEXT_BYTES) / gpu.total
    return max(0.05, part) if workers == 1 else part


def spread(gpus: Sequence[Gpu], workers: int) -> list[Mapping[str, str]]:
    """One environment a worker for as many as the user asked for, GPU after GPU in turn.

    They get no share of the memory. Without GPUs there are none.
    """
    return (
        [{"CUDA_VISIBLE_DEVICES": gpus[number % len(gpus)].name} for number in range(workers)]
        if gpus
        else []
    )
