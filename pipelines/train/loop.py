"""The training loop of one worker, as Ray Train runs it: restore, steps, checkpoints, export.

In: a `Job` as a mapping (the run, where the tokens are, where the student goes). Out, from worker 0: what the training came to:

    {"steps": 54, "history": [{"step": 0, "label": 3.91, "rationale": 3.02, ...}, ...], "validation": {"before": ..., "after": ...},
     "optimizer_bytes_per_rank": [168234, 168234], ...}

Every worker computes the same batch plan and reads its own sequences. Losses are in nats per target token.
"""

from __future__ import annotations

import os
import tempfile
import time
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.artifacts import Store
from pipelines.config import RunConfig
from pipelines.decode import model_family
from pipelines.errors import StageFailedError
from pipelines.train.batches import Ints, Plan, deal
from pipelines.train.micro_batch import collate
from pipelines.train.objective import TERMS, term_weights
from pipelines.train.tokens import Tokens

_TAG = "engine"


@dataclass(frozen=True)
class Job:
    """What the driver tells every worker. URIs and paths are absolute: workers have another working directory."""

    run: dict[str, Any]
    tokens: str
    student: str
    board: Any = None
    """Actor that worker 0 tells of its progress; see `watch`."""

    @classmethod
    def of(cls, config: dict[str, Any]) -> Job:
        """The job that `as_config` has turned into a mapping."""
        return cls(**config)

    def as_config(self) -> dict[str, Any]:
        """The job as Ray Train's `train_loop_config`."""
        return {item.name: getattr(self, item.name) for item in fields(self)}


@dataclass
class State:
    """How far the training is. Saved with every checkpoint."""

    step: int = 0
    seconds: float = 0.0
    """Time spent in steps, over all attempts."""
    history: list[dict[str, float]] = field(default_factory=list)
    validation_before: dict[str, float] | None = None
    started_at: list[int] = field(default_factory=list)
    """The steps at which an attempt began: [0], and the checkpoints that were gone on from."""


def train_loop(config: dict[str, Any]) -> dict[str, Any]:
    """Train one worker's share. Called by Ray Train on every worker, again after a failure."""
    from ray import train
    from transformers.utils.logging import disable_progress_bar

    from pipelines.student_init import initial_student
    from pipelines.train.export import export_student
    from pipelines.train.zero import deepspeed_config, prepare_deepspeed

    job = Job.of(config)
    run = RunConfig.model_validate(job.run)
    context = train.get_context()
    _use_cores(context.get_local_world_size())
    prepare_deepspeed(gpu=run.training.gpus_per_worker > 0)
    disable_progress_bar()
    model, tokenizer = initial_student(run.student, run.training.seed)
    with tempfile.TemporaryDirectory() as cache:
        tokens = Tokens(Store(job.tokens), Path(cache), together=run.student.method == "soft-label")
        worker = Worker(run, model, tokens, context.get_world_rank(), context.get_world_size())
        state = _restore(worker.engine)
        if state.validation_before is None:
            state.validation_before = worker.measure(tokens.validation)
        state.started_at.append(state.step)
        _run_steps(worker, state, job)
        result = {
            "steps": worker.plan.steps,
            "tokens": worker.plan.tokens(),
            "seconds": state.seconds,
            "started_at_steps": state.started_at,
            "history": state.history,
            "validation": {"before": state.validation_before, "after": worker.measure(tokens.validation)},
            "optimizer_bytes_per_rank": worker.optimizer_bytes_per_rank(),
            "world_size": worker.world,
            "parameters": worker.parameters,
        }
        export_student(worker.engine, tokenizer, Store(job.student), deepspeed_config(run.training), state.history)
    return result


def make_plan(tokens: Tokens, run: RunConfig, family: Any) -> Plan:
    """The batch plan of a run over its tokens."""
    training = run.training
    return Plan(
        tokens.lengths, tokens.train, family=family, workers=training.workers, epochs=training.epochs, seed=training.seed,
        tokens_per_batch=training.tokens_per_batch, tokens_per_micro_batch=training.tokens_per_micro_batch,
    )  # fmt: skip


class Worker:
    """One worker's engine and its part of the plan."""

    def __init__(self, run: RunConfig, model: Any, tokens: Tokens, rank: int, world: int) -> None:
        from pipelines.train.losses import StudentLoss
        from pipelines.train.zero import make_engine

        self.run, self.tokens, self.rank, self.world = run, tokens, rank, world
        self.family = model_family(model.config)
        self.pad, self.start = model.config.pad_token_id, getattr(model.config, "decoder_start_token_id", None)
        self.parameters = sum(p.numel() for p in model.parameters())
        self.plan = make_plan(tokens, run, self.family)
        self.weights = term_weights(run.student)
        loss = StudentLoss(model, temperature=run.student.temperature, divergence=run.student.divergence)
        self.engine = make_engine(loss, run.training)

    def step(self, step: int) -> dict[str, float]:
        """One optimizer step. Returns the loss of each term, over all workers."""
        import torch

        from pipelines.train.losses import step_scales
        from pipelines.train.zero import learning_rate, set_learning_rate

        training, engine = self.run.training, self.engine
        # Dropout draws the same after a resume, and differs between workers.
        torch.manual_seed(int(np.random.SeedSequence([training.seed, step, self.rank]).generate_state(1)[0]))
        rate = learning_rate(step, self.plan.steps, training.learning_rate, training.warmup)
        set_learning_rate(engine, rate)
        counts = self.tokens.term_counts(self.plan.step_examples(step))
        # DeepSpeed takes the mean of the workers' gradients, the step's loss is the sum of their shares.
        scales = [scale * self.world for scale in step_scales(self.weights, counts)]
        engine.train()
        micros = self.plan.step(step)[self.rank]
        sums = torch.zeros(2, len(TERMS), dtype=torch.float64, device=engine.device)
        for index, sequences in enumerate(micros):
            engine.set_gradient_accumulation_boundary(index == len(micros) - 1)
            loss, found = self._forward(sequences, scales)
            engine.backward(loss)
            engine.step()
            sums += found
        norm = engine.get_global_grad_norm()  # None where ZeRO is off: torch clips then, and keeps the norm to itself
        means = self._means(sums)
        if not all(np.isfinite(value) for value in means.values()):
            remedy = "Lower training.learning_rate, or set precision: fp32"
            raise StageFailedError(f"the loss of step {step} is not finite ({means}). {remedy}.")
        return {**means, "learning_rate": rate} | ({} if norm is None else {"gradient_norm": float(norm)})

    def measure(self, examples: Ints) -> dict[str, float]:
        """Mean of each term over examples, without training; none without examples."""
        import torch

        if not len(examples):
            return {}
        self.engine.eval()
        limit = self.run.training.tokens_per_micro_batch
        micros = deal(self.tokens.lengths, examples, self.world, limit, self.family)[self.rank]
        sums = torch.zeros(2, len(TERMS), dtype=torch.float64, device=self.engine.device)
        with torch.no_grad():
            for sequences in micros:
                sums += self._forward(sequences, [0.0] * len(TERMS))[1]
        return self._means(sums)

    def optimizer_bytes_per_rank(self) -> list[int]:
        """Bytes of optimizer state that each worker holds, in the order of ranks."""
        import torch

        from pipelines.train.zero import optimizer_bytes

        held = torch.tensor([optimizer_bytes(self.engine)], device=self.engine.device)
        gathered = [torch.zeros_like(held) for _ in range(self.world)]
        torch.distributed.all_gather(gathered, held)
        return [int(value.item()) for value in gathered]

    def _forward(self, sequences: Ints, scales: list[float]) -> tuple[Any, Any]:
        from pipelines.train.losses import to_tensors

        batch = collate(
            [self.tokens.sequence(s) for s in sequences], family=self.family, pad=self.pad, start=self.start
        )
        loss, found = self.engine(**to_tensors(batch, scales, self.engine.device))
        return loss, found

    def _means(self, sums: Any) -> dict[str, float]:
        import torch

        torch.distributed.all_reduce(sums)
        return {term: total / count for term, total, count in zip(TERMS, *sums.tolist(), strict=True) if count}


def _run_steps(worker: Worker, state: State, job: Job) -> None:
    """The steps from `state.step` to the end; `state` follows."""
    every = worker.run.training.checkpoint_every_steps
    done = worker.plan.tokens(0, state.step)
    total = worker.plan.tokens()
    if worker.rank == 0 and job.board is not None:
        job.board.note.remote(done, total, "")
    while state.step < worker.plan.steps:
        began = time.monotonic()
        measured = worker.step(state.step)
        state.seconds += time.monotonic() - began
        state.history.append({"step": state.step, **measured})
        done += worker.plan.tokens(state.step, state.step + 1)
        state.step += 1
        if worker.rank == 0 and job.board is not None:
            losses = ", ".join(f"{part} {measured[part]:.3f}" for part in TERMS if part in measured)
            job.board.note.remote(done, total, f"step {state.step}/{worker.plan.steps}, loss: {losses}")
        if state.step % every == 0 and state.step < worker.plan.steps:
            _save(worker.engine, state)


def _save(engine: Any, state: State) -> None:
    """Hand a checkpoint to Ray Train. Every worker saves its own part; Ray merges them and commits the whole."""
    from ray import train

    with tempfile.TemporaryDirectory() as folder:
        engine.save_checkpoint(folder, tag=_TAG, client_state={"raystill": asdict(state)})
        train.report({"step": state.step}, checkpoint=train.Checkpoint.from_directory(folder))


def _restore(engine: Any) -> State:
    """The state of the last checkpoint, loaded into the engine; a fresh one where there is none."""
    from ray import train

    checkpoint = train.get_checkpoint()
    if checkpoint is None:
        return State()
    with checkpoint.as_directory() as folder:
        _, saved = engine.load_checkpoint(folder, tag=_TAG)
    return State(**saved["raystill"])


def _use_cores(workers_here: int) -> None:
    """Share the cores of this node among its workers: torch takes all of them in each process otherwise, or one."""
    import torch

    torch.set_num_threads(max(1, _cores() // workers_here))


def _cores() -> int:
    """Cores that this process may use: by affinity, and by the container's quota where there is one."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = Path("/sys/fs/cgroup/cpu.max")
    if quota.is_file():
        limit, _, period = quota.read_text().partition(" ")
        if limit != "max":
            cores = min(cores, max(1, int(limit) // int(period)))
    return cores
