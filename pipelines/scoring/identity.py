"""What decides the answers of a student to held-out examples, and which of them count as right, besides the student itself.

In: the run, its task and the examples. Out: a part of the identity of a report, and of the scores of a grid's cells. How answers are
batched, and on how many and what devices, is no part of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pipelines.config import EvaluationConfig, RunConfig
from pipelines.storage.fingerprint import fingerprint
from pipelines.storage.manifest import Manifest
from pipelines.tasks import Example, Task

ANSWERS = 2
"""Bumped when the same student gives other answers to the same examples. 2: each text draws from a stream of its whole prompt."""


def asking_identity(evaluation: EvaluationConfig) -> dict[str, Any]:
    """How a student is asked."""
    samples = evaluation.samples
    return {
        "max_new_tokens": evaluation.max_new_tokens,
        "samples": samples.model_dump(mode="json") if samples.n > 1 else None,
    }


def answers_identity(run: RunConfig, task: Task, examples: Sequence[Example]) -> dict[str, Any]:
    """What a student is asked, how, and by which rules it is scored."""
    evaluation = run.evaluation
    found: dict[str, Any] = {
        "format": ANSWERS,
        **asking_identity(evaluation),
        "task": {"name": task.name, "version": task.version, "options": run.task_options},
        "examples": fingerprint({"rows": [[e.id, e.input, e.gold, list(e.choices)] for e in examples]}),
    }
    if task.is_closed and evaluation.samples.n == 1:  # scores of before had products of all probabilities here, too
        found["confidence"] = "renormalised"
    return found


def labels_identity(labels: Manifest) -> dict[str, Any]:
    """Which labels, and the teacher's answers to held-out examples beside them: what decided them, and what they say.

    Both, since the same settings give others once rows that no engine could answer (`engine_error`) were tried again.
    """
    content = {key: labels.details.get(key) for key in ("content", "heldout_content")}
    return {"fingerprint": labels.fingerprint, **content}
