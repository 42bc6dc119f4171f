"""Runs and batches made up for the page.

They are real folders and a real store, with invented results instead of trained ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from evolve.core.settings import Scenario
from evolve.engine.store import Stage, Store
from evolve.lineage import scenario
from evolve.lineage.lineage import lineage
from evolve.lineage.world import World
from evolve.networks.family import architecture
from evolve.report.compare import Batch, Case
from evolve.runs.batch_folder import write_batch_file
from evolve.runs.run import Run, RunRequest, prepare_folder

NAME = "<script>alert('x')</script> & \"co\" $x_1$"
SETTINGS = (
    "stream.tasks=3",
    "data.size=16",
    "ancestor.width=0.0625",
    "controls.shuffled=1",
    "descend.descendants=3",
)
Score = Callable[[Stage], float]


def level(stage: Stage) -> float:
    """An accuracy that depends on the stage alone."""
    return 0.3 + 0.01 * (int(stage.key[:6], 16) % 30)


def result(stage: Stage, score: Score, diverged: bool = False) -> dict[str, Any]:
    """What perform would have put, as far as the reports read it."""
    if stage.kind == "accumulate":
        return {
            "average_accuracy": 0.8,
            "row": [0.8],
            "history": [],
            "forgetting": 0.1,
            "backward_transfer": -0.1,
        }
    if stage.kind == "condense":
        plan = architecture("vgg16", 0.0625, 16)
        groups = [[name] for name in plan.layer_names]
        even = [1 / len(groups)] * len(groups)
        chosen = {
            "layers": ["conv1", "conv11", "conv12", "conv13"],
            "selected": [0, 10, 11, 12],
            "groups": groups,
            "ancestor_plan": plan.to_json(),
        }
        return chosen | {
            "weights": even,
            "alpha": [[1.0]] * len(groups),
            "margin": 0.0,
            "status": "tied",
            "selected_by": "fallback",
            "agreement": None,
            "trials": [],
            "history": {},
        }
    accuracy = [score(stage) + 0.02 * i for i in range(3)]
    record = {"accuracy": accuracy, "best": accuracy, "test_images": [50] * 3}
    return record | {
        "tested": [1],
        "newborn": [0.3] * 3,
        "curves": [[a] for a in accuracy],
        "train_loss": [[math.nan if diverged else 0.5]] * 3,
    }


def make_run(
    folder: Path,
    store: Path,
    seed: int = 0,
    overrides: tuple[str, ...] = (),
    score: Score = level,
    upto: int = 99,
    **spent: Any,
) -> Scenario:
    """A run whose stages up to a generation are in the store.

    Args:
        folder: the run's folder.
        store: the store.
        seed: the run's seed.
        overrides: SECTION.KEY=VALUE.
        score: a stage's accuracy.
        upto: the last generation that is there.
        spent: what each stage took.
    """
    chosen = scenario.load("glyphs-seq25", "paper", (*SETTINGS, *overrides))
    opened = Run(
        RunRequest(folder, store, scenario=chosen, seed=seed),
        World(chosen.settings, seed, "f" * 8, tuple(range(9)), (10, 11), (20, 21, 22)),
        Store(store),
        {},
        {},
    )
    folder.mkdir(parents=True, exist_ok=True)
    prepare_folder(opened, ["evolve", "run", "--seed", str(seed)])
    took = {"seconds": 1.0, "cpu_seconds": 1.0, "together": 1, "resumed": False} | spent
    about = {"evolve": "9", "torch": "2", "device": "cpu (made up)", "spent": took}
    for _ in range(2):  # a second time: from-scratch controls that the condenser's choice names
        for stage in lineage(opened.world, opened.peek):
            number = next((int(word) for word in stage.label.split() if word.isdigit()), 0)
            if number <= upto and not opened.store.has(stage.key):
                opened.store.put(stage, result(stage, score), {}, about)
    return chosen


def make_batch(out: Path, store: Path, seeds: tuple[int, ...] = (0, 1, 2), **spent: Any) -> Batch:
    """A batch of two methods that share their ancestors; one has an awkward name.

    They differ in a descendants' setting.
    """
    cases = []
    for name, method, epochs in (("plain", "plain", 2), (NAME, NAME, 3)):
        for seed in seeds:
            # Without any spread no test would say anything.
            shift = 0.2 + 0.001 * (seed - 1) if epochs == 3 else 0.0

            def score(stage: Stage, shift: float = shift, seed: int = seed) -> float:
                return (
                    0.3
                    + 0.01 * seed
                    + (shift if stage.recipe.get("method") == "inherited" else 0.0)
                )

            case = Case(
                name,
                seed,
                method,
                ("descend.shots=6",),
                {"descend.epochs": epochs},
                scenario.load("glyphs-seq25"),
            )
            chosen = make_run(
                out / case.folder, store, seed, (f"descend.epochs={epochs}",), score, **spent
            )
            cases.append(Case(name, seed, method, case.pairing, case.values, chosen))
    batch = Batch(
        "made-up",
        f"A batch of {NAME}",
        "paper",
        "b.toml",
        "descend.epochs",
        "plain",
        tuple(cases),
        {"descend.epochs": (2, 3)},
        ("from-scratch",),
    )
    write_batch_file(batch, out, ["/usr/bin/evolve", "batch", "b file.toml"])
    return batch
