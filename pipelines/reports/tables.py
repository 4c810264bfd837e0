"""Tables of a page: what stands in them, not how they look. A page's template draws them by the macro of the same name.

    table("Accuracy", ["method", "labels", "right#"], [["finetune", "25%", "14"], ["finetune", "100%", "20"]], heads=2)

draws a table whose first two columns are headers; of equal ones in the first column that follow each other only one is drawn,
and a rule stands where it changes. A name that ends in `#` is a column of numbers: aligned at their end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from pipelines.reports.format import clipped

Mark = Literal[
    "", "ahead", "behind", "open", "strong", "text", "right1", "right2", "right3", "wrong1", "wrong2", "wrong3"
]


@dataclass(frozen=True)
class Cell:
    """One cell. The page's style sheet knows each mark; what a mark says stands in the text too."""

    text: str
    mark: Mark = ""
    rows: int = 1
    """Over how many rows it stretches; 0: it is under one that stretches, and not drawn."""


TEXT_CHARACTERS = 600
"""Of a free text in a cell."""
Row = Sequence[str | Cell]


def text_cell(text: str) -> Cell:
    """A cell of free text, however long: cut, and broken into lines."""
    return Cell(clipped(text, TEXT_CHARACTERS), "text")


@dataclass(frozen=True)
class Column:
    """One column: its header, and whether it holds numbers."""

    name: str
    numeric: bool = False


@dataclass(frozen=True)
class Table:
    """A table with its caption. The first `heads` cells of each row are its headers."""

    caption: str
    columns: tuple[Column, ...]
    groups: tuple[tuple[tuple[Cell, ...], ...], ...]
    """Rows of cells; those of one group belong together."""
    heads: int = 1


def table(caption: str, columns: Sequence[str], rows: Sequence[Row], *, heads: int = 1) -> Table:
    """A table of texts or cells.

    Args:
        caption: what it shows.
        columns: names; one that ends in `#` holds numbers.
        rows: as many cells in each as there are columns.
        heads: how many columns are headers of the rows; with more than one, the rows are grouped by the first.

    Raises:
        ValueError: a row is longer or shorter than the columns.
    """
    named = tuple(Column(name.removesuffix("#"), name.endswith("#")) for name in columns)
    groups: list[list[tuple[Cell, ...]]] = []
    for row in rows:
        if len(row) != len(named):
            raise ValueError(f"{caption}: {len(row)} cells for {len(named)} columns")
        cells = tuple(cell if isinstance(cell, Cell) else Cell(cell) for cell in row)
        if heads > 1 and groups and groups[-1][0][0].text == cells[0].text:
            groups[-1].append(cells)
        elif heads > 1 or not groups:
            groups.append([cells])
        else:
            groups[0].append(cells)
    if heads > 1:
        groups = [_stretched(group) for group in groups]
    return Table(caption, named, tuple(tuple(group) for group in groups), heads)


def _stretched(group: list[tuple[Cell, ...]]) -> list[tuple[Cell, ...]]:
    """The rows of a group, the first cell of the first over all of them."""
    return [(replace(row[0], rows=0 if i else len(group)), *row[1:]) for i, row in enumerate(group)]


def without_empty(columns: Sequence[str], rows: Sequence[Row], empty: str) -> tuple[list[str], list[Row]]:
    """Columns and rows without the columns in which every cell is `empty`."""
    kept = [i for i in range(len(columns)) if any(_text(row[i]) != empty for row in rows)]
    return [columns[i] for i in kept], [[row[i] for i in kept] for row in rows]


def _text(cell: str | Cell) -> str:
    return cell.text if isinstance(cell, Cell) else cell
