"""n sampled answers -> one label and rationale, by self-consistency (Wang et al. 2022, section 2).

Samples vote by what their labels mean, so `4 - 1` and `(4 - 1)` are one candidate. The label keeps the wording that most of its voters
used. The rationale is the shortest of theirs, since longer ones wander more often; the others are kept beside it. A tie is reported; the
filters drop it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from pipelines.tasks import Answer, Task
from pipelines.tasks.majority import majority_vote


@dataclass(frozen=True)
class Consensus:
    """What the samples agree on."""

    label: str
    rationale: str
    rationales: tuple[str, ...]
    """All distinct rationales of the voters for the label, shortest first. Empty ones are left out."""
    votes: int
    agreement: float
    """votes / n; n includes unparsable samples."""
    soft_label: tuple[tuple[str, float], ...]
    """(label, share of the parsed samples), most frequent first. Sums to 1."""
    kept: int
    """Index of the sample whose rationale is kept."""
    tie: bool


def find_consensus(answers: Sequence[Answer | None], task: Task) -> Consensus | None:
    """The consensus of n answers.

    Args:
        answers: one per sample, None if it is unparsable.

    Returns:
        None if no sample can be parsed.
    """
    vote = majority_vote([None if answer is None else answer.label for answer in answers], task.key)
    if not vote.winner:
        return None
    parsed = sum(map(len, vote.candidates))
    shortest = sorted(vote.winner, key=lambda i: (not _at(answers, i).rationale, len(_at(answers, i).rationale), i))
    kept = shortest[0]
    rationales = dict.fromkeys(_at(answers, i).rationale for i in shortest)
    return Consensus(
        label=_wording(answers, vote.winner),
        rationale=_at(answers, kept).rationale,
        rationales=tuple(filter(None, rationales)),
        votes=len(vote.winner),
        agreement=vote.agreement,
        soft_label=tuple((_wording(answers, voters), len(voters) / parsed) for voters in vote.candidates),
        kept=kept,
        tie=vote.tie,
    )


def _at(answers: Sequence[Answer | None], index: int) -> Answer:
    answer = answers[index]
    assert answer is not None
    return answer


def _wording(answers: Sequence[Answer | None], voters: Sequence[int]) -> str:
    return Counter(_at(answers, i).label for i in voters).most_common(1)[0][0]
