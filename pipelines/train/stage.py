"""The train stage. In: a finished labels artifact. Out: OUTPUT/student, a Hugging Face checkpoint with its manifest.

    OUTPUT/labels  ->  tokens (Ray Data)  ->  steps (Ray Train, DeepSpeed)  ->  OUTPUT/student

OUTPUT/training/<fingerprint> holds tokens and checkpoints of exactly this training. After any failure the same run file resumes there;
another run file starts another folder. It is removed when the manifest is written. `students/details.py` describes the manifest's details.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping

from pipelines.config import RunConfig
from pipelines.reuse import Action, Attempt, Decision, decide
from pipelines.runtime.progress import Progress
from pipelines.runtime.progress_file import ProgressFile
from pipelines.runtime.stage_metrics import StageGauges
from pipelines.runtime.terminal import say
from pipelines.storage.fingerprint import fingerprint
from pipelines.storage.lock import folder_lock
from pipelines.storage.manifest import Manifest, library_versions, require_manifest, write_manifest
from pipelines.storage.store import Store
from pipelines.students.content import damage, hash_files
from pipelines.tasks import load_task, task_spec
from pipelines.train.begun import notices, others_begun, record_begin, training_folder
from pipelines.train.checks import (
    budget_warnings,
    check_counts,
    check_gold,
    check_rationales,
    check_task,
    check_token_logprobs,
    check_validation,
    left_out_notices,
    rationale_notices,
    teacher_warnings,
    token_settings,
)
from pipelines.train.data.sequences import TokenSettings
from pipelines.train.data.token_table import TokenCounts
from pipelines.train.data.tokenise import rows_to_tokenise, tokenise
from pipelines.train.data.tokenizer_training import train_tokenizer
from pipelines.train.data.validation_set import validation_tokens
from pipelines.train.engine.job import TrainingJob, TrainingResult
from pipelines.train.engine.trainer import run_training
from pipelines.train.identity import identity_in_0_1, tokens_identity, train_identity, with_absolute_model
from pipelines.train.model_card import model_card
from pipelines.train.student_manifest import labels_provenance, student_counts, student_details, student_manifest
from pipelines.train.tracking.progress_actor import show_progress
from pipelines.train.writable import check_labels_writable, unwritable_rationales


def check_train(run: RunConfig, labels_at: str | None = None) -> TokenSettings:
    """Check the input of this stage before Ray starts. Raises UserError.

    Args:
        labels_at: as in `train_locked`, for a cell of a grid.
    """
    labels = _labels(run, labels_at)
    manifest = require_manifest(labels, "labels", "label RUN")
    check_task(manifest, run, labels.shown())
    settings = token_settings(with_absolute_model(run))
    check_validation(run)
    check_gold(labels, settings, leaves_out=run.student.leaves_out_rows, in_grid=labels_at is not None)
    check_token_logprobs(manifest, with_absolute_model(run))
    check_rationales(labels, settings)
    if run.student.init.vocabulary is None:
        check_labels_writable(labels, settings)
    return settings


def train(run: RunConfig, *, replace: bool = False) -> Manifest:
    """Make `OUTPUT/student` from OUTPUT/labels, or reuse it. Ray must be running.

    Raises:
        UserError: labels are missing or unfit, the model is unfit, the folder holds another student and `replace` is not set, or another
            driver trains into it.
        StageFailedError: the training stopped; the same call resumes from its last checkpoint.
    """
    student, labels = Store(run.output).child("student"), require_manifest(_labels(run, None), "labels", "label RUN")
    decision = train_decision(run, labels, replace=replace)
    decision.check()
    if decision.reused:
        return decision.reused
    with folder_lock(student, run.labelling.lease_s, "train") as check_lock:
        return train_locked(run, replace=replace, check_lock=check_lock)


def train_locked(
    run: RunConfig, *, replace: bool = False, labels_at: str | None = None, tokens_at: Store | None = None,
    check_lock: Callable[[], None] = lambda: None,
) -> Manifest:  # fmt: skip
    """As `train`, for a caller who keeps other drivers out of the output.

    Args:
        labels_at: path or URI of the labels artifact; None: OUTPUT/labels.
        tokens_at: keeps token tables for other trainings that learn from the same tokens; None: a table for this one alone.
        check_lock: raises StageFailedError if another driver may have taken over.
    """
    output, labels_store = Store(run.output), _labels(run, labels_at)
    labels = require_manifest(labels_store, "labels", "label RUN")
    identity = train_identity(run, load_task(task_spec(run.task, run.task_options)), labels)
    # Another driver may have finished the student since a caller's decision.
    decision = _decide(output, identity, replace=replace)
    decision.check()
    if decision.reused:
        return decision.reused
    for notice in notices(decision, output, identity):
        say(f"train: {notice}")
    earlier = training_folder(output, identity_in_0_1(identity))
    if earlier.files():
        rule = "a training that 0.1 began; its steps follow another rule, so that training restarts from the labels"
        say(f"train: {earlier.shown()} holds {rule}")
    # A student that is to be replaced stays until the new one is exported, so that a refusal or failure below loses nothing.
    settings = check_train(run, labels_at)
    work, store = training_folder(output, identity), output.child("student")
    gauges = StageGauges(run.name, "train")
    with ProgressFile(store, "train", "tokens", check_lock=check_lock, gauges=gauges) as live:
        record_begin(output, identity)
        live.phase("tokenising")
        began = time.monotonic()
        settings = _with_own_tokenizer(run, settings, labels_store, work)
        tokens = work.child("tokens")
        if tokens_at is not None and settings.tokenizer is None:
            tokens = tokens_at.child(fingerprint(tokens_identity(identity, settings))[:12])
        counts = _tokenise(run, settings, labels_store, tokens, live)
        check_counts(counts, run, settings)
        warnings = [
            *teacher_warnings(labels, run),
            *left_out_notices(counts, run),
            *rationale_notices(counts, settings),
            *budget_warnings(counts, run.training),
        ]
        for warning in (*unwritable_rationales(labels_store, settings), *warnings):
            say(f"train: {warning}")
        tokenised = time.monotonic()
        live.phase("starting workers")
        result = _run_with_progress(_job(run, settings, output, work, tokens), live)
        live.phase("writing the manifest")
        timings = {"tokenise": tokenised - began, "train": time.monotonic() - tokenised, "steps": result.seconds}
        details, provenance = student_details(run, settings, counts, result), labels_provenance(labels)
        details = details.model_copy(update={"files": hash_files(store)})
        totals = student_counts(counts, result)
        check_lock()
        store.write("README.md", model_card(run, details, provenance, totals, library_versions()).encode())
        manifest = student_manifest(run, identity, details, provenance, totals, timings)
        write_manifest(store, manifest)
    work.clear()
    earlier.clear()
    return manifest


def _tokenise(run: RunConfig, settings: TokenSettings, labels: Store, target: Store, live: ProgressFile) -> TokenCounts:
    with Progress("tokenise", rows_to_tokenise(labels, settings), "rows", file=live) as progress:
        extra = validation_tokens(run.corpus, settings)
        return tokenise(labels, settings, target, extra, on_rows=progress.advance)


def _with_own_tokenizer(run: RunConfig, settings: TokenSettings, labels: Store, work: Store) -> TokenSettings:
    """The settings with the student's own tokenizer, trained on the labels, if the run has one (init.vocabulary)."""
    if run.student.init.vocabulary is None:
        return settings
    tokenizer = work.child("tokenizer")
    train_tokenizer(labels, settings, run.student.init.vocabulary, tokenizer)
    settings = dataclasses.replace(settings, tokenizer=tokenizer.uri)
    check_labels_writable(labels, settings)
    return settings


def _job(run: RunConfig, settings: TokenSettings, output: Store, work: Store, tokens: Store) -> TrainingJob:
    name = work.path().rpartition("/")[2]
    return TrainingJob(
        with_absolute_model(run),
        folder=work.uri,
        tokens=tokens.uri,
        student=output.child("student").uri,
        name=name,
        tensorboard=output.child(f"tensorboard/{name}").uri,
        tokenizer=settings.tokenizer,
    )


def train_decision(run: RunConfig, labels: Manifest, *, replace: bool = False) -> Decision:
    """Whether `train` reuses, resumes, makes or refuses OUTPUT/student, given its labels. Fingerprints the model's files."""
    identity = train_identity(run, load_task(task_spec(run.task, run.task_options)), labels)
    return _decide(Store(run.output), identity, replace=replace)


def _decide(output: Store, identity: Mapping[str, object], *, replace: bool) -> Decision:
    in_0_1 = decide(output.child("student"), "student", identity_in_0_1(identity), replace=True)
    if in_0_1.reused and not replace:
        return dataclasses.replace(in_0_1, reason="made by 0.1 with the same settings and inputs")
    begun = training_folder(output, identity).files()
    attempt = Attempt(fingerprint(identity), identity) if begun else None
    student = output.child("student")
    # Only --replace reads the weights, 1 s per GB: it is the remedy for a file whose size is right.
    decision = decide(
        student, "student", identity, replace=replace, attempt=attempt,
        damage=lambda manifest: damage(student, manifest, read=replace),
    )  # fmt: skip
    if decision.action is Action.MAKE and decision.manifest is None and (others := others_begun(output, identity)):
        return dataclasses.replace(decision, reason=f"an unfinished training of other settings stays in {others[0]}")
    return decision


def _labels(run: RunConfig, labels_at: str | None) -> Store:
    return Store(run.output).child("labels") if labels_at is None else Store(labels_at)


def _run_with_progress(job: TrainingJob, live: ProgressFile) -> TrainingResult:
    from pipelines.train.tracking.prometheus import StepsLeft

    steps_left = StepsLeft(job.run.name)
    with (
        Progress("train", None, "tokens", file=live) as progress,
        show_progress(progress, live, steps_left.set) as actor,
    ):
        result = run_training(dataclasses.replace(job, progress=actor))
    steps_left.set(0)
    return result
