"""What a worker trains on, ready before it is wanted: the micro-batches of each step, made by processes of their own on a GPU machine.

In: the batch plan and the tokens. Out, step by step: tensors of `MicroBatch`, and how long the worker waited for them.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pipelines.train.data.batch_plan import Plan
from pipelines.train.data.collate import MicroBatch, collate
from pipelines.train.data.lengths import Ints
from pipelines.train.data.token_table import Tokens

_LOADERS_BESIDE_A_GPU = 2
"""Processes. On a CPU none: making a micro-batch takes under a thousandth of what its forward pass takes there."""
_STEPS_AHEAD = 4


@dataclass(frozen=True)
class _Steps:
    """Step -> this worker's micro-batches. A dataset as torch's DataLoader wants it."""

    plan: Plan
    tokens: Tokens
    rank: int
    pad: int
    start: int | None

    def __getitem__(self, step: int) -> list[dict[str, Any]]:
        return [self.micro_batch(sequences) for sequences in self.plan.step(step)[self.rank]]

    def micro_batch(self, sequences: Ints) -> dict[str, Any]:
        """The arguments of `StudentLoss.forward`, without `scales`, as tensors on the CPU."""
        batch = collate(
            [self.tokens.sequence(s) for s in sequences], family=self.plan.family, pad=self.pad, start=self.start
        )
        return tensors(batch)


class Loader:
    """The micro-batches of the steps, in order from whichever step is asked for first."""

    def __init__(self, plan: Plan, tokens: Tokens, rank: int, *, pad: int, start: int | None, gpu: bool) -> None:
        self._steps, self._total, self._gpu = _Steps(plan, tokens, rank, pad, start), plan.steps, gpu
        self._next = -1
        self._loaded: Iterator[Any] = iter(())
        self.waited_s = 0.0

    def __call__(self, step: int) -> list[dict[str, Any]]:
        """The micro-batches of a step; on a machine with GPUs in memory from which they are copied while the GPU works."""
        began = time.monotonic()
        if step != self._next:
            self._loaded = self._from(step)
        micros: list[dict[str, Any]] = next(self._loaded)
        self._next = step + 1
        self.waited_s += time.monotonic() - began
        return micros

    def micro_batch(self, sequences: Ints) -> dict[str, Any]:
        """One micro-batch of sequences of one's choice."""
        return self._steps.micro_batch(sequences)

    def _from(self, step: int) -> Iterator[Any]:
        import torch
        from torch.utils.data import DataLoader

        ahead: dict[str, Any] = {}
        if self._gpu:
            ahead = {"num_workers": _LOADERS_BESIDE_A_GPU, "prefetch_factor": _STEPS_AHEAD, "pin_memory": True}
        # A generator of its own: else it would draw from the one that dropout draws from, and a resumed training would differ.
        ahead["generator"] = torch.Generator()
        return iter(DataLoader(self._steps, batch_size=None, sampler=range(step, self._total), **ahead))


def tensors(batch: MicroBatch) -> dict[str, Any]:
    """The arguments of `StudentLoss.forward` for a micro-batch, without `scales`, on the CPU."""
    import torch

    arrays = {name: value for name, value in vars(batch).items() if name != "inputs" and value is not None}
    inputs = {name: torch.from_numpy(array) for name, array in batch.inputs.items()}
    return {"inputs": inputs, **{name: torch.from_numpy(array) for name, array in arrays.items()}}
