"""Score of a recorded teacher by a task's own parser."""

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.errors import UnparsableError
from pipelines.tasks import Task


@dataclass(frozen=True)
class Score:
    examples: int
    right: int
    unparsable: int
    notes: Counter[str]


def score_teacher(task: Task, folder: Path, teacher: str) -> Score:
    outputs = {row["id"]: row["output"] for row in _rows(folder / f"train.{teacher}.jsonl")}
    examples = right = unparsable = 0
    notes: Counter[str] = Counter()
    for row in _rows(folder / "train.jsonl"):
        example = task.read({**row, "gold": row[task.gold_field]})
        assert example.gold is not None
        examples += 1
        try:
            answer = task.parse(outputs[example.id], example)
        except UnparsableError:
            unparsable += 1
            continue
        right += task.key(answer.label) == task.key(example.gold)
        notes[answer.note] += 1
    return Score(examples, right, unparsable, notes)


def _rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
