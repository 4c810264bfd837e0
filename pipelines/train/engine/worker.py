"""One worker of a training: its engine, its part of the batch plan, and one optimizer step.

Every worker computes the same batch plan and reads its own sequences. Losses are in nats per target token; the term `soft` is per example.
The measured loss of a step is a mean over what the step counts. Its gradient is that of sums over constants, so that the weight of a token
does not depend on the step that it is in.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from pipelines.config import RunConfig, TrainingConfig
from pipelines.errors import StageFailedError
from pipelines.students.decoding import Family, model_family
from pipelines.students.details import Losses
from pipelines.train.data.batch_plan import BatchPlan
from pipelines.train.data.collate import MicroBatch
from pipelines.train.data.lengths import Ints
from pipelines.train.data.loader import Loader
from pipelines.train.data.micro_batching import COSTS
from pipelines.train.data.token_table import Tokens
from pipelines.train.loss_terms import TERMS, objective, step_scales, term_weights

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

Gathered = TypeVar("Gathered")
_MAX_NAMED_EXAMPLES = 10


class WorkerOutOfMemoryError(StageFailedError):
    """One worker ran out of memory. The others do not know it."""


@contextmanager
def memory_errors(training: TrainingConfig) -> Iterator[None]:
    """Raise WorkerOutOfMemoryError if torch cannot allocate memory."""
    import torch

    try:
        yield
    except RuntimeError as error:  # torch.OutOfMemoryError is one; on the CPU it is a plain RuntimeError
        if not isinstance(error, torch.OutOfMemoryError) and "can't allocate memory" not in str(error):
            raise
        raise WorkerOutOfMemoryError(
            f"out of memory with {training.tokens_per_micro_batch:,} tokens in a micro-batch. Lower training.tokens_per_micro_batch, "
            f"raise training.zero_stage (now {training.zero_stage}), or set training.activation_checkpointing: true"
        ) from error


def make_plan(tokens: Tokens, run: RunConfig, family: Family, workers: int, *, packed: bool = False) -> BatchPlan:
    """The batch plan of a run."""
    training = run.training
    return BatchPlan(
        tokens.lengths, tokens.train, family=family, workers=workers, epochs=training.epochs, steps=training.steps, seed=training.seed,
        tokens_per_batch=training.tokens_per_batch, tokens_per_micro_batch=training.tokens_per_micro_batch,
        cost=COSTS[training.gpus_per_worker > 0], rotation=tokens.rotation if tokens.rotation.rotates else None, packed=packed,
    )  # fmt: skip


def mean_counts(tokens: Tokens, plan: BatchPlan) -> dict[str, float]:
    """What each term of the loss counts in a mean step. The same for every step, whatever the step holds."""
    return {term: count / plan.steps_per_epoch for term, count in tokens.term_counts(plan.examples).items()}


class Worker:
    """One worker's engine and its part of the plan."""

    def __init__(self, run: RunConfig, model: PreTrainedModel, tokens: Tokens, rank: int, world: int) -> None:
        from pipelines.train.engine.deepspeed_engine import casts_products, compile_layers, make_engine
        from pipelines.train.engine.lora import add_adapters
        from pipelines.train.engine.losses import StudentLoss
        from pipelines.train.engine.packed_attention import check_padding, pack

        self.run, self.tokens, self.rank, self.world = run, tokens, rank, world
        training, student = run.training, run.student
        self.parameters = sum(p.numel() for p in model.parameters())
        # On a GPU an attention for each sequence would be too many small kernels. Compiled layers would be compiled for each length.
        # ZeRO 3 gathers weights by the tensors that a layer returns, and packed T5 layers of two workers return different numbers.
        packed = not (training.gpus_per_worker or training.compile or training.zero_stage == 3) and pack(model)
        if not packed:
            check_padding(model)
        self.plan = make_plan(tokens, run, model_family(model.config), world, packed=packed)
        pad, start = model.config.pad_token_id, getattr(model.config, "decoder_start_token_id", None)
        self.loader = Loader(self.plan, tokens, rank, pad=pad, start=start, gpu=training.gpus_per_worker > 0)
        if student.lora is not None:
            add_adapters(model, student.lora, training.seed)
        self.trained_parameters = sum(p.numel() for p in model.parameters() if p.requires_grad)
        if training.activation_checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        if training.compile:
            compile_layers(model)
        self._validation: list[Ints] | None = None
        self.weights = term_weights(student)
        # DeepSpeed averages the workers' gradients, but the step's loss is the sum of their shares.
        self._scales = [scale * world for scale in step_scales(self.weights, mean_counts(tokens, self.plan))]
        accuracy = training.choose_by == "accuracy"
        self._measured = (*TERMS, "accuracy") if accuracy else TERMS
        loss = StudentLoss(
            model, temperature=student.temperature, divergence=student.divergence, accuracy=accuracy,
            cast=casts_products(training),
        )  # fmt: skip
        self.engine = make_engine(loss, training)

    def step(self, step: int) -> Losses:
        """One optimizer step. Returns loss, terms, gradient norm if known, and learning rate, over all workers."""
        import torch

        from pipelines.train.engine.deepspeed_engine import (
            clip_gradients,
            clips_itself,
            learning_rate,
            set_learning_rate,
        )

        training, engine = self.run.training, self.engine
        # The same dropout after a resume, and different dropout on each worker.
        torch.manual_seed(int(np.random.SeedSequence([training.seed, step, self.rank]).generate_state(1)[0]))
        rate = learning_rate(step, self.plan.steps, training.learning_rate, training.warmup, training.schedule)
        set_learning_rate(engine, rate)
        scales = self._on_device(self._scales)
        engine.train()
        batches = self.loader.step(step)
        sums = torch.zeros(2, len(TERMS), dtype=torch.float64, device=engine.device)
        norm = None
        for index, batch in enumerate(batches):
            last = index == len(batches) - 1
            engine.set_gradient_accumulation_boundary(last)
            loss, batch_sums = self._forward(batch, scales)
            engine.backward(loss)
            if last and clips_itself(training):
                norm = clip_gradients(engine, training.gradient_clipping)
            engine.step()
            sums += batch_sums
        means = self._means(sums, TERMS)
        measured = {**means, "gradient_norm": float(engine.get_global_grad_norm() if norm is None else norm)}
        if not all(math.isfinite(value) for value in measured.values()):
            values = ", ".join(f"{name} {value:.3g}" for name, value in measured.items())
            remedy = "Lower training.learning_rate, set precision: fp32, or look at the examples"
            raise StageFailedError(f"step {step} is not finite ({values}). {self.examples_of(step)}. {remedy}")
        return {"loss": objective(self.weights, means), **measured, "learning_rate": rate}

    def examples_of(self, step: int) -> str:
        """The ids of a step's examples, for messages."""
        ids = self.tokens.ids(self.plan.step_examples(step))
        more = f" and {len(ids) - _MAX_NAMED_EXAMPLES:,} more" if len(ids) > _MAX_NAMED_EXAMPLES else ""
        return f"Its examples: {', '.join(ids[:_MAX_NAMED_EXAMPLES])}{more}"

    def probe(self) -> MicroBatch:
        """The sequences of two examples, of the validation split if there is one, padded, on the CPU."""
        examples = self.tokens.validation if len(self.tokens.validation) else self.tokens.train
        return self.loader.micro_batch(self.tokens.lengths.of(examples[:2]), packed=False)

    def wait_for_all(self) -> None:
        """Wait until every worker is here."""
        import torch

        torch.distributed.barrier()

    def gather(self, value: Gathered) -> list[Gathered]:
        """The value of each rank, on every worker. For what is rarely asked: it is pickled."""
        import torch

        found = [value] * self.world
        torch.distributed.all_gather_object(found, value)
        return found

    def any(self, value: bool) -> bool:
        """True on every worker if the value is true on any worker."""
        import torch

        count = torch.tensor([int(value)], device=self.engine.device)
        torch.distributed.all_reduce(count)
        return bool(count.item())

    def validate(self) -> Losses:
        """Mean of each term over the validation split, and the accuracy if the run chooses by it. Empty without a split."""
        import torch

        examples = self.tokens.validation
        if not len(examples):
            return {}
        if self._validation is None:
            self._validation = self.plan.many_micro_batches(examples)[self.rank]
        self.engine.eval()
        sums = torch.zeros(2, len(self._measured), dtype=torch.float64, device=self.engine.device)
        no_scales = self._on_device([0.0] * len(TERMS))
        with torch.no_grad():
            for sequences in self._validation:
                sums += self._forward(self.loader.micro_batch(sequences), no_scales)[1]
        means = self._means(sums, self._measured)
        if not self.tokens.compare_labels(examples):
            means.pop("soft", None)  # gold labels alone have no distribution to diverge from
        return means

    def optimizer_bytes_per_rank(self) -> list[int]:
        """Bytes of optimizer state on each rank."""
        from pipelines.train.engine.deepspeed_engine import optimizer_bytes

        return self.gather(optimizer_bytes(self.engine))

    def peak_memory_per_rank(self) -> list[int]:
        """Peak memory in bytes on each rank so far: of its GPU, or of its process on a CPU."""
        import resource

        import torch

        if self.run.training.gpus_per_worker:
            return self.gather(int(torch.cuda.max_memory_allocated()))
        return self.gather(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)

    def _on_device(self, values: list[float]) -> Tensor:
        import torch

        return torch.tensor(values, dtype=torch.float32, device=self.engine.device)

    def _forward(self, batch: MicroBatch, scales: Tensor) -> tuple[Tensor, Tensor]:
        """The scaled loss of a micro-batch, and (2, 5) its sums and counts by term."""
        batch = batch.map(lambda tensor: tensor.to(self.engine.device, non_blocking=True))
        loss, sums = self.engine(**batch.arguments(), scales=scales)
        return loss, sums

    def _means(self, sums: Tensor, names: Sequence[str]) -> Losses:
        """The means over all workers, from (2, len(names)) sums and counts of each. Those without a count are left out."""
        import torch

        torch.distributed.all_reduce(sums)
        return {name: total / count for name, total, count in zip(names, *sums.tolist(), strict=True) if count}
