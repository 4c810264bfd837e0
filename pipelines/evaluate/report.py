"""Measured systems -> report.json."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipelines.config import RunConfig, StudentConfig
from pipelines.evaluate.agreement import agreement
from pipelines.evaluate.confusion import confusion
from pipelines.evaluate.costs import student_cost
from pipelines.evaluate.measure import Measured, Questions
from pipelines.evaluate.model import FORMAT, Comparison, ErrorExample, Report, Settings, StudentPart, Votes
from pipelines.evaluate.quantized import quantized_scores
from pipelines.reports.format import percent, rounded, short
from pipelines.scoring.model import HeldoutPart, Interval, SystemScores, TaskVersion, TrainingSettings
from pipelines.scoring.settings import filters_of, learned
from pipelines.scoring.statistics import calibration, verdict, versus
from pipelines.scoring.system import TITLES, System
from pipelines.scoring.systems import gold_of
from pipelines.storage.manifest import Manifest, library_versions, now
from pipelines.tasks import Example, Task

NUM_ERRORS = 20
_NAME_CHARACTERS = 40
_VERDICTS = {
    "better": "the student is better",
    "worse": "the student is worse",
    "not shown": "no difference is shown",
}


@dataclass(frozen=True)
class Evaluated:
    """The subject of a report."""

    run: RunConfig
    task: Task
    student: Manifest
    labels: Manifest


def build_report(
    about: Evaluated, heldout: HeldoutPart, questions: Questions, measured: Measured, began: float
) -> Report:
    """The whole report, without a comparison with an earlier one. `began`: start of the stage, by time.monotonic."""
    run, task, student, labels = about.run, about.task, about.student, about.labels
    systems = [system.scores() for system in measured.systems.values()]
    compared = comparisons(measured.student, list(measured.systems.values()))
    cells, confusion_note = confusion(questions.examples, measured.student.labels, task.key)
    details = student.details
    return Report(
        format=FORMAT,
        run=run.name,
        headline=headline(systems, compared, details["parameters"], teacher_name(labels)),
        task=TaskVersion(name=task.name, version=task.version),
        heldout=heldout,
        student=StudentPart(
            fingerprint=student.fingerprint,
            method=details["method"],
            family=details["family"],
            parameters=details["parameters"],
        ),
        settings=Settings(
            labels=learned(StudentConfig.model_validate(student.config["student"])),
            filters=filters_of(labels),
            training=TrainingSettings.model_validate(student.identity["training"]),
        ),
        systems=systems,
        comparisons=compared,
        calibration=calibration(measured.student.confidences, measured.student.right),
        confusion=cells,
        confusion_note=confusion_note,
        rationale=measured.rationale,
        weights=[
            quantized_scores(weights, system, measured.student, task) for weights, system in measured.quantized.items()
        ],
        votes=_votes(run, measured.student),
        agreement=agreement(measured.unlabelled) if measured.unlabelled else None,
        baseline=None,
        majority=questions.majority,
        teacher_labels=questions.given,
        cost=student_cost(labels, student, systems[0].seconds_per_example, run.compare.price_per_worker_hour),
        errors=errors(questions.examples, measured.student, measured.systems["teacher"]),
        provenance=student.provenance,
        versions=library_versions(),
        seconds=round(time.monotonic() - began, 3),
        created=now(),
    )


def _votes(run: RunConfig, student: System) -> Votes | None:
    samples = run.evaluation.samples
    if samples.n == 1:
        return None
    agreement = sum(student.confidences) / len(student.confidences)
    return Votes(n=samples.n, temperature=samples.temperature, agreement=agreement)


def comparisons(student: System, others: Sequence[System]) -> list[Comparison]:
    """The student against every other system that has answers."""
    return [
        Comparison(student_vs=other.name, **versus(student.right, other.right))
        for other in others
        if other.right and other.name != "student"
    ]


def headline(
    systems: Sequence[SystemScores], compared: Sequence[Comparison], parameters: int, teacher: str | None
) -> str:
    """One sentence of at most 25 words: the student beside its teacher, or beside the label that always wins if it is not better.

    Args:
        teacher: its model; None if it has none.
    """
    by_name = {system.name: system for system in systems}
    student = by_name["student"]
    text = f"A student of {rounded(parameters)} parameters is right on {percent(student.accuracy)} of "
    text += f"{student.total:,} held-out examples"
    other = _rival({one.student_vs: one for one in compared})
    if not other:
        return f"{text}."
    name = f"its teacher {teacher}" if other.student_vs == "teacher" and teacher else f"the {TITLES[other.student_vs]}"
    return (
        f"{text}; {name} on {percent(by_name[other.student_vs].accuracy)}: {verdict_text(other.difference_interval)}."
    )


def _rival(compared: Mapping[str, Comparison]) -> Comparison | None:
    """The system that a reader must know of first."""
    for name in ("majority", "untrained"):
        if name in compared and verdict(compared[name].difference_interval) != "better":
            return compared[name]
    return next((compared[name] for name in ("teacher", "majority", "untrained") if name in compared), None)


def teacher_name(labels: Manifest) -> str | None:
    """The last part of the hub id or folder of the labels' teacher; of a link, its target's. None without a model (recorded outputs)."""
    model = labels.config.get("teacher", {}).get("model")
    if not model:
        return None
    return short(Path(model).resolve().name if Path(model).is_symlink() else Path(model).name, _NAME_CHARACTERS)


def errors(examples: Sequence[Example], student: System, teacher: System) -> list[ErrorExample]:
    """The student's most confident wrong answers."""
    wrong = [i for i, right in enumerate(student.right) if not right]
    wrong.sort(key=lambda i: (-student.confidences[i], i))
    return [
        ErrorExample(
            id=examples[i].id,
            input=examples[i].input,
            gold=gold_of(examples[i]),
            student=student.texts[i],
            confidence=round(student.confidences[i], 4),
            teacher=teacher.labels[i] if teacher.labels else None,
        )
        for i in wrong[:NUM_ERRORS]
    ]


def verdict_text(interval: Interval) -> str:
    """The verdict on the student, for use within a sentence."""
    return _VERDICTS[verdict(interval)]
