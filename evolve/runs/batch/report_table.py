"""The [report] table of a batch file: what is compared, against what, and in which picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

from evolve.core import registry
from evolve.core.errors import UserError
from evolve.report.compare import CONTROLS

KEYS = ("method", "reference", "controls", "names", "figure")
CASE = "case"  # the method axis of a batch that lists its cases


@dataclass(frozen=True)
class ReportTable:
    """[report], checked.

    Attributes:
        method: the axis that is compared.
        reference: one of its methods; "" for the first.
        controls: of the reference's lineages, shown as rows.
        names: what methods are called, by the axis's value.
        figure: the picture that the batch ends in; "" for none.
    """

    method: str
    reference: str
    controls: tuple[str, ...]
    names: Mapping[str, str]
    figure: str


def read_report(
    table: Mapping[str, Any], file: str, axes: Sequence[str], varied: Set[str]
) -> ReportTable:
    """Read [report].

    Args:
        table: the whole batch file's.
        file: its name, for errors.
        axes: the batch's.
        varied: all that its cases differ in.

    Raises:
        UserError: a key or value does not fit.
    """
    report = section(table, "report", file)
    check_keys(report, KEYS, file, "report.")
    method = report.get("method", axes[0] if axes else CASE)
    if method not in (*axes, CASE):
        raise UserError(
            f"{file}: report.method = {method!r}: allowed are the axes "
            f"{', '.join(axes) or '(none)'}, or {CASE!r}"
        )
    controls = report.get("controls", [])
    if not isinstance(controls, list) or any(name not in CONTROLS for name in controls):
        raise UserError(
            f"{file}: report.controls = {controls!r}: expected a list of {', '.join(CONTROLS)}"
        )
    names = section(report, "names", file)
    if odd := next((name for name in names.values() if not isinstance(name, str)), None):
        raise UserError(f"{file}: report.names: {odd!r}: expected a string")
    figure = _figure(report.get("figure", ""), file, varied)
    return ReportTable(method, str(report.get("reference", "")), tuple(controls), names, figure)


def _figure(figure: Any, file: str, varied: Set[str]) -> str:
    """The picture's name, where the batch varies what it shows."""
    pictures = registry.records("figures")
    if figure == "":
        return ""
    if figure not in pictures:
        raise UserError(f"{file}: report.figure = {figure!r}: allowed are {', '.join(pictures)}")
    if lacking := sorted(set(pictures[figure].axes) - varied):
        raise UserError(
            f"{file}: report.figure = {figure!r}: it shows {', '.join(lacking)}; give [axes] of "
            "that, or another figure"
        )
    return str(figure)


def section(table: Mapping[str, Any], key: str, file: str) -> dict[str, Any]:
    """A table within a table; empty where it is not given.

    Raises:
        UserError: it is no table.
    """
    inner = table.get(key, {})
    if not isinstance(inner, dict):
        raise UserError(f"{file}: {key} = {inner!r}: expected a table [{key}]")
    return inner


def check_keys(table: Mapping[str, Any], allowed: Sequence[str], file: str, prefix: str) -> None:
    """Refuse any other key.

    Raises:
        UserError: it names the key and those that are allowed.
    """
    for key in table:
        if key not in allowed:
            raise UserError(
                f"{file}: unknown key {prefix}{key}; allowed here: {', '.join(allowed)}"
            )
