"""What the generated corpora share: their sizes, their seed, and how rows become a JSON Lines file."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

Row = dict[str, str]

SEED = 0
TRAIN_ROWS = 600
TEST_ROWS = 120


Drawn = TypeVar("Drawn")


def draw_unused(draw: Callable[[], Drawn], used: set[Drawn]) -> Drawn:
    """A draw that is not in `used`, and now is. Raises ValueError where the templates seem to have no more."""
    for _ in range(1000):
        drawn = draw()
        if drawn not in used:
            used.add(drawn)
            return drawn
    raise ValueError(f"the templates have no more than about {len(used):,} different rows; ask for fewer")


def write_rows(path: Path, rows: Iterable[Row]) -> None:
    """One row a line, UTF-8, line feeds on every system."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path.write_bytes(text.encode("utf-8"))
