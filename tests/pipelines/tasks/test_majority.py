import pytest

from pipelines.tasks.arithmetic import Arithmetic
from pipelines.tasks.majority import majority_vote

KEY = Arithmetic().key


@pytest.mark.parametrize(
    ("labels", "candidates", "agreement", "tie"),
    [
        (["1"], ((0,),), 1.0, False),
        (["7", "9 - 4", None, "5", "2 + 3"], ((1, 3, 4), (0,)), 3 / 5, False),  # equal by value
        ([None, "7", "4", "4", "7"], ((1, 4), (2, 3)), 2 / 5, True),  # the first seen wins a tie
        ([None], (), 0.0, False),
    ],
)
def test_votes_count_by_meaning_and_first_seen_wins_ties(
    labels: list[str | None], candidates: tuple[tuple[int, ...], ...], agreement: float, tie: bool
) -> None:
    found = majority_vote(labels, KEY)
    assert (found.candidates, found.agreement, found.tie) == (candidates, agreement, tie)
    assert found.winner == (candidates[0] if candidates else ())
