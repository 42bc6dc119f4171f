"""Learngenes, ancestors and descendants as files: `evolve condense`, `export` and `inherit`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evolve.cli.ancestors import (
    SCREEN,
    Images,
    Weights,
    find_condensation,
    open_ancestor,
    task_of_run,
)
from evolve.core.errors import UserError
from evolve.core.settings import InheritSettings
from evolve.core.terminal import tell
from evolve.core.version import __version__
from evolve.data.sources import load_images
from evolve.engine.engine import Notice, StageProgress, run_stages
from evolve.engine.store import Stage
from evolve.learngene import model_file
from evolve.learngene.ancestor_file import AncestorFile
from evolve.learngene.learngene import unflatten
from evolve.lineage.outcomes import trunk
from evolve.networks.family import from_json
from evolve.runs.folder import resume_command
from evolve.runs.run import Run
from evolve.runs.screens.rows import compact

if TYPE_CHECKING:
    from evolve.condensers.null import Row


def condense(
    ancestor: str, out: Path, images: Images, weights: Weights, place: dict[str, Any], force: bool
) -> None:
    """Condense an ancestor into a learngene's file.

    What the store holds already is taken from there.

    Args:
        ancestor: FILE or RUN@TASK.
        out: the file to write.
        images: what condenses a FILE.
        weights: what a FILE holds.
        place: "store", "data_dir" and "device", as the command's options.
        force: replace a file that is there.

    Raises:
        UserError: names the option that does not fit.
    """
    check_out(out, force)
    run, stages, origin = find_condensation(ancestor, images, weights, place)
    _compute(ancestor, run, stages)
    _save_learngene(run, stages[-1], origin, out)
    tell(
        f"next: evolve inspect {out}; "
        f"evolve inherit --learngene {out} --classes 10 --out model.safetensors"
    )


def _compute(ancestor: str, run: Run, stages: Sequence[Stage]) -> None:
    """Compute the stages that the store lacks, with a line that says how far they are."""
    with SCREEN.status(f"condensing {ancestor}") as status:

        def show(event: Any) -> None:
            if isinstance(event, StageProgress):
                status.update(f"condensing {ancestor}: {event.fraction:.0%}, {event.text}")
            elif isinstance(event, Notice):
                SCREEN.print(event.text, style="dim")

        run_stages(
            lambda: list(stages),
            run.store.root,
            "evolve.lineage.perform:perform_stage",
            run.context,
            0,
            show,
        )


def _save_learngene(run: Run, stage: Stage, origin: Mapping[str, Any], out: Path) -> None:
    """Write the learngene that the store holds, with where it comes from; print its layers."""
    result = run.store.get(stage.key)
    if result is None:
        raise UserError(
            f"{run.store.root}: the result of {stage.label} is damaged; "
            "run the same command again to compute it anew"
        )
    record = result.record
    chosen = {name: record[name] for name in ("status", "selected_by", "margin")}
    described = dict(origin) | {
        "seed": run.request.seed,
        "method": run.world.settings.condense.method,
        "key": stage.key,
        **chosen,
        "evolve": __version__,
    }
    unflatten(
        result.tensors("learngene"),
        from_json(record["ancestor_plan"]),
        described | _normalised(run),
    ).save(out)
    tell(f"{out}: {', '.join(record['layers'])} ({record['selected_by']})")
    print_trials(record["trials"], record["groups"])


def print_trials(trials: Sequence[Mapping[str, Any]], groups: Sequence[Sequence[str]]) -> None:
    """Print every candidate set that method "trial" tried, by its share of the weights.

    Args:
        trials: as the condensation's record holds them; nothing is printed without any.
        groups: the layers of each place.
    """
    if not trials:
        return
    tell("tried on condensing classes:  weights   gain (points)   layers")
    for trial in trials:
        layers = compact([name for place in trial["layers"] for name in groups[place]])
        gain = f"{100 * trial['gain']:+.1f} ± {100 * trial['error']:.1f}"
        over = "" if trial["within"] else ", over the budget"
        names = ", ".join(trial["origins"])
        tell(f"{100 * trial['share']:36.1f} %   {gain:>13}   {layers} ({names}{over})")


def null_test(
    ancestor: str,
    count: int,
    out: Path | None,
    images: Images,
    weights: Weights,
    place: dict[str, Any],
    force: bool,
) -> None:
    """Print what a condensation chose, beside condensations that can have learned nothing.

    Args:
        ancestor: FILE or RUN@TASK.
        count: how many of each kind of null.
        out: a folder for the picture of how they agree, and its numbers; None: nothing is written.
        images: what condenses a FILE.
        weights: what a FILE holds.
        place: "store", "data_dir" and "device", as the command's options.
        force: replace files that are there.

    Raises:
        UserError: names the option that does not fit.
    """
    from evolve.condensers.null import check_method, moved, null_test
    from evolve.lineage.perform import condensation

    if out is not None:
        _check_folder(out, force)
    run, stages, _ = find_condensation(ancestor, images, weights, place)
    check_method(run.world.settings.condense.method)
    with SCREEN.status(f"condensing {ancestor}") as status:

        def show(fraction: float, text: str) -> None:
            status.update(f"condensing {ancestor}: {fraction:.0%}, {text}")

        request = condensation(stages[-1], run.store, run.context, show)
        true, rows = null_test(request, count)
    layers = ", ".join(name for place in true.selected for name in request.groups[place])
    far = moved(request.c.method, true)
    tell(
        f"{ancestor}: {layers} ({true.selected_by}){'' if far is None else f', movement {far:.2f}'}"
    )
    tell(
        f"{count} of each, beside it:{'':14} decided  same set  "
        f"overlap{'' if far is None else '  movement'}"
    )
    _print_nulls(rows)
    _agreement(rows, request.groups, f"{ancestor}: do {count} condensations agree?", out)


def _check_folder(out: Path, force: bool) -> None:
    """Refuse a folder that holds a null test's picture already, or cannot be made."""
    if out.is_dir() or not out.exists():
        if (out / "agreement.csv").exists() and not force:
            raise UserError(
                f"--out {out}: holds agreement.csv already; give another folder, or --force to "
                "replace it"
            )
        return
    raise UserError(f"--out {out}: is a file; with --null give a folder")


def _agreement(rows: Sequence[Row], groups: Sequence[Sequence[str]], title: str, out: Any) -> None:
    """Print how often each layer was chosen and by which margin; draw it into a folder."""
    from evolve.core.durable import result_folder, write_whole
    from evolve.lineage.collect import group_name
    from evolve.report.agreement_figure import Draws, agreement_files, agreement_rows, sentence

    names = tuple(group_name(group) for group in groups)
    kinds = [
        Draws(
            row.kind,
            names,
            tuple(
                tuple(names[place] for place in run.selected) if run.status == "selected" else ()
                for run in row.runs
            ),
            tuple(tuple(run.weights.tolist()) for run in row.runs),
        )
        for row in rows
    ]
    tell("", f"{kinds[0].kind:28}   chosen   a~ less 1/L: mean, least, largest")
    for line in agreement_rows(kinds[:1]):
        margins = (line["margin_mean"], line["margin_low"], line["margin_high"])
        cells = "".join(f"{margin:+10.4f}" for margin in margins)
        tell(f"{line['layer']:28}{line['chosen']:3} of {line['draws']:<3}{cells}")
    tell(*map(sentence, kinds))
    if out is not None:
        result_folder(out, "--out")
        for name, content in agreement_files(kinds, title).items():
            write_whole(out / name, content, "null test")
        tell(f"picture      {out / 'agreement.png'}, .svg, .pdf; its numbers: agreement.csv")


def _print_nulls(rows: Sequence[Row]) -> None:
    """A line a kind of null: how often it decided, chose the same set, and its overlap."""
    from evolve.condensers.null import KINDS

    for row in rows:
        shared = f"{row.overlap:.2f}" if row.decided else "-"
        last = "" if row.moved is None else f"{row.moved:10.2f}"
        tell(
            f"{row.kind:38}{row.decided:3} of {row.count:<3}"
            f"{row.same:3} of {row.count:<3}{shared:>6}{last}   {KINDS[row.kind]}"
        )


def export(ancestor: str, out: Path, place: dict[str, Any], force: bool) -> None:
    """Write a run's ancestor into a file of its own.

    Args:
        ancestor: RUN@TASK.
        out: the file to write.
        place: "store", "data_dir" and "device", as the command's options.
        force: replace a file that is there.

    Raises:
        UserError: the run has no such ancestor, or not yet.
    """
    check_out(out, force)
    run_task = task_of_run(ancestor)
    run, stage = open_ancestor(*run_task, (), place)
    result = run.store.get(stage.key)
    if result is None:
        raise UserError(
            f"{run.store.root}: the result of {stage.label} is damaged; "
            f"`{resume_command(run_task[0])}` computes it anew"
        )
    settings = run.world.settings
    AncestorFile(
        settings.ancestor.network,
        settings.ancestor.width,
        settings.data.size,
        trunk(result.tensors("ancestor")),
        _ancestor_origin(run, stage, run_task[1]),
        result.record,
    ).save(out)
    tell(f"{out}: the ancestor after {run_task[1]} tasks")
    tell(f"next: evolve inspect {out}")


def _ancestor_origin(run: Run, stage: Stage, length: int) -> dict[str, Any]:
    """Where an exported ancestor comes from, for its file."""
    settings = run.world.settings
    return {
        "scenario": settings.name,
        "profile": run.request.scenario.profile,
        "seed": run.request.seed,
        "lineage": length,
        "strategy": settings.ancestor.strategy,
        "key": stage.key,
        "evolve": __version__,
    } | _normalised(run)


def inherit(
    learngene: Path,
    classes: int,
    out: Path,
    seed: int,
    chosen: InheritSettings,
    descendant: int,
    form: str,
    force: bool,
) -> None:
    """Write a network that inherits a learngene, for its owner to train.

    Args:
        learngene: the learngene's file.
        classes: how many the network tells apart.
        out: the file to write.
        seed: of the fresh layers.
        chosen: the inheritor, and the network's size.
        descendant: which draw of the fresh layers.
        form: "evolve", or "plain" for torchvision's or timm's names.
        force: replace a file that is there.

    Raises:
        UserError: the file is no learngene, or an argument does not fit it.
    """
    check_out(out, force)
    model, origin = model_file.inherit(learngene, classes, seed, chosen, descendant)
    model_file.save(out, model, origin | {"evolve": __version__}, form)
    tell(f"{out}: {model.architecture.describe()}, {classes} classes (* inherited)")
    load = (
        f"model = evolve.load_model({str(out)!r})"
        if form == "evolve"
        else f"`evolve inspect {out}` prints the lines that build it"
    )
    tell(f"next, in Python: {load}")


def check_out(out: Path, force: bool) -> None:
    """Refuse to replace a file, or to write where no folder is.

    Args:
        out: the file to be written.
        force: it may be replaced.

    Raises:
        UserError: says so.
    """
    if out.is_dir() or not out.resolve().parent.is_dir():
        raise UserError(
            f"--out {out}: expected a file's name in a folder that is there, "
            "such as gene.safetensors"
        )
    if out.exists() and not force:
        raise UserError(
            f"--out {out}: is there already; give another name, or --force to replace it"
        )


def _normalised(run: Run) -> dict[str, Any]:
    """What the network expects of images: (pixels / 255 - mean) / std, by channel."""
    images = load_images(run.world.settings.data, run.context["data_dir"], run.context["cache_dir"])
    return {
        "normalise": {
            "mean": list(images.mean),
            "std": list(images.std),
            "size": run.world.settings.data.size,
        }
    }
