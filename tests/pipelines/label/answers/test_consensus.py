from __future__ import annotations

import pytest

from pipelines.config import FiltersConfig
from pipelines.label.answers.consensus import vote
from pipelines.label.answers.filters import agrees, refuse
from pipelines.tasks import Answer, Example, load_task, task_spec

TASK = load_task(task_spec("arithmetic"))


def answers(*labels: str | None) -> list[Answer | None]:
    return [None if label is None else Answer(label, f"because of {'x' * i}") for i, label in enumerate(labels)]


@pytest.mark.parametrize(
    ("labels", "label", "votes", "agreement", "tie"),
    [
        (["4 - 1"], "4 - 1", 1, 1.0, False),
        (["4 - 1", "1 + 2", "5"], "4 - 1", 2, 2 / 3, False),  # equal by value
        (["5", "4 - 1", "3", "3"], "3", 3, 0.75, False),  # the wording that most voters used
        (["5", None, None, None], "5", 1, 0.25, False),  # unparsable samples count in n
        (["5", "6"], "5", 1, 0.5, True),
        (["5", "6", "5", "6", "7"], "5", 2, 0.4, True),
    ],
)
def test_vote(labels: list[str | None], label: str, votes: int, agreement: float, tie: bool) -> None:
    consensus = vote(answers(*labels), TASK)
    assert consensus is not None
    assert (consensus.label, consensus.votes, consensus.tie) == (label, votes, tie)
    assert consensus.agreement == pytest.approx(agreement)
    assert sum(p for _, p in consensus.soft_label) == pytest.approx(1.0)


def test_the_shortest_rationale_of_a_voter_is_kept_and_an_empty_one_is_not() -> None:
    given = [Answer("3", "a long way round"), Answer("3", "short"), Answer("3", ""), Answer("4", "x")]
    consensus = vote(given, TASK)
    assert consensus is not None
    assert (consensus.rationale, consensus.kept) == ("short", 1)


def test_nothing_parsed_is_no_consensus() -> None:
    assert vote([None, None], TASK) is None


@pytest.mark.parametrize(
    ("labels", "gold", "filters", "reason"),
    [
        (["3"], "4", FiltersConfig(), None),
        (["3"], "4", FiltersConfig(gold="drop-disagreeing"), "disagrees_with_gold"),
        (["4 - 1"], "3", FiltersConfig(gold="drop-disagreeing"), None),
        (["3"], None, FiltersConfig(gold="drop-disagreeing"), None),
        (["3", "4"], "3", FiltersConfig(), "tie"),
        (["3", None, None], "3", FiltersConfig(min_agreement=0.5), "low_agreement"),
        (
            ["3", "3", "4"],
            "4",
            FiltersConfig(min_agreement=0.9, gold="drop-disagreeing"),
            "low_agreement",
        ),  # the first decides
    ],
)
def test_filters_in_their_order(
    labels: list[str | None], gold: str | None, filters: FiltersConfig, reason: str | None
) -> None:
    example = Example("a", "input", gold)
    consensus = vote(answers(*labels), TASK)
    assert consensus is not None
    refusal = refuse(consensus, example, TASK, filters)
    assert (refusal and refusal[0]) == reason


def test_agreement_with_gold_is_by_value() -> None:
    consensus = vote(answers("4 - 1"), TASK)
    assert consensus is not None
    assert agrees(consensus, Example("a", "", "3"), TASK)
    assert not agrees(consensus, Example("a", "", "4"), TASK)
    assert not agrees(consensus, Example("a", "", None), TASK)
