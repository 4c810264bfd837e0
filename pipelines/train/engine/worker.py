"""One worker of a training: its engine, its part of the batch plan, and one optimizer step.

Every worker computes the same batch plan and reads its own sequences. Losses are in nats per target token (`soft`: per example).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from pipelines.config import RunConfig, TrainingConfig
from pipelines.errors import StageFailedError
from pipelines.runtime.nodes import node_name
from pipelines.students.decoding import model_family
from pipelines.train.data.batch_plan import Plan
from pipelines.train.data.lengths import Ints
from pipelines.train.data.loader import Loader
from pipelines.train.data.micro_batching import COSTS, deal
from pipelines.train.data.token_table import Tokens
from pipelines.train.loss_terms import TERMS, objective, term_weights

_IDS_NAMED = 10


class WorkerOutOfMemoryError(StageFailedError):
    """The memory of one worker does not suffice. The others know nothing of it."""


@contextmanager
def memory_errors(training: TrainingConfig) -> Iterator[None]:
    """Memory that does not suffice, as WorkerOutOfMemoryError."""
    import torch

    try:
        yield
    except RuntimeError as error:  # torch.OutOfMemoryError is one; of the CPU's memory it is a plain one
        if not isinstance(error, torch.OutOfMemoryError) and "can't allocate memory" not in str(error):
            raise
        raise WorkerOutOfMemoryError(
            f"out of memory with {training.tokens_per_micro_batch:,} tokens in a micro-batch. Lower training.tokens_per_micro_batch, "
            f"raise training.zero_stage (now {training.zero_stage}), or set training.activation_checkpointing: true"
        ) from error


def make_plan(tokens: Tokens, run: RunConfig, family: Any, workers: int) -> Plan:
    """The batch plan of a run over its tokens."""
    training = run.training
    return Plan(
        tokens.lengths, tokens.train, family=family, workers=workers, epochs=training.epochs, seed=training.seed,
        tokens_per_batch=training.tokens_per_batch, tokens_per_micro_batch=training.tokens_per_micro_batch,
        cost=COSTS[training.gpus_per_worker > 0],
    )  # fmt: skip


class Worker:
    """One worker's engine and its part of the plan."""

    def __init__(self, run: RunConfig, model: Any, tokens: Tokens, rank: int, world: int) -> None:
        from pipelines.train.engine.deepspeed_engine import compile_layers, make_engine
        from pipelines.train.engine.lora import put_adapters
        from pipelines.train.engine.losses import StudentLoss

        self.run, self.tokens, self.rank, self.world = run, tokens, rank, world
        self.family = model_family(model.config)
        self.parameters = sum(p.numel() for p in model.parameters())
        self.plan = make_plan(tokens, run, self.family, world)
        pad, start = model.config.pad_token_id, getattr(model.config, "decoder_start_token_id", None)
        self.feed = Loader(self.plan, tokens, rank, pad=pad, start=start, gpu=run.training.gpus_per_worker > 0)
        if run.student.lora is not None:
            put_adapters(model, run.student.lora, run.training.seed)
        self.trained_parameters = sum(p.numel() for p in model.parameters() if p.requires_grad)
        if run.training.activation_checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        if run.training.compile:
            compile_layers(model)
        self._measured: tuple[Ints, list[Ints]] | None = None
        self.weights = term_weights(run.student)
        loss = StudentLoss(model, temperature=run.student.temperature, divergence=run.student.divergence)
        self.engine = make_engine(loss, run.training)

    def step(self, step: int) -> dict[str, float]:
        """One optimizer step. Returns the loss of each term, over all workers."""
        import torch

        from pipelines.train.engine.deepspeed_engine import learning_rate, set_learning_rate
        from pipelines.train.engine.losses import step_scales

        training, engine = self.run.training, self.engine
        # Dropout draws the same after a resume, and differs between workers.
        torch.manual_seed(int(np.random.SeedSequence([training.seed, step, self.rank]).generate_state(1)[0]))
        rate = learning_rate(step, self.plan.steps, training.learning_rate, training.warmup, training.schedule)
        set_learning_rate(engine, rate)
        counts = self.tokens.term_counts(self.plan.step_examples(step))
        # DeepSpeed takes the mean of the workers' gradients, the step's loss is the sum of their shares.
        scales = self._on_device([scale * self.world for scale in step_scales(self.weights, counts)])
        engine.train()
        micros = self.feed(step)
        sums = torch.zeros(2, len(TERMS), dtype=torch.float64, device=engine.device)
        for index, micro in enumerate(micros):
            engine.set_gradient_accumulation_boundary(index == len(micros) - 1)
            sums += self._learn(micro, scales)
        norm = engine.get_global_grad_norm()  # None where ZeRO is off: torch clips then, and keeps the norm to itself
        means = self._means(sums)
        measured = means if norm is None else {**means, "gradient_norm": float(norm)}
        if not all(math.isfinite(value) for value in measured.values()):
            shown = ", ".join(f"{name} {value:.3g}" for name, value in measured.items())
            remedy = "Lower training.learning_rate, set precision: fp32, or look at the examples"
            raise StageFailedError(f"step {step} is not finite ({shown}). {self.examples_of(step)}. {remedy}")
        return {"loss": objective(self.weights, means), **measured, "learning_rate": rate}

    def _learn(self, micro: dict[str, Any], scales: Any) -> Any:
        """Forward and backward pass of a micro-batch."""
        loss, found = self._forward(micro, scales)
        self.engine.backward(loss)
        self.engine.step()
        return found

    def examples_of(self, step: int) -> str:
        """The examples of a step by their ids, for messages."""
        ids = self.tokens.ids(self.plan.step_examples(step))
        more = f" and {len(ids) - _IDS_NAMED:,} more" if len(ids) > _IDS_NAMED else ""
        return f"Its examples: {', '.join(ids[:_IDS_NAMED])}{more}"

    def any(self, value: bool) -> bool:
        """Whether it is so on any worker; the same answer on every one."""
        import torch

        answer = torch.tensor([int(value)], device=self.engine.device)
        torch.distributed.all_reduce(answer)
        return bool(answer.item())

    def measure(self, examples: Ints) -> dict[str, float]:
        """Mean of each term over examples, without training; none without examples."""
        import torch

        if not len(examples):
            return {}
        self.engine.eval()
        micros = self._dealt(examples)
        sums = torch.zeros(2, len(TERMS), dtype=torch.float64, device=self.engine.device)
        none = self._on_device([0.0] * len(TERMS))
        with torch.no_grad():
            for sequences in micros:
                sums += self._forward(self.feed.micro_batch(sequences), none)[1]
        means = self._means(sums)
        if not self.tokens.compare_labels(examples):
            means.pop("soft", None)  # people's labels alone: there is no distribution to be far from
        return means

    def _dealt(self, examples: Ints) -> list[Ints]:
        """This worker's micro-batches of examples that are measured again and again."""
        if self._measured is None or self._measured[0] is not examples:
            limit = self.run.training.tokens_per_micro_batch
            cost = COSTS[self.run.training.gpus_per_worker > 0]
            dealt = deal(self.tokens.lengths, examples, self.world, limit, self.family, cost)
            self._measured = (examples, dealt[self.rank])
        return self._measured[1]

    def nodes(self) -> list[str]:
        """The node of each worker, in the order of ranks."""
        import torch

        names = [""] * self.world
        torch.distributed.all_gather_object(names, node_name())
        return names

    def optimizer_bytes_per_rank(self) -> list[int]:
        """Bytes of optimizer state that each worker holds, in the order of ranks."""
        from pipelines.train.engine.deepspeed_engine import optimizer_bytes

        return self._of_each(optimizer_bytes(self.engine))

    def peak_memory_per_rank(self) -> list[int]:
        """The most bytes that each worker has held so far, on its GPU, or all of its process."""
        import resource

        import torch

        if self.run.training.gpus_per_worker:
            return self._of_each(torch.cuda.max_memory_allocated())
        return self._of_each(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)

    def _of_each(self, value: int) -> list[int]:
        import torch

        held = torch.tensor([value], device=self.engine.device)
        gathered = [torch.zeros_like(held) for _ in range(self.world)]
        torch.distributed.all_gather(gathered, held)
        return [int(value.item()) for value in gathered]

    def _on_device(self, values: list[float]) -> Any:
        import torch

        return torch.tensor(values, dtype=torch.float32, device=self.engine.device)

    def _forward(self, micro: dict[str, Any], scales: Any) -> tuple[Any, Any]:
        device = self.engine.device
        there = {name: tensor.to(device, non_blocking=True) for name, tensor in micro.items() if name != "inputs"}
        inputs = {name: tensor.to(device, non_blocking=True) for name, tensor in micro["inputs"].items()}
        loss, found = self.engine(inputs=inputs, **there, scales=scales)
        return loss, found

    def _means(self, sums: Any) -> dict[str, float]:
        import torch

        torch.distributed.all_reduce(sums)
        return {term: total / count for term, total, count in zip(TERMS, *sums.tolist(), strict=True) if count}
