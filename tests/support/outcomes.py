"""Outcomes of rows, as teacher actors return them."""

import zlib
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.config import FiltersConfig
from pipelines.data.reader import DataSplit
from pipelines.data.schema import REJECT_REASONS
from pipelines.label.answers.outcomes import (
    Outcome,
    judge,
    outcome_table,
    rejected,
    second_attempt,
    wants_rationalising,
)
from pipelines.label.teachers.base import Generation, Sample, TokenLogprobs
from pipelines.tasks import Example, load_task, task_spec

ARITHMETIC = load_task(task_spec("arithmetic"))
APPLES = Example("a", "Anne has 4 apples and gives Peter 1. How many has she left?", "4 - 1")


def accepted(example_id: str, split: DataSplit = "train", label: str = "1", **columns: Any) -> Outcome:
    """An accepted row of 5 tokens that agrees with its gold label."""
    values: dict[str, Any] = {
        "input": "i", "gold": "1", "rationale": "r", "votes": 1, "agreement": 1.0, "prompt_tokens": 3, "output_tokens": 2,
        "finish_reason": "stop", "agrees": True, "content": content_of(example_id, label),
    }  # fmt: skip
    return Outcome(split=split, id=example_id, label=label, **{**values, **columns})


def reject(example_id: str, reason: str, split: DataSplit = "train", detail: str = "detail") -> Outcome:
    return rejected(split, example_id, reason, detail, "output")


def content_of(*words: str) -> int:
    """A stand-in for the content hash of a row."""
    return zlib.crc32(" ".join(words).encode())


def table(*outcomes: Outcome) -> pa.Table:
    return outcome_table(outcomes)


def part_ids(folder: Path, name: str = "data") -> list[str]:
    """Sorted ids of all rows in a folder of parts."""
    return sorted(i for part in (folder / name).glob("*.parquet") for i in pq.read_table(part)["id"].to_pylist())


def generated(*texts: str, finish: str = "stop") -> Generation:
    """Answers of 5 tokens each to a prompt of 100."""
    return Generation(tuple(Sample(text, 5, finish) for text in texts), 100)


def said(label: str, *probabilities: tuple[str, float], logprobs: TokenLogprobs | None = None) -> Sample:
    return Sample(f"It is so. The answer is {label}.", 5, "stop", logprobs, probabilities or None)


def outcome(split: DataSplit, generation: Generation, **filters: Any) -> Outcome:
    return checked(judge(split, APPLES, generation, ARITHMETIC, FiltersConfig(**filters)))


def attempts(first: Generation, second: Generation, **filters: Any) -> Outcome:
    """The outcome of a row that is rationalised."""
    config = FiltersConfig(gold="rationalise", **filters)
    row = judge("train", APPLES, first, ARITHMETIC, config)
    assert wants_rationalising(row, config)
    return checked(second_attempt(APPLES, row, second, ARITHMETIC, config))


def checked(row: Outcome) -> Outcome:
    """The row, which must fit into the table of outcomes."""
    assert outcome_table([row]).num_rows == 1
    assert row.reason is None or row.reason in REJECT_REASONS
    return row
