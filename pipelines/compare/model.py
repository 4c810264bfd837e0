"""report.json of `raystill compare`, format 4. Shared parts and units: pipelines/scoring/model.py.

Also the details in the manifests of its cells. Fields with a default are missing from reports of 0.1.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

from pipelines.config.compare import ArmName
from pipelines.methods import MethodName
from pipelines.reports.format import fraction as share_text
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
from pipelines.scoring.statistics import Verdict, verdict

FORMAT: Literal[4] = 4
"""Bumped if the same cells give other figures. Cells stay."""
Place = tuple[str, str, float]
"""Student, title and fraction."""
TreatmentKind = Literal["shuffled-rationales", "gold-only", "gold-else-teacher"]
Equal = Literal["steps", "tokens", "epochs"]


def title_of(method: str, kind: TreatmentKind | None, gold_fraction: float | None) -> str:
    """The name of a method in the report, with what was changed in its labels.

    >>> title_of("step-by-step", "shuffled-rationales", None)
    'step-by-step, shuffled rationales'
    """
    gold = "" if gold_fraction is None else f"{share_text(gold_fraction)} of the gold labels"
    names = {
        "shuffled-rationales": "shuffled rationales",
        "gold-only": gold,
        "gold-else-teacher": f"{gold}, else the teacher's",
    }
    return method if kind is None else f"{method}, {names[kind]}"


class GroupKey(ReportPart):
    """Cells that differ only in their seed."""

    student: str
    """Last part of the model's name."""
    method: MethodName
    fraction: float
    """Share of the labels."""
    treatment: TreatmentKind | None = None
    """What was changed in the labels before training. Null: nothing."""
    gold_fraction: float | None = None
    """Share of the gold labels that is used, with treatments of gold labels."""

    @property
    def title(self) -> str:
        """The method and its treatment."""
        return title_of(self.method, self.treatment, self.gold_fraction)

    @property
    def place(self) -> Place:
        """The key as a tuple."""
        return self.student, self.title, self.fraction


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


class Arm(ReportPart):
    """A control of the grid."""

    name: ArmName
    applies: bool
    note: str
    """Why it does not apply; empty if it does."""


class Line(ReportPart):
    """A system beside the trained students: a horizontal line in the plots."""

    name: Literal["teacher", "majority", "untrained", "few-shot", "tf-idf"]
    student: str | None
    """Null if the line holds for every student."""
    correct: int | None
    total: int | None
    accuracy: float | None
    interval: Interval | None
    note: str
    fraction: float | None = None
    """Of the labels that it learns. Null if it learns none of them."""


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
    """A method against another one with the same student, fraction, seeds and examples. Only seeds that both have count."""

    accuracy: float
    baseline_accuracy: float
    difference: float
    interval: Interval
    seeds: int
    versus: str = ""
    """Title of the other one. Empty: the report's baseline."""
    p_value: float | None = None
    """Of the test that the interval inverts."""
    adjusted_p: float | None = None
    """By Holm's method, over all differences but the headline's, for which it is null."""
    budget_ratio: float | None = None
    """Steps of the method over steps of the other one; tokens with `equal: tokens`."""
    verdict: Verdict | None = None
    why: str = ""
    """Why there is no verdict, if the interval is not the reason."""

    @property
    def shown(self) -> Verdict:
        """The verdict. Reports of 0.1 have none, and the interval decides."""
        return self.verdict or verdict(self.interval)


class Trial(ReportPart):
    """A setting that the search tried."""

    student: str
    method: MethodName
    learning_rate: float
    weight: float | None
    steps: int | None = None
    """Null without a search over budgets."""
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
    equal: Equal | None = None
    """What all cells have in common. Null in reports of 0.1, whose cells have equal epochs."""
    arms: tuple[Arm, ...] = ()
    budget: str = ""
    """The common budget and the rule that gives it."""
    detectable: float | None = None
    """The smallest difference that this grid could be expected to show (power.py). Null if none."""
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
