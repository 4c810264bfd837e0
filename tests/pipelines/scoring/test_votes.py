from __future__ import annotations

from pipelines.scoring.votes import Vote, vote
from pipelines.tasks.arithmetic import Arithmetic

key = Arithmetic().key


def test_votes_are_counted_by_what_the_task_compares() -> None:
    assert vote(["7", "9 - 4", None, "5", "2 + 3"], key) == Vote(1, 3 / 5)


def test_a_tie_goes_to_the_answer_seen_first() -> None:
    assert vote([None, "7", "4", "4", "7"], key) == Vote(1, 2 / 5)
    assert vote(["4", "7", "7", "4"], key) == Vote(0, 0.5)


def test_no_label_no_winner() -> None:
    assert vote([None, None], key) == Vote(None, 0.0)
    assert vote(["1"], key) == Vote(0, 1.0)
