"""The records of a batch's pictures: code, help, the axes that the batch must have.

Nothing here imports matplotlib or torch. ``[report] figure`` in a batch file names one of them.
"""

from __future__ import annotations

from dataclasses import dataclass

from evolve.core.registry import Record


@dataclass(frozen=True)
class Figure(Record):
    """A picture's record; its code is ``(Batch, cases with what they measured) -> BatchFigure``.

    Attributes:
        axes: the settings that the batch must vary.
    """

    axes: tuple[str, ...] = ()


_AT = "evolve.report.batch."
FIGURES = {
    "convergence": Figure(
        _AT + "convergence:convergence", "accuracy against epoch (paper Figure 3)"
    ),
    "heat": Figure(
        _AT + "heat:heat",
        "accuracy over learning rate and weight decay (paper Figure 4)",
        ("descend.lr", "descend.weight_decay"),
    ),
    "initialisations": Figure(
        _AT + "initialisations:initialisations",
        "methods and controls by network and images (paper Table II)",
    ),
    "fewshot": Figure(
        _AT + "fewshot:fewshot",
        "few-shot learners beside descendants (paper Table III)",
    ),
    "samples": Figure(
        _AT + "samples:samples",
        "accuracy against images a class (paper Figure 5)",
        ("descend.shots",),
    ),
    "networks": Figure(_AT + "networks:networks", "evolution curves side by side (paper Figure 6)"),
    "sizes": Figure(
        _AT + "sizes:sizes",
        "accuracy against parameters, sizes from one learngene",
    ),
}
