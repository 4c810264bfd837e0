"""The filters that drop a consensus. They apply in the order of schema.REJECT_REASONS; the first that applies decides.

    tie                  two candidates have the most votes
    low_agreement        the agreement is below filters.min_agreement
    disagrees_with_gold  filters.gold is not `keep`, and the label does not mean the row's gold label
    rationale_length     the rationale has fewer words than min_rationale_words, or more than max_rationale_words
    gives_label_away     filters.drop_giveaways, and the rationale states the label and nothing that leads to it (tasks/giveaways.py)

They apply to train rows only: the teacher's answers to held-out rows are scored unfiltered.

The same filters apply to the answer to a prompt with the gold label as a hint (prompts.py). With drop_giveaways such a rationale must
not mention the hint: `As the hint says, it is 3` explains nothing to a student.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from pipelines.config import FiltersConfig
from pipelines.label.answers.consensus import Consensus
from pipelines.tasks import Answer, Example, Task

_HINT = re.compile(
    r"\bhint(?:s|ed)?\b"
    r"|\b(?:given|know|knowing|told|assuming)(?: that)? (?:the|this|our|your)(?: \w+){0,2} (?:answer|label|solution)\b(?! choice| option)"
    r"|\b(?:given|provided|stated|supplied|gold) (?:answer|label|solution)\b(?! choice| option)"
    r"|\b(?:answer|label|solution)(?: \w+){0,3} (?:given|provided|stated|told|supplied)\b",
    re.IGNORECASE,
)


class Refusal(NamedTuple):
    """Why an answer is dropped."""

    reason: str
    """One of schema.REJECT_REASONS."""
    detail: str


def refuse(
    consensus: Consensus, example: Example, task: Task, filters: FiltersConfig, *, hinted: bool = False
) -> Refusal | None:
    """The first filter that drops this answer, None if it is kept. `hinted`: the prompt showed the gold label."""
    if consensus.tie:
        (first, _), (second, _) = consensus.soft_label[:2]
        return Refusal("tie", f"{consensus.votes} votes each for {first} and {second}")
    if consensus.agreement < filters.min_agreement:
        detail = f"{consensus.agreement:.2f} of the samples agree, min_agreement is {filters.min_agreement}"
        return Refusal("low_agreement", detail)
    if filters.gold != "keep" and example.gold is not None and not agrees(consensus, example, task):
        return Refusal("disagrees_with_gold", f"the teacher says {consensus.label}, gold is {example.gold}")
    return _refuse_rationale(Answer(consensus.label, consensus.rationale), example, task, filters, hinted)


def kept_rationales(
    consensus: Consensus, example: Example, task: Task, filters: FiltersConfig, *, hinted: bool = False
) -> list[str]:
    """Those of the consensus' rationales that a filter would keep. Arguments as in `refuse`."""
    answers = [Answer(consensus.label, rationale) for rationale in consensus.rationales]
    return [a.rationale for a in answers if _refuse_rationale(a, example, task, filters, hinted) is None]


def agrees(consensus: Consensus, example: Example, task: Task) -> bool:
    """True if the label means the gold label. False without a gold label."""
    if example.gold is None:
        return False
    return consensus.label == example.gold or task.key(consensus.label) == task.key(example.gold)


def mentions_hint(rationale: str, example: Example) -> bool:
    """True if a rationale refers to a label that it was shown: `as the hint says`, `given that the answer is`.

    A phrase of the input is the topic, not the hint: `a hint of lemon` in a question about tea.
    """
    return any(match[0].casefold() not in example.input.casefold() for match in _HINT.finditer(rationale))


def _refuse_rationale(
    answer: Answer, example: Example, task: Task, filters: FiltersConfig, hinted: bool
) -> Refusal | None:
    words, least, most = len(answer.rationale.split()), filters.min_rationale_words, filters.max_rationale_words
    if words < least:
        return Refusal("rationale_length", f"the rationale has {words} words, min_rationale_words is {least}")
    if most is not None and words > most:
        return Refusal("rationale_length", f"the rationale has {words} words, max_rationale_words is {most}")
    if not filters.drop_giveaways:
        return None
    if hinted and mentions_hint(answer.rationale, example):
        return Refusal("gives_label_away", "the rationale mentions the hint")
    if task.gives_away(answer, example):
        return Refusal("gives_label_away", f"the rationale says {answer.label} and nothing that leads to it")
    return None
