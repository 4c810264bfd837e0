"""n sampled answers -> one: majority vote on what the labels mean, the rationale from the samples that voted for the winner.

Self-consistency (Wang et al. 2022, section 2): samples vote by `task.key`, so `4 - 1` and `(4 - 1)` are one candidate. The label keeps
the wording that most of its voters used, the rationale is the shortest of theirs: a longer one more often wanders. Two candidates
with the most votes are a tie, which decides nothing.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from pipelines.tasks import Answer, Task


@dataclass(frozen=True)
class Consensus:
    """What the samples agree on. `agreement` = votes / n with unparsable samples in n. `soft_label` sums to 1 over parsed ones."""

    label: str
    rationale: str
    votes: int
    agreement: float
    soft_label: tuple[tuple[str, float], ...]
    kept: int
    """Index of the sample whose rationale is kept."""
    tie: bool


def vote(answers: Sequence[Answer | None], task: Task) -> Consensus | None:
    """The consensus of n answers, None standing for an unparsable one. None if nothing could be parsed."""
    voters: dict[str, list[int]] = defaultdict(list)
    for index, answer in enumerate(answers):
        if answer is not None:
            # One vote needs no comparing, which costs more than all else here.
            voters[task.key(answer.label) if len(answers) > 1 else ""].append(index)
    if not voters:
        return None
    ranked = sorted(voters.values(), key=lambda indices: (-len(indices), indices[0]))
    winner = ranked[0]
    parsed = sum(len(indices) for indices in ranked)
    kept = min(winner, key=lambda i: (not _of(answers, i).rationale, len(_of(answers, i).rationale), i))
    return Consensus(
        label=_wording(answers, winner),
        rationale=_of(answers, kept).rationale,
        votes=len(winner),
        agreement=len(winner) / len(answers),
        soft_label=tuple((_wording(answers, indices), len(indices) / parsed) for indices in ranked),
        kept=kept,
        tie=len(ranked) > 1 and len(ranked[1]) == len(winner),
    )


def _of(answers: Sequence[Answer | None], index: int) -> Answer:
    answer = answers[index]
    assert answer is not None
    return answer


def _wording(answers: Sequence[Answer | None], indices: list[int]) -> str:
    return Counter(_of(answers, i).label for i in indices).most_common(1)[0][0]
