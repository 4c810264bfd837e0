"""The lengths of all sequences: which belong to which example, and what they take with padding. Pure functions of numpy.

An example has one sequence or several, numbered on from example to example; those of one example follow each other.
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
        return ranges(self.starts[examples], self.starts[examples + 1])

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
    """All numbers of some ranges, one range after the other.

    >>> ranges(np.array([3, 7]), np.array([5, 8])).tolist()
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


def part_of(sizes: Ints, parts: int) -> Ints:
    """Which of `parts` equal stretches the middle of each size falls into."""
    doubled_middle = 2 * np.cumsum(sizes) - sizes
    return np.asarray(doubled_middle * parts // (2 * max(int(sizes.sum()), 1)), dtype=np.int64)
