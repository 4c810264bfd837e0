"""Content of a page's tables. The macro `table` of the templates draws them.

    table("Accuracy", ["method", "labels", "right#"], [["finetune", "25%", "14"], ["finetune", "100%", "20"]], heads=2)

The first two columns are headers. Equal consecutive headers in the first column are merged into one cell. A name that ends in `#` is a
column of numbers, aligned right.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from pipelines.reports.format import clipped

Mark = Literal[
    "", "better", "worse", "open", "strong", "text", "right1", "right2", "right3", "wrong1", "wrong2", "wrong3"
]


@dataclass(frozen=True)
class Cell:
    """One cell. The style sheet has a class for each mark. A mark never carries information that the text lacks."""

    text: str
    mark: Mark = ""
    rows: int = 1
    """Rows that it spans; 0: it is covered by a spanning cell above it."""


TEXT_CHARACTERS = 600
Row = Sequence[str | Cell]


def text_cell(text: str) -> Cell:
    """A cell of free text: cut to TEXT_CHARACTERS, with line breaks."""
    return Cell(clipped(text, TEXT_CHARACTERS), "text")


@dataclass(frozen=True)
class Column:
    """One column."""

    name: str
    numeric: bool = False


@dataclass(frozen=True)
class Table:
    """A table with its caption. The first `heads` cells of each row are headers."""

    caption: str
    columns: tuple[Column, ...]
    groups: tuple[tuple[tuple[Cell, ...], ...], ...]
    """Groups of rows; a rule separates groups."""
    heads: int = 1


def table(caption: str, columns: Sequence[str], rows: Sequence[Row], *, heads: int = 1) -> Table:
    """A table of texts or cells.

    Args:
        columns: names; one that ends in `#` has numbers.
        rows: one cell per column.
        heads: number of header columns. With more than one, rows are grouped by the first.

    Raises:
        ValueError: a row has more or fewer cells than there are columns.
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
        groups = [_spanned(group) for group in groups]
    return Table(caption, named, tuple(tuple(group) for group in groups), heads)


def _spanned(group: list[tuple[Cell, ...]]) -> list[tuple[Cell, ...]]:
    """The rows of a group, with the first cell spanning all of them."""
    return [(replace(row[0], rows=0 if i else len(group)), *row[1:]) for i, row in enumerate(group)]


def without_empty(columns: Sequence[str], rows: Sequence[Row], empty: str) -> tuple[list[str], list[Row]]:
    """Columns and rows without the columns whose cells are all `empty`."""
    kept = [i for i in range(len(columns)) if any(_text(row[i]) != empty for row in rows)]
    return [columns[i] for i in kept], [[row[i] for i in kept] for row in rows]


def _text(cell: str | Cell) -> str:
    return cell.text if isinstance(cell, Cell) else cell
