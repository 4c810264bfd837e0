"""The evaluate stage: which of four systems is right on the same held-out examples, and how sure that is.

In: OUTPUT/student, OUTPUT/labels and the held-out part of the corpus. Out: OUTPUT/report:

    report/report.json           what was measured; its schema stands in pipelines.evaluate.report
    report/report.md             the same to read
    report/report.html           the same as one page that needs nothing else
    report/accuracy.png          the systems' accuracy with intervals
    report/predictions.parquet   every answer to every example
    report/manifest.json         last
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.config import CorpusConfig, RunConfig
from pipelines.config.base import LossyWeights
from pipelines.data.heldout import Heldout, heldout_examples, heldout_files, validation_share
from pipelines.errors import UserError
from pipelines.evaluate import plots, report, report_markdown
from pipelines.evaluate.checks import check_belongs, same_validation, validation_of
from pipelines.evaluate.page import report_page
from pipelines.evaluate.previous_report import Earlier, change_since
from pipelines.methods import METHODS
from pipelines.reuse import Decision, decide
from pipelines.scoring.contamination import chosen_on, overlap_part, seen_in_training
from pipelines.scoring.costs import student_cost
from pipelines.scoring.identity import answers_identity, labels_identity
from pipelines.scoring.predict import PredictorPool, Source, Trained, Untrained
from pipelines.scoring.quantized import Recast, check_weights, weights_entry
from pipelines.scoring.rationales import quality, rationales_read, told_of_read
from pipelines.scoring.reference_systems import Majority, TeacherAnswers, majority_label, teacher_answers
from pipelines.scoring.settings import student_settings
from pipelines.scoring.system import TITLES, System
from pipelines.scoring.systems import (
    heldout_key,
    heldout_part,
    majority_system,
    scored_examples,
    student_inputs,
    student_rationales,
    student_system,
    teacher_rationales,
    teacher_system,
)
from pipelines.storage.fingerprint import fingerprint, model_fingerprint
from pipelines.storage.manifest import (
    Manifest,
    library_versions,
    manifest_of,
    now,
    read_manifest,
    require_manifest,
    write_manifest,
)
from pipelines.storage.store import Store
from pipelines.tasks import Example, Task, load_task, task_spec

_FORMAT = 7


def check_evaluate(run: RunConfig) -> tuple[Task, Manifest, Manifest]:
    """The task, and the manifests of student and labels, before Ray is started.

    Raises UserError where they are not finished or do not belong to this run."""
    output = Store(run.output)
    student = require_manifest(output.child("student"), "student", "train RUN")
    labels = require_manifest(output.child("labels"), "labels", "label RUN")
    task = load_task(task_spec(run.task, run.task_options))
    check_belongs(run, task, student, labels)
    check_weights(run.evaluation, student.details["family"])
    return task, student, labels


def evaluate(run: RunConfig, *, replace: bool = False) -> Manifest:
    """Score the run's student, the untrained student, the teacher and the majority label on the same held-out examples.

    `replace` changes nothing here: a report of another student or of other examples is made anew either way.

    Raises:
        UserError: student or labels are not finished or do not belong to this run, or there is no example to score, or too many were
            trained on. An earlier report stays.
        StageFailedError: a student failed to answer.
    """
    began = time.monotonic()
    output = Store(run.output)
    labels_store, student_store, store = (output.child(name) for name in ("labels", "student", "report"))
    task, student, labels = check_evaluate(run)
    heldout = heldout_examples(run, task)
    examples = scored_examples(run, heldout)
    identity = report_identity(run, task, student, labels, heldout)
    if done := _decide(store, identity, heldout).reused:
        _price_anew(run, student, labels, store)
        return done

    share = validation_share(validation_of(student))
    overlap = {
        "trained_on": overlap_part(seen_in_training(labels_store, share, examples), len(examples), heldout_key(run)),
        "chosen_on": _chosen_on(run, student, task, examples),
    }
    answers = teacher_answers(labels_store, run.corpus, examples, task)
    inputs = student_inputs(run, answers, examples)
    asked = _Asked(examples, inputs, answers, majority_label(labels_store, share, task))
    # Stale labels and students are refused, as they cost hours. A report costs minutes and follows from them alone: it is made anew. It
    # goes when nothing is refused any more and before the work begins: if that breaks off, no earlier student's lies beside this one.
    store.clear()
    content = {
        "format": _FORMAT,
        "run": run.name,
        "task": {"name": task.name, "version": task.version},
        "heldout": {**heldout_part(run, heldout, len(examples)), **overlap},
        "student": {
            "fingerprint": student.fingerprint,
            **{key: student.details[key] for key in ("method", "family", "parameters")},
        },
        "settings": student_settings(student, labels),
    }
    measured = _measure(run, task, student, student_store.uri, asked)
    systems = measured.systems
    samples = run.evaluation.samples
    agreement = sum(systems[0].confidences) / len(examples)
    votes = {"n": samples.n, "temperature": samples.temperature, "agreement": agreement}
    content |= {
        **report.results(examples, systems[0], systems[1:], student.details["parameters"], task.key),
        "rationale": measured.rationale,
        "weights": [
            weights_entry(weights, recast, systems[0], task) for weights, recast in measured.in_weights.items()
        ],
        "votes": votes if samples.n > 1 else None,
        "baseline": None,
        "majority": vars(asked.majority) if asked.majority else None,
        "cost": _cost(run, student, labels, systems[0].row()),
        "provenance": student.provenance,
        "versions": library_versions(),
        "seconds": round(time.monotonic() - began, 3),
        "created": now(),
    }
    return _write(store, run, identity, content, examples, measured)


def compare_with(run: RunConfig, earlier: Earlier) -> None:
    """Write into the run's finished report how its student does against the one of an earlier report."""
    store = Store(run.output).child("report")
    content = report.load(store)
    content["baseline"] = change_since(earlier, content, store)
    _write_readable(store, content)


def evaluate_decision(run: RunConfig, student: Manifest, labels: Manifest) -> Decision:
    """Whether `evaluate` reuses or makes OUTPUT/report, given student and labels. Reads the held-out examples."""
    task = load_task(task_spec(run.task, run.task_options))
    heldout = heldout_examples(run, task)
    identity = report_identity(run, task, student, labels, heldout)
    return _decide(Store(run.output).child("report"), identity, heldout)


def _decide(store: Store, identity: dict[str, Any], heldout: Heldout) -> Decision:
    # `unreadable` hashes messages, whose wording differs between versions. As many rows of the same corpus are taken for the same rows.
    done = read_manifest(store, "report")
    if done is not None:
        counts = {"unreadable": len(heldout.unreadable), "duplicates": len(heldout.duplicates)}
        if counts.items() <= done.counts.items():
            identity = {**identity, "unreadable": done.identity.get("unreadable")}
    return decide(store, "report", identity, replace=True)


def report_identity(
    run: RunConfig, task: Task, student: Manifest, labels: Manifest, heldout: Heldout
) -> dict[str, Any]:
    """What decides the report; its fingerprint is the artifact's."""
    return {
        "format": _FORMAT,
        "answers": answers_identity(run, task, heldout.examples),
        "unreadable": fingerprint({"rows": heldout.unreadable, "duplicates": heldout.duplicates}),
        "weights": run.evaluation.weights,
        "student": student.fingerprint,
        "untrained": {
            "model": model_fingerprint(run.student.model),
            "init": run.student.init.model_dump(mode="json"),
            "seed": run.training.seed,
        },
        "labels": labels_identity(labels),
    }


@dataclasses.dataclass(frozen=True)
class _Measured:
    """What was asked and answered."""

    systems: list[System]
    """The student's first."""
    rationale: dict[str, Any] | None
    """report.json's."""
    in_weights: dict[LossyWeights, System]


@dataclasses.dataclass(frozen=True)
class _Asked:
    """What the systems are asked, and what the labels say of it."""

    examples: Sequence[Example]
    inputs: Sequence[str]
    """As the student reads them."""
    answers: TeacherAnswers
    majority: Majority | None


def _measure(run: RunConfig, task: Task, student: Manifest, student_at: str, asked: _Asked) -> _Measured:
    examples, inputs, answers = asked.examples, asked.inputs, asked.answers
    trained = Trained(student_at)
    limits = (student.details["max_input_tokens"], student.details["max_target_tokens"])
    own_tokenizer = student_at if run.student.init.vocabulary is not None else None
    untrained = Untrained(run.student, run.training.seed, *limits, own_tokenizer)
    with PredictorPool(run.evaluation) as answerers:

        def scored(name: str, source: Source) -> System:
            return student_system(name, answerers.of(source), run, task, examples, inputs)

        trained_system = scored("student", trained)
        written = student_rationales(answerers.of(trained), run, examples, inputs, trained_system)
        untrained_system = scored("untrained", untrained)
        in_weights = {
            weights: scored(f"student in {weights}", Recast(student_at, weights)) for weights in run.evaluation.weights
        }
    rationale = quality("student", written, task) or quality("teacher", teacher_rationales(answers, examples), task)
    read = rationales_read(answers, examples, task) if METHODS[run.student.method].reads_rationale else None
    trained_system = dataclasses.replace(trained_system, note="; ".join(_student_notes(run, student, read)))
    teacher = teacher_system(run, task, answers, examples)
    majority = majority_system(task, asked.majority, examples)
    return _Measured([trained_system, untrained_system, teacher, majority], rationale, in_weights)


def _student_notes(run: RunConfig, student: Manifest, read: Mapping[str, Any] | None) -> list[str]:
    """What a reader has to know of the student's accuracy. `read`: of the teacher's rationales, where it reads them."""
    notes = []
    if _chose_weights(student) and _scores_validation(run, student):
        notes.append("its weights were chosen by their loss on these very examples, which helps its accuracy")
    if _chose_weights(student) and _chosen_with(run, student) is None:
        file = validation_of(student)
        notes.append(
            f"its weights were chosen by their loss on {file}, which is gone: it may have held examples that are scored here"
        )
    return [*notes, f"it {told_of_read(read)}"] if read else notes


def _chose_weights(student: Manifest) -> bool:
    return student.config["training"]["validate_every_steps"] is not None


def _scores_validation(run: RunConfig, student: Manifest) -> bool:
    """Whether what is scored is what the student's training had as its validation split."""
    return run.corpus.test is None and same_validation(run, student)


def _chosen_on(run: RunConfig, student: Manifest, task: Task, examples: Sequence[Example]) -> dict[str, Any] | None:
    """report.json's `chosen_on`. Where the validation split itself is scored, a note says so (`_student_notes`)."""
    if not _chose_weights(student) or _scores_validation(run, student):
        return None
    had = _chosen_with(run, student)
    if had is None:
        return None
    validation = heldout_examples(run.model_copy(update={"corpus": had}), task)
    return chosen_on(validation.examples, examples, heldout_key(run))


def _chosen_with(run: RunConfig, student: Manifest) -> CorpusConfig | None:
    """The corpus without test set, with the validation split of the student's training; None where its files are gone."""
    same = same_validation(run, student)
    had = run.corpus.model_copy(
        update={"test": None, "validation": run.corpus.validation if same else validation_of(student)}
    )
    try:
        heldout_files(had)
    except UserError:
        if same:
            raise
        return None
    return had


def _cost(run: RunConfig, student: Manifest, labels: Manifest, answered: Mapping[str, Any]) -> dict[str, Any]:
    """report.json's `cost`. `answered`: the student's entry among its systems."""
    return student_cost(labels, student, answered["seconds_per_example"], run.compare.price_per_worker_hour)


def _price_anew(run: RunConfig, student: Manifest, labels: Manifest, store: Store) -> None:
    """Write a finished report's costs again where the run names another price, or labels and student another time."""
    content = report.load(store)
    answered = next(system for system in content["systems"] if system["name"] == "student")
    cost = _cost(run, student, labels, answered)
    if content["cost"] != cost:
        content["cost"] = cost
        _write_readable(store, content)


def _write_readable(store: Store, content: Mapping[str, Any]) -> None:
    """report.json and what shows the same."""
    store.write("report.md", report_markdown.markdown(content).encode())
    store.write("report.html", report_page(content).encode())
    store.write(report.REPORT, (json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode())


def _write(
    store: Store,
    run: RunConfig,
    identity: dict[str, Any],
    content: dict[str, Any],
    examples: Sequence[Example],
    found: _Measured,
) -> Manifest:
    store.write(report.PREDICTIONS, report.predictions(examples, found.systems, found.in_weights))
    store.write("accuracy.png", plots.accuracy_png(content, TITLES))
    _write_readable(store, content)
    measured = {system["name"]: system for system in content["systems"]}
    manifest = manifest_of(
        "report",
        identity,
        config=run.model_dump(mode="json"),
        counts={
            "scored": content["heldout"]["scored"],
            "without_gold": content["heldout"]["without_gold"]["count"],
            "unreadable": content["heldout"]["unreadable"]["count"],
            "duplicates": content["heldout"]["duplicates"]["count"],
            "trained_on": content["heldout"]["trained_on"]["count"],
            "correct": {name: system["correct"] for name, system in measured.items()},
            "unanswered": {name: system["unanswered"] for name, system in measured.items()},
        },
        timings_s={"total": content["seconds"], "student": measured["student"]["seconds"],
                   "untrained": measured["untrained"]["seconds"]},
        details={"headline": content["headline"], "comparisons": content["comparisons"]},
        provenance={**content["provenance"], "student": content["student"]},
    )  # fmt: skip
    write_manifest(store, manifest)
    return manifest
