"""The label stage. In: a corpus. Out: `OUTPUT/labels`, in these steps:

    scan        every row once: count rows, find unreadable rows and duplicate ids    (scan.py)
    take over   rows whose prompt has been answered before take that answer            (stored/)
    label       examples -> teacher actors -> outcomes -> Parquet, in commits          (driver.py, engines/, answers/, output/)
    finish      dataset card and manifest, last                                        (reporting/)

Held-out rows (`corpus.test`, or validation files) go the same way into `labels/heldout`; reports compare students with these answers.
"""

from __future__ import annotations

import sys
import time
from typing import Any

import pyarrow as pa

from pipelines.config import RunConfig
from pipelines.data.heldout import heldout_files
from pipelines.data.label_manifest import LabelDetails
from pipelines.data.label_parts import damaged_part
from pipelines.data.reader import FileRange, check_columns, corpus_files, corpus_splits
from pipelines.errors import StageFailedError, UserError
from pipelines.label.answers.label_set_checks import check_closed_labels
from pipelines.label.answers.prompts import read_shots
from pipelines.label.batches.records import forget_batches
from pipelines.label.batches.run import Batches
from pipelines.label.driver import label_rows
from pipelines.label.early_stop import TaskFailures
from pipelines.label.identity import comparable_identity, label_identity
from pipelines.label.output.commits import ScanRecord, read_attempt
from pipelines.label.output.counts import Counts
from pipelines.label.output.writer import LabelWriter
from pipelines.label.reporting.dataset_card import dataset_card
from pipelines.label.reporting.manifest import label_manifest
from pipelines.label.reporting.progress_file import SCANNING, LabelProgressFile
from pipelines.label.scan import Corpus, scan_corpus
from pipelines.label.stored.keys import AnswerKeys
from pipelines.label.stored.sources import check_reuse, replace_labels
from pipelines.label.stored.take_over import StoredLookup, drop_taken_over
from pipelines.label.teachers.registry import teacher_class
from pipelines.reuse import Action, Decision, decide
from pipelines.runtime.stage_metrics import StageGauges
from pipelines.storage.lock import LOCK, folder_lock
from pipelines.storage.manifest import Manifest, read_manifest, write_manifest
from pipelines.storage.store import Store
from pipelines.tasks import TaskSpec, load_task, task_spec


def check_label(run: RunConfig) -> None:
    """Check everything in the input of this stage, before Ray starts. Raises UserError."""
    task = load_task(task_spec(run.task, run.task_options))
    check_closed_labels(run.teacher, task)
    check_columns(corpus_files(run.corpus.train, "corpus.train"), task, run.corpus.fields, "corpus.train")
    heldout = heldout_files(run.corpus)
    if heldout:
        check_columns(heldout, task, run.corpus.fields, "corpus.test")
    read_shots(run.teacher, task)
    check_reuse(run)
    teacher_class(run.teacher.engine).check(run.teacher)


def label(run: RunConfig, *, replace: bool = False) -> Manifest:
    """Make, resume or reuse `OUTPUT/labels`. Ray is running. Rows with `engine_error` of finished labels are retried.

    Raises:
        UserError: the input is wrong, the folder holds labels of other settings and `replace` is not set, or another driver holds it.
        StageFailedError: no engine starts, too many rows are rejected, rows are missing at the end, or the lock is lost.
    """
    check_label(run)
    store = Store(run.output).child("labels")
    full = label_identity(run)
    decision, _ = _decide(store, full, _model_here(run), replace=replace)
    decision.check()
    if decision.reused:
        return decision.reused
    teacher_class(run.teacher.engine).key(run.teacher)  # a missing one is reported before the scan
    with folder_lock(store, run.labelling.lease_s) as check_lock:
        # Another driver may have finished or replaced the labels since.
        decision, identity = _decide(store, full, _model_here(run), replace=replace)
        decision.check()
        if decision.reused:
            return decision.reused
        if decision.replaces:
            replace_labels(store, check_lock, keep_answers=run.labelling.reuse != [], lock=LOCK)
        reopened = decision.manifest if decision.action is Action.RESUME else None
        writer = LabelWriter(store, identity, run.labelling, reopened, check_lock)
        if notice := teacher_class(run.teacher.engine).notice(run.teacher):
            print(f"label: {notice}", file=sys.stderr, flush=True)
        manifest = _label(run, store, identity, writer, AnswerKeys.of_run(run, full["teacher"]["model"]))
        _check_engine_errors(run, writer.counts)
        return manifest


def label_decision(run: RunConfig, *, replace: bool = False) -> Decision:
    """Whether `label` reuses, resumes, makes or refuses OUTPUT/labels. Fingerprints the corpus and the teacher's files."""
    return _decide(Store(run.output).child("labels"), label_identity(run), _model_here(run), replace=replace)[0]


def _model_here(run: RunConfig) -> str | None:
    return None if run.teacher.engine == "openai" else run.teacher.model


def _decide(
    store: Store, identity: dict[str, Any], model: str | None, *, replace: bool
) -> tuple[Decision, dict[str, Any]]:
    """The decision, and the identity of the labels that it leads to."""

    def engine_errors(manifest: Manifest) -> int:
        return Counts.from_json(LabelDetails.model_validate(manifest.details).tally).engine_errors

    def damage(manifest: Manifest) -> str | None:
        details = LabelDetails.model_validate(manifest.details)
        found = damaged_part(details.parts, details.files, store.sizes())
        return None if found is None else f"{found.name}: {found.problem}"

    try:
        attempt, manifest = read_attempt(store), read_manifest(store, "labels")
        found = manifest.identity if manifest else attempt.identity if attempt else None
        wanted = comparable_identity(identity, found, model)
        decision = decide(
            store, "labels", wanted, replace=replace, attempt=attempt, rows_to_retry=engine_errors, damage=damage
        )
        return decision, identity if decision.action is Action.MAKE else wanted
    except UserError as error:
        if not replace:
            raise
        return Decision(Action.MAKE, error.rule, replaces=True), identity


def _label(run: RunConfig, store: Store, identity: dict[str, Any], writer: LabelWriter, keys: AnswerKeys) -> Manifest:
    spec = task_spec(run.task, run.task_options)
    began = time.monotonic()
    gauges = StageGauges(run.name, "label")
    with LabelProgressFile(store, "label", "rows", check_lock=writer.check_lock, gauges=gauges) as live:
        live.phase(SCANNING)
        resumed_at_rows = writer.finished_rows
        failures = TaskFailures(run.labelling)
        scan = _scan(run, spec, writer, failures)
        scan_s = time.monotonic() - began
        lookup = StoredLookup(run, scan, writer, live, failures, keys)
        if run.teacher.remote.batch:
            Batches(run, writer, live).answer(lookup.take_over, lookup.missing)
        else:
            lookup.take_over()
        work, usage = label_rows(run, scan, writer, live, failures, keys)
        live.phase("writing the manifest")
        _check_complete(scan, writer.counts)
        writer.compact()
        manifest = label_manifest(
            run, identity, scan, writer.state, work, usage, resumed_at_rows=resumed_at_rows, scan_s=scan_s
        )
        writer.check_lock()
        store.write("README.md", dataset_card(run, manifest, store).encode())
        write_manifest(store, manifest)
        writer.remove_attempt()
        drop_taken_over(run, store, writer.check_lock)
        forget_batches(store)
    return manifest


def _scan(run: RunConfig, spec: TaskSpec, writer: LabelWriter, failures: TaskFailures) -> ScanRecord:
    """The scan that an earlier run committed, or a new one."""
    if writer.state.scan is not None:
        return writer.state.scan
    corpus = Corpus(_splits(run), spec, run.corpus.fields, run.teacher.filters.near_duplicates)
    if writer.state.scan_counted:
        return scan_corpus(corpus, lambda rejects: None)

    def add(rejects: pa.Table) -> None:
        failures.scanned(rejects)
        writer.add_scanned(rejects)

    scan = scan_corpus(corpus, add)
    writer.commit_scan(scan)
    return scan


def _splits(run: RunConfig) -> list[FileRange]:
    readers = 4 * run.teacher.replicas.max
    train = corpus_files(run.corpus.train, "corpus.train")
    heldout = heldout_files(run.corpus) or []
    return [
        *corpus_splits(train, "train", parallelism=readers, limit=run.corpus.limit),
        *corpus_splits(heldout, "heldout", parallelism=readers, limit=run.corpus.limit),
    ]


def _check_complete(scan: ScanRecord, counts: Counts) -> None:
    if (counts.train, counts.heldout) != (scan.rows["train"], scan.rows["heldout"]):
        raise StageFailedError(
            f"rows do not add up: {scan.rows['train']} train and {scan.rows['heldout']} held-out rows were read, "
            f"{counts.train} and {counts.heldout} have an outcome. No manifest was written. "
            "Run `raystill label RUN --check`, and report this."
        )


def _check_engine_errors(run: RunConfig, counts: Counts) -> None:
    """Raise StageFailedError if no engine could answer more rows than is allowed. The labels are finished all the same."""
    errors, limit = counts.engine_errors, run.labelling.max_engine_error_share
    if errors > limit * counts.done:
        raise StageFailedError(
            f"no engine could answer {errors:,} of {counts.done:,} rows, labelling.max_engine_error_share is {limit}. "
            "The other rows are labelled. Run the same command to retry these."
        )
    if errors:
        rule = f"{errors:,} of {counts.done:,} rows could not be answered (engine_error)"
        print(f"label: {rule}. Run the same command to retry them.", file=sys.stderr, flush=True)
