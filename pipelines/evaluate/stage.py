"""The evaluate stage: compares the student, its untrained self, the teacher and the majority label on the same held-out examples.

In: OUTPUT/student, OUTPUT/labels and the held-out part of the corpus. Out: OUTPUT/report:

    report/report.json           evaluate.model.Report
    report/report.md             the same as Markdown
    report/report.html           the same as one self-contained page
    report/accuracy.png          accuracy of the systems with intervals
    report/predictions.parquet   every answer to every example
    report/manifest.json         last
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from pydantic import JsonValue

from pipelines.config import RunConfig
from pipelines.data.heldout import Heldout, heldout_examples, validation_share
from pipelines.data.label_distribution import label_distribution
from pipelines.data.label_parts import LabelParts
from pipelines.evaluate.agreement import unlabelled
from pipelines.evaluate.checks import check_belongs
from pipelines.evaluate.costs import student_cost
from pipelines.evaluate.measure import Questions, is_served_otherwise, measure
from pipelines.evaluate.model import FORMAT, Report
from pipelines.evaluate.predictions import PREDICTIONS, predictions
from pipelines.evaluate.previous_report import Earlier, change_since
from pipelines.evaluate.quantized import check_weights
from pipelines.evaluate.report import Evaluated, build_report
from pipelines.evaluate.validation_split import chosen_on, validation_of
from pipelines.reuse import Decision, decide
from pipelines.runtime.progress_file import ProgressFile
from pipelines.runtime.stage_metrics import StageGauges
from pipelines.scoring.contamination import seen_in_training, trained_on_part
from pipelines.scoring.heldout_part import heldout_key, heldout_part, scored_examples
from pipelines.scoring.identity import answers_identity, labels_identity
from pipelines.scoring.model import (
    REPORT,
    HeldoutPart,
    JsonObject,
    missing_file,
    read_report,
    report_bytes,
)
from pipelines.scoring.reference_systems import majority_label, teacher_answers
from pipelines.scoring.sources import check_engine
from pipelines.scoring.systems import student_inputs
from pipelines.storage.fingerprint import fingerprint, model_fingerprint
from pipelines.storage.lock import LOCK, folder_lock
from pipelines.storage.manifest import (
    Manifest,
    manifest_of,
    read_manifest,
    require_manifest,
    write_manifest,
)
from pipelines.storage.store import PROGRESS, Store
from pipelines.students.decoding.constrained import check_constrained
from pipelines.tasks import Example, Task, load_task, task_spec

FILES = (REPORT, PREDICTIONS)
"""Without these a report is scored again. The others are drawn from them."""
_READABLE = ("report.md", "report.html", "accuracy.png")


def check_evaluate(run: RunConfig) -> tuple[Task, Manifest, Manifest]:
    """The task, and the manifests of student and labels, before Ray starts.

    Raises:
        UserError: an artifact is not finished or does not belong to the run.
    """
    output = Store(run.output)
    student = require_manifest(output.child("student"), "student", "train RUN")
    labels = require_manifest(output.child("labels"), "labels", "label RUN")
    task = load_task(task_spec(run.task, run.task_options))
    check_belongs(run, task, student, labels)
    check_weights(run.evaluation, student.details["family"])
    check_engine(run, student.details["family"])
    if run.evaluation.constrained:
        check_constrained("evaluation.constrained", run.student.method, task)
    return task, student, labels


def evaluate(run: RunConfig) -> Manifest:
    """Make OUTPUT/report, or reuse it. Ray is running.

    A report of another student or of other examples is always replaced: labels and students cost hours, a report costs minutes.

    Raises:
        UserError: student or labels are not finished or do not belong to the run, no example can be scored, or too many were trained
            on, or another driver evaluates into the folder. The earlier report stays.
        StageFailedError: a student failed to answer.
    """
    began = time.monotonic()
    store = Store(run.output).child("report")
    task, student, labels = check_evaluate(run)
    heldout = heldout_examples(run, task)
    examples = scored_examples(run, heldout)
    identity = report_identity(run, task, student, labels, heldout)
    if done := _decide(store, identity, heldout).reused:
        _update(run, student, labels, store)
        return done
    scored = _heldout(run, task, student, heldout, examples)
    questions = _questions(run, task, student, heldout, examples)
    gauges = StageGauges(run.name, "evaluate")
    with (
        folder_lock(store, run.labelling.lease_s, "evaluate") as check_lock,
        ProgressFile(store, "evaluate", "examples", check_lock=check_lock, gauges=gauges) as live,
    ):
        # After all checks and before the work: if the work breaks off, no report of another student stays.
        store.clear(LOCK, PROGRESS)
        measured = measure(run, task, student, Store(run.output).child("student").uri, questions, live)
        live.phase("writing the report")
        check_lock()
        content = build_report(Evaluated(run, task, student, labels), scored, questions, measured, began)
        store.write(PREDICTIONS, predictions(examples, measured.systems, measured.quantized))
        _write_report(store, content)
        manifest = _manifest(run, identity, content)
        write_manifest(store, manifest)
    return manifest


def compare_with(run: RunConfig, earlier: Earlier) -> None:
    """Add the comparison with an earlier report to the run's finished report."""
    store = Store(run.output).child("report")
    content = read_report(store, Report)
    _write_report(store, content.model_copy(update={"baseline": change_since(earlier, content, store)}))


def evaluate_decision(run: RunConfig, student: Manifest, labels: Manifest) -> Decision:
    """Whether `evaluate` reuses or makes OUTPUT/report, given student and labels. Reads the held-out examples."""
    task = load_task(task_spec(run.task, run.task_options))
    heldout = heldout_examples(run, task)
    identity = report_identity(run, task, student, labels, heldout)
    return _decide(Store(run.output).child("report"), identity, heldout)


def _decide(store: Store, identity: JsonObject, heldout: Heldout) -> Decision:
    """Reuse a finished report with equally many unreadable rows, also if their problems are worded differently.

    `unreadable` is a hash of ids and messages, and other versions of Raystill have other messages for the same rows.
    """
    done = read_manifest(store, "report")
    if done is not None:
        counts = {"unreadable": len(heldout.unreadable), "duplicates": len(heldout.duplicates)}
        if counts.items() <= done.counts.items():
            identity = {**identity, "unreadable": done.identity.get("unreadable")}
    return decide(store, "report", identity, replace=True, damage=lambda manifest: missing_file(store, FILES))


def report_identity(run: RunConfig, task: Task, student: Manifest, labels: Manifest, heldout: Heldout) -> JsonObject:
    """The inputs that decide the report. The fingerprint is the artifact's."""
    weights: list[JsonValue] = [*run.evaluation.weights]
    return {
        "format": FORMAT,
        "answers": answers_identity(run, task, heldout.examples),
        "unreadable": fingerprint({"rows": heldout.unreadable, "duplicates": heldout.duplicates}),
        "weights": weights,
        "student": student.fingerprint,
        "untrained": {
            "model": model_fingerprint(run.student.model),
            "init": run.student.init.model_dump(mode="json"),
            "seed": run.training.seed,
        },
        "labels": labels_identity(labels),
        **({"served_constrained": True} if is_served_otherwise(run) else {}),
    }


def _heldout(
    run: RunConfig, task: Task, student: Manifest, heldout: Heldout, examples: Sequence[Example]
) -> HeldoutPart:
    labels, share = Store(run.output).child("labels"), validation_share(validation_of(student))
    trained_on = trained_on_part(seen_in_training(labels, share, examples), len(examples), heldout_key(run))
    return heldout_part(run, heldout, examples, trained_on, chosen_on(run, student, task, examples))


def _questions(
    run: RunConfig, task: Task, student: Manifest, heldout: Heldout, examples: Sequence[Example]
) -> Questions:
    labels, share = Store(run.output).child("labels"), validation_share(validation_of(student))
    answers = teacher_answers(labels, run.corpus, examples, task)
    inputs = student_inputs(run, answers, examples)
    majority, left = majority_label(labels, share, task), unlabelled(run, task, heldout.examples)
    given = label_distribution(labels, LabelParts.of(labels).rows)
    return Questions(examples, inputs, answers, majority, given, left)


def _update(run: RunConfig, student: Manifest, labels: Manifest, store: Store) -> None:
    """Write a finished report again if a readable form is lost, or if its costs changed: another price, or other times."""
    content = read_report(store, Report)
    seconds_per_example = content.student_scores.seconds_per_example
    cost = student_cost(labels, student, seconds_per_example, run.compare.price_per_worker_hour)
    if content.cost != cost or missing_file(store, _READABLE):
        _write_report(store, content.model_copy(update={"cost": cost}))


def _write_report(store: Store, content: Report) -> None:
    """Write report.json and its readable forms."""
    # Here, since a plan does without the packages of pages (the extra `train`).
    from pipelines.evaluate.page import report_page
    from pipelines.evaluate.page_figures import accuracy_png
    from pipelines.evaluate.report_markdown import markdown

    store.write("report.md", markdown(content).encode())
    store.write("report.html", report_page(content).encode())
    store.write("accuracy.png", accuracy_png(content))
    store.write(REPORT, report_bytes(content))


def _manifest(run: RunConfig, identity: JsonObject, content: Report) -> Manifest:
    heldout, systems = content.heldout, {system.name: system for system in content.systems}
    return manifest_of(
        "report",
        identity,
        config=run.model_dump(mode="json"),
        counts={
            "scored": heldout.scored,
            "without_gold": heldout.without_gold.count,
            "unreadable": heldout.unreadable.count,
            "duplicates": heldout.duplicates.count,
            "trained_on": heldout.trained_on.count,
            "correct": {name: system.correct for name, system in systems.items()},
            "unanswered": {name: system.unanswered for name, system in systems.items()},
        },
        timings_s={
            "total": content.seconds,
            "student": systems["student"].seconds,
            "untrained": systems["untrained"].seconds,
        },
        details={
            "headline": content.headline,
            "comparisons": [comparison.model_dump(mode="json") for comparison in content.comparisons],
        },
        provenance={**content.provenance, "student": content.student.model_dump(mode="json")},
    )
