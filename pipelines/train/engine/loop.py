"""The training loop of one worker, as Ray Train runs it: restore, steps, validation, checkpoints, export.

In: a `Job` as a mapping (the run, where the tokens are, where the student goes). Out, from worker 0: what the training came to:

    {"steps": 54, "history": [{"step": 0, "loss": 3.5, "label": 3.91, "rationale": 3.02, ...}, ...],
     "validation": {"before": {...}, "after": {...}}, "optimizer_bytes_per_rank": [168234, 168234], ...}

With `training.validate_every_steps` the validation split is measured in between. Its objective, the method's own loss on it, decides
which step is the best; its weights are kept, and exported.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from pipelines.config import RunConfig, TrainingConfig
from pipelines.errors import StageFailedError
from pipelines.methods import METHODS
from pipelines.runtime.cpus import computes_bf16, usable_cpus
from pipelines.runtime.nodes import node_name
from pipelines.storage.filesystems import ancestor
from pipelines.storage.store import Store
from pipelines.train.data.token_table import Tokens
from pipelines.train.engine.resume import CheckpointSaver, State, restore
from pipelines.train.engine.worker import Worker, WorkerOutOfMemoryError, memory_errors
from pipelines.train.loss_terms import SPIKE_WINDOW, TERMS, is_spike, objective
from pipelines.train.tracking.progress_actor import Note, warner
from pipelines.train.tracking.trackers import Trackers


@dataclass(frozen=True)
class TrainingJob:
    """What the driver tells every worker. URIs and paths are absolute: workers have another working directory."""

    run: dict[str, Any]
    tokens: str
    student: str
    name: str = ""
    """Of this training; the same after a restart."""
    tensorboard: str = ""
    """Where the TensorBoard files go."""
    tokenizer: str | None = None
    """The student's own (init.vocabulary); None: its model's."""
    board: Any = None
    """Actor that worker 0 tells of its progress; see `watch`."""

    @classmethod
    def of(cls, config: dict[str, Any]) -> TrainingJob:
        """The job that `as_config` has turned into a mapping."""
        return cls(**config)

    def as_config(self) -> dict[str, Any]:
        """The job as Ray Train's `train_loop_config`."""
        return {item.name: getattr(self, item.name) for item in fields(self)}


def train_loop(config: dict[str, Any]) -> dict[str, Any]:
    """Train one worker's share. Called by Ray Train on every worker, again after a failure."""
    import ray
    from ray import train
    from transformers.utils.logging import disable_progress_bar

    from pipelines.train.engine.deepspeed_engine import prepare_deepspeed

    job = TrainingJob.of(config)
    run = RunConfig.model_validate(job.run)
    context = train.get_context()
    _use_cores(context.get_local_world_size())
    prepare_deepspeed(gpu=run.training.gpus_per_worker > 0)
    disable_progress_bar()
    if job.board is not None and (hopeless := ray.get(job.board.hopeless.remote())):
        return {"failed": hopeless}
    try:
        with memory_errors(run.training), tempfile.TemporaryDirectory() as cache:
            return _train(run, job, Path(cache), context.get_world_rank(), context.get_world_size())
    except WorkerOutOfMemoryError as error:
        # The other workers wait for this one: only a raised error ends them. Ray begins anew then, and hears the reason above.
        if job.board is not None:
            ray.get(job.board.give_up.remote(str(error)))
        raise
    except StageFailedError as error:
        # Every worker is here, for the same reason. Raised, Ray would take it for a loss and try the same steps again.
        return {"failed": str(error)}


def _train(run: RunConfig, job: TrainingJob, cache: Path, rank: int, world: int) -> dict[str, Any]:
    """Restore, train, export. Returns what the training came to."""
    from pipelines.students.init import initial_student
    from pipelines.train.engine.deepspeed_engine import deepspeed_config
    from pipelines.train.engine.export import export_student

    if rank == 0:
        _warn_of_slow_bf16(run.training, warner(job.board))
    own = nullcontext() if job.tokenizer is None else Store(job.tokenizer).local_copy()
    with own as folder:
        model, tokenizer = initial_student(run.student, run.training.seed, folder)
    tokens = Tokens(Store(job.tokens), cache, together=METHODS[run.student.method].compares_labels)
    worker = Worker(run, model, tokens, rank, world)
    state = restore(worker.engine, worker.rank)
    state.started_at.append(state.step)
    state.world_sizes.append(worker.world)
    state.nodes.append(worker.nodes())
    trackers, finished = _trackers(worker, state, job), False
    try:
        if state.validation_before is None:
            state.validation_before = worker.measure(tokens.validation)
        _run_steps(worker, state, job, trackers)
        finished = True
    finally:
        if trackers is not None:
            trackers.close(finished=finished)
    result = {
        "steps": state.step,
        "planned_steps": worker.plan.steps,
        "tokens": worker.plan.tokens(0, state.step),
        "padding_share": worker.plan.padding_share(0, state.step),
        "seconds": state.seconds,
        "data_wait_share": state.waited_s / max(state.seconds, 1e-9),
        "started_at_steps": state.started_at,
        "world_sizes": state.world_sizes,
        "nodes": state.nodes,
        "damaged_checkpoints": state.damaged,
        "history": state.history,
        "validation": {
            "before": state.validation_before,
            "during": state.validation,
            "best": state.best,
            "after": state.best["terms"] if state.best else worker.measure(tokens.validation),
        },
        "optimizer_bytes_per_rank": worker.optimizer_bytes_per_rank(),
        "peak_memory_bytes_per_rank": worker.peak_memory_per_rank(),
        "world_size": worker.world,
        "parameters": worker.parameters,
        "trained_parameters": worker.trained_parameters,
    }
    best = best_weights(job, state.best["step"]) if state.best else None
    export_student(worker.engine, tokenizer, Store(job.student), deepspeed_config(run.training), state.history, best)
    return result


def best_weights(job: TrainingJob, step: int) -> Store:
    """Where the weights of the step lie that was the best when it was measured. Beside the tokens: gone when the training is done."""
    return Store(ancestor(job.tokens, 1)).child(f"best/step-{step}")


def _trackers(worker: Worker, state: State, job: TrainingJob) -> Trackers | None:
    if worker.rank:
        return None
    store, work = Store(job.tensorboard), Store(ancestor(job.tokens, 1))
    return Trackers(
        worker.run,
        job.name,
        store,
        work,
        state.step,
        workers=worker.world,
        warn=warner(job.board),
    )


def _run_steps(worker: Worker, state: State, job: TrainingJob, trackers: Trackers | None) -> None:
    """The steps from `state.step` to the end, or to where patience ends; `state` follows."""
    training = worker.run.training
    done, total = worker.plan.tokens(0, state.step), worker.plan.tokens()
    keeper, saved_s, due = CheckpointSaver(worker), time.monotonic(), False
    if worker.rank == 0 and job.board is not None:
        job.board.note.remote(Note(done, total, worker.plan.steps - state.step))
    while state.step < worker.plan.steps and not _patience_is_over(state, training.patience):
        began = time.monotonic()
        waited_s = worker.feed.waited_s
        measured = worker.step(state.step)
        step_s, tokens = time.monotonic() - began, worker.plan.tokens(state.step, state.step + 1)
        state.seconds += step_s
        state.waited_s += worker.feed.waited_s - waited_s
        _check_spike(worker, state, measured)
        state.history.append({"step": state.step, **measured})
        done += tokens
        state.step += 1
        if trackers is not None:
            trackers.log(state.step, {**measured, "tokens_per_s": tokens / step_s, "step_s": step_s})
        if worker.rank == 0 and job.board is not None:
            losses = ", ".join(f"{term} {measured[term]:.3f}" for term in TERMS if term in measured)
            said = f"step {state.step}/{worker.plan.steps}, loss: {losses}"
            job.board.note.remote(Note(done, total, worker.plan.steps - state.step, said))
        before = len(state.validation)
        if _validate(worker, state):
            _keep_best(worker, state, job)
        if trackers is not None and len(state.validation) > before:
            trackers.log(state.step, state.validation[-1], "validation/")
        minutes = training.checkpoint_every_minutes
        late = minutes is not None and worker.any(_minutes_since(saved_s) >= minutes)
        due = due or late or state.step % training.checkpoint_every_steps == 0
        if due and state.step < worker.plan.steps and keeper.save(state):
            due, saved_s = False, time.monotonic()
            if trackers is not None:
                trackers.sync()


def _validate(worker: Worker, state: State) -> bool:
    """Measure the validation split where it is due. Whether it is the best so far."""
    every = worker.run.training.validate_every_steps
    if every is None or (state.step % every and state.step < worker.plan.steps):
        return False
    means = worker.measure(worker.tokens.validation)
    value = objective(worker.weights, means)
    state.validation.append({"step": state.step, "objective": value, **means})
    if math.isnan(value) or (state.best is not None and state.best["objective"] <= value):
        return False
    state.best = {"step": state.step, "objective": value, "terms": means}
    return True


def _keep_best(worker: Worker, state: State, job: TrainingJob) -> None:
    """Store the weights as they are, and remove those that no checkpoint has for its best any more."""
    from pipelines.train.engine.export import write_weights

    write_weights(worker.engine, best_weights(job, state.step))
    wanted = {state.step, *state.best_at_saves}
    if worker.rank == 0:
        for step in set(state.best_kept) - wanted:
            best_weights(job, step).clear()
    state.best_kept = sorted({*state.best_kept, state.step} & wanted)


def _patience_is_over(state: State, patience: int | None) -> bool:
    if patience is None or state.best is None:
        return False
    return len([row for row in state.validation if row["step"] > state.best["step"]]) >= patience


def _check_spike(worker: Worker, state: State, measured: dict[str, float]) -> None:
    factor = worker.run.training.max_loss_spike
    if factor is None or not is_spike([row["loss"] for row in state.history[-SPIKE_WINDOW:]], measured["loss"], factor):
        return
    raise StageFailedError(
        f"the loss of step {state.step} is {measured['loss']:.3g}, more than {factor:g} times the median before it. "
        f"{worker.examples_of(state.step)}. Lower training.learning_rate, or raise training.max_loss_spike"
    )


def _minutes_since(moment_s: float) -> float:
    return (time.monotonic() - moment_s) / 60


def _use_cores(workers_here: int) -> None:
    """Share the cores of this node among its workers: torch takes all of them in each process otherwise, or one."""
    import torch

    torch.set_num_threads(max(1, usable_cpus() // workers_here))


def _warn_of_slow_bf16(training: TrainingConfig, warn: Callable[[str], None]) -> None:
    if training.precision != "bf16" or training.gpus_per_worker or computes_bf16():
        return
    warn(
        f"the CPU of {node_name()} has no instructions for bf16, and steps can take ten times as long as in float32. "
        "training.precision: fp32 is the faster choice here"
    )
