"""A task that writes down every row that the echo teacher answers: one line `id` in a file."""

from __future__ import annotations

from pathlib import Path

SOURCE = '''
from pipelines.tasks.arithmetic import Arithmetic


class Counted(Arithmetic):
    """Arithmetic, counted."""

    name = "counted"

    def parse(self, text, example):
        with open({log!r}, "a") as log:
            log.write(example.id + "\\n")
        return super().parse(text, example)
'''


def write_task(folder: Path) -> tuple[Path, Path]:
    """(the task file, the file that it writes to)."""
    log = folder / "answered.log"
    task = folder / "counted.py"
    task.write_text(SOURCE.format(log=str(log)))
    return task, log


def answered(log: Path) -> int:
    """How many answers were read, rows that were answered twice counted twice."""
    return log.read_bytes().count(b"\n") if log.exists() else 0
