"""Corpora that tests write, and the run files that name them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pipelines.config import RunConfig


def jsonl(rows: Iterable[Any]) -> bytes:
    """The rows as JSON Lines."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def write_jsonl(path: Path, rows: Iterable[Any]) -> str:
    """Write a JSON Lines file. Returns its path."""
    path.write_bytes(jsonl(rows))
    return str(path)


def word_problem_rows(count: int) -> list[dict[str, str]]:
    """Readable rows of the task `arithmetic`, with the ids r0, r1, ..."""
    return [{"id": f"r{i}", "input": f"Anne has {i} äpples. How many?", "label": f"{i} + 0"} for i in range(count)]


def run_config(
    teacher: Mapping[str, Any] | None = None, *, train: str = "train.jsonl", output: str = "out", **sections: Any
) -> RunConfig:
    """A run of the task `arithmetic`. Further sections and keys of `corpus` replace the defaults."""
    corpus = {"train": train, **sections.pop("corpus", {})}
    tree = {"name": "small", "output": output, "task": "arithmetic", "student": {"model": "some/model"}, **sections}
    return RunConfig.model_validate({**tree, "corpus": corpus, "teacher": teacher or {"engine": "echo"}})
