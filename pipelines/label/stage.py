"""The label stage. In: a corpus. Out: `OUTPUT/labels`, in these steps:

    take over   rows whose prompt has been answered before take that answer            (stored/)
    label       examples -> teacher actors -> outcomes -> Parquet, in commits          (driver.py, engines/, answers/, output/)
    scan        meanwhile, in corpus order: unreadable rows and repeated ids           (reading.py, scan.py, running_scan.py)
    finish      dataset card and manifest, last                                        (reporting/)

Held-out rows (`corpus.test`, or validation files) go the same way into `labels/heldout`; reports compare students with these answers.
"""

from __future__ import annotations

from typing import Any

from pipelines.config import RunConfig
from pipelines.data.heldout import heldout_files
from pipelines.data.label_manifest import CountsJson, LabelCounts
from pipelines.data.label_parts import Damage, damaged_part, label_details, wrong_count
from pipelines.data.reader import DataSplit, check_columns, corpus_files
from pipelines.data.shots import read_shots
from pipelines.errors import StageFailedError, UserError
from pipelines.label.answers.label_set_checks import check_closed_labels
from pipelines.label.batches.records import forget_batches
from pipelines.label.batches.run import Batches
from pipelines.label.driver import label_rows
from pipelines.label.early_stop import TaskFailures
from pipelines.label.identity import comparable_identity, label_identity
from pipelines.label.more_rows import only_adds_rows
from pipelines.label.output.commits import read_attempt
from pipelines.label.output.counts import Counts
from pipelines.label.output.spending import FOLDER as SPENT
from pipelines.label.output.writer import LabelWriter
from pipelines.label.reporting.dataset_card import dataset_card
from pipelines.label.reporting.manifest import label_manifest
from pipelines.label.reporting.progress_file import LabelProgressFile
from pipelines.label.running_scan import corpus_ranges
from pipelines.label.shards import check_shards
from pipelines.label.stored.keys import AnswerKeys
from pipelines.label.stored.sources import check_reuse, replace_labels
from pipelines.label.stored.take_over import StoredLookup, drop_taken_over
from pipelines.label.teachers.registry import teacher_class
from pipelines.reuse import Action, Decision, decide
from pipelines.runtime.stage_metrics import StageGauges
from pipelines.runtime.terminal import say
from pipelines.storage.lock import folder_lock
from pipelines.storage.manifest import Manifest, read_manifest, write_manifest
from pipelines.storage.store import MANIFEST, Store
from pipelines.tasks import load_task, task_spec


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
    check_shards(run)
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
    adds_rows = only_adds_rows(run, store, full)
    replace = replace or adds_rows
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
            kept = [SPENT] if adds_rows else []  # the budget goes on
            replace_labels(store, check_lock, keep_answers=run.labelling.reuse != [], keep=kept)
        reopened = decision.manifest if decision.action is Action.RESUME else None
        writer = LabelWriter(store, identity, run.labelling, reopened, check_lock)
        if notice := teacher_class(run.teacher.engine).notice(run.teacher):
            say(f"label: {notice}")
        manifest = _label(run, store, identity, writer, AnswerKeys.of_run(run, full["teacher"]["model"]))
        _check_engine_errors(run, writer.counts)
        return manifest


def label_decision(run: RunConfig, *, replace: bool = False) -> Decision:
    """Whether `label` reuses, resumes, makes or refuses OUTPUT/labels. Fingerprints the corpus and the teacher's files."""
    store, identity = Store(run.output).child("labels"), label_identity(run)
    replace = replace or only_adds_rows(run, store, identity)
    return _decide(store, identity, _model_here(run), replace=replace)[0]


def _model_here(run: RunConfig) -> str | None:
    return None if run.teacher.engine == "openai" else run.teacher.model


def _decide(
    store: Store, identity: dict[str, Any], model: str | None, *, replace: bool
) -> tuple[Decision, dict[str, Any]]:
    """The decision, and the identity of the labels that it leads to."""

    def engine_errors(manifest: Manifest) -> int:
        return Counts.from_json(label_details(manifest, store).tally).engine_errors

    def damage(manifest: Manifest) -> str | None:
        details = label_details(manifest, store)
        found = damaged_part(details.parts, details.files, store.sizes()) or wrong_count(manifest.counts, details.parts)
        if found is None and details.tally and not _is_tally_of(details.tally, manifest):
            found = Damage(MANIFEST, "its tally and its counts differ")
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


def _is_tally_of(tally: CountsJson, manifest: Manifest) -> bool:
    try:
        counts = Counts.from_json(tally)
    except TypeError:
        return False
    found = LabelCounts.model_validate(manifest.counts)
    return (counts.accepted, dict(+counts.rejected)) == (found.accepted, found.rejected_by_reason)


def _label(run: RunConfig, store: Store, identity: dict[str, Any], writer: LabelWriter, keys: AnswerKeys) -> Manifest:
    gauges = StageGauges(run.name, "label")
    with LabelProgressFile(store, "label", "rows", check_lock=writer.check_lock, gauges=gauges) as live:
        resumed_at_rows = writer.finished_rows
        failures, ranges = TaskFailures(run.labelling, writer.counts), corpus_ranges(run)
        lookup = StoredLookup(run, ranges, writer, live, failures, keys)
        if run.teacher.remote.batch:
            Batches(run, writer, live).answer(lookup.take_over, lookup.missing)
        else:
            lookup.take_over()
        work, usage = label_rows(run, ranges, writer, live, failures, keys)
        live.phase("writing the manifest")
        rows = _rows_read(writer)
        writer.compact()
        manifest = label_manifest(run, identity, rows, writer.state, work, usage, resumed_at_rows=resumed_at_rows)
        writer.check_lock()
        store.write("README.md", dataset_card(run, manifest, store).encode())
        write_manifest(store, manifest)
        writer.remove_attempt()
        drop_taken_over(run, store, writer.check_lock)
        forget_batches(store)
    return manifest


def _rows_read(writer: LabelWriter) -> dict[DataSplit, int]:
    """Rows of the corpus. Raises StageFailedError unless each has an outcome."""
    rows, counts = writer.state.corpus_rows, writer.counts
    if rows is None or (counts.train, counts.heldout) != (rows["train"], rows["heldout"]):
        read = "not all rows" if rows is None else f"{rows['train']} train and {rows['heldout']} held-out rows"
        raise StageFailedError(
            f"rows do not add up: {read} were read, {counts.train} and {counts.heldout} have an outcome. "
            "No manifest was written. Run `raystill label RUN --check`, and report this."
        )
    return rows


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
        say(f"label: {rule}. Run the same command to retry them.")
