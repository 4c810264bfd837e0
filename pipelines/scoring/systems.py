"""Scoring one system on the held-out examples: a student, the teacher, the majority label.

In: the examples (all with a gold label) and what the system says. Out: a `System`, its answers in the order of the examples.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pipelines.config import RunConfig
from pipelines.data.heldout import Heldout
from pipelines.errors import UserError
from pipelines.methods import METHODS, rationale_readers, read_answer, with_rationale, written_labels
from pipelines.reports.format import short
from pipelines.scoring.predict import Prediction, Respondent, predict, sample
from pipelines.scoring.rationales import WrittenRationale, sample_of
from pipelines.scoring.reference_systems import Majority, TeacherAnswers
from pipelines.scoring.system import TITLES, System
from pipelines.tasks import Example, Task
from pipelines.tasks.majority import majority_vote

_LISTED_IDS = 100
_LABEL_CHARACTERS = 60


def scored_examples(run: RunConfig, heldout: Heldout) -> list[Example]:
    """The held-out examples that have a gold label. Raises UserError where none has, with a row that cannot be read."""
    examples = [example for example in heldout.examples if example.gold is not None]
    if not examples:
        rows = len(heldout.examples) + len(heldout.unreadable)
        rule = f"none of its {rows:,} rows has a gold label that the task can read"
        rule += f" ({': '.join(heldout.unreadable[0])})" if heldout.unreadable else ""
        raise UserError(heldout_key(run), rule, "Give held-out examples with gold labels.")
    return examples


def student_inputs(run: RunConfig, answers: TeacherAnswers, examples: Sequence[Example]) -> list[str]:
    """What a student of the run's method reads, without prefix: the input, with the teacher's rationale where the method takes it.

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
    """Refuse to score a student that reads rationales on examples of which not one has any that may be read. Raises UserError."""
    found = answers.by_id
    if not any(example.id in found and found[example.id].rationale.strip() for example in examples):
        rule = f"it reads the teacher's rationales, and the labels hold none to the {len(examples):,} held-out examples"
        rule += "".join(f"; {note}" for note in answers.notes())
        remedy = "Label them with a prompt that asks for rationales, or choose another method."
        raise UserError(f"method {', '.join(rationale_readers())}", rule, remedy)


def student_system(
    name: str, student: Respondent, run: RunConfig, task: Task, examples: Sequence[Example], inputs: Sequence[str]
) -> System:
    """Let a student answer on Ray, greedily or `evaluation.samples.n` times by vote, and score its answers.

    Raises:
        StageFailedError: an actor could not load the student or failed on a batch.
    """
    began = time.monotonic()
    labels_of = [written_labels(run.student.method, task, example) for example in examples]
    drawn = _drawn(student, inputs, labels_of, f"evaluate {TITLES.get(name, name)}")
    answers = [_counted(answers, run, task, example) for answers, example in zip(drawn, examples, strict=True)]
    labels = tuple(answer.label for answer in answers)
    every = [prediction for predictions in drawn for prediction in predictions]
    return System(
        name,
        labels=labels,
        right=tuple(
            label is not None and _right(task, label, example) for label, example in zip(labels, examples, strict=True)
        ),
        texts=tuple(answer.text for answer in answers),
        rationales=tuple(answer.rationale for answer in answers) if _writes_both(run) else (),
        confidences=tuple(answer.confidence for answer in answers),
        too_long=sum(predictions[0].too_long for predictions in drawn),
        seconds=round(time.monotonic() - began, 3),
        answering_s=sum(prediction.seconds for prediction in every),
        prompt_tokens=sum(prediction.prompt_tokens for prediction in every),
        output_tokens=sum(prediction.output_tokens for prediction in every),
    )


def student_rationales(
    student: Respondent, run: RunConfig, examples: Sequence[Example], inputs: Sequence[str], answered: System
) -> list[WrittenRationale]:
    """The rationales that the student writes of its own; none where its method writes none.

    A text holds its rationale. One that is a part of its own costs a pass, greedy, over at most rationales.MOST_SAMPLED
    examples. Inputs that are too long for the student have none.

    Args:
        answered: the labels that it gave to the examples.

    Raises:
        StageFailedError: as `student_system`.
    """
    if _writes_both(run):
        found = zip(answered.rationales, answered.labels, examples, strict=True)
        return [WrittenRationale(rationale, label, example) for rationale, label, example in found]
    if not METHODS[run.student.method].writes_rationales:
        return []
    chosen = sample_of(examples)
    predictions = predict(student, [inputs[i] for i in chosen], "evaluate rationales", "rationale")
    return [
        WrittenRationale(prediction.text, answered.labels[i], examples[i])
        for i, prediction in zip(chosen, predictions, strict=True)
        if not prediction.too_long
    ]


def teacher_rationales(answers: TeacherAnswers, examples: Sequence[Example]) -> list[WrittenRationale]:
    """The rationales of the teacher's recorded answers."""
    found = answers.by_id
    answered = [example for example in examples if example.id in found]
    return [WrittenRationale(found[example.id].rationale, found[example.id].label, example) for example in answered]


def teacher_system(run: RunConfig, task: Task, answers: TeacherAnswers, examples: Sequence[Example]) -> System:
    """Score the teacher's recorded answers.

    An example that it did not answer is wrong. No answers at all are no figure, and neither are some of which it is not known whether
    they were right: a filter chose which.
    """
    found, notes = answers.by_id, answers.notes()
    if not found or answers.filtered:
        missing = [] if notes else ["the labels hold none of its answers to the held-out examples"]
        return System("teacher", note="; ".join([*missing, *notes]))
    labels = [found[example.id].label if example.id in found else None for example in examples]
    right = tuple(a is not None and _right(task, a, e) for a, e in zip(labels, examples, strict=True))
    if run.teacher.engine == "echo":
        notes.insert(0, "engine echo repeats the gold label")
    return System("teacher", labels=tuple(labels), right=right, note="; ".join(notes))


def majority_system(task: Task, majority: Majority | None, examples: Sequence[Example]) -> System:
    """Score the most frequent label of the training rows as the answer to every example."""
    if majority is None:
        return System("majority", note="there are no training rows")
    # By key, not as an answer: the label of another example's choices is no answer to this one, only wrong.
    right = tuple(task.key(majority.label) == task.key(gold_of(example)) for example in examples)
    source = "" if majority.of == "gold" else " by the teacher, as no training row has a gold label"
    note = f"`{short(majority.label, _LABEL_CHARACTERS)}`, the label of {majority.count:,} of {majority.rows:,} training rows{source}"
    return System("majority", labels=(majority.label,) * len(examples), right=right, note=note)


def gold_of(example: Example) -> str:
    """The gold label of an example that is scored."""
    assert example.gold is not None, "only examples with a gold label are scored"
    return example.gold


def heldout_key(run: RunConfig) -> str:
    """The run file's key of the examples that are scored."""
    return "corpus.test" if run.corpus.test is not None else "corpus.validation"


def heldout_part(run: RunConfig, heldout: Heldout, scored: int) -> dict[str, Any]:
    """report.json's `heldout`, without `trained_on` and `chosen_on`. `scored`: how many of the examples have a gold label."""
    missing, repeated = [example.id for example in heldout.examples if example.gold is None], heldout.duplicates
    return {
        "split": heldout_key(run).removeprefix("corpus."),
        "scored": scored,
        "without_gold": {"count": len(missing), "ids": missing[:_LISTED_IDS]},
        "duplicates": {"count": len(repeated), "ids": list(repeated[:_LISTED_IDS])},
        "unreadable": {
            "count": len(heldout.unreadable),
            "ids": [row_id for row_id, _ in heldout.unreadable[:_LISTED_IDS]],
            "problems": [{"id": row_id, "problem": problem} for row_id, problem in heldout.unreadable[:_LISTED_IDS]],
        },
    }


@dataclass(frozen=True)
class _Counted:
    """The answer of a student that counts."""

    label: str | None
    text: str
    rationale: str
    confidence: float


def _drawn(
    student: Respondent, inputs: Sequence[str], labels: Sequence[tuple[str, ...]], title: str
) -> Sequence[tuple[Prediction, ...]]:
    if student.settings.samples.n > 1:
        return sample(student, inputs, title)
    return [(prediction,) for prediction in predict(student, inputs, title, None, labels)]


def _counted(answers: Sequence[Prediction], run: RunConfig, task: Task, example: Example) -> _Counted:
    read = [read_answer(run.student.method, answer.text, task, example) for answer in answers]
    outcome = majority_vote([None if found is None else found.label for found in read], task.key)
    first = outcome.winner[0] if outcome.winner else 0
    chosen, found = answers[first], read[first]
    confidence = chosen.confidence if len(answers) == 1 else outcome.agreement
    # A text in which no label can be read is all rationale, one that leads nowhere.
    if found is None:
        return _Counted(None, chosen.text, chosen.text, confidence)
    return _Counted(found.label, chosen.text, found.rationale, confidence)


def _writes_both(run: RunConfig) -> bool:
    return METHODS[run.student.method].answer == "text"


def _right(task: Task, text: str, example: Example) -> bool:
    return task.same(text, gold_of(example), example)
