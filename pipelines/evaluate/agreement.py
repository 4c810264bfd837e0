"""Held-out examples without a gold label: how often the student gives the teacher's label.

In: held-out examples and the labels. Out: report.json's `agreement`. It says how faithfully the student imitates its teacher on rows that
people left out. It is no accuracy, since both may be wrong.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from pipelines.config import RunConfig
from pipelines.evaluate.model import Agreement
from pipelines.methods import METHODS
from pipelines.reports.format import percent, percents
from pipelines.scoring.rationales import sample_of
from pipelines.scoring.reference_systems import teacher_answers
from pipelines.scoring.statistics import score
from pipelines.scoring.system import System
from pipelines.scoring.systems import student_inputs
from pipelines.storage.store import Store
from pipelines.tasks import Example, Task

MOST_ASKED = 500
"""Examples, so that a large test set with few gold labels does not take longer than its scores."""


@dataclass(frozen=True)
class Unlabelled:
    """Examples that only the teacher has answered."""

    examples: Sequence[Example]
    """Their gold label is the teacher's label."""
    inputs: Sequence[str]
    """As the student reads them."""


def unlabelled(run: RunConfig, task: Task, examples: Sequence[Example]) -> Unlabelled | None:
    """The held-out examples without a gold label that the teacher answered: at most MOST_ASKED, by hash of the id. None if there are none.

    Args:
        examples: all that are held out.
    """
    left = [example for example in examples if example.gold is None]
    if not left:
        return None
    answers = teacher_answers(Store(run.output).child("labels"), run.corpus, left, task)
    known = answers.by_id
    if METHODS[run.student.method].reads_rationale:  # without one there is nothing to read
        known = {name: answer for name, answer in known.items() if answer.rationale.strip()}
    able = [example for example in left if example.id in known]
    answered = [able[i] for i in sample_of(able, MOST_ASKED, "agreement")]
    if not answered:
        return None
    with_label = [replace(example, gold=known[example.id].label) for example in answered]
    return Unlabelled(with_label, student_inputs(run, answers, answered))


def agreement(student: System) -> Agreement:
    """Of the student's answers to `Unlabelled`."""
    found = score(student.right)
    return Agreement(same=found.correct, total=found.total, share=found.accuracy, interval=(found.low, found.high))


def agreement_text(found: Agreement) -> str:
    """In words."""
    share = f"{percent(found.share)}, {percents(found.interval)}"
    return f"without gold label: the student gives the teacher's label to {found.same:,} of {found.total:,} examples ({share})"
