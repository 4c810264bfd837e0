"""What a student is compared with, from the labels artifact: the teacher's answers and the majority label.

In: OUTPUT/labels. Out: the teacher's label by example id, and the label that is the most frequent in training:

    teacher_answers(...) -> {"apples-17": TeacherAnswer("4 - 1", "Anne gives 1 away.", prompt_tokens=291, output_tokens=14), ...}
    majority_label(...)  -> Majority(label="neutral", count=61, rows=150, of="gold")
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, fields
from typing import Any, Literal

from pipelines.artifacts import Store
from pipelines.config import CorpusConfig
from pipelines.corpus import has_heldout_files, is_validation
from pipelines.tasks import Task


@dataclass(frozen=True)
class Majority:
    """The most frequent label among the training rows."""

    label: str
    count: int
    rows: int
    """Training rows that have a label of this kind."""
    of: Literal["gold", "teacher"]
    """teacher: no training row has a gold label, so the teacher's stand for them."""


@dataclass(frozen=True)
class TeacherAnswer:
    """What the teacher said of an example."""

    label: str
    rationale: str
    prompt_tokens: int
    output_tokens: int
    """Of all its samples; 0 where a recording does not say."""


def teacher_answers(labels: Store, corpus: CorpusConfig, ids: Collection[str]) -> dict[str, TeacherAnswer]:
    """The teacher's answer to each held-out example that it answered.

    Answers to files of held-out examples (a test set, a validation file) are kept unfiltered beside the labels; those of a
    validation split that is a share of train are among the labels, so that what a filter rejected has none.
    """
    folder = "heldout/data" if has_heldout_files(corpus) else "data"
    wanted, columns = set(ids), [field.name for field in fields(TeacherAnswer)]
    rows = _rows(labels, folder, ["id", *columns])
    return {row["id"]: TeacherAnswer(**{name: row[name] for name in columns}) for row in rows if row["id"] in wanted}


def majority_label(labels: Store, corpus: CorpusConfig, task: Task, heldout: Collection[str]) -> Majority | None:
    """The most frequent label of the training rows, by what the task scores; None where there are no training rows.

    Of labels that are equally frequent, the one whose key sorts first.
    """
    unseen = set(heldout)
    share = corpus.validation if isinstance(corpus.validation, float) else 0.0
    rows = [
        row
        for row in _rows(labels, "data", ["id", "gold", "label"])
        if row["id"] not in unseen and not is_validation(row["id"], share)
    ]
    golds = [row["gold"] for row in rows if row["gold"] is not None]
    texts = golds or [row["label"] for row in rows]
    if not texts:
        return None
    counts = Counter(task.key(text) for text in texts)
    key = min(counts, key=lambda k: (-counts[k], k))
    label = min(text for text in texts if task.key(text) == key)
    return Majority(label, counts[key], len(texts), "gold" if golds else "teacher")


def _rows(labels: Store, folder: str, columns: list[str]) -> list[dict[str, Any]]:
    import pyarrow.parquet as pq

    found: list[dict[str, Any]] = []
    for name in labels.files(folder, ".parquet"):
        with labels.fs.open_input_file(labels.path(name)) as file:
            found.extend(pq.read_table(file, columns=columns).to_pylist())
    return found
