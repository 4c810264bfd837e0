"""Majority vote over several answers to one example, by what their labels mean.

majority_vote(["9 - 4", None, "5", "4"], key).candidates  ->  ((0, 2), (3,)): `9 - 4` and `5` have the same value
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Vote:
    """Outcome of a majority vote.

    Tie rule: of candidates with equally many votes, the one that was seen first wins. `tie` reports that this rule decided, so that
    a caller may drop the example instead.
    """

    candidates: tuple[tuple[int, ...], ...]
    """Indices of the answers for each candidate, the winner first. Empty if no answer has a label."""
    answers: int

    @property
    def winner(self) -> tuple[int, ...]:
        """Indices of the answers that voted for the winner, rising. Empty if no answer has a label."""
        return self.candidates[0] if self.candidates else ()

    @property
    def agreement(self) -> float:
        """Share of all answers that voted for the winner. Answers without a label count in the denominator."""
        return len(self.winner) / self.answers

    @property
    def tie(self) -> bool:
        """True if another candidate has as many votes as the winner."""
        return len(self.candidates) > 1 and len(self.candidates[1]) == len(self.winner)


def majority_vote(labels: Sequence[str | None], key: Callable[[str], str]) -> Vote:
    """Count votes.

    Args:
        labels: one per answer, None if the answer has no label; at least one.
        key: maps labels that mean the same to one text (`Task.key`).
    """
    voters: dict[str, list[int]] = defaultdict(list)
    for index, label in enumerate(labels):
        if label is not None:
            # `key` dominates the cost, and a single vote needs none.
            voters[key(label) if len(labels) > 1 else label].append(index)
    ranked = sorted(voters.values(), key=lambda indices: -len(indices))  # stable: first seen first
    return Vote(tuple(map(tuple, ranked)), len(labels))
