"""Scoring one system on the held-out examples: a student, the teacher, the majority label.

In: the examples (all with a gold label) and what the system says. Out: a `System`, its answers in the order of the examples.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.config import RunConfig
from pipelines.corpus import Heldout
from pipelines.evaluate import report
from pipelines.evaluate.baselines import Majority, TeacherAnswer
from pipelines.evaluate.predict import Prediction, Source, predict
from pipelines.evaluate.report import System
from pipelines.methods import NEEDS_A_TEACHER, read_answer, with_rationale
from pipelines.tasks import Example, Task

_LISTED_IDS = 100


def student_inputs(run: RunConfig, answers: Mapping[str, TeacherAnswer], examples: Sequence[Example]) -> list[str]:
    """What a student of the run's method reads, without prefix: the input, with the teacher's rationale where the method takes it."""
    inputs = [example.input for example in examples]
    if run.student.method != NEEDS_A_TEACHER:
        return inputs
    rationales = (answers[example.id].rationale if example.id in answers else "" for example in examples)
    return [with_rationale(text, rationale) for text, rationale in zip(inputs, rationales, strict=True)]


def student_system(
    name: str, source: Source, run: RunConfig, task: Task, examples: Sequence[Example], inputs: Sequence[str]
) -> System:
    """Let a student answer on Ray and score its answers.

    Raises:
        StageFailedError: an actor could not load the student or failed on a batch.
    """
    began = time.monotonic()
    answers: list[Prediction] = predict(source, inputs, run.evaluation, f"evaluate {report.TITLES[name]}")
    read = [
        read_answer(run.student.method, answer.text, task, example)
        for answer, example in zip(answers, examples, strict=True)
    ]
    labels = tuple(None if found is None else found.label for found in read)
    return System(
        name,
        labels=labels,
        right=tuple(
            label is not None and _right(task, label, example) for label, example in zip(labels, examples, strict=True)
        ),
        texts=tuple(answer.text for answer in answers),
        confidences=tuple(answer.confidence for answer in answers),
        too_long=sum(answer.too_long for answer in answers),
        seconds=round(time.monotonic() - began, 3),
        prompt_tokens=sum(answer.prompt_tokens for answer in answers),
        output_tokens=sum(answer.output_tokens for answer in answers),
    )


def teacher_system(
    run: RunConfig, task: Task, found: Mapping[str, TeacherAnswer], examples: Sequence[Example]
) -> System:
    """Score the teacher's recorded answers. An example that it did not answer is wrong; no answers at all are no figure."""
    if not found:
        return System("teacher", note="the labels hold none of its answers to the held-out examples")
    answers = [found[example.id].label if example.id in found else None for example in examples]
    right = tuple(a is not None and _right(task, a, e) for a, e in zip(answers, examples, strict=True))
    note = "engine echo repeats the gold label" if run.teacher.engine == "echo" else ""
    return System("teacher", labels=tuple(answers), right=right, note=note)


def majority_system(task: Task, majority: Majority | None, examples: Sequence[Example]) -> System:
    """Score the most frequent label of the training rows as the answer to every example."""
    if majority is None:
        return System("majority", note="there are no training rows")
    # By key, not as an answer: the label of another example's choices is no answer to this one, only wrong.
    right = tuple(task.key(majority.label) == task.key(gold_of(example)) for example in examples)
    source = "" if majority.of == "gold" else " by the teacher, as no training row has a gold label"
    note = f"`{majority.label}`, the label of {majority.count:,} of {majority.rows:,} training rows{source}"
    return System("majority", labels=(majority.label,) * len(examples), right=right, note=note)


def gold_of(example: Example) -> str:
    """The gold label of an example that is scored."""
    assert example.gold is not None, "only examples with a gold label are scored"
    return example.gold


def heldout_key(run: RunConfig) -> str:
    """The run file's key of the examples that are scored."""
    return "corpus.test" if run.corpus.test is not None else "corpus.validation"


def heldout_part(run: RunConfig, heldout: Heldout, scored: int) -> dict[str, Any]:
    """report.json's `heldout`, without `trained_on`. `scored`: how many of the examples have a gold label."""
    missing = [example.id for example in heldout.examples if example.gold is None]
    return {
        "split": heldout_key(run).removeprefix("corpus."),
        "scored": scored,
        "without_gold": {"count": len(missing), "ids": missing[:_LISTED_IDS]},
        "unreadable": heldout.unreadable,
    }


def _right(task: Task, text: str, example: Example) -> bool:
    return task.same(text, gold_of(example), example)
