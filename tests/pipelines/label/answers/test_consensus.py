import pytest

from pipelines.label.answers.consensus import find_consensus
from pipelines.tasks import Answer, load_task, task_spec

TASK = load_task(task_spec("arithmetic"))


@pytest.mark.parametrize(
    ("labels", "label", "votes", "agreement", "tie"),
    [
        (["4 - 1"], "4 - 1", 1, 1.0, False),
        (["4 - 1", "1 + 2", "5"], "4 - 1", 2, 2 / 3, False),  # equal by value
        (["5", "4 - 1", "3", "3"], "3", 3, 0.75, False),  # the wording that most voters used
        (["5", None, None, None], "5", 1, 0.25, False),  # n includes unparsable samples
        (["5", "6", "5", "6", "7"], "5", 2, 0.4, True),
        ([None, "7", "4", "4", "7"], "7", 2, 0.4, True),  # the first seen wins a tie
    ],
)
def test_majority_is_by_meaning(labels: list[str | None], label: str, votes: int, agreement: float, tie: bool) -> None:
    answers = [None if one is None else Answer(one, "because") for one in labels]
    consensus = find_consensus(answers, TASK)
    assert (consensus.label, consensus.votes, consensus.tie) == (label, votes, tie)
    assert consensus.agreement == pytest.approx(agreement)
    assert sum(p for _, p in consensus.soft_label) == pytest.approx(1.0)


def test_the_shortest_rationale_of_a_voter_is_kept() -> None:
    given = [
        Answer("3", "a long way round"), Answer("3", "short"), Answer("3", ""), Answer("4", "x"), Answer("3", "short"),
        Answer("3", "other"),
    ]  # fmt: skip
    consensus = find_consensus(given, TASK)
    assert consensus.rationales == ("short", "other", "a long way round")
    assert (consensus.rationale, consensus.kept) == ("short", 1), "an empty one is no rationale"
    assert find_consensus([None, None], TASK) is None, "nothing can be parsed"
