"""The student in other weights (`evaluation.weights`), as `serving.weights` can serve it, compared with itself in float32."""

from __future__ import annotations

from collections.abc import Sequence

from pipelines.config import EvaluationConfig
from pipelines.config.base import LossyWeights
from pipelines.errors import UserError
from pipelines.evaluate.model import QuantizedScores
from pipelines.scoring.statistics import score, versus
from pipelines.scoring.system import System
from pipelines.students.decoding import Family
from pipelines.tasks import Task


def check_weights(settings: EvaluationConfig, family: Family) -> None:
    """Refuse weights that no engine supports for the student. Raises UserError."""
    if "float16" in settings.weights and family == "encoder-decoder":
        rule = "activations of encoder-decoder students leave its range"
        raise UserError("evaluation.weights float16", rule, "Set evaluation.weights: [bfloat16], or remove it.")
    if "int8" not in settings.weights:
        return
    remedy = "Set evaluation.weights: [bfloat16], or remove it"
    if family != "encoder-decoder":
        raise UserError("evaluation.weights int8", f"no engine supports it for {family} students", f"{remedy}.")
    if settings.gpus_per_worker:
        rule = "its engine runs on CPUs, and evaluation.gpus_per_worker is 1"
        raise UserError("evaluation.weights int8", rule, f"{remedy}, or set gpus_per_worker: 0.")


def quantized_scores(weights: LossyWeights, quantized: System, student: System, task: Task) -> QuantizedScores:
    """One entry of report.json's `weights`. `student`: its answers in float32."""
    measured = score(quantized.right)
    assert quantized.answering_s is not None
    assert quantized.engine is not None
    return QuantizedScores(
        weights=weights,
        engine=quantized.engine,
        correct=measured.correct,
        total=measured.total,
        accuracy=measured.accuracy,
        interval=(measured.low, measured.high),
        same_label=_same_label(quantized.labels, student.labels, task),
        **versus(quantized.right, student.right),
        seconds_per_example=quantized.answering_s / measured.total,
    )


def _same_label(labels: Sequence[str | None], others: Sequence[str | None], task: Task) -> float:
    """Share of examples with the same label, or with none in both."""
    keys = ([None if label is None else task.key(label) for label in found] for found in (labels, others))
    same = [one == other for one, other in zip(*keys, strict=True)]
    return float(sum(same) / len(same))
