"""The train stage. In: a finished labels artifact. Out: OUTPUT/student, a Hugging Face checkpoint with its manifest.

    OUTPUT/labels  ->  tokens (Ray Data)  ->  steps (Ray Train, DeepSpeed)  ->  OUTPUT/student

What is under way lies in OUTPUT/training/<fingerprint>: tokens and checkpoints of exactly this training. The same run file goes on
there after any failure; another one starts another folder. It is removed when the manifest is written.

The manifest's details: method, family, task, parameters, max_input_tokens, max_target_tokens, and `training` with world_size,
zero_stage, precision, steps, started_at_steps (above 0: a checkpoint was gone on from), optimizer_bytes_per_rank, padding_share (of the
tokens in micro-batches), data_wait_share (of the time of the steps, for micro-batches) and loss
{TERM: {first, last}, ..., validation: {before, after}}, in nats per target token (`soft`: per example); TERM of objective.TERMS.
"""

from __future__ import annotations

import dataclasses
import time
from typing import Any

from pipelines.config import RunConfig
from pipelines.errors import RaystillError, StageFailedError, last_line
from pipelines.reuse import Attempt, Decision, decide
from pipelines.storage.fingerprint import fingerprint
from pipelines.storage.manifest import (
    Manifest,
    library_versions,
    manifest_of,
    require_manifest,
    write_manifest,
)
from pipelines.storage.store import Store
from pipelines.tasks import load_task, task_spec
from pipelines.train.checks import (
    check_counts,
    check_gold,
    check_task,
    check_tops,
    check_validation,
    token_settings,
    train_identity,
    with_absolute_model,
)
from pipelines.train.data.sequences import TokenSettings
from pipelines.train.data.token_table import TokenCounts, tokenise
from pipelines.train.data.tokenizer_training import train_tokenizer
from pipelines.train.data.validation_set import validation_tokens
from pipelines.train.engine.export import model_card
from pipelines.train.engine.loop import TrainingJob, train_loop
from pipelines.train.engine.network_interfaces import torch_config
from pipelines.train.tracking.progress_actor import shown_progress


def check_train(run: RunConfig, labels_at: str | None = None) -> TokenSettings:
    """Everything that can be wrong with the input of this stage, before Ray is started. Raises UserError."""
    labels = _labels(run, labels_at)
    manifest = require_manifest(labels, "labels", "label")
    check_task(manifest, run, labels.shown())
    settings = token_settings(with_absolute_model(run))
    check_validation(run)
    check_gold(labels, settings)
    check_tops(manifest, with_absolute_model(run))
    return settings


def train(run: RunConfig, *, replace: bool = False, labels_at: str | None = None) -> Manifest:
    """Make `OUTPUT/student`, or reuse it. Ray is running.

    Args:
        labels_at: path or URI of the labels artifact; None: OUTPUT/labels.

    Raises:
        UserError: labels are missing or unfit, the model is unfit, or the folder holds another student and `replace` is not set.
        StageFailedError: the training broke off; the same call goes on from its last checkpoint.
    """
    output = Store(run.output)
    labels_store, store = _labels(run, labels_at), output.child("student")
    labels = require_manifest(labels_store, "labels", "label")
    identity = train_identity(run, load_task(task_spec(run.task, run.task_options)), labels)
    decision = _decide(output, identity, replace=replace)
    decision.check()
    if decision.reused:
        return decision.reused
    # One that is to be replaced stays until the new one is exported: what is refused from here on, or breaks off, costs nobody a student.
    settings = check_train(run, labels_at)
    name = fingerprint(identity)[:12]
    work, tensorboard = output.child(f"training/{name}"), output.child(f"tensorboard/{name}")
    began = time.monotonic()
    tokenizer, vocabulary = None, run.student.init.vocabulary
    if vocabulary is not None:
        tokenizer = work.child("tokenizer")
        train_tokenizer(labels_store, settings, vocabulary, tokenizer)
        settings = dataclasses.replace(settings, tokenizer=tokenizer.uri)
    counts = tokenise(labels_store, settings, work.child("tokens"), validation_tokens(run.corpus, settings))
    check_counts(counts, run, settings)
    tokenised = time.monotonic()
    result = _fit(with_absolute_model(run), work, store, tensorboard, name, tokenizer)
    timings = {"tokenise": tokenised - began, "train": time.monotonic() - tokenised, "steps": result["seconds"]}
    manifest = _manifest(run, identity, labels, settings, counts, result, timings)
    card = model_card(run, manifest.details, manifest.provenance, manifest.counts, library_versions())
    store.write("README.md", card.encode())
    write_manifest(store, manifest)
    work.clear()
    return manifest


def train_decision(run: RunConfig, labels: Manifest, *, replace: bool = False) -> Decision:
    """Whether `train` reuses, resumes, makes or refuses OUTPUT/student, given its labels. Fingerprints the model's files."""
    identity = train_identity(run, load_task(task_spec(run.task, run.task_options)), labels)
    return _decide(Store(run.output), identity, replace=replace)


def _decide(output: Store, identity: dict[str, Any], *, replace: bool) -> Decision:
    name = fingerprint(identity)
    attempt = Attempt(name, identity) if output.files(f"training/{name[:12]}") else None
    return decide(output.child("student"), "student", identity, replace=replace, attempt=attempt)


def _labels(run: RunConfig, labels_at: str | None) -> Store:
    return Store(run.output).child("labels") if labels_at is None else Store(labels_at)


def _fit(
    run: RunConfig, work: Store, store: Store, tensorboard: Store, name: str, tokenizer: Store | None
) -> dict[str, Any]:
    """Train on Ray Train's workers. Returns what worker 0 says of the whole. Raises StageFailedError where it broke off."""
    import ray
    from ray.train import CheckpointConfig, FailureConfig, ScalingConfig, TrainingFailedError
    from ray.train import RunConfig as RayRunConfig
    from ray.train.torch import TorchTrainer

    from pipelines.train.tracking.prometheus import StepsLeft

    training = run.training
    steps_left = StepsLeft(run.name)
    with shown_progress("train", steps_left.tell) as board:
        job = TrainingJob(
            run=run.model_dump(mode="json"),
            tokens=work.child("tokens").uri,
            student=store.uri,
            name=name,
            tensorboard=tensorboard.uri,
            tokenizer=tokenizer.uri if tokenizer else None,
            board=board,
        )
        trainer = TorchTrainer(
            train_loop,
            train_loop_config=job.as_config(),
            torch_config=torch_config(),
            scaling_config=ScalingConfig(
                num_workers=(training.min_workers, training.workers) if training.min_workers else training.workers,
                use_gpu=training.gpus_per_worker > 0,
                resources_per_worker={"CPU": 1} | ({"GPU": 1} if training.gpus_per_worker else {}),
                placement_strategy=training.placement.upper(),
            ),
            run_config=RayRunConfig(
                # Ray reads its own snapshots only in the version that wrote them: another version starts anew.
                name=f"ray-{ray.__version__}",
                storage_path=work.root,
                storage_filesystem=None if work.is_local else work.fs,
                failure_config=FailureConfig(max_failures=training.max_failures),
                checkpoint_config=CheckpointConfig(num_to_keep=training.keep_checkpoints),
            ),
        )
        try:
            result: dict[str, Any] = trainer.fit().return_value
        except TrainingFailedError as error:
            raise StageFailedError(f"training broke off: {_reason(error)}. {_how_to_go_on(work)}") from error
    if "failed" in result:
        raise StageFailedError(f"training broke off: {result['failed']}. {_how_to_go_on(work)}")
    steps_left.tell(0)
    return result


def _reason(error: Any) -> str:
    """What the workers raised, in one line; the traceback follows as the cause."""
    failures = getattr(error, "worker_failures", None) or {}
    causes = [getattr(failure, "cause", None) or failure for failure in failures.values()]
    ours = [str(cause) for cause in causes if isinstance(cause, RaystillError)]
    if ours:
        return ours[0].rstrip(".")
    return last_line(causes[0] if causes else error).rstrip(".")


def _how_to_go_on(work: Store) -> str:
    return f"The same command goes on from the last checkpoint; it lies in {work.shown()}."


def _manifest(
    run: RunConfig, identity: dict[str, Any], labels: Manifest, settings: TokenSettings, counts: TokenCounts,
    result: dict[str, Any], timings: dict[str, float],
) -> Manifest:  # fmt: skip
    spec = task_spec(run.task, run.task_options)
    task = load_task(spec)
    history, training = result["history"], run.training
    loss: dict[str, Any] = {term: _first_and_last(history, term) for term in settings.terms}
    return manifest_of(
        "student",
        identity,
        config=run.model_dump(mode="json"),
        counts={
            "train_examples": counts.train,
            "validation_examples": counts.validation,
            "too_long": counts.too_long,
            "nothing_to_learn": counts.nothing_to_learn,
            "tokens": result["tokens"],
        },
        timings_s=timings,
        details={
            "method": run.student.method,
            "family": settings.family,
            "task": {"name": task.name, "version": task.version, "options": spec.options, "source": spec.source},
            "parameters": result["parameters"],
            "trained_parameters": result["trained_parameters"],
            "max_input_tokens": training.max_input_tokens,
            "max_target_tokens": training.max_target_tokens,
            "training": {
                "world_size": result["world_size"],
                "zero_stage": training.zero_stage,
                "precision": training.precision,
                "optimizer_bytes_per_rank": result["optimizer_bytes_per_rank"],
                "peak_memory_bytes_per_rank": result["peak_memory_bytes_per_rank"],
                "steps": result["steps"],
                "planned_steps": result["planned_steps"],
                "started_at_steps": result["started_at_steps"],
                "world_sizes": result["world_sizes"],
                "nodes": result["nodes"],
                "damaged_checkpoints": result["damaged_checkpoints"],
                "tokens_per_s": result["tokens"] / max(result["seconds"], 1e-9),
                "padding_share": result["padding_share"],
                "data_wait_share": result["data_wait_share"],
                "token_counts": dataclasses.asdict(counts),
                "loss": {**loss, "validation": result["validation"]},
            },
        },
        provenance={
            "labels": {
                "fingerprint": labels.fingerprint,
                "prompt_version": labels.details.get("prompt_version"),
                "teacher": labels.details.get("teacher"),
                "filters": labels.identity.get("teacher", {}).get("filters"),
                "counts": labels.counts,
                "task": labels.details.get("task"),
            }
        },
    )


def _first_and_last(history: list[dict[str, float]], term: str) -> dict[str, float | None]:
    """Loss of the first and of the last step that held the term."""
    losses = [row[term] for row in history if term in row]
    return {"first": losses[0] if losses else None, "last": losses[-1] if losses else None}
