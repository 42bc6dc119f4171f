"""A table as rows of text: the page, the terminal and files show the same one.

Whoever shows it escapes it.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """One row of a table.

    Attributes:
        cells: the first names the row.
        bold: only where a test supports it.
        total: a sum, set apart.
    """

    cells: tuple[str, ...]
    bold: bool = False
    total: bool = False


@dataclass(frozen=True)
class Table:
    """A table.

    ``words``: how many columns from the left hold words; the others are numbers.
    """

    caption: str
    heads: tuple[str, ...]
    rows: tuple[Row, ...]
    words: int = 1
