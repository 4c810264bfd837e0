"""What other weights cost: the student as `serving.weights` can also serve it, against itself in float32, on the same examples.

In: `evaluation.weights`, the student's folder and its answers in float32. Out: report.json's `weights`, an entry for each:

    {"weights": "int8", "engine": "ctranslate2", "correct": 121, "total": 200, "accuracy": 0.605, "interval": [0.536, 0.67],
     "same_label": 0.985, "better": 1, "worse": 3, "p_value": 0.625, "difference": -0.01, "difference_interval": [-0.03, 0.01],
     "seconds_per_example": 0.011}
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pipelines.config import EvaluationConfig
from pipelines.config.base import LossyWeights
from pipelines.errors import UserError
from pipelines.scoring.statistics import difference, paired
from pipelines.scoring.system import System
from pipelines.students.decoding import Family, Student
from pipelines.tasks import Task


@dataclass(frozen=True)
class Recast:
    """A finished student in other weights than it was stored in: an `evaluate.predict.Source`."""

    folder: str
    """Path or URI."""
    weights: LossyWeights

    def load(self, device: str) -> Student:
        """Read it with the engine that serves such weights. An int8 conversion is kept beside the student."""
        import torch

        if self.weights == "bfloat16":
            return Student.load(self.folder, device=device, dtype="bfloat16")
        from pipelines.students.decoding.ctranslate2_student import Ctranslate2Student

        return Ctranslate2Student.open(self.folder, weights=self.weights, threads=torch.get_num_threads())


def engine_of(weights: LossyWeights) -> str:
    """What runs a student in such weights here."""
    return "ctranslate2" if weights == "int8" else "transformers"


def check_weights(settings: EvaluationConfig, family: Family) -> None:
    """Refuse weights that no engine has for the student. Raises UserError."""
    if "int8" not in settings.weights:
        return
    remedy = "Set evaluation.weights: [bfloat16], or remove it"
    if family != "encoder-decoder":
        raise UserError("evaluation.weights int8", f"no engine has it for {family} students", f"{remedy}.")
    if settings.gpus_per_worker:
        rule = "its engine runs on CPUs, and evaluation.gpus_per_worker is 1"
        raise UserError("evaluation.weights int8", rule, f"{remedy}, or set gpus_per_worker: 0.")


def weights_entry(weights: LossyWeights, recast: System, student: System, task: Task) -> dict[str, Any]:
    """One entry of report.json's `weights`. `better`: only these weights are right; `difference`: theirs less that of float32."""
    row = recast.row()
    apart = difference(recast.right, student.right)
    return {
        "weights": weights,
        "engine": engine_of(weights),
        **{key: row[key] for key in ("correct", "total", "accuracy", "interval")},
        "same_label": _same(recast.labels, student.labels, task),
        **vars(paired(recast.right, student.right)),
        "difference": apart.value,
        "difference_interval": [apart.low, apart.high],
        "seconds_per_example": row["seconds_per_example"],
    }


def _same(labels: Sequence[str | None], others: Sequence[str | None], task: Task) -> float:
    """The share of examples with the same label, or with none in both."""
    keys = ([None if label is None else task.key(label) for label in found] for found in (labels, others))
    same = [one == other for one, other in zip(*keys, strict=True)]
    return float(sum(same) / len(same))
