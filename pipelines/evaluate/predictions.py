"""predictions.parquet: every system's answer to every scored example."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pyarrow as pa

from pipelines.config.base import LossyWeights
from pipelines.scoring.model import SystemName
from pipelines.scoring.system import System
from pipelines.storage.parquet import parquet_bytes
from pipelines.tasks import Example

PREDICTIONS = "predictions.parquet"
_QUANTIZED = pa.struct(
    [
        pa.field("weights", pa.string(), nullable=False),
        pa.field("label", pa.string()),  # normalised; null if the text is no label
        pa.field("right", pa.bool_(), nullable=False),
    ]
)
PREDICTION = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("input", pa.string(), nullable=False),
        pa.field("gold", pa.string(), nullable=False),
        pa.field("student_text", pa.string(), nullable=False),  # as the student wrote it
        pa.field("student_label", pa.string()),  # normalised; null if the text is no label
        pa.field("student_right", pa.bool_(), nullable=False),
        pa.field("student_confidence", pa.float32(), nullable=False),
        pa.field(
            "student_in_set", pa.bool_()
        ),  # true: the confidence is renormalised over the closed label set; null: no such set
        pa.field("student_readable", pa.bool_(), nullable=False),  # false: the text is no label
        pa.field("constrained_label", pa.string()),  # null without evaluation.constrained, like the two that follow
        pa.field("constrained_right", pa.bool_()),
        pa.field("constrained_confidence", pa.float32()),
        pa.field("untrained_text", pa.string(), nullable=False),
        pa.field("untrained_right", pa.bool_(), nullable=False),
        pa.field("teacher_label", pa.string()),  # null if the teacher gave none
        pa.field("teacher_right", pa.bool_()),  # null if the report has no accuracy of the teacher
        pa.field("majority_right", pa.bool_()),  # null if there is no majority label
        pa.field("weights", pa.list_(_QUANTIZED), nullable=False),  # an entry per evaluation.weights
    ]
)


def predictions(
    examples: Sequence[Example],
    systems: Mapping[SystemName, System],
    quantized: Mapping[LossyWeights, System] | None = None,
) -> bytes:
    """The file. `quantized`: the student in other weights."""
    student, untrained = systems["student"], systems["untrained"]
    teacher, majority = systems["teacher"], systems["majority"]
    constrained = systems.get("constrained")
    rows = [
        {
            "id": example.id,
            "input": example.input,
            "gold": example.gold,
            "student_text": student.texts[i],
            "student_label": student.labels[i],
            "student_right": student.right[i],
            "student_confidence": student.confidences[i],
            "student_in_set": student.in_set[i] if student.in_set else None,
            "student_readable": student.labels[i] is not None,
            "constrained_label": constrained.labels[i] if constrained else None,
            "constrained_right": constrained.right[i] if constrained else None,
            "constrained_confidence": constrained.confidences[i] if constrained else None,
            "untrained_text": untrained.texts[i],
            "untrained_right": untrained.right[i],
            "teacher_label": teacher.labels[i] if teacher.right else None,
            "teacher_right": teacher.right[i] if teacher.right else None,
            "majority_right": majority.right[i] if majority.right else None,
            "weights": [
                {"weights": weights, "label": system.labels[i], "right": system.right[i]}
                for weights, system in (quantized or {}).items()
            ],
        }
        for i, example in enumerate(examples)
    ]
    return parquet_bytes(pa.Table.from_pylist(rows, schema=PREDICTION))
