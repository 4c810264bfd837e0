"""Parts of the fingerprint of reports and scores: everything besides the student that decides its answers and which of them are right.

Batch size, workers, devices and the engine of `auto` are not part of it: in float32 they change no answer.
"""

from __future__ import annotations

from collections.abc import Sequence

from pipelines.config import RunConfig
from pipelines.scoring.model import JsonObject
from pipelines.storage.fingerprint import fingerprint
from pipelines.storage.manifest import Manifest
from pipelines.tasks import Example, Task

ANSWERS = 2
"""Bumped if the same student gives other answers to the same examples. 2: each text draws from a random stream of its whole prompt."""


def answers_identity(run: RunConfig, task: Task, examples: Sequence[Example]) -> JsonObject:
    """The examples, the settings of the queries, and the rules of scoring."""
    evaluation, samples = run.evaluation, run.evaluation.samples
    found: JsonObject = {
        "format": ANSWERS,
        "max_new_tokens": evaluation.max_new_tokens,
        "samples": samples.model_dump(mode="json") if samples.n > 1 else None,
        "task": {"name": task.name, "version": task.version, "options": run.task_options},
        "examples": fingerprint({"rows": [[e.id, e.input, e.gold, list(e.choices)] for e in examples]}),
    }
    if task.is_closed and samples.n == 1:
        # Marks scores whose confidence is renormalised over the label set. Early scores have plain products of probabilities.
        found["confidence"] = "renormalised"
    # Set only if they differ from the defaults: earlier scores stay valid.
    if run.serving.weights != "float32" and not evaluation.weights:
        found["weights"] = run.serving.weights
    if evaluation.engine != "auto":
        found["engine"] = evaluation.engine
    if evaluation.constrained:
        found["constrained"] = True
    return found


def labels_identity(labels: Manifest) -> JsonObject:
    """The labels and the teacher's answers to held-out examples, by settings and by content.

    The same settings give other content after rows with `engine_error` were retried.
    """
    content = {key: labels.details.get(key) for key in ("content", "heldout_content")}
    return {"fingerprint": labels.fingerprint, **content}
