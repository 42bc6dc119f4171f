"""`evolve` from Python: run a lineage, read it back as tables, condense one's own network."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evolve.core.errors import UserError
from evolve.core.machine import unpinned
from evolve.core.toml import toml_value
from evolve.report.curves import LineageRecord, Summary

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame

    from evolve.learngene.learngene import Learngene
    from evolve.networks.network import Network

USER_ERROR = 2  # exit code of an error that the user can mend


@dataclass(frozen=True)
class Loaded:
    """One run, or several seeds of one scenario, as tables, figures and networks.

    Attributes:
        folders: the runs' folders, in the order of ``records``.
        records: what each measured.
    """

    folders: tuple[Path, ...]
    records: tuple[LineageRecord, ...]

    @property
    def curve(self) -> DataFrame:
        """A row a seed and lineage length: accuracies in %, gains in points (generations.csv)."""
        from evolve.report.files import generation_rows

        return _frame(generation_rows(self.records))

    @property
    def descendants(self) -> DataFrame:
        """A row a seed, length, method and descendant (descendants.csv)."""
        from evolve.report.files import descendant_rows

        return _frame(descendant_rows(self.records))

    @property
    def learning(self) -> DataFrame:
        """A row an epoch of every descendant (learning.csv)."""
        from evolve.report.files import learning_rows

        return _frame(learning_rows(self.records))

    @property
    def genome(self) -> DataFrame:
        """Which layers were inherited: a row a seed and lineage length, a column a layer, bool."""
        rows: list[dict[str, Any]] = [
            {"seed": record.seed, "lineage": g.lineage}
            | {layer: layer in g.selected for layer in g.all_layers}
            for record in self.records
            for g in record.generations
        ]
        return _frame(rows).set_index(["seed", "lineage"])

    @property
    def settings(self) -> dict[str, Any]:
        """The resolved settings, by section."""
        return self.records[0].settings

    @cached_property
    def summary(self) -> Summary:
        """Effects and trends; gains in percentage points."""
        from evolve.report.pooling import summarise

        return summarise(self.records)

    @property
    def verdict(self) -> str:
        """What the data support, in two sentences, as `evolve summary` prints it."""
        from evolve.report.verdict import gain_sentence, verdict

        return f"{gain_sentence(self.summary)} {verdict(self.summary)}"

    def learngene(self, lineage: int, seed: int | None = None) -> Learngene:
        """The learngene of a lineage length.

        Args:
            lineage: a measured lineage length.
            seed: of several runs, whose; None: the first one's.

        Raises:
            UserError: that length was not measured.
        """
        from evolve.learngene.learngene import load

        return load(self._file(lineage, seed)[0])

    def descendant(self, lineage: int, number: int, seed: int | None = None) -> Network:
        """A descendant as it was born: inherited layers, fresh ones drawn as the run drew them.

        Args:
            lineage: a measured lineage length.
            number: which descendant, from 0.
            seed: of several runs, whose; None: the first one's.

        Returns:
            Images [B, 3, H, W] -> logits [B, descend.classes_per_task].

        Raises:
            UserError: that length was not measured.
        """
        from evolve.learngene.model_file import chosen_settings, inherit

        file, record = self._file(lineage, seed)
        how, classes = record.settings["inherit"], record.settings["descend"]["classes_per_task"]
        chosen = chosen_settings(how["method"], how["embeddings"], how["depth"], how["width"])
        return inherit(file, classes, record.seed, chosen, number)[0]

    def figure(self) -> Figure:
        """The evolution curve, as curve.png shows it."""
        from evolve.report.figures import evolution_figure

        return evolution_figure(list(self.records), self.summary)

    def _file(self, lineage: int, seed: int | None) -> tuple[Path, LineageRecord]:
        for folder, record in zip(self.folders, self.records, strict=True):
            if seed in (None, record.seed):
                lengths = [g.lineage for g in record.generations]
                if lineage in lengths:
                    return folder / "learngenes" / f"lineage-{lineage:02d}.safetensors", record
                raise UserError(f"{folder}: lineage length {lineage}: measured are {lengths}")
        seeds = [record.seed for record in self.records]
        raise UserError(f"seed {seed}: there are {seeds}")

    def _repr_html_(self) -> str:
        """The verdict and the curve's table, for a notebook."""
        from html import escape

        table = self.curve[["seed", "lineage", "selected", "mean", "gain", "gain_low", "gain_high"]]
        return f"<p>{escape(self.verdict)}</p>{table.to_html(index=False)}"


def run(
    scenario: str,
    *,
    profile: str = "paper",
    seeds: int | Sequence[int] = 0,
    overrides: Mapping[str, Any] | None = None,
    out: str | PathLike[str] | None = None,
    **options: Any,
) -> Loaded:
    """Run or continue lineages, as the command line does, and load them.

    The work is done by `evolve run` in a process of its own. So the results are the command's to
    the byte, and a script needs no ``if __name__ == "__main__"``.

    Args:
        scenario: a shipped scenario's name, or a file.
        profile: "paper" or "quick".
        seeds: one seed, or several that are pooled.
        overrides: "section.key" -> value.
        out: the folder; None: the command's default, below the working directory.
        options: others of `evolve run`, such as ``data="cifar100.zip"`` or ``workers=2``; a list
            for one that may be given many times, such as ``log=["wandb", "mlflow"]``.

    Raises:
        UserError: something given does not fit; the line is the command's.
        RuntimeError: a stage could not be computed.
    """
    from evolve.lineage import scenario as scenarios
    from evolve.runs.folder import default_out

    texts = [f"{key}={toml_value(value)}" for key, value in (overrides or {}).items()]
    chosen = scenarios.load(scenario, profile, texts)
    numbers = seeds if isinstance(seeds, int) else tuple(seeds)
    folder = Path(out) if out else default_out(chosen, numbers, bool(options.get("reference")))
    words = ["run", scenario, "--profile", profile, "--out", str(folder), "--yes"]
    words += (
        ["--seed", str(numbers)]
        if isinstance(numbers, int)
        else ["--seeds", ",".join(map(str, numbers))]
    )
    words += [word for text in texts for word in ("--set", text)]
    for name, value in options.items():
        option = f"--{name.replace('_', '-')}"
        several = value if isinstance(value, list | tuple) else [value]
        given = [each for each in several if each not in (None, False)]
        words += [option] if value is True else [w for each in given for w in (option, str(each))]
    _command(words)
    return load_run(folder)


def load_run(*paths: str | PathLike[str], store: str | PathLike[str] | None = None) -> Loaded:
    """Load runs from their folders and stores, without their images. Writes nothing.

    Args:
        paths: a run's folder; several of one scenario; or the folder of `evolve run --seeds`.
        store: their store; None: the one that each recorded.

    Raises:
        UserError: a folder is no run's, or its store is not there.
    """
    from evolve.runs.batch_folder import is_batch, read_batch_file
    from evolve.runs.screens.summary import record_of

    folders = [
        folder
        for path in map(Path, paths)
        for folder in (
            [path / case.folder for case in read_batch_file(path).batch.cases]
            if is_batch(path)
            else [path]
        )
    ]
    place = None if store is None else Path(store)
    records = [record_of(folder, place) for folder in folders]
    return Loaded(tuple(folders), tuple(records))


def _command(words: Sequence[str]) -> None:
    """Run `evolve WORDS`; its lines are printed as they come."""
    with unpinned():
        process = subprocess.Popen(
            [sys.executable, "-m", "evolve.cli", *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            errors="replace",
        )
    last = ""
    try:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            last = line.strip() or last
    except BaseException:
        process.terminate()
        raise
    finally:
        process.wait()
    message = last.removeprefix("evolve: ")
    if process.returncode == USER_ERROR:
        raise UserError(message)
    if process.returncode:
        raise RuntimeError(message)


def _frame(rows: Iterable[Mapping[str, Any]]) -> DataFrame:
    try:
        import pandas
    except ImportError:
        raise UserError("tables need pandas: pip install 'evolve-learngene[notebook]'") from None
    return pandas.DataFrame(
        [{name: None if value == "" else value for name, value in row.items()} for row in rows]
    )
