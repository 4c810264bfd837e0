"""Loader of a worker's micro-batches, step by step. On a GPU machine, separate processes prepare them ahead.

In: the batch plan and the tokens. Out: `MicroBatch`es of torch tensors on the CPU, and the time that the worker waited for them.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pipelines.train.data.batch_plan import BatchPlan
from pipelines.train.data.collate import MicroBatch, collate
from pipelines.train.data.lengths import Ints
from pipelines.train.data.token_table import Tokens

_GPU_PROCESSES = 2
"""Per worker. None on a CPU: there a micro-batch takes under a thousandth of the time of its forward pass."""
_GPU_STEPS_AHEAD = 4


@dataclass(frozen=True)
class _StepDataset:
    """Step -> this worker's micro-batches, in the interface of torch's datasets."""

    plan: BatchPlan
    tokens: Tokens
    rank: int
    pad: int
    start: int | None

    def __getitem__(self, step: int) -> list[MicroBatch]:
        return [self.micro_batch(sequences) for sequences in self.plan.step(step)[self.rank]]

    def micro_batch(self, sequences: Ints, *, packed: bool | None = None) -> MicroBatch:
        import torch

        tokens = [self.tokens.sequence(s) for s in sequences]
        packed = self.plan.packed if packed is None else packed
        batch = collate(tokens, family=self.plan.family, pad=self.pad, start=self.start, packed=packed)
        return batch.map(torch.from_numpy)


class Loader:
    """Micro-batches of consecutive steps, from any first step."""

    def __init__(self, plan: BatchPlan, tokens: Tokens, rank: int, *, pad: int, start: int | None, gpu: bool) -> None:
        """`start`: the token that an encoder-decoder's decoder begins with."""
        self._dataset, self._steps, self._gpu = _StepDataset(plan, tokens, rank, pad, start), plan.steps, gpu
        self._next_step = -1
        self._batches: Iterator[list[MicroBatch]] = iter(())
        self.waited_s = 0.0

    def step(self, step: int) -> list[MicroBatch]:
        """The micro-batches of a step, in pinned memory on a GPU machine. Fast if it follows the previous step."""
        began = time.monotonic()
        if step != self._next_step:
            self._batches = self._from(step)
        batches = next(self._batches)
        self._next_step = step + 1
        self.waited_s += time.monotonic() - began
        return batches

    def micro_batch(self, sequences: Ints, *, packed: bool | None = None) -> MicroBatch:
        """One micro-batch of given sequences, outside of the plan, and packed like those of the plan by default."""
        return self._dataset.micro_batch(sequences, packed=packed)

    def _from(self, step: int) -> Iterator[list[MicroBatch]]:
        import torch
        from torch.utils.data import DataLoader

        options: dict[str, Any] = {}
        if self._gpu:
            options = {"num_workers": _GPU_PROCESSES, "prefetch_factor": _GPU_STEPS_AHEAD, "pin_memory": True}
        # With torch's default generator it would draw from dropout's random numbers, and a resumed training would differ.
        options["generator"] = torch.Generator()
        return iter(DataLoader(self._dataset, batch_size=None, sampler=range(step, self._steps), **options))
