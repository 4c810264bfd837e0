"""Scores of the systems on the held-out examples: students, the teacher, the majority label.

In: the examples, all with a gold label, and a system's answers. Out: a `System`, in the order of the examples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pipelines.config import RunConfig
from pipelines.errors import UserError
from pipelines.methods import METHODS, rationale_readers, read_answer, with_rationale, written_labels
from pipelines.reports.format import short
from pipelines.scoring.model import SystemName
from pipelines.scoring.predict import Prediction, Predictions, PredictRequest, draws_of
from pipelines.scoring.predictor import Query
from pipelines.scoring.rationales import WrittenRationale, sample_of
from pipelines.scoring.reference_systems import Majority, TeacherAnswers
from pipelines.scoring.sources import Source
from pipelines.scoring.system import System
from pipelines.students.decoding.constrained import check_constrained
from pipelines.tasks import Example, Task
from pipelines.tasks.majority import majority_vote

_LABEL_CHARACTERS = 60


def student_inputs(run: RunConfig, answers: TeacherAnswers, examples: Sequence[Example]) -> list[str]:
    """What a student of the run's method reads, without prefix: the input, and the teacher's rationale if the method reads it.

    Raises:
        UserError: as `check_rationales`.
    """
    inputs = [example.input for example in examples]
    if not METHODS[run.student.method].reads_rationale:
        return inputs
    check_rationales(answers, examples)
    found = answers.by_id
    rationales = (found[example.id].rationale if example.id in found else "" for example in examples)
    return [with_rationale(text, rationale) for text, rationale in zip(inputs, rationales, strict=True)]


def check_rationales(answers: TeacherAnswers, examples: Sequence[Example]) -> None:
    """Refuse to score a student that reads rationales if no example has one. Raises UserError."""
    found = answers.by_id
    if not any(example.id in found and found[example.id].rationale.strip() for example in examples):
        rule = (
            f"it reads the teacher's rationales, and the labels have none for the {len(examples):,} held-out examples"
        )
        rule += "".join(f"; {note}" for note in answers.notes())
        remedy = "Label with a prompt that asks for rationales, or choose another method."
        raise UserError(f"method {', '.join(rationale_readers())}", rule, remedy)


def label_request(
    title: str, source: Source, run: RunConfig, task: Task, examples: Sequence[Example], inputs: Sequence[str],
    *, constrained: bool | None = None,
) -> PredictRequest:  # fmt: skip
    """Ask a student for its labels: greedily, or `evaluation.samples.n` times.

    Args:
        constrained: True limits answers to the closed label set. None: `evaluation.constrained`.

    Raises:
        UserError: constrained answers to examples without a closed label set.

    Sampled answers are not limited to a closed label set: their confidence is the share that agrees.
    """
    draws = draws_of(run.evaluation)
    closed = [written_labels(run.student.method, task, example) for example in examples] if len(draws) == 1 else None
    constrained = run.evaluation.constrained if constrained is None else constrained
    if constrained:
        check_constrained("evaluation.constrained", run.student.method, task, examples)
    return PredictRequest(title, Query(source, draws=draws, constrained=constrained), inputs, closed)


def rationale_request(
    title: str, source: Source, run: RunConfig, examples: Sequence[Example], inputs: Sequence[str]
) -> PredictRequest | None:
    """Ask a student for its rationales, greedily, on at most rationales.MOST_SAMPLED examples.

    None if the method writes no rationale, or writes it in one text with the label.
    """
    if not METHODS[run.student.method].separates_rationale:
        return None
    return PredictRequest(title, Query(source, "rationale"), [inputs[i] for i in sample_of(examples)])


def student_system(
    predicted: Predictions, run: RunConfig, task: Task, examples: Sequence[Example], name: SystemName
) -> System:
    """Score a student's answers to a `label_request`."""
    counted = [
        _counted(answers, run, task, example) for answers, example in zip(predicted.answers, examples, strict=True)
    ]
    labels = tuple(answer.label for answer in counted)
    every = [prediction for answers in predicted.answers for prediction in answers]
    return System(
        name,
        labels=labels,
        right=_rights(task, labels, examples),
        texts=tuple(answer.text for answer in counted),
        rationales=tuple(answer.rationale for answer in counted)
        if METHODS[run.student.method].answer == "text"
        else (),
        confidences=tuple(answer.confidence for answer in counted),
        in_set=tuple(answer.in_set for answer in counted),
        engine=every[0].engine if every else None,
        weights=every[0].weights if every else None,
        too_long=sum(answers[0].too_long for answers in predicted.answers),
        seconds=predicted.seconds,
        answering_s=sum(prediction.seconds for prediction in every),
        prompt_tokens=sum(prediction.prompt_tokens for prediction in every),
        output_tokens=sum(prediction.output_tokens for prediction in every),
    )


def student_rationales(
    predicted: Predictions | None, examples: Sequence[Example], student: System
) -> list[WrittenRationale]:
    """The student's own rationales. Inputs that are too long for the student have none.

    Args:
        predicted: the answers to the `rationale_request`. None: the rationales are in the student's texts, if anywhere.
    """
    if predicted is None:
        found = zip(student.rationales, student.labels, examples, strict=True) if student.rationales else ()
        return [WrittenRationale(rationale, label, example) for rationale, label, example in found]
    return [
        WrittenRationale(prediction.text, student.labels[i], examples[i])
        for i, (prediction,) in zip(sample_of(examples), predicted.answers, strict=True)
        if not prediction.too_long
    ]


def teacher_rationales(answers: TeacherAnswers, examples: Sequence[Example]) -> list[WrittenRationale]:
    """The rationales of the teacher's recorded answers."""
    found = answers.by_id
    answered = [example for example in examples if example.id in found]
    return [WrittenRationale(found[example.id].rationale, found[example.id].label, example) for example in answered]


def teacher_system(run: RunConfig, task: Task, answers: TeacherAnswers, examples: Sequence[Example]) -> System:
    """Score the teacher's recorded answers. Examples without an answer count as wrong.

    There is no accuracy without any answers. Nor is there one if filters removed answers: the rest is not a fair sample.
    """
    found, notes = answers.by_id, answers.notes()
    if not found or answers.filtered:
        missing = [] if notes else ["the labels have none of its answers to the held-out examples"]
        return System("teacher", note="; ".join([*missing, *notes]))
    labels = tuple(found[example.id].label if example.id in found else None for example in examples)
    if run.teacher.engine == "echo":
        notes.insert(0, "engine echo repeats the gold label")
    return System("teacher", labels=labels, right=_rights(task, labels, examples), note="; ".join(notes))


def majority_system(task: Task, majority: Majority | None, examples: Sequence[Example]) -> System:
    """Score the most frequent label of the training rows as the answer to every example."""
    if majority is None:
        return System("majority", note="there are no training rows")
    # Compared by key: Task.same would reject a label that is not among the example's choices, instead of counting it as wrong.
    right = tuple(task.key(majority.label) == task.key(gold_of(example)) for example in examples)
    source = "" if majority.of == "gold" else " from the teacher; no training row has a gold label"
    label = short(majority.label, _LABEL_CHARACTERS)
    note = f"`{label}`, the label of {majority.count:,} of {majority.rows:,} training rows{source}"
    return System("majority", labels=(majority.label,) * len(examples), right=right, note=note)


def gold_of(example: Example) -> str:
    """The gold label of a scored example."""
    assert example.gold is not None, "only examples with a gold label are scored"
    return example.gold


@dataclass(frozen=True)
class _Counted:
    """The answer of a student that counts."""

    label: str | None
    text: str
    rationale: str
    confidence: float
    in_set: bool | None


def _counted(answers: Sequence[Prediction], run: RunConfig, task: Task, example: Example) -> _Counted:
    read = [read_answer(run.student.method, answer.text, task, example) for answer in answers]
    vote = majority_vote([None if found is None else found.label for found in read], task.key)
    winner = vote.winner[0] if vote.winner else 0
    chosen, found = answers[winner], read[winner]
    confidence = chosen.confidence if len(answers) == 1 else vote.agreement
    # A text without a readable label counts as a rationale that leads nowhere.
    if found is None:
        return _Counted(None, chosen.text, chosen.text, confidence, chosen.in_set)
    return _Counted(found.label, chosen.text, found.rationale, confidence, chosen.in_set)


def _rights(task: Task, labels: Sequence[str | None], examples: Sequence[Example]) -> tuple[bool, ...]:
    pairs = zip(labels, examples, strict=True)
    return tuple(label is not None and task.same(label, gold_of(example), example) for label, example in pairs)
