"""The batch plan: which sequences make up each optimizer step, on which worker and in which micro-batch. Pure functions of numpy.

In: the lengths of all sequences. An example has one or several, numbered on from example to example; those of one example follow each
other. Out: `Plan`, the same for the same seed on every worker and after every restart:

    plan.step(7) -> [[[0, 8, 3], [5]],     worker 0: two micro-batches of sequences
                     [[1, 2], [9, 4]]]     worker 1: as many; a micro-batch may be empty

Which examples a step holds does not depend on the number of workers, so that one worker and eight descend the same losses. All
sequences of an example belong to the same step. Sizes count tokens: real ones for a step, padded ones for a micro-batch.
"""

from __future__ import annotations

import math
from functools import lru_cache
from itertools import pairwise

import numpy as np

from pipelines.students.decoding import Family
from pipelines.train.data.lengths import Ints, Lengths, padded_tokens, part_of
from pipelines.train.data.micro_batching import Cost, deal

# Examples of like lengths share a step within a stretch of this many steps: less padding, and still another mix every epoch.
_STRETCH_STEPS = 50
# How far a length may be off in that, as a factor: small corpora would else see the same steps in every epoch.
_BLUR = 1.05
_PADDING_STEPS = 200


def epoch_steps(lengths: Lengths, examples: Ints, tokens_per_batch: int, seed: int, epoch: int) -> list[Ints]:
    """The examples of each step of one epoch: each example once, at most `tokens_per_batch` real tokens a step.

    Steps are about equally large, so that no step's gradient is the word of two or three examples. The examples of a step have prompts of
    like lengths, and like lengths in all: a stretch of steps is cut into bands by the prompts, a band into steps by the whole.
    """
    rng = np.random.default_rng([seed, epoch])
    shuffled = examples[rng.permutation(len(examples))]
    tokens = lengths.per_example[shuffled]
    prompts = lengths.prompt[lengths.starts[shuffled]]
    blurred, blurred_prompts = (sizes * _BLUR ** rng.uniform(-1.0, 1.0, len(sizes)) for sizes in (tokens, prompts))
    stretch = np.cumsum(tokens) // (_STRETCH_STEPS * tokens_per_batch)
    band = np.zeros(len(shuffled), dtype=np.int64)
    for number in range(int(stretch[-1]) + 1 if len(stretch) else 0):
        here = np.flatnonzero(stretch == number)
        here = here[np.argsort(blurred_prompts[here], kind="stable")]
        steps_here = max(1, round(int(tokens[here].sum()) / tokens_per_batch))
        band[here] = part_of(tokens[here], max(1, round(math.sqrt(steps_here))))
    # Up in one band and down in the next, so that a step across two bands has like lengths too.
    shuffled = shuffled[np.lexsort((np.where(band % 2, -blurred, blurred), band, stretch))]
    steps = [shuffled[part] for part in even_parts(lengths.per_example[shuffled], tokens_per_batch)]
    return [steps[i] for i in rng.permutation(len(steps))]


def even_parts(sizes: Ints, limit: int) -> list[slice]:
    """Cut a row of sizes into about equal parts of consecutive ones, none above `limit`, none empty.

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
            return _slices(index)
        parts = max(parts + 1, math.ceil(parts * 1.01))


def _slices(index: Ints) -> list[slice]:
    edges = [0, *(np.flatnonzero(np.diff(index)) + 1).tolist(), len(index)]
    return [slice(a, b) for a, b in pairwise(edges)]


class Plan:
    """All steps of a training. `examples` are those that are trained on; `epochs` may be a fraction."""

    def __init__(
        self, lengths: Lengths, examples: Ints, *, family: Family, workers: int, epochs: float, tokens_per_batch: int,
        tokens_per_micro_batch: int, seed: int, cost: Cost,
    ) -> None:  # fmt: skip
        self.lengths, self.examples, self.family, self.workers = lengths, examples, family, workers
        self._batch, self._micro_batch = tokens_per_batch, tokens_per_micro_batch
        self._seed, self._cost = seed, cost
        self._epoch = lru_cache(maxsize=2)(self._make_epoch)
        whole = math.floor(epochs)
        counts = [len(self._epoch(epoch)) for epoch in range(math.ceil(epochs))]
        if whole < len(counts):
            counts[whole] = max(round((epochs - whole) * counts[whole]), 0 if whole else 1)
        self._ends = np.cumsum(counts)

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
        examples = self.step_examples(step)
        return deal(self.lengths, examples, self.workers, self._micro_batch, self.family, self._cost)

    def tokens(self, first: int = 0, last: int | None = None) -> int:
        """Real tokens of the steps from `first` to before `last`."""
        per_example = self.lengths.per_example
        return sum(
            int(per_example[self.step_examples(s)].sum()) for s in range(first, self.steps if last is None else last)
        )

    def padding_share(self, first: int, last: int) -> float:
        """Padding as a share of the tokens in the micro-batches of some steps; of 200 evenly among them where they are more."""
        steps = np.unique(np.linspace(first, last - 1, min(max(last - first, 0), _PADDING_STEPS)).astype(np.int64))
        parts = [part for step in steps.tolist() for worker in self.step(step) for part in worker]
        padded = sum(padded_tokens(self.lengths, part, self.family) for part in parts)
        return 1.0 - sum(int(self.lengths.real[part].sum()) for part in parts) / padded if padded else 0.0

    def _make_epoch(self, epoch: int) -> list[Ints]:
        return epoch_steps(self.lengths, self.examples, self._batch, self._seed, epoch)
