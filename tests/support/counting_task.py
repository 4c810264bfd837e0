"""A task that logs the id of every answer that it parses, one per line."""

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
    """Returns (the task file, its log)."""
    log = folder / "answered.log"
    task = folder / "counted.py"
    task.write_text(SOURCE.format(log=str(log)))
    return task, log


def answered(log: Path) -> int:
    """Number of parsed answers; a row that was answered twice counts twice."""
    return log.read_bytes().count(b"\n") if log.exists() else 0
