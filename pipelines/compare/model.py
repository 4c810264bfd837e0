"""report.json of `raystill compare`, format 4. Shared parts and units: pipelines/scoring/model.py.

Also the details in the manifests of its cells.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

from pipelines.methods import MethodName
from pipelines.scoring.model import (
    HeldoutPart,
    Interval,
    JsonObject,
    Learned,
    RationalesRead,
    ReportPart,
    TaskVersion,
    TeacherCost,
    TrainingSettings,
)

FORMAT: Literal[4] = 4
"""Bumped if the same cells give other figures. Cells stay."""
Place = tuple[str, str, float]
"""Student, method and fraction."""


class GroupKey(ReportPart):
    """Cells that differ only in their seed."""

    student: str
    """Last part of the model's name."""
    method: MethodName
    fraction: float
    """Share of the labels."""

    @property
    def place(self) -> Place:
        """The key as a tuple."""
        return self.student, self.method, self.fraction


class Student(ReportPart):
    """A model of the grid with at least one scored cell."""

    name: str
    model: str
    parameters: int


class Settings(ReportPart):
    """Settings that all cells share."""

    labels: dict[MethodName, Learned]
    filters: JsonObject | None
    """`teacher.filters` of the labels. Null if their manifest has none."""
    training: TrainingSettings
    """Without the keys that differ between cells."""


class Line(ReportPart):
    """A system that needs no training on the labels: a horizontal line in the plots."""

    name: Literal["teacher", "majority", "untrained"]
    student: str | None
    """Null if the line holds for every student."""
    correct: int | None
    total: int | None
    accuracy: float | None
    interval: Interval | None
    note: str


class CellScores(ReportPart):
    """One trained student."""

    seed: int
    correct: int
    total: int
    unanswered: int
    train_examples: int
    steps: int
    tokens: int
    """Tokens trained on."""
    train_s: float
    """After a resumed training, the longer of its last attempt and of all steps together."""
    workers: int
    """Of the run that trained the cell, like `gpu_hours`."""
    gpu_hours: float
    seconds_per_example: float | None
    prompt_tokens: float | None
    """Per answer, like `output_tokens`."""
    output_tokens: float | None
    learning_rate: float
    weight: float | None
    """Of the method's loss. Null if it has none."""
    fingerprint: str
    """Of the student."""


class Group(GroupKey):
    """Cells that differ only in their seed, and their mean."""

    accuracy: float
    interval: Interval
    """Over examples and seeds (seeds.py)."""
    train_examples: float
    """Mean per training, like `steps` and `tokens`."""
    steps: float
    tokens: float
    cells: list[CellScores]


class Difference(GroupKey):
    """A method against the baseline with the same student, fraction, seeds and examples. Only seeds that both have count."""

    accuracy: float
    baseline_accuracy: float
    difference: float
    interval: Interval
    seeds: int


class Trial(ReportPart):
    """A setting that the search tried."""

    student: str
    method: MethodName
    learning_rate: float
    weight: float | None
    correct: int | None
    total: int | None
    chosen: bool
    why: str
    """Why the trial failed; empty if it did not."""


class Search(ReportPart):
    """The search for settings on the validation split."""

    trials: int
    """Per student and method."""
    fraction: float
    seed: int
    split: Literal["validation"]
    examples: int
    settings: list[Trial]


class MissingCell(GroupKey):
    """A cell without scores."""

    seed: int
    why: str


class TrainingCost(GroupKey):
    """One training, mean over the seeds."""

    seconds: float | None
    gpu_hours: float | None
    money: float | None
    """By `compare.price_per_worker_hour`."""


class AnswerCost(ReportPart):
    """Answers at the largest fraction."""

    student: str
    method: MethodName
    seconds_per_example: float | None
    per_1000: float | None
    """Without the teacher's answers."""
    teacher_prompt_tokens: float | None
    """Per example, if the method reads the teacher's rationales; like `teacher_output_tokens`."""
    teacher_output_tokens: float | None


class Cost(ReportPart):
    """Cost of labels, trainings and answers."""

    teacher: TeacherCost
    training: list[TrainingCost]
    answers: list[AnswerCost]


class ComparisonReport(ReportPart):
    """The whole report."""

    format: Literal[4]
    run: str
    headline: str
    notes: list[str]
    """Limits of the figures."""
    task: TaskVersion
    baseline: MethodName
    settings: Settings
    heldout: HeldoutPart
    rationales_read: RationalesRead | None
    """Null if no method reads the teacher's rationales."""
    students: list[Student]
    lines: list[Line]
    groups: list[Group]
    differences: list[Difference]
    search: Search | None
    missing: list[MissingCell]
    cost: Cost
    provenance: JsonObject
    versions: dict[str, str]
    created: str


class LabelCounts(BaseModel):
    """`counts` in the manifest of labels, as far as the notes need them."""

    read: int = 0
    accepted: int = 0
    rejected: int = 0
    rejected_by_reason: dict[str, int] = {}


class AnswerDetails(BaseModel):
    """`details` in the manifest of scores. Null in scores of early versions."""

    seconds_per_example: float | None = None
    prompt_tokens_per_example: float | None = None
    output_tokens_per_example: float | None = None


class CellTraining(BaseModel):
    """Figures of the training that the scores keep."""

    model_config = ConfigDict(extra="allow")

    steps: int
    world_size: int


class CellDetails(AnswerDetails):
    """`details` in the manifest of a cell's scores."""

    training: CellTraining
    parameters: int
    train_examples: int
    tokens: int
    train_s: float
    student: str
    """Fingerprint."""
