"""The function that Ray Train runs on every worker: restore, train, export.

In: {"job": TrainingJob}. Out, on worker 0: a TrainingResult, or a TrainingFailure if another attempt would fail in the same way.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path

from pipelines.config import TrainingConfig
from pipelines.errors import StageFailedError
from pipelines.methods import METHODS
from pipelines.runtime.cpus import computes_bf16, has_bf16_instructions, usable_cpus
from pipelines.runtime.nodes import node_name
from pipelines.storage.store import Store
from pipelines.students.details import Losses, TermLoss, TrainingDetails, TrainingLosses, ValidationLosses
from pipelines.train.data.token_table import Tokens
from pipelines.train.engine.job import TrainingFailure, TrainingJob, TrainingResult
from pipelines.train.engine.resume import TrainingState, restore
from pipelines.train.engine.steps import run_steps
from pipelines.train.engine.worker import Worker, WorkerOutOfMemoryError, memory_errors
from pipelines.train.identity import BATCH_PLAN
from pipelines.train.tracking.progress_actor import warn_through
from pipelines.train.tracking.trackers import Trackers


def train_loop(config: Mapping[str, TrainingJob]) -> TrainingResult | TrainingFailure:
    """Train one worker's share. Ray Train calls it on every worker, and again after a failure."""
    import ray
    from ray import train
    from transformers.utils.logging import disable_progress_bar

    from pipelines.train.engine.deepspeed_engine import prepare_deepspeed

    job = config["job"]
    training, context = job.run.training, train.get_context()
    _share_cores(context.get_local_world_size())
    prepare_deepspeed(gpu=training.gpus_per_worker > 0)
    disable_progress_bar()
    if job.progress is not None and (reason := ray.get(job.progress.fatal_error.remote())):
        return TrainingFailure(reason)
    try:
        with memory_errors(training), tempfile.TemporaryDirectory() as cache:
            return _train(job, Path(cache), context.get_world_rank(), context.get_world_size())
    except WorkerOutOfMemoryError as error:
        # The other workers wait for this one, and only a raised error ends them. Ray then starts an attempt, which reads the reason.
        if job.progress is not None:
            ray.get(job.progress.report_fatal_error.remote(str(error)))
        raise
    except StageFailedError as error:
        # All workers are here for the same reason. If it were raised, Ray would retry the same steps.
        return TrainingFailure(str(error))


def _train(job: TrainingJob, cache: Path, rank: int, world: int) -> TrainingResult:
    from pipelines.students.init import initial_student
    from pipelines.train.engine.export import export_student

    run = job.run.model_copy(update={"training": with_precision(job.run.training)})
    if rank == 0:
        _warn_of_slow_bf16(run.training, warn_through(job.progress))
    own_tokenizer = nullcontext() if job.tokenizer is None else Store(job.tokenizer).local_copy()
    with own_tokenizer as folder:
        model, tokenizer = initial_student(run.student, run.training.seed, folder)
    tokens = Tokens(Store(job.tokens), cache, grouped=METHODS[run.student.method].compares_labels)
    worker = Worker(run, model, tokens, rank, world)
    state = restore(worker)
    state.started_at.append(state.step)
    state.world_sizes.append(world)
    state.nodes.append(worker.gather(node_name()))
    trackers, finished = None, False
    if rank == 0:
        trackers = Trackers(job, state.step, workers=world, warn=warn_through(job.progress))
    try:
        if state.validation_before is None:
            state.validation_before = worker.validate()
        run_steps(worker, state, job, trackers)
        finished = True
    finally:
        if trackers is not None:
            trackers.close(finished=finished)
    learned = worker.plan.tokens(0, state.step)
    details = _details(worker, state, learned)
    best = job.best_weights(state.best.step) if state.best else None
    measured = export_student(worker, tokenizer, Store(job.student), state.history, best)
    difference = state.best_difference if measured is None else measured
    details = details.model_copy(update={"export_difference": difference})
    return TrainingResult(details, worker.parameters, worker.trained_parameters, learned, state.seconds)


def _details(worker: Worker, state: TrainingState, tokens: int) -> TrainingDetails:
    """What the training achieved. Every worker must call it: some values are gathered from all."""
    validation = ValidationLosses(
        before=state.validation_before or {},
        during=state.validation,
        best=state.best,
        after=state.best.terms if state.best else worker.validate(),
    )
    return TrainingDetails(
        world_size=worker.world,
        zero_stage=worker.run.training.zero_stage,
        precision=worker.run.training.precision,
        optimizer_bytes_per_rank=worker.optimizer_bytes_per_rank(),
        peak_memory_bytes_per_rank=worker.peak_memory_per_rank(),
        steps=state.step,
        planned_steps=worker.plan.steps,
        started_at_steps=state.started_at,
        world_sizes=state.world_sizes,
        nodes=state.nodes,
        damaged_checkpoints=state.damaged,
        tokens_per_s=tokens / max(state.seconds, 1e-9),
        padding_share=worker.plan.padding_share(state.step),
        data_wait_share=state.waited_s / max(state.seconds, 1e-9),
        token_counts={},
        loss=TrainingLosses(
            terms={term: _term_loss(state.history, term) for term in worker.weights}, validation=validation
        ),
        tokens=tokens,
        examples_seen=worker.plan.examples_seen(state.step),
        seconds=state.seconds,
        batch_plan=BATCH_PLAN,
    )


def _term_loss(history: Sequence[Losses], term: str) -> TermLoss:
    losses = [row[term] for row in history if term in row]
    return TermLoss(first=losses[0] if losses else None, last=losses[-1] if losses else None)


def _share_cores(workers_here: int) -> None:
    """Give this worker its share of the node's cores. By default torch takes all of them in each process, or one."""
    import torch

    torch.set_num_threads(max(1, usable_cpus() // workers_here))


def with_precision(training: TrainingConfig) -> TrainingConfig:
    """The settings with what `precision: auto` stands for. Every worker must call it, since bf16 needs instructions on all of them."""
    import torch

    if training.precision != "auto":
        return training
    gpu = training.gpus_per_worker > 0
    able = torch.cuda.is_bf16_supported(including_emulation=False) if gpu else has_bf16_instructions()
    all_able = torch.tensor(int(able), device="cuda" if gpu else "cpu")
    torch.distributed.all_reduce(all_able, torch.distributed.ReduceOp.MIN)
    return training.model_copy(update={"precision": "bf16" if all_able.item() else "fp32"})


def _warn_of_slow_bf16(training: TrainingConfig, warn: Callable[[str], None]) -> None:
    if training.precision != "bf16" or training.gpus_per_worker or computes_bf16():
        return
    warn(
        f"the CPU of {node_name()} has no bf16 instructions, so that steps can take ten times as long as in float32. "
        "Set training.precision: fp32 to be faster here"
    )
