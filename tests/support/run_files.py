"""A run file in an object store, as it is submitted to a cluster."""

from __future__ import annotations

from typing import Any

TREE: dict[str, Any] = {
    "name": "try",
    "output": "s3://bucket/try",
    "task": "arithmetic",
    "corpus": {"train": "s3://bucket/train.jsonl"},
    "teacher": {"engine": "vllm", "model": "Qwen/Qwen2.5-7B-Instruct"},
    "student": {"model": "google/t5-v1_1-small"},
}
