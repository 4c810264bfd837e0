"""Lengths of all sequences, by example and with padding. Pure functions of numpy.

An example has one or several sequences. Sequences are numbered consecutively from example to example.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from pipelines.students.decoding import Family

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Lengths:
    """Tokens of each of S sequences of E examples."""

    prompt: Ints
    """(S,)"""
    target: Ints
    """(S,) at least 1 each."""
    starts: Ints
    """(E + 1,) example e has the sequences from starts[e] to before starts[e + 1], at least one."""
    grouped: bool = False
    """True if the sequences of an example must share a micro-batch, because a loss compares them."""

    @cached_property
    def real(self) -> Ints:
        """(S,) tokens of each sequence without padding."""
        return self.prompt + self.target

    @cached_property
    def per_example(self) -> Ints:
        """(E,) tokens of each example without padding, over all its sequences."""
        return self.sums(self.starts[:-1], self.starts[1:])

    def of(self, examples: Ints) -> Ints:
        """The sequences of the examples."""
        return ranges(self.starts[examples], self.starts[examples + 1])

    def units(self, examples: Ints) -> tuple[Ints, Ints]:
        """The ranges of sequences that a micro-batch must not split: (U,) first of each, and (U,) last of each plus 1."""
        if self.grouped:
            return self.starts[examples], self.starts[examples + 1]
        sequences = self.of(examples)
        return sequences, sequences + 1

    def sums(self, first: Ints, end: Ints) -> Ints:
        """(U,) tokens of ranges of sequences without padding."""
        return np.asarray(self._before[end] - self._before[first], dtype=np.int64)

    def widths(self, first: Ints, end: Ints, family: Family) -> tuple[Ints, Ints, Ints]:
        """Sizes of non-empty ranges of sequences: (U,) rows, padded columns of a row, and those of its target alone."""
        if not len(first):
            return first, first, first
        sequences, rows = ranges(first, end), end - first
        at = np.cumsum(rows) - rows
        target = np.maximum.reduceat(self.target[sequences], at)
        if family == "encoder-decoder":
            return rows, np.maximum.reduceat(self.prompt[sequences], at) + target, target
        return rows, np.maximum.reduceat(self.real[sequences], at), target

    @cached_property
    def _before(self) -> Ints:
        return np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(self.real)])


def ranges(first: Ints, end: Ints) -> Ints:
    """All numbers of several ranges, one range after the other.

    >>> ranges(np.array([3, 7]), np.array([5, 8])).tolist()
    [3, 4, 7]
    """
    counts = end - first
    offsets = np.cumsum(counts) - counts
    return np.asarray(np.repeat(first - offsets, counts) + np.arange(int(counts.sum())), dtype=np.int64)


def padded_tokens(lengths: Lengths, sequences: Ints, family: Family) -> int:
    """Tokens of a micro-batch with padding. Encoder and decoder are padded separately."""
    if not len(sequences):
        return 0
    prompt, target = lengths.prompt[sequences], lengths.target[sequences]
    if family == "encoder-decoder":
        return len(sequences) * int(prompt.max() + target.max())
    return len(sequences) * int((prompt + target).max())


def part_of(sizes: Ints, parts: int) -> Ints:
    """The index of the part that each size falls into by its middle, if their sum is cut into `parts` equal parts."""
    doubled_middle = 2 * np.cumsum(sizes) - sizes
    return np.asarray(doubled_middle * parts // (2 * max(int(sizes.sum()), 1)), dtype=np.int64)
