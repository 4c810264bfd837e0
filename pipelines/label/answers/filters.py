"""Which consensus is kept. The filters stand in one order, that of schema.REJECT_REASONS; the first that applies decides.

    tie                  two candidates have the most votes
    low_agreement        fewer of the samples agree than filters.min_agreement
    disagrees_with_gold  filters.gold is not `keep`, and the label does not mean the gold label (of a row that has one)
    rationale_length     the rationale has fewer words than min_rationale_words, or more than max_rationale_words
    gives_label_away     filters.drop_giveaways, and the rationale states the label and nothing that leads to it (tasks/giveaways.py)

They hold for the train rows only: the teacher's answers to held-out examples are scored as they are.

An answer to a prompt that showed the gold label as a hint (prompts.py) goes through the same filters. With drop_giveaways its rationale
must not speak of the hint either: `As the hint says, it is 3` is a reason for whoever saw the hint, and for nobody else.
"""

from __future__ import annotations

import re

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


def refuse(
    consensus: Consensus, example: Example, task: Task, filters: FiltersConfig, *, hinted: bool = False
) -> tuple[str, str] | None:
    """(reason, detail) of the filter that drops this answer, None if it is kept. `hinted`: the prompt showed the gold label."""
    if consensus.tie:
        return "tie", f"{consensus.votes} votes each for {consensus.soft_label[0][0]} and {consensus.soft_label[1][0]}"
    if consensus.agreement < filters.min_agreement:
        return (
            "low_agreement",
            f"{consensus.agreement:.2f} of the samples agree, min_agreement is {filters.min_agreement}",
        )
    if filters.gold != "keep" and example.gold is not None and not agrees(consensus, example, task):
        return "disagrees_with_gold", f"the teacher says {consensus.label}, gold is {example.gold}"
    return _refuse_rationale(consensus, example, task, filters, hinted)


def agrees(consensus: Consensus, example: Example, task: Task) -> bool:
    """Whether the consensus means the gold label. Without gold: False."""
    if example.gold is None:
        return False
    return consensus.label == example.gold or task.key(consensus.label) == task.key(example.gold)


def speaks_of_the_hint(rationale: str, example: Example) -> bool:
    """Whether a rationale refers to a label that it was shown: `as the hint says`, `given that the answer is`.

    A phrase that the input has too is the subject's, not the hint's: `a hint of lemon` in a question about tea.
    """
    return any(match[0].casefold() not in example.input.casefold() for match in _HINT.finditer(rationale))


def _refuse_rationale(
    consensus: Consensus, example: Example, task: Task, filters: FiltersConfig, hinted: bool
) -> tuple[str, str] | None:
    words = len(consensus.rationale.split())
    if words < filters.min_rationale_words:
        return (
            "rationale_length",
            f"the rationale has {words} words, min_rationale_words is {filters.min_rationale_words}",
        )
    if filters.max_rationale_words is not None and words > filters.max_rationale_words:
        return (
            "rationale_length",
            f"the rationale has {words} words, max_rationale_words is {filters.max_rationale_words}",
        )
    if not filters.drop_giveaways:
        return None
    if hinted and speaks_of_the_hint(consensus.rationale, example):
        return "gives_label_away", "the rationale speaks of the hint"
    if task.gives_away(Answer(consensus.label, consensus.rationale), example):
        return "gives_label_away", f"the rationale says {consensus.label} and nothing that leads to it"
    return None
