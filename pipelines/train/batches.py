"""The batch plan: which sequences make up each optimizer step, on which worker and in which micro-batch. Pure functions of numpy.

In: the lengths of all sequences. Example `e` has two: 2e teaches its label, 2e + 1 its rationale. Out: `Plan`, the same for the
same seed on every worker and after every restart:

    plan.step(7) -> [[[0, 8, 3], [5]],     worker 0: two micro-batches of sequences
                     [[1, 2], [9, 4]]]     worker 1: as many; a micro-batch may be empty

Which examples a step holds does not depend on the number of workers, so that one worker and eight descend the same losses. Both
sequences of an example belong to the same step. Sizes count tokens: real ones for a step, padded ones for a micro-batch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from pipelines.decode import Family

Ints = npt.NDArray[np.int64]
PARTS = ("label", "rationale")

# Examples of like length share a step within a stretch of this many steps: less padding, and still another mix every epoch.
_STRETCH_STEPS = 16
# How far a length may be off in that, as a factor: small corpora would else see the same steps in every epoch.
_BLUR = 1.25


@dataclass(frozen=True)
class Lengths:
    """Tokens of every sequence. Shapes (2 x examples,). A sequence with an empty target is not there: it is in no batch."""

    prompt: Ints
    target: Ints

    @cached_property
    def real(self) -> Ints:
        """Real tokens of each sequence; 0 where it is not there."""
        return np.asarray(np.where(self.target > 0, self.prompt + self.target, 0), dtype=np.int64)

    @cached_property
    def per_example(self) -> Ints:
        """Real tokens of each example, both sequences together. Shape (examples,)."""
        return np.asarray(self.real.reshape(-1, 2).sum(axis=1), dtype=np.int64)

    def present(self, examples: Ints) -> Ints:
        """The sequences that the examples have."""
        sequences = np.stack([2 * examples, 2 * examples + 1], axis=1).ravel()
        return sequences[self.target[sequences] > 0]

    def target_tokens(self, examples: Ints) -> tuple[int, int]:
        """Target tokens of the examples' labels, and of their rationales: what each loss is the mean over."""
        return int(self.target[2 * examples].sum()), int(self.target[2 * examples + 1].sum())


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
        ValueError: one sequence alone is above the limit.
    """
    sequences = lengths.present(examples)
    real = lengths.real
    if len(sequences) and int(real[sequences].max()) > limit:
        raise ValueError(f"a sequence of {int(real[sequences].max())} tokens is above the limit {limit}")
    ordered = sequences[np.lexsort((sequences, -lengths.target[sequences], -real[sequences]))]
    sizes = real[ordered]
    micros = max(1, math.ceil(int(sizes.sum()) / (limit * workers)))
    while True:
        index = _part_of(sizes, workers * micros)
        parts = [ordered[index == part] for part in range(workers * micros)]
        if all(padded_tokens(lengths, part, family) <= limit for part in parts):
            break
        micros += 1
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

    def _make_epoch(self, epoch: int) -> list[Ints]:
        return epoch_steps(self.lengths, self.examples, self._batch, self._seed, epoch)


@dataclass(frozen=True)
class MicroBatch:
    """Arrays of one micro-batch. R rows, N target tokens over all rows.

    `inputs`: what the model reads. Decoder-only: input_ids (R, L), padded on the right, where causal attention never looks, so
    that no mask is needed. Encoder-decoder: input_ids and attention_mask (1 = real) (R, S), decoder_input_ids (R, T).
    """

    inputs: dict[str, Ints]
    rows: Ints
    """(N,) the row of each target token."""
    columns: Ints
    """(N,) the position whose output predicts it."""
    targets: Ints
    """(N,) its id."""
    parts: Ints
    """(N,) 0: it is of a label. 1: of a rationale."""


def collate(
    prompts: list[Any], targets: list[Any], parts: list[int], *, family: Family, pad: int, start: int | None
) -> MicroBatch:
    """Pad sequences into one micro-batch. `start`: the token that an encoder-decoder's decoder begins with.

    No sequences at all give one row with one target token of part -1, which no loss counts: a worker without work still has to
    take part in every forward pass.
    """
    if not prompts:
        prompts, targets, parts = [[pad]], [[pad]], [-1]
    count = np.array([len(t) for t in targets], dtype=np.int64)
    rows = np.repeat(np.arange(len(targets)), count)
    within = np.arange(int(count.sum())) - np.repeat(np.cumsum(count) - count, count)
    if family == "encoder-decoder":
        assert start is not None, "an encoder-decoder needs its decoder's start token"
        ids = _padded(prompts, pad)
        mask = _padded([np.ones(len(p), dtype=np.int64) for p in prompts], 0)
        decoder = _padded([[start, *t[:-1]] for t in targets], pad)
        inputs, columns = {"input_ids": ids, "attention_mask": mask, "decoder_input_ids": decoder}, within
    else:
        # The last target token is predicted, never read.
        inputs = {"input_ids": _padded([[*p, *t[:-1]] for p, t in zip(prompts, targets, strict=True)], pad)}
        columns = within + np.repeat(np.array([len(p) for p in prompts], dtype=np.int64) - 1, count)
    flat = np.concatenate([np.asarray(t, dtype=np.int64) for t in targets])
    return MicroBatch(inputs, rows, columns, flat, np.repeat(np.array(parts, dtype=np.int64), count))


def _padded(sequences: list[Any], value: int) -> Ints:
    result = np.full((len(sequences), max(len(s) for s in sequences)), value, dtype=np.int64)
    for row, sequence in enumerate(sequences):
        result[row, : len(sequence)] = sequence
    return result
