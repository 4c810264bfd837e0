"""Positions of rows in a corpus: (index of the file range << 32) | index of the row in its range."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Positions = npt.NDArray[np.int64]
_SHIFT = 32
_ROW_MASK: int = 2**_SHIFT - 1


def position(index: int, row: int) -> int:
    """The position of a row of the file range at `index`."""
    return index << _SHIFT | row


def range_of(at: int) -> int:
    """The index of the file range of a position."""
    return at >> _SHIFT


def row_of(at: int) -> int:
    """The index of the row in its range."""
    return at & _ROW_MASK


def ranges_of(positions: Positions) -> npt.NDArray[np.int64]:
    """(n,) the index of the file range of each position."""
    ranges: npt.NDArray[np.int64] = positions >> _SHIFT
    return ranges


def rows_of(positions: Positions, index: int) -> set[int]:
    """Indices of the rows in one file range. `positions`: sorted."""
    begin, end = positions.searchsorted([position(index, 0), position(index + 1, 0)])
    return set((positions[begin:end] & _ROW_MASK).tolist())
