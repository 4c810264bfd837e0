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
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from pipelines.decode import Family

Ints = npt.NDArray[np.int64]

# Examples of like length share a step within a stretch of this many steps: less padding, and still another mix every epoch.
_STRETCH_STEPS = 16
# How far a length may be off in that, as a factor: small corpora would else see the same steps in every epoch.
_BLUR = 1.25
_PADDING_STEPS = 200


@dataclass(frozen=True)
class Lengths:
    """Tokens of every sequence, S in all, of E examples."""

    prompt: Ints
    """(S,)"""
    target: Ints
    """(S,) at least 1 each."""
    starts: Ints
    """(E + 1,) example e has the sequences from starts[e] to before starts[e + 1], at least one."""
    together: bool = False
    """Whether the sequences of an example share a micro-batch: a loss compares them."""

    @cached_property
    def real(self) -> Ints:
        """(S,) real tokens of each sequence."""
        return self.prompt + self.target

    @cached_property
    def per_example(self) -> Ints:
        """(E,) real tokens of each example, its sequences together."""
        return self.sums(self.starts[:-1], self.starts[1:])

    def of(self, examples: Ints) -> Ints:
        """The sequences of the examples."""
        return _ranges(self.starts[examples], self.starts[examples + 1])

    def units(self, examples: Ints) -> tuple[Ints, Ints]:
        """What a micro-batch takes whole: (U,) first sequences, and those after the last."""
        if self.together:
            return self.starts[examples], self.starts[examples + 1]
        sequences = self.of(examples)
        return sequences, sequences + 1

    def sums(self, first: Ints, end: Ints) -> Ints:
        """(U,) real tokens of ranges of sequences."""
        return np.asarray(self._before[end] - self._before[first], dtype=np.int64)

    def widths(self, first: Ints, end: Ints, family: Family) -> tuple[Ints, Ints, Ints]:
        """Of ranges of sequences, each none empty: (U,) rows, columns of each row with its padding, and columns of its targets."""
        if not len(first):
            return first, first, first
        sequences, rows = _ranges(first, end), end - first
        at = np.cumsum(rows) - rows
        target = np.maximum.reduceat(self.target[sequences], at)
        if family == "encoder-decoder":
            return rows, np.maximum.reduceat(self.prompt[sequences], at) + target, target
        return rows, np.maximum.reduceat(self.real[sequences], at), target

    @cached_property
    def _before(self) -> Ints:
        return np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(self.real)])


def _ranges(first: Ints, end: Ints) -> Ints:
    """All numbers of some ranges, one range after the other.

    >>> _ranges(np.array([3, 7]), np.array([5, 8])).tolist()
    [3, 4, 7]
    """
    counts = end - first
    offsets = np.cumsum(counts) - counts
    return np.asarray(np.repeat(first - offsets, counts) + np.arange(int(counts.sum())), dtype=np.int64)


def padded_tokens(lengths: Lengths, sequences: Ints, family: Family) -> int:
    """Tokens that a micro-batch holds with its padding. Encoder and decoder are padded each for itself."""
    if not len(sequences):
        return 0
    prompt, target = lengths.prompt[sequences], lengths.target[sequences]
    if family == "encoder-decoder":
        return len(sequences) * int(prompt.max() + target.max())
    return len(sequences) * int((prompt + target).max())


def epoch_steps(lengths: Lengths, examples: Ints, tokens_per_batch: int, seed: int, epoch: int) -> list[Ints]:
    """The examples of each step of one epoch: each example once, at most `tokens_per_batch` real tokens a step.

    Steps are about equally large, so that no step's gradient is the word of two or three examples.
    """
    rng = np.random.default_rng([seed, epoch])
    shuffled = examples[rng.permutation(len(examples))]
    tokens = lengths.per_example[shuffled]
    stretch = np.cumsum(tokens) // (_STRETCH_STEPS * tokens_per_batch)
    blurred = tokens * _BLUR ** rng.uniform(-1.0, 1.0, len(tokens))
    shuffled = shuffled[np.lexsort((blurred, stretch))]
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
        index = _part_of(sizes, parts)
        if np.bincount(index, weights=sizes).max() <= limit:
            return _slices(index)
        parts = max(parts + 1, math.ceil(parts * 1.01))


def deal(lengths: Lengths, examples: Ints, workers: int, limit: int, family: Family) -> list[list[Ints]]:
    """The sequences of one step by worker and micro-batch: [worker][micro-batch] -> sequences.

    Micro-batches are of like lengths, about equally large, and at most `limit` padded tokens each. Every worker gets the same
    number of them; where there are too few, some are empty.

    Raises:
        ValueError: a sequence alone, or an example's whose sequences stay together, is above the limit.
    """
    first, end = lengths.units(examples)
    rows, longest, target = lengths.widths(first, end, family)
    if len(first) and int((rows * longest).max()) > limit:
        raise ValueError(f"{int((rows * longest).max())} padded tokens that stay together are above the limit {limit}")
    order = np.lexsort((first, -target, -longest))
    first, end = first[order], end[order]
    sizes = lengths.sums(first, end)
    micros = max(1, math.ceil(int(sizes.sum()) / (limit * workers)))
    while True:
        index = _part_of(sizes, workers * micros)
        edges = np.searchsorted(index, np.arange(workers * micros + 1))
        parts = [_ranges(first[a:b], end[a:b]) for a, b in pairwise(edges)]
        if all(padded_tokens(lengths, part, family) <= limit for part in parts):
            break
        micros = max(micros + 1, math.ceil(micros * 1.01))
    # There and back again (0 1 1 0 0 1 ...): dealing in one direction would give worker 0 the longest of every round.
    rounds = [parts[i * workers : (i + 1) * workers][:: -1 if i % 2 else 1] for i in range(micros)]
    return [[dealt[worker] for dealt in rounds] for worker in range(workers)]


def _part_of(sizes: Ints, parts: int) -> Ints:
    """Which of `parts` equal stretches the middle of each size falls into."""
    doubled_middle = 2 * np.cumsum(sizes) - sizes
    return np.asarray(doubled_middle * parts // (2 * max(int(sizes.sum()), 1)), dtype=np.int64)


def _slices(index: Ints) -> list[slice]:
    edges = [0, *(np.flatnonzero(np.diff(index)) + 1).tolist(), len(index)]
    return [slice(a, b) for a, b in pairwise(edges)]


class Plan:
    """All steps of a training. `examples` are those that are trained on; `epochs` may be a fraction."""

    def __init__(
        self, lengths: Lengths, examples: Ints, *, family: Family, workers: int, epochs: float, tokens_per_batch: int,
        tokens_per_micro_batch: int, seed: int,
    ) -> None:  # fmt: skip
        self.lengths, self.examples, self.family, self.workers = lengths, examples, family, workers
        self._batch, self._micro_batch, self._seed = tokens_per_batch, tokens_per_micro_batch, seed
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
        return deal(self.lengths, self.step_examples(step), self.workers, self._micro_batch, self.family)

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
