"""report.json of `raystill evaluate`, format 7. Shared parts and units: pipelines/scoring/model.py."""

from __future__ import annotations

from typing import Literal

from pipelines.config.base import LossyWeights
from pipelines.data.label_distribution import LabelDistribution
from pipelines.methods import MethodName
from pipelines.scoring.model import (
    HeldoutPart,
    Interval,
    JsonObject,
    Learned,
    RationaleQuality,
    ReportPart,
    SystemScores,
    TaskVersion,
    TeacherCost,
    TrainingSettings,
)
from pipelines.scoring.reference_systems import Majority
from pipelines.scoring.statistics import Calibration
from pipelines.students.decoding import Family

FORMAT: Literal[7] = 7
"""Bumped if the same students and examples give other figures."""


class StudentPart(ReportPart):
    """The student that is evaluated."""

    fingerprint: str
    method: MethodName
    family: Family
    parameters: int


class Settings(ReportPart):
    """Settings of the student's training, regardless of the current run file."""

    labels: Learned
    filters: JsonObject | None
    """`teacher.filters` of the labels. Null if their manifest has none."""
    training: TrainingSettings


class Comparison(ReportPart):
    """The student against another system on the same examples."""

    student_vs: Literal["constrained", "untrained", "teacher", "majority"]
    better: int
    """Examples that only the student has right."""
    worse: int
    """Examples that only the other system has right."""
    p_value: float
    """Exact McNemar test, for information. The interval decides the verdict (statistics.verdict)."""
    difference: float
    """The student's accuracy minus the other's."""
    difference_interval: Interval
    """Paired 95% interval of Bonett and Price."""


class ConfusionCell(ReportPart):
    """Count of one answer to one gold label. Labels of equal meaning are merged."""

    gold: str
    student: str | None
    """Null if the task can read no answer."""
    count: int


class QuantizedScores(ReportPart):
    """The student in other weights, as `serving.weights` can serve it, against itself in float32."""

    weights: LossyWeights
    engine: str
    correct: int
    total: int
    accuracy: float
    interval: Interval
    same_label: float
    """Share of examples with the same label, or with none from both."""
    better: int
    """Examples that only these weights have right."""
    worse: int
    p_value: float
    difference: float
    """Accuracy of these weights minus that of float32."""
    difference_interval: Interval
    seconds_per_example: float


class Agreement(ReportPart):
    """Held-out examples without a gold label, at most 500: how often the student gives the teacher's label. Both may be wrong."""

    same: int
    total: int
    """Examples that the teacher answered."""
    share: float
    interval: Interval


class Votes(ReportPart):
    """Majority vote over several samples (`evaluation.samples`). A confidence is then the share of samples that agree."""

    n: int
    temperature: float
    agreement: float
    """Mean share of the samples that voted for the answer."""


class Change(ReportPart):
    """The student against the student of an earlier report. The paired figures are null if the examples differ."""

    run: str
    created: str
    accuracy: float
    total: int
    same_examples: bool
    difference: float | None
    """This accuracy minus the earlier one."""
    interval: Interval | None
    better: int | None
    worse: int | None
    p_value: float | None
    note: str
    """Why the examples cannot be paired."""


class TrainingCost(ReportPart):
    """Cost of the training. After a resumed training, `seconds` is the longer of its last attempt and of all steps together."""

    seconds: float
    gpu_hours: float
    money: float | None
    """By `compare.price_per_worker_hour`."""


class AnswerCost(ReportPart):
    """Cost of the student's answers, without the teacher's."""

    seconds_per_example: float | None
    per_1000: float | None


class Cost(ReportPart):
    """Cost of labels, training and answers. Recomputed for another price without scoring again."""

    teacher: TeacherCost
    training: TrainingCost
    answers: AnswerCost


class ErrorExample(ReportPart):
    """A wrong answer of the student."""

    id: str
    input: str
    gold: str
    student: str
    """The answer as written."""
    confidence: float
    teacher: str | None


class Report(ReportPart):
    """The whole report."""

    format: Literal[7]
    run: str
    headline: str
    task: TaskVersion
    heldout: HeldoutPart
    student: StudentPart
    settings: Settings
    systems: list[SystemScores]
    """The student first."""
    comparisons: list[Comparison]
    calibration: Calibration
    """Of the student's confidences, in ten bins."""
    confusion: list[ConfusionCell] | None
    """The most frequent first. Null for more than 20 gold labels. Examples with choices of their own are counted by the places of
    gold label and answer among the choices: `(a)`, `(b)` ..."""
    confusion_note: str
    rationale: RationaleQuality | None
    weights: list[QuantizedScores]
    """One per entry of `evaluation.weights`."""
    votes: Votes | None
    agreement: Agreement | None = None
    """Null if every held-out example has a gold label, or the teacher answered none of the others."""
    baseline: Change | None
    """Set by `raystill evaluate --baseline`."""
    majority: Majority | None
    teacher_labels: LabelDistribution | None = None
    """Of the train rows. Null for free labels."""
    cost: Cost
    errors: list[ErrorExample]
    """The student's 20 most confident wrong answers. predictions.parquet has all answers."""
    provenance: JsonObject
    versions: dict[str, str]
    seconds: float
    created: str

    @property
    def student_scores(self) -> SystemScores:
        """The student's entry among the systems."""
        return next(system for system in self.systems if system.name == "student")
