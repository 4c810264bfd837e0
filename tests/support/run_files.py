"""Run files that tests write, and runs that label made-up word problems."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from pipelines.config import RunConfig
from tests.support.corpora import run_config, train_rows, write_jsonl

TREE: dict[str, Any] = {
    "name": "try",
    "output": "s3://bucket/try",
    "task": "arithmetic",
    "corpus": {"train": "s3://bucket/train.jsonl"},
    "teacher": {"engine": "vllm", "model": "Qwen/Qwen2.5-7B-Instruct"},
    "student": {"model": "google/t5-v1_1-small"},
}
"""A run in an object store, as it is submitted to a cluster."""


def word_rows(count: int) -> list[dict[str, Any]]:
    """Word problems with the ids r0, r1, ..."""
    return [{**row, "id": f"r{i}"} for i, row in enumerate(train_rows(count))]


def label_run(
    folder: Path, rows: Iterable[Any], teacher: Mapping[str, Any] | None = None, **sections: Any
) -> RunConfig:
    """A run of the echo teacher over these rows with FOLDER/out as its output. `teacher`: keys beside the engine."""
    corpus = write_jsonl(folder / "train.jsonl", rows)
    return run_config({"engine": "echo", **(teacher or {})}, train=corpus, output=str(folder / "out"), **sections)


def write_run_file(folder: Path, run: RunConfig) -> Path:
    """FOLDER/run.yaml with the keys that the run sets."""
    file = folder / "run.yaml"
    file.write_text(yaml.safe_dump(run.model_dump(mode="json", exclude_unset=True)))
    return file
