"""Sizes, seed and JSON Lines format of the generated corpora."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

Row = dict[str, str]

SEED = 0
TRAIN_ROWS = 480
TEST_ROWS = 120


Drawn = TypeVar("Drawn")


def draw_unused(draw: Callable[[], Drawn], used: set[Drawn]) -> Drawn:
    """Draw a value that is not in `used`, and add it. Raises ValueError after 1000 draws without a new one."""
    for _ in range(1000):
        drawn = draw()
        if drawn not in used:
            used.add(drawn)
            return drawn
    raise ValueError(f"the templates have only about {len(used):,} different rows. Request fewer rows.")


def write_rows(path: Path, rows: Iterable[Row]) -> None:
    """Write one row per line: UTF-8, with line feeds on every system."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path.write_bytes(text.encode("utf-8"))
