"""A batch file (TOML) -> cases, each a scenario with its overrides. Needs no torch.

name = "condensers"
scenario = "tinyimagenet-seq25"
seeds = [0, 1, 2]

[set]                                # for every case
stream.tasks = 5

[axes]                               # every combination; an axis may also be `scenario`
condense.method = ["meta-network", "cka", "random"]

[[zip]]                              # these move together
ancestor.network = ["vgg16", "resnet18"]
ancestor.width = [0.25, 0.125]

[[case]]                             # single cases beside the grid
name = "paper's set"
condense.method = "fixed"

[report]
method = "condense.method"           # what is compared; the other axes and the seed pair the cases
reference = "by chance"              # against which
controls = ["from-scratch"]          # rows of their own: controls of the reference's lineages
names = { random = "by chance" }     # what methods are called, here and in reference
figure = "samples"                   # the picture that it ends in, one of FIGURES

[quick]                              # with --profile quick: seeds, set and axes in its place
seeds = [0]                          # [[quick.case]]: instead of all of [[case]]
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

from evolve.core import toml
from evolve.core.errors import UserError
from evolve.core.setting import SEEDS
from evolve.core.settings import Scenario
from evolve.core.shipped import find
from evolve.core.toml import read_toml
from evolve.lineage import scenario
from evolve.report.compare import Batch, Case
from evolve.runs.batch.report_table import CASE, check_keys, read_report, section

KEYS = ("name", "title", "scenario", "seeds", "set", "axes", "zip", "case", "report", "quick")
MOST = 10_000  # lineages; more is a slip of the pen

Overrides = dict[str, Any]  # "section.key" -> value


def load(
    name: str,
    profile: str = "paper",
    overrides: Sequence[str] = (),
    seeds: Sequence[int] = (),
    base: str | None = None,
) -> Batch:
    """Read a batch file; every case's scenario is resolved and checked.

    Args:
        name: a shipped batch's name, or a file.
        profile: "paper" or "quick".
        overrides: "section.key=value" on top of everything.
        seeds: instead of the file's; empty: the file's.
        base: a scenario instead of the file's; the batch's name then ends in it.

    Raises:
        UserError: names file, key and value, or the case that cannot be.
    """
    path = find("batch", name)
    table = read_toml(path)
    check_keys(table, KEYS, str(path), "")
    quick = section(table, "quick", str(path))
    check_keys(quick, ("seeds", "set", "axes", "case"), str(path), "quick.")
    if profile == "quick":
        table |= _quick_values(table, quick, path)
    if seeds:
        table["seeds"] = list(seeds)
    if base is not None:
        table |= {"scenario": base, "name": f"{table.get('name', path.stem)}-{Path(base).stem}"}
    reader = _Reader(path, table, profile, overrides)
    if base is not None and "scenario" in reader.varied:
        raise UserError(
            f"--scenario {base}: the cases of {path} differ in their scenario; change it there, "
            "or give a file without that axis"
        )
    return reader.batch()


def _quick_values(table: Mapping[str, Any], quick: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """What the file's [quick] table puts in the place of its own values."""
    return {
        "seeds": quick.get("seeds", table.get("seeds", [0])),
        "set": {**_flat_table(table, "set", path), **_flat_table(quick, "set", path)},
        "axes": {**_flat_table(table, "axes", path), **_flat_table(quick, "axes", path)},
        "case": quick.get("case", table.get("case", [])),
    }


class _Reader:
    """One batch file's parts, checked."""

    def __init__(
        self, path: Path, table: Mapping[str, Any], profile: str, overrides: Sequence[str]
    ) -> None:
        self.path, self.table, self.profile, self.overrides = path, table, profile, overrides
        self.base = table.get("scenario")
        if not isinstance(self.base, str):
            raise UserError(
                f"{path}: scenario is missing: name a shipped scenario or a TOML file, "
                'such as scenario = "glyphs-seq25"'
            )
        self.fixed = _flat_table(table, "set", path)
        self.axes = {
            axis: self._values(axis, values)
            for axis, values in _flat_table(table, "axes", path).items()
        }
        self.zips = [self._zip(table_of_zip) for table_of_zip in self._list("zip")]
        self.listed = self._list("case")
        self._check_overrides()

    def batch(self) -> Batch:
        seeds = self._seeds()
        count = len(seeds) * (self._grid_size() + len(self.listed))
        if count > MOST:
            raise UserError(
                f"{self.path}: {count:,} lineages; at most {MOST:,} in one batch: make axes shorter"
            )
        if not count:
            raise UserError(
                f"{self.path}: no case: give [axes], [[zip]] or [[case]] tables, and seeds"
            )
        grid = self._grid()
        report = read_report(self.table, str(self.path), list(self._all_axes()), self.varied)
        self.names, axis = report.names, report.method
        varieties = [self._case(_named(values), values, axis) for values in grid] + [
            self._listed(dict(listed), axis) for listed in self.listed
        ]
        cases = [replace(case, seed=seed) for case in varieties for seed in seeds]
        self._distinct(cases)
        title = str(self.table.get("title", ""))
        name = str(self.table.get("name", self.path.stem))
        grid_batch = Batch(
            name,
            title,
            self.profile,
            str(self.path),
            axis,
            report.reference,
            tuple(cases),
            self._all_axes(),
            report.controls,
            report.figure,
        )
        if report.reference and report.reference not in grid_batch.methods:
            raise UserError(
                f"{self.path}: report.reference = {report.reference!r}: allowed are the methods "
                f"{', '.join(grid_batch.methods)}"
            )
        return grid_batch

    @property
    def varied(self) -> set[str]:
        """What the cases differ in."""
        return {
            *self._all_axes(),
            *(key for listed in self.listed for key in listed if key != "name"),
        }

    def _check_overrides(self) -> None:
        """Refuse overrides of what the cases differ in: that names their rows and folders."""
        varied = self.varied
        for text in self.overrides:
            key = text.partition("=")[0].strip()
            if shared := next(
                (
                    axis
                    for axis in varied
                    if f"{axis}.".startswith(f"{key}.") or f"{key}.".startswith(f"{axis}.")
                ),
                "",
            ):
                raise UserError(
                    f"--set {text}: the cases of {self.path} differ in {shared}; change it there, "
                    "or give a file without that axis"
                )

    def _seeds(self) -> list[int]:
        seeds = self.table.get("seeds", [0])
        if (
            not isinstance(seeds, list)
            or not all(type(s) is int and 0 <= s <= SEEDS for s in seeds)
            or not seeds
            or len(set(seeds)) < len(seeds)
        ):
            raise UserError(
                f"{self.path}: seeds = {toml.shown_value(seeds)}: expected a list of different whole numbers from "
                "0, such as [0, 1, 2]"
            )
        return seeds

    def _values(self, axis: str, values: Any) -> tuple[Any, ...]:
        if not isinstance(values, list) or not values:
            raise UserError(f"{self.path}: axes.{axis} = {values!r}: expected a list of values")
        return tuple(values)

    def _list(self, key: str) -> list[Mapping[str, Any]]:
        tables = self.table.get(key, [])
        if not isinstance(tables, list) or not all(isinstance(entry, dict) for entry in tables):
            raise UserError(f"{self.path}: {key}: expected tables written [[{key}]]")
        return [flat(entry) for entry in tables]

    def _zip(self, table: Mapping[str, Any]) -> dict[str, tuple[Any, ...]]:
        axes = {axis: self._values(axis, values) for axis, values in table.items()}
        lengths = {axis: len(values) for axis, values in axes.items()}
        if len(set(lengths.values())) > 1:
            named = ", ".join(f"{axis} has {count}" for axis, count in lengths.items())
            raise UserError(f"{self.path}: [[zip]]: its lists must be equally long: {named}")
        return axes

    def _all_axes(self) -> dict[str, tuple[Any, ...]]:
        return {
            **self.axes,
            **{axis: values for zipped in self.zips for axis, values in zipped.items()},
        }

    def _grid_size(self) -> int:
        """How many cases :meth:`_grid` makes, without making them."""
        lengths = [len(values) for values in self.axes.values()]
        lengths += [len(next(iter(zipped.values()), ())) for zipped in self.zips]
        return math.prod(lengths) if lengths else 0

    def _grid(self) -> list[Overrides]:
        if not self.axes and not self.zips:
            return []
        rows = [
            [
                dict(zip(zipped, values, strict=True))
                for values in zip(*zipped.values(), strict=True)
            ]
            for zipped in self.zips
        ]
        columns = [[{axis: value} for value in values] for axis, values in self.axes.items()]
        return [
            {key: value for part in parts for key, value in part.items()}
            for parts in product(*columns, *rows)
        ]

    def _case(self, name: str, values: Overrides, axis: str, method: str = "") -> Case:
        """What all seeds of a case share; the seed is put in afterwards."""
        resolved = self._scenario({**self.fixed, **values}, name)
        # What moves with the method belongs to it.
        tied = next((zipped for zipped in self.zips if axis in zipped), {axis: ()})
        others = [] if axis == CASE else [other for other in self._all_axes() if other not in tied]
        # By its file: two files may give themselves one name.
        written = {"scenario": values.get("scenario", self.base)}
        pairing = tuple(
            f"{other}={toml.toml_value(written.get(other) or _value(resolved.settings, other))}"
            for other in others
        )
        return Case(
            name, 0, method or self._method(name, values, axis, tied), pairing, values, resolved
        )

    def _method(
        self, name: str, values: Overrides, axis: str, tied: Mapping[str, tuple[Any, ...]]
    ) -> str:
        """The axis's value, with all that moves with it where it alone would name two methods."""
        if axis not in values:
            return name
        texts = [_short(value) for value in tied[axis]]
        text = _short(values[axis])
        return (
            self.names.get(text, text)
            if len(set(texts)) == len(texts)
            else _named({key: values[key] for key in tied})
        )

    def _listed(self, values: Overrides, axis: str) -> Case:
        """A listed case is a method of its own."""
        name = values.pop("name", None) or _named(values)
        if not isinstance(name, str) or not name:
            raise UserError(
                f"{self.path}: [[case]]: give it a name and settings, "
                'such as condense.method = "fixed"'
            )
        return self._case(name, values, axis, method=name)

    def _scenario(self, values: Mapping[str, Any], name: str) -> Scenario:
        base = self._beside(str(values.get("scenario", self.base)))
        texts = [
            f"{key}={toml.toml_value(value)}" for key, value in values.items() if key != "scenario"
        ]
        try:
            return scenario.load(base, self.profile, [*texts, *self.overrides])
        except UserError as error:
            raise UserError(f"{self.path}, case {name!r}: {error}") from None

    def _beside(self, name: str) -> str:
        """A scenario file is looked for beside the batch file first."""
        beside = self.path.parent / name
        return str(beside) if beside.suffix == ".toml" and beside.is_file() else name

    def _distinct(self, cases: Sequence[Case]) -> None:
        """Two lineages in one folder, or in one place of the table, are a slip."""
        seen: dict[str, str] = {}
        rows: dict[tuple[Any, ...], str] = {}
        for case in cases:
            row = case.method, case.pairing, case.seed
            if case.folder in seen:
                raise UserError(
                    f"{self.path}: cases {seen[case.folder]!r} and {case.name!r} would share the "
                    f"folder {case.folder}; name them apart"
                )
            if row in rows:
                raise UserError(
                    f"{self.path}: cases {rows[row]!r} and {case.name!r} would both be the method "
                    f"{case.method!r}; name them apart"
                )
            seen[case.folder] = rows[row] = case.name


def flat(table: Mapping[str, Any], prefix: str = "") -> Overrides:
    """Nested tables as "section.key" -> value, two levels deep.

    What lies below is a value of its own, such as a strategy's arguments.
    """
    values: Overrides = {}
    for key, value in table.items():
        if isinstance(value, Mapping) and "." not in prefix:
            values |= flat(value, f"{prefix}{key}.")
        elif isinstance(value, Mapping):
            values |= {f"{prefix}{key}.{inner}": setting for inner, setting in value.items()}
        else:
            values[f"{prefix}{key}"] = value
    return values


def _named(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{key.rpartition('.')[2]} {_short(value)}" for key, value in values.items())


def _value(settings: Any, axis: str) -> Any:
    """A setting of a resolved scenario by "section.key" or "section.table.key"."""
    if axis == "scenario":
        return settings.name
    section, name, *below = axis.split(".")
    setting = getattr(getattr(settings, section), name)
    return setting.get(below[0], "default") if below else setting


def _short(value: Any) -> str:
    return value if isinstance(value, str) else toml.toml_value(value)


def _flat_table(table: Mapping[str, Any], key: str, path: Path) -> Overrides:
    return flat(section(table, key, str(path)))
