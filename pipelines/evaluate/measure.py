"""Answers of all systems to the held-out examples: students on Ray, the others from the labels."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from pipelines.config import RunConfig
from pipelines.config.base import LossyWeights
from pipelines.data.label_distribution import LabelDistribution
from pipelines.evaluate.agreement import Unlabelled
from pipelines.evaluate.validation_split import validation_notes
from pipelines.methods import METHODS
from pipelines.runtime.progress_file import ProgressFile
from pipelines.scoring.model import RationaleQuality, SystemName
from pipelines.scoring.predict import PredictRequest, predict
from pipelines.scoring.rationales import quality, rationales_read, rationales_read_text
from pipelines.scoring.reference_systems import Majority, TeacherAnswers
from pipelines.scoring.sources import Source, Untrained, scored_weights, trained
from pipelines.scoring.system import System
from pipelines.scoring.systems import (
    label_request,
    majority_system,
    rationale_request,
    student_rationales,
    student_system,
    teacher_rationales,
    teacher_system,
)
from pipelines.storage.manifest import Manifest
from pipelines.tasks import Example, Task


@dataclasses.dataclass(frozen=True)
class Questions:
    """The scored examples, and what the labels know about them."""

    examples: Sequence[Example]
    inputs: Sequence[str]
    """As the student reads them."""
    answers: TeacherAnswers
    majority: Majority | None
    given: LabelDistribution | None = None
    """The teacher's labels of the train rows."""
    unlabelled: Unlabelled | None = None


@dataclasses.dataclass(frozen=True)
class Measured:
    """The answers, scored."""

    systems: Mapping[SystemName, System]
    """The student first."""
    rationale: RationaleQuality | None
    quantized: Mapping[LossyWeights, System]
    unlabelled: System | None
    """The student's answers to the examples that only the teacher has answered."""

    @property
    def student(self) -> System:
        """The trained student."""
        return self.systems["student"]


def measure(
    run: RunConfig, task: Task, student: Manifest, folder: str, questions: Questions, live: ProgressFile
) -> Measured:
    """Ask and score all systems.

    Args:
        student: its manifest.
        folder: its path or URI.
        live: progress file of the stage.

    Raises:
        StageFailedError: a student failed to answer.
    """
    examples, inputs, answers = questions.examples, questions.inputs, questions.answers
    family, constrained = student.details["family"], run.evaluation.constrained
    source = trained(run, folder, family)
    rationales = rationale_request("student's rationales", source, run, examples, inputs)

    def labels(title: str, source: Source, *, constrained: bool = False) -> PredictRequest:
        return label_request(title, source, run, task, examples, inputs, constrained=constrained)

    left = questions.unlabelled
    requests = [
        labels("student", source),
        *([rationales] if rationales else []),
        *(
            [label_request("rows without gold", source, run, task, left.examples, left.inputs, constrained=False)]
            if left
            else []
        ),
        *([labels("student, constrained", source, constrained=True)] if constrained else []),
        labels("untrained student", _untrained(run, student, folder)),
        *(labels(f"student in {w}", trained(run, folder, family, w)) for w in run.evaluation.weights),
    ]
    predicted = iter(predict(requests, run.evaluation, live))
    trained_system = student_system(next(predicted), run, task, examples, "student")
    written = student_rationales(next(predicted) if rationales else None, examples, trained_system)
    imitated = student_system(next(predicted), run, task, left.examples, "student") if left else None
    trained_system = dataclasses.replace(trained_system, note="; ".join(_student_notes(run, task, student, questions)))
    systems = [
        trained_system,
        *([student_system(next(predicted), run, task, examples, "constrained")] if constrained else []),
        student_system(next(predicted), run, task, examples, "untrained"),
        teacher_system(run, task, answers, examples),
        majority_system(task, questions.majority, examples),
    ]
    return Measured(
        systems={system.name: system for system in systems},
        rationale=quality("student", written, task) or quality("teacher", teacher_rationales(answers, examples), task),
        quantized={
            weights: student_system(next(predicted), run, task, examples, "student")
            for weights in run.evaluation.weights
        },
        unlabelled=imitated,
    )


def _untrained(run: RunConfig, student: Manifest, folder: str) -> Untrained:
    limits = student.details["max_input_tokens"], student.details["max_target_tokens"]
    own_tokenizer = folder if run.student.init.vocabulary is not None else None
    return Untrained(run.student, run.training.seed, *limits, own_tokenizer)


def is_served_otherwise(run: RunConfig) -> bool:
    """True if the endpoint limits answers to the closed label set, and no line of the report has such answers."""
    return run.serving.constrained and not run.evaluation.constrained


def _student_notes(run: RunConfig, task: Task, student: Manifest, questions: Questions) -> list[str]:
    """Limits of the student's accuracy."""
    notes = validation_notes(run, student)
    weights, scored = run.serving.weights, scored_weights(run, student.details["family"])
    if weights != scored:
        notes.append(f"scored in {scored}, and serving.weights is {weights}")
    if is_served_otherwise(run):
        notes.append("scored with free answers, and serving.constrained is true; set evaluation.constrained: true")
    if METHODS[run.student.method].reads_rationale:
        read = rationales_read(questions.answers, questions.examples, task)
        notes.append(f"it {rationales_read_text(read)}")
    return notes
