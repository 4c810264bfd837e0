"""The label stage. In: corpus (JSON Lines, CSV, Parquet). Out: `OUTPUT/labels`, by way of

    scan        every row once: count, unreadable rows, duplicate ids                 (scan.py)
    examples -> teacher actors -> outcomes                                            (Ray Data; actor.py, outcomes.py)
    outcomes -> Parquet, committed group by group                                     (sink.py)
    manifest.json and the dataset card, last                                          (here, card.py)

Held-out rows (`corpus.test`, or a validation file) go the same way into `labels/heldout`, for the teacher's line in the report.
"""

from __future__ import annotations

import hashlib
import os
import time
from typing import Any

from pipelines.artifacts import (
    Manifest,
    Store,
    file_fingerprint,
    fingerprint,
    finished,
    manifest_of,
    model_fingerprint,
    write_manifest,
)
from pipelines.config import RunConfig
from pipelines.corpus import Split, check_columns, corpus_files, corpus_splits, heldout_files
from pipelines.decode import check_model
from pipelines.errors import StageFailedError, UserError
from pipelines.label.actor import TeacherActor
from pipelines.label.card import dataset_card
from pipelines.label.scan import Scan, example_blocks, scan_corpus
from pipelines.label.sink import LabelSink
from pipelines.progress import Progress
from pipelines.schema import EXAMPLE
from pipelines.tasks import TaskSpec, load_task, task_spec

FORMAT = 1
"""Bumped when this stage makes other rows from the same input."""


def check_label(run: RunConfig) -> None:
    """Everything that can be wrong with the input of this stage, before Ray is started. Raises UserError."""
    task = load_task(task_spec(run.task, run.task_options))
    train = corpus_files(run.corpus.train, "corpus.train")
    check_columns(train, task, run.corpus.fields, "corpus.train")
    heldout = heldout_files(run.corpus)
    if heldout:
        check_columns(heldout, task, run.corpus.fields, "corpus.test")
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


def label_identity(run: RunConfig) -> dict[str, Any]:
    """What decides the labels; its fingerprint is the artifact's."""
    spec = task_spec(run.task, run.task_options)
    teacher = run.teacher
    heldout = heldout_files(run.corpus)
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
            "model": model_fingerprint(teacher.model) if teacher.model else None,
            "outputs": file_fingerprint(teacher.outputs) if teacher.outputs else None,
            "prompt": teacher.prompt,
            "system": teacher.system,
            "sampling": teacher.sampling.model_dump(),
            "filters": teacher.filters.model_dump(),
            "dtype": teacher.vllm.dtype,
            "max_model_len": teacher.vllm.max_model_len,
        },
    }


def label(run: RunConfig, *, replace: bool = False) -> Manifest:
    """Make `OUTPUT/labels`, or reuse it. Ray is running.

    Raises:
        UserError: the input is wrong, or the folder holds labels made with other settings and `replace` is not set.
        StageFailedError: the engine cannot be started, or rows are missing at the end.
    """
    check_label(run)
    store = Store(run.output).child("labels")
    identity = label_identity(run)
    manifest = finished(store, "labels", identity, replace=replace)
    if manifest:
        return manifest
    if replace and _begun_otherwise(store, identity):
        store.clear()
    started = time.monotonic()
    spec = task_spec(run.task, run.task_options)
    splits = _splits(run)
    with LabelSink(store, identity) as sink:
        already = sink.tally.done
        scan = scan_corpus(splits, spec, run.corpus.fields)
        if not sink.scanned:
            sink.add(scan.rejects)
            sink.commit(scan=True)
        scanned = time.monotonic()
        _stream(run, spec, splits, scan, sink)
        parts = sink.finish()
        _check_complete(scan, sink)
        manifest = _manifest(run, identity, scan, sink, parts)
        manifest.timings_s = {"scan": scanned - started, "label": time.monotonic() - scanned}
        manifest.details["resumed_at_rows"] = already
        store.write("README.md", dataset_card(run, manifest, store).encode())
        write_manifest(store, manifest)
        sink.tidy()
    return manifest


def _splits(run: RunConfig) -> list[Split]:
    readers = 4 * run.teacher.replicas.max
    splits = corpus_splits(
        corpus_files(run.corpus.train, "corpus.train"), "train", parallelism=readers, limit=run.corpus.limit
    )
    heldout = heldout_files(run.corpus)
    return splits + corpus_splits(heldout or [], "heldout", parallelism=readers, limit=run.corpus.limit)


def _stream(run: RunConfig, spec: TaskSpec, splits: list[Split], scan: Scan, sink: LabelSink) -> None:
    """Examples through the teacher actors into the sink."""
    import ray
    from ray.data import ActorPoolStrategy
    from ray.exceptions import RayError

    total = sum(scan.rows.values())
    if sink.tally.done >= total:
        return
    teacher = run.teacher
    block_rows, blocks_in_flight = _in_flight(run)
    reader = {
        "splits": splits,
        "spec": spec,
        "fields": dict(run.corpus.fields),
        "passed_over": scan.passed_over,
        "done": sink.done,
    }
    shared = ray.put(reader)
    items = [{"index": index} for index in range(len(splits))]
    examples = (
        ray.data.from_items(items, override_num_blocks=len(items))
        .map_batches(_read, fn_args=(shared,), batch_size=1, batch_format="numpy", num_cpus=0.5)
        .repartition(target_num_rows_per_block=block_rows)
    )
    environment = _cpu_environment(run) if not teacher.gpus_per_replica else {}
    outcomes = examples.map_batches(
        TeacherActor,
        fn_constructor_args=(run, spec),
        batch_size=block_rows,  # a block; Ray insists on a number where GPUs are asked for
        batch_format="pyarrow",
        zero_copy_batch=True,
        compute=ActorPoolStrategy(
            min_size=teacher.replicas.min,
            max_size=teacher.replicas.max,
            max_tasks_in_flight_per_actor=2 * blocks_in_flight,
            max_concurrent_calls_per_actor=blocks_in_flight,
        ),
        num_cpus=1,
        num_gpus=teacher.gpus_per_replica,
        runtime_env={"env_vars": environment},
    )
    with Progress("label", total=total, unit="rows", start=sink.tally.done) as progress:
        progress.advance(0)
        try:
            for table in outcomes.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
                sink.add(table)
                progress.advance(len(table), detail=f"{sink.tally.accepted:,} accepted")
        except RayError as error:
            sink.commit()
            reason = str(error).strip().splitlines()[-1]
            raise StageFailedError(
                f"labelling broke off: {reason}. Finished rows are kept; the same command goes on."
            ) from error


def _cpu_environment(run: RunConfig) -> dict[str, str]:
    """What a replica on CPUs must be told: Ray gives each actor one thread, vLLM leaves one core idle; both waste a small machine."""
    threads = max(1, len(os.sched_getaffinity(0)) // run.teacher.replicas.max)
    return {
        "OMP_NUM_THREADS": str(threads),
        "VLLM_CPU_NUM_OF_RESERVED_CPU": "0",
        "VLLM_CPU_KVCACHE_SPACE": str(run.teacher.vllm.cpu_kv_cache_gib),
    }


def _read(batch: Any, shared: Any) -> Any:
    import ray

    reader = ray.get(shared) if isinstance(shared, ray.ObjectRef) else shared
    yield EXAMPLE.empty_table()
    yield from example_blocks(int(batch["index"][0]), **reader)


def _in_flight(run: RunConfig) -> tuple[int, int]:
    """(rows per block, blocks in flight per replica): twice the engine's batch, so that it always has the next ones."""
    teacher = run.teacher
    if teacher.engine == "replay" or (teacher.engine == "echo" and not teacher.latency_s):
        return 256, 4
    sequences = teacher.vllm.max_num_seqs
    rows = max(2 * sequences // teacher.sampling.n, 16)
    return 16, -(-rows // 16)


def _begun_otherwise(store: Store, identity: dict[str, Any]) -> bool:
    return store.exists("attempt.json") and fingerprint(identity).encode() not in store.read("attempt.json")


def _check_complete(scan: Scan, sink: LabelSink) -> None:
    tally = sink.tally
    train, heldout = tally.accepted + tally.rejected.total(), tally.heldout_answered + tally.heldout_rejected
    if (train, heldout) != (scan.rows["train"], scan.rows["heldout"]):
        raise StageFailedError(
            f"rows do not add up: {scan.rows['train']} train and {scan.rows['heldout']} held-out rows were read, "
            f"{train} and {heldout} have an outcome. No manifest was written; remove the folder and report this."
        )


def _manifest(run: RunConfig, identity: dict[str, Any], scan: Scan, sink: LabelSink, parts: dict[str, int]) -> Manifest:
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
            "rejected_by_reason": dict(sorted(tally.rejected.items())),
            "heldout": {
                "read": scan.rows["heldout"],
                "answered": tally.heldout_answered,
                "unanswered": tally.heldout_rejected,
            },
            "gold": {"with_gold": tally.with_gold, "agreeing": tally.agreeing},
            "notes": dict(tally.notes),
        },
        timings_s={},
        details={
            "content": f"{tally.content:016x}",
            "prompt_version": task.prompt_version(),
            "task": {"name": task.name, "version": task.version},
            "teacher": {
                "engine": run.teacher.engine,
                "model": run.teacher.model,
                "sampling": run.teacher.sampling.model_dump(),
            },
            "tokens": {"prompt": tally.prompt_tokens, "output": tally.output_tokens},
            "parts": parts,
        },
        provenance={},
    )


def _digest(source: str | None) -> str | None:
    return None if source is None else hashlib.sha256(source.encode()).hexdigest()
