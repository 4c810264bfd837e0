"""The rotation of rationales: which sequences of each example an epoch has. Pure functions of numpy.

An example whose rationales are learned in turn (`student.rationales.per_row`) has the sequences of all of them, numbered by their turn. An
epoch has one turn of each example, and the sequences that belong to every epoch:

    step-by-step, 3 rationales    label (every epoch)   rationale 0   rationale 1   rationale 2
    epochs from a drawn start                           1, 4, ...     2, 5, ...     0, 3, ...

So an example costs about the same in every epoch, however many rationales it has.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from pipelines.train.data.lengths import Ints, Lengths

EVERY_EPOCH = -1
"""The turn of a sequence that belongs to every epoch."""


@dataclass(frozen=True)
class Rotation:
    """Sequences of examples with their turns."""

    lengths: Lengths
    """Of the sequences of all turns."""
    turn: Ints
    """(S,) the turn of each sequence, from 0 in each example; or EVERY_EPOCH."""

    @cached_property
    def shares(self) -> npt.NDArray[np.float64]:
        """(S,) share of the epochs that have each sequence."""
        if not self.rotates:
            return np.broadcast_to(np.float64(1.0), self.turn.shape)  # takes no memory
        return np.where(self.turn == EVERY_EPOCH, 1.0, 1.0 / self._turns[self._example])

    @property
    def rotates(self) -> bool:
        """True if epochs differ in their sequences."""
        return bool((self.turn != EVERY_EPOCH).any())

    def mean_tokens(self, examples: Ints) -> float:
        """Unpadded tokens of the examples in one epoch, as a mean over a whole rotation."""
        sequences = self.lengths.of(examples)
        return float((self.shares[sequences] * self.lengths.real[sequences]).sum())

    def largest(self, examples: Ints) -> int:
        """Unpadded tokens of the largest of the examples in any epoch."""
        real, first = self.lengths.real, self.lengths.starts[:-1]
        every = np.add.reduceat(np.where(self.turn == EVERY_EPOCH, real, 0), first)
        longest = np.maximum.reduceat(np.where(self.turn == EVERY_EPOCH, 0, real), first)
        return int((every + longest)[examples].max())

    def epoch(self, epoch: int, seed: int) -> tuple[Lengths, Ints]:
        """The lengths of one epoch's sequences, and their numbers among all sequences. Each example starts its rotation at random."""
        starts = np.random.default_rng([seed, len(self._turns)]).integers(0, 1 << 31, len(self._turns))
        now = (starts + epoch) % self._turns
        chosen = np.flatnonzero((self.turn == EVERY_EPOCH) | (self.turn == now[self._example]))
        ends = np.cumsum(np.bincount(self._example[chosen], minlength=len(now)))
        lengths = Lengths(
            self.lengths.prompt[chosen],
            self.lengths.target[chosen],
            np.concatenate([np.zeros(1, dtype=np.int64), ends]),
            self.lengths.grouped,
        )
        return lengths, chosen

    @cached_property
    def _example(self) -> Ints:
        """(S,) the example of each sequence."""
        return np.repeat(np.arange(len(self.lengths.starts) - 1), np.diff(self.lengths.starts))

    @cached_property
    def _turns(self) -> Ints:
        """(E,) the number of turns of each example, 1 for those without rotation."""
        last = np.maximum.reduceat(self.turn, self.lengths.starts[:-1]) if len(self.turn) else self.turn
        return np.maximum(last + 1, 1)
