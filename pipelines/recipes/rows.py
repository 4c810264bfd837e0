"""What the generated corpora share: their sizes, their seed, and how rows become a JSON Lines file."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

Row = dict[str, str]

SEED = 0
TRAIN_ROWS = 600
TEST_ROWS = 200


def write_rows(path: Path, rows: Iterable[Row]) -> None:
    """One row a line, UTF-8, line feeds on every system."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path.write_bytes(text.encode("utf-8"))
