"""The label stage. In: corpus (JSON Lines, CSV, Parquet). Out: `OUTPUT/labels`, by way of

    scan        every row once: count, unreadable rows, duplicate ids                 (scan.py)
    examples -> teacher actors -> outcomes                                            (stream.py, actor.py, outcomes.py)
    outcomes -> Parquet, committed group by group                                     (sink.py)
    manifest.json and the dataset card, last                                          (here, card.py)

Held-out rows (`corpus.test`, or a validation file) go the same way into `labels/heldout`, for the teacher's line in the report.
"""

from __future__ import annotations

import dataclasses
import hashlib
import sys
import time
from typing import Any

from pipelines.config import RunConfig, TeacherConfig
from pipelines.data.heldout import heldout_files, validation_share
from pipelines.data.reader import FileRange, check_columns, corpus_files, corpus_splits
from pipelines.errors import StageFailedError, UserError
from pipelines.label.answers.label_set_checks import check_closed_labels
from pipelines.label.answers.prompts import PromptMaker, read_shots
from pipelines.label.driver import stream
from pipelines.label.output.counts import Counts
from pipelines.label.output.writer import LabelWriter, ScanRecord, read_attempt
from pipelines.label.reporting.dataset_card import dataset_card
from pipelines.label.reporting.progress_file import ProgressFile
from pipelines.label.reporting.usage import label_details
from pipelines.label.scan import Corpus, scan_corpus
from pipelines.reuse import Action, Decision, decide
from pipelines.storage.fingerprint import file_fingerprint, model_fingerprint
from pipelines.storage.lock import LOCK, folder_lock
from pipelines.storage.manifest import Manifest, manifest_of, write_manifest
from pipelines.storage.store import Store
from pipelines.students.decoding import check_model
from pipelines.students.tokenizer_fingerprint import tokenizer_fingerprint
from pipelines.tasks import TaskSpec, load_task, task_spec

FORMAT = 1
"""Bumped when this stage makes other rows from the same input."""


def check_label(run: RunConfig) -> None:
    """Everything that can be wrong with the input of this stage, before Ray is started. Raises UserError."""
    task = load_task(task_spec(run.task, run.task_options))
    check_closed_labels(run.teacher, task)
    train = corpus_files(run.corpus.train, "corpus.train")
    check_columns(train, task, run.corpus.fields, "corpus.train")
    heldout = heldout_files(run.corpus)
    if heldout:
        check_columns(heldout, task, run.corpus.fields, "corpus.test")
    read_shots(run.teacher, task)
    if run.teacher.engine == "vllm":
        assert run.teacher.model is not None
        check_model(run.teacher.model, "teacher.model")
        room = run.teacher.vllm.max_model_len - run.teacher.sampling.max_tokens
        if room < 1:
            engine, sampling = run.teacher.vllm, run.teacher.sampling
            rule = f"max_model_len {engine.max_model_len} less sampling.max_tokens {sampling.max_tokens} leaves {room}"
            raise UserError("teacher.vllm", f"{rule} tokens for the prompt", "Raise max_model_len or lower max_tokens.")
    if run.teacher.engine == "replay":
        from pipelines.label.teachers.replay import read_recording

        read_recording(run.teacher.outputs or "")
    if run.teacher.engine == "openai":
        from pipelines.label.teachers.openai import check_remote

        check_remote(run.teacher)


def label_identity(run: RunConfig) -> dict[str, Any]:
    """What decides the labels; its fingerprint is the artifact's.

    Where an endpoint is (`teacher.remote.url`) is no part of it: a server moves, and the model stays. The model is told by
    `teacher.model`, so that other weights, or the same in another quantisation, must be served under another name. The manifest's
    `config` shows the URL of the run that finished the labels.
    """
    spec = task_spec(run.task, run.task_options)
    teacher = run.teacher
    heldout = heldout_files(run.corpus)
    # Rows of the validation split are never asked again: so it matters which these are.
    asks_again = teacher.filters.gold == "rationalise"
    rationalised = {"never_rationalised": validation_share(run.corpus.validation)} if asks_again else {}
    return {
        "format": FORMAT,
        "task": {"prompt": load_task(spec).prompt_version(), "options": spec.options, "source": _digest(spec.source)},
        "corpus": {
            "train": [file_fingerprint(f) for f in corpus_files(run.corpus.train, "corpus.train")],
            "heldout": [file_fingerprint(f) for f in heldout or []],
            "fields": run.corpus.fields,
            "limit": run.corpus.limit,
        },
        "teacher": {
            "engine": teacher.engine,
            "model": _model(teacher),
            "outputs": file_fingerprint(teacher.outputs) if teacher.outputs else None,
            "prompt": teacher.prompt,
            "system": teacher.system,
            "constrained": teacher.constrained,
            "soft_labels": teacher.soft_labels,
            "token_logprobs": teacher.token_logprobs,
            "shots": file_fingerprint(teacher.shots) if teacher.shots else None,
            "sampling": teacher.sampling.model_dump(),
            "filters": teacher.filters.model_dump(),
            "dtype": teacher.vllm.dtype,
            "max_model_len": teacher.vllm.max_model_len,
        },
        **rationalised,
    }


def label(run: RunConfig, *, replace: bool = False) -> Manifest:
    """Make `OUTPUT/labels`, go on with it, or reuse it. Ray is running.

    Finished labels with `engine_error` rows are opened again, and those rows are tried again.

    Raises:
        UserError: the input is wrong, the folder holds labels made with other settings and `replace` is not set, or another driver is
            labelling into it.
        StageFailedError: the engine cannot be started, too many rows are rejected, rows are missing at the end, or the folder's lock
            is lost.
    """
    check_label(run)
    store = Store(run.output).child("labels")
    identity = label_identity(run)
    decision = _decide(store, identity, replace=replace)
    decision.check()
    if decision.reused:
        return decision.reused
    with folder_lock(store, run.labelling.lease_s) as check_lock:
        # Another driver may have finished or replaced the labels since.
        decision = _decide(store, identity, replace=replace)
        decision.check()
        if decision.reused:
            return decision.reused
        if decision.replaces:
            check_lock()
            store.clear(keep=LOCK)
        reopened = decision.manifest if decision.action is Action.RESUME else None
        sink = LabelWriter(store, identity, run.labelling, reopened, check_lock)
        manifest = _label(run, store, identity, sink)
        _check_engine_errors(run, sink)
        return manifest


def label_decision(run: RunConfig, *, replace: bool = False) -> Decision:
    """Whether `label` reuses, resumes, makes or refuses OUTPUT/labels. Fingerprints the corpus and the teacher's files."""
    return _decide(Store(run.output).child("labels"), label_identity(run), replace=replace)


def _decide(store: Store, identity: dict[str, Any], *, replace: bool) -> Decision:
    def engine_errors(manifest: Manifest) -> int:
        return Counts.from_json(manifest.details["tally"]).engine_errors

    attempt = read_attempt(store)
    return decide(store, "labels", identity, replace=replace, attempt=attempt, rows_to_retry=engine_errors)


def _label(run: RunConfig, store: Store, identity: dict[str, Any], sink: LabelWriter) -> Manifest:
    spec = task_spec(run.task, run.task_options)
    began = time.monotonic()
    with ProgressFile(store, sink.check_lock) as live:
        already = sink.tally.done - sink.retried
        splits, scan = _scan(run, spec, sink)
        scanned = time.monotonic()
        work, usage = stream(run, spec, splits, scan, sink, live)
        _check_complete(scan, sink)
        manifest = _manifest(run, identity, scan, sink)
        manifest.timings_s = {"scan": scanned - began, "engine_start": work.engine_start_s, "label": work.seconds}
        manifest.details |= {"resumed_at_rows": already, "engines": dataclasses.asdict(usage)}
        manifest.details |= label_details(work, sink.tally, run.teacher)
        sink.check_lock()
        store.write("README.md", dataset_card(run, manifest, store).encode())
        write_manifest(store, manifest)
        sink.tidy()
    return manifest


def _scan(run: RunConfig, spec: TaskSpec, sink: LabelWriter) -> tuple[list[FileRange], ScanRecord]:
    """The scan that an earlier run committed, or a new one."""
    if sink.scan is not None:
        return [FileRange(**split) for split in sink.scan.splits], sink.scan
    splits = _splits(run)
    corpus = Corpus(splits, spec, run.corpus.fields, run.teacher.filters.near_duplicates)
    if sink.scan_counted:
        return splits, scan_corpus(corpus, lambda rejects: None)
    scan = scan_corpus(corpus, sink.add_scanned)
    sink.commit_scan(scan)
    return splits, scan


def _splits(run: RunConfig) -> list[FileRange]:
    readers = 4 * run.teacher.replicas.max
    splits = corpus_splits(
        corpus_files(run.corpus.train, "corpus.train"), "train", parallelism=readers, limit=run.corpus.limit
    )
    heldout = heldout_files(run.corpus)
    return splits + corpus_splits(heldout or [], "heldout", parallelism=readers, limit=run.corpus.limit)


def _model(teacher: TeacherConfig) -> str | None:
    # An endpoint's name for its model is no folder, even where one of that name lies here.
    return teacher.model if teacher.engine == "openai" or not teacher.model else model_fingerprint(teacher.model)


def _check_complete(scan: ScanRecord, sink: LabelWriter) -> None:
    tally = sink.tally
    if (tally.train, tally.heldout) != (scan.rows["train"], scan.rows["heldout"]):
        raise StageFailedError(
            f"rows do not add up: {scan.rows['train']} train and {scan.rows['heldout']} held-out rows were read, "
            f"{tally.train} and {tally.heldout} have an outcome. No manifest was written; remove the folder and report this."
        )


def _check_engine_errors(run: RunConfig, sink: LabelWriter) -> None:
    """Raises StageFailedError where no engine could answer more rows than is allowed. The labels are finished all the same."""
    errors, limit = sink.tally.engine_errors, run.labelling.max_engine_error_share
    if errors > limit * sink.tally.done:
        raise StageFailedError(
            f"no engine could answer {errors:,} of {sink.tally.done:,} rows, labelling.max_engine_error_share is {limit}. "
            "The others are labelled; the same command tries these again."
        )
    if errors:
        told = f"{errors:,} of {sink.tally.done:,} rows could not be answered (engine_error); the same command tries them again"
        print(f"label: {told}", file=sys.stderr, flush=True)


def _manifest(run: RunConfig, identity: dict[str, Any], scan: ScanRecord, sink: LabelWriter) -> Manifest:
    tally = sink.tally
    task = load_task(task_spec(run.task, run.task_options))
    return manifest_of(
        "labels",
        identity,
        config=run.model_dump(),
        counts={
            "read": scan.rows["train"],
            "accepted": tally.accepted,
            "rejected": tally.rejected.total(),
            "rejected_by_reason": dict(sorted((+tally.rejected).items())),
            "heldout": {
                "read": scan.rows["heldout"],
                "answered": tally.heldout_answered,
                "unanswered": tally.heldout_rejected.total(),
                "unanswered_by_reason": dict(sorted((+tally.heldout_rejected).items())),
            },
            "gold": {"with_gold": tally.with_gold, "agreeing": tally.agreeing},
            "notes": dict(tally.notes),
        },
        timings_s={},
        details={
            "content": f"{tally.content:016x}",
            "heldout_content": f"{tally.heldout_content:016x}",
            "prompt_version": PromptMaker(task, run.teacher, read_shots(run.teacher, task)).version,
            "task": {"name": task.name, "version": task.version},
            "teacher": {
                "engine": run.teacher.engine,
                "model": run.teacher.model,
                "sampling": run.teacher.sampling.model_dump(),
            },
            "tokens": {"prompt": tally.prompt_tokens, "output": tally.output_tokens},
            "nodes": dict(sorted(tally.nodes.items())),
            "dtypes": dict(sorted(tally.dtypes.items())),
            "parts": dict(sorted(sink.parts.items())),
            "tally": tally.as_json(),
            "tokenizer": tokenizer_fingerprint(run.teacher.model or "") if run.teacher.token_logprobs else None,
        },
        provenance={},
    )


def _digest(source: str | None) -> str | None:
    return None if source is None else hashlib.sha256(source.encode()).hexdigest()
