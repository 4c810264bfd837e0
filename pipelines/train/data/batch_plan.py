"""The batch plan: which sequences form each optimizer step, by worker and micro-batch. Pure functions of numpy.

In: the lengths of all sequences. Out: `BatchPlan`, equal for the same seed on every worker and after every restart:

    plan.step(7) -> [[[0, 8, 3], [5]],     worker 0: two micro-batches of sequences
                     [[1, 2], [9, 4]]]     worker 1: as many; a micro-batch may be empty

The examples of a step do not depend on the number of workers, so that any number learns with the same losses. All sequences of an example
are in one step. Sizes are in tokens: unpadded for a step, padded for a micro-batch.
"""

from __future__ import annotations

import math
from functools import lru_cache
from itertools import pairwise

import numpy as np

from pipelines.students.decoding import Family
from pipelines.train.data.lengths import Ints, Lengths, padded_tokens, part_of
from pipelines.train.data.micro_batching import Cost, plan_micro_batches

# Within a window of this many steps, examples are sorted by length into steps. Larger windows pad less and mix less.
_WINDOW_STEPS = 50
# Random factor on lengths before sorting. Without it a small corpus would repeat the same steps in every epoch.
_LENGTH_NOISE = 1.05
_SAMPLED_STEPS = 200


def epoch_steps(lengths: Lengths, examples: Ints, tokens_per_batch: int, seed: int, epoch: int) -> list[Ints]:
    """The examples of each step of one epoch: each example once, at most `tokens_per_batch` unpadded tokens per step.

    Steps are of about equal size, so that no gradient depends on two or three examples only. The examples of a step have similar prompt
    lengths and similar total lengths. For that, a window of steps is cut into bands by prompt, and a band into steps by total.
    """
    rng = np.random.default_rng([seed, epoch])
    shuffled = examples[rng.permutation(len(examples))]
    tokens = lengths.per_example[shuffled]
    prompts = lengths.prompt[lengths.starts[shuffled]]
    noisy, noisy_prompts = (sizes * _LENGTH_NOISE ** rng.uniform(-1.0, 1.0, len(sizes)) for sizes in (tokens, prompts))
    window = np.cumsum(tokens) // (_WINDOW_STEPS * tokens_per_batch)
    band = np.zeros(len(shuffled), dtype=np.int64)
    for number in range(int(window[-1]) + 1 if len(window) else 0):
        members = np.flatnonzero(window == number)
        members = members[np.argsort(noisy_prompts[members], kind="stable")]
        steps_here = max(1, round(int(tokens[members].sum()) / tokens_per_batch))
        band[members] = part_of(tokens[members], max(1, round(math.sqrt(steps_here))))
    # Ascending in one band and descending in the next, so that a step across two bands has similar lengths too.
    shuffled = shuffled[np.lexsort((np.where(band % 2, -noisy, noisy), band, window))]
    steps = [shuffled[part] for part in even_parts(lengths.per_example[shuffled], tokens_per_batch)]
    return [steps[i] for i in rng.permutation(len(steps))]


def even_parts(sizes: Ints, limit: int) -> list[slice]:
    """Cut sizes into consecutive parts of about equal sums, none above `limit`, none empty.

    Raises:
        ValueError: one size alone is above the limit.
    """
    if not len(sizes):
        return []
    if int(sizes.max()) > limit:
        raise ValueError(f"a size of {int(sizes.max())} is above the limit {limit}")
    parts = max(1, math.ceil(int(sizes.sum()) / limit))
    while True:
        index = part_of(sizes, parts)
        if np.bincount(index, weights=sizes).max() <= limit:
            edges = [0, *(np.flatnonzero(np.diff(index)) + 1).tolist(), len(index)]
            return [slice(a, b) for a, b in pairwise(edges)]
        parts = max(parts + 1, math.ceil(parts * 1.01))


class BatchPlan:
    """All steps of a training: of so many `epochs`, which may be a fraction, or epochs until `steps` are reached."""

    def __init__(
        self, lengths: Lengths, examples: Ints, *, family: Family, workers: int, tokens_per_batch: int,
        tokens_per_micro_batch: int, seed: int, cost: Cost, epochs: float | None = None, steps: int | None = None,
    ) -> None:  # fmt: skip
        self.lengths, self.examples, self.family, self.workers = lengths, examples, family, workers
        self._tokens_per_batch, self._tokens_per_micro_batch = tokens_per_batch, tokens_per_micro_batch
        self._seed, self._cost = seed, cost
        self._epoch = lru_cache(maxsize=2)(self._make_epoch)
        self._ends = np.cumsum(self._counts_of_epochs(epochs) if steps is None else self._counts_to(steps))

    @property
    def steps(self) -> int:
        """Optimizer steps of the whole training."""
        return int(self._ends[-1])

    def step_examples(self, step: int) -> Ints:
        """The examples of a step, counted from 0 over all epochs."""
        epoch = int(np.searchsorted(self._ends, step, side="right"))
        return self._epoch(epoch)[step - (int(self._ends[epoch - 1]) if epoch else 0)]

    def step(self, step: int) -> list[list[Ints]]:
        """[worker][micro-batch] -> sequences."""
        return self.micro_batches(self.step_examples(step))

    def micro_batches(self, examples: Ints) -> list[list[Ints]]:
        """Any examples, split like those of a step."""
        limit = self._tokens_per_micro_batch
        return plan_micro_batches(self.lengths, examples, self.workers, limit, self.family, self._cost)

    def tokens(self, first: int = 0, last: int | None = None) -> int:
        """Unpadded tokens of the steps from `first` to before `last`."""
        per_example, last = self.lengths.per_example, self.steps if last is None else last
        return sum(int(per_example[self.step_examples(step)].sum()) for step in range(first, last))

    def examples_seen(self, last: int) -> int:
        """Examples of the steps before `last`. An example counts once for each epoch that has it."""
        return sum(len(self.step_examples(step)) for step in range(last))

    def padding_share(self, first: int, last: int) -> float:
        """Padding as a share of the tokens in the micro-batches of some steps. Of many steps, 200 are sampled evenly."""
        steps = np.unique(np.linspace(first, last - 1, min(max(last - first, 0), _SAMPLED_STEPS)).astype(np.int64))
        parts = [part for step in steps.tolist() for worker in self.step(step) for part in worker]
        padded = sum(padded_tokens(self.lengths, part, self.family) for part in parts)
        return 1.0 - sum(int(self.lengths.real[part].sum()) for part in parts) / padded if padded else 0.0

    def _counts_of_epochs(self, epochs: float | None) -> list[int]:
        """The steps of each epoch."""
        if epochs is None:
            raise ValueError("a plan needs epochs or steps")
        whole = math.floor(epochs)
        counts = [len(self._epoch(epoch)) for epoch in range(math.ceil(epochs))]
        if whole < len(counts):
            counts[whole] = max(round((epochs - whole) * counts[whole]), 0 if whole else 1)
        return counts

    def _counts_to(self, steps: int) -> list[int]:
        """The steps of each epoch, the last one cut so that the sum is `steps`."""
        counts: list[int] = []
        while (left := steps - sum(counts)) > 0:
            counts.append(min(left, len(self._epoch(len(counts)))))
        return counts

    def _make_epoch(self, epoch: int) -> list[Ints]:
        return epoch_steps(self.lengths, self.examples, self._tokens_per_batch, self._seed, epoch)
