"""The ancestor as a module: its heads, and its accuracy on the tasks of a stream."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from evolve.core.randomness import generator
from evolve.core.settings import AncestorSettings, StreamSettings
from evolve.data.resident import Resident
from evolve.data.streams import StreamTask, class_labels, labels_of, load_avalanche, task_label
from evolve.networks.family import architecture
from evolve.networks.network import Network, initialise


def labelling(a: AncestorSettings) -> str:
    """The head in use.

    Joint training sees all tasks at once, where a shared head's task-local labels would contradict
    each other as soon as a class recurs: there it gets one head over all ancestor classes.

    Args:
        a: the ancestor's settings.
    """
    return "single" if a.strategy == "joint" and a.head == "shared" else a.head


class Ancestor(nn.Module):
    """A network as ``trunk`` (its ``head`` inside) that ignores task labels."""

    def __init__(self, trunk: Network) -> None:
        super().__init__()
        self.trunk = trunk

    def forward(self, x: Tensor) -> Tensor:
        """Images [B, 3, H, W] -> logits [B, classes]."""
        return self.trunk(x)


def build_ancestor(
    a: AncestorSettings, s: StreamSettings, class_ids: Sequence[int], size: int, seed: int
) -> Any:
    """Build the untrained ancestor. Its trunk's draw is the same for every head.

    Args:
        a, s: the settings of ancestor and stream.
        class_ids: ids of the ancestor's classes.
        size: pixels of an image's side.
        seed: draws the weights.

    Returns:
        A module with the network as ``trunk``.
    """
    head = labelling(a)
    trunk = architecture(a.network, a.width, size).build(
        len(class_ids) if head == "single" else s.classes_per_task
    )
    initialise(trunk, seed, "ancestor")
    if head != "per-task":
        return Ancestor(trunk)
    load_avalanche()
    from evolve.ancestor.strategies import MultiHeadAncestor

    return MultiHeadAncestor(
        trunk, [_head(trunk, seed, number) for number in range(2, s.tasks + 1)]
    )


@torch.no_grad()
def _head(trunk: Network, seed: int, task: int) -> nn.Linear:
    head = nn.utils.skip_init(nn.Linear, trunk.head.in_features, trunk.head.out_features)
    head.weight.copy_(
        torch.empty(head.weight.shape).normal_(
            0, 0.01, generator=generator(seed, "ancestor", "head", task)
        )
    )
    head.bias.zero_()
    return head


@torch.no_grad()
def accuracies(
    model: Any,
    tasks: Sequence[StreamTask],
    a: AncestorSettings,
    class_ids: Sequence[int],
    resident: Resident,
    classify: Callable[[Tensor], Tensor] | None = None,
) -> list[float]:
    """Test accuracy on each task, in [0, 1]; each image passes the trunk once.

    A single head chooses among all ancestor classes; a head a task, or a shared one, among the
    task's own. So does joint training under head = "shared" (see :func:`labelling`), to be
    comparable with the strategies it controls.

    Args:
        model: the ancestor; its mode is left as it was.
        tasks: the tasks so far.
        a: its settings.
        class_ids: ids of the ancestor's classes.
        resident: their images.
        classify: stands in for the head of strategies that classify without one: embeddings [B, c]
            -> scores [B, classes].
    """
    head = labelling(a)
    mode = model.training
    model.eval()
    index = torch.unique(torch.cat([task.test for task in tasks]))
    embedded = torch.cat([model.trunk.embed(resident.batch(part)) for part in index.split(256)])
    shares = []
    for task in tasks:
        rows = embedded[torch.searchsorted(index, task.test).to(embedded.device)]
        layer = model.head(task_label(task, head)) if head == "per-task" else model.trunk.head
        logits, labels = (
            (classify or layer)(rows),
            labels_of(task.test, class_labels(task, head, class_ids), resident),
        )
        if head != a.head:
            own = torch.tensor(list(class_labels(task, head, class_ids).values()))
            logits, labels = (
                logits[:, own.to(logits.device)],
                labels_of(task.test, class_labels(task, a.head, class_ids), resident),
            )
        shares.append(int((logits.argmax(1).cpu() == labels).sum()) / len(labels))
    model.train(mode)
    return shares
