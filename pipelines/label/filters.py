"""Which consensus is kept. The filters stand in one order, that of schema.REJECT_REASONS; the first that applies decides.

They hold for the train rows only: the teacher's answers to held-out examples are scored as they are.
"""

from __future__ import annotations

from pipelines.config import FiltersConfig
from pipelines.label.consensus import Consensus
from pipelines.tasks import Example, Task


def refuse(consensus: Consensus, example: Example, task: Task, filters: FiltersConfig) -> tuple[str, str] | None:
    """(reason, detail) of the filter that drops this answer, None if it is kept."""
    if consensus.tie:
        return "tie", f"{consensus.votes} votes each for {consensus.soft_label[0][0]} and {consensus.soft_label[1][0]}"
    if consensus.agreement < filters.min_agreement:
        return (
            "low_agreement",
            f"{consensus.agreement:.2f} of the samples agree, min_agreement is {filters.min_agreement}",
        )
    if filters.gold == "drop-disagreeing" and example.gold is not None and not agrees(consensus, example, task):
        return "disagrees_with_gold", f"the teacher says {consensus.label}, gold is {example.gold}"
    return None


def agrees(consensus: Consensus, example: Example, task: Task) -> bool:
    """Whether the consensus means the gold label. Without gold: False."""
    return example.gold is not None and task.key(consensus.label) == task.key(example.gold)
