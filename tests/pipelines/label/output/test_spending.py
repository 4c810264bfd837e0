from pathlib import Path

import pytest

from pipelines.errors import UserError
from pipelines.label.output.spending import FOLDER, Spending, used_tokens
from pipelines.label.teachers.base import NOTHING_USED, TokensUsed
from pipelines.storage.store import Store


def test_each_run_adds_to_what_is_used(tmp_path: Path) -> None:
    store, rows = Store(str(tmp_path)), TokensUsed(100, 20)
    assert used_tokens(store, rows) == rows, "labels without such files: the tokens of their rows"
    first = Spending(store, rows)
    first.add("a", TokensUsed(10, 5, 2), (0, 0))
    first.add("b", NOTHING_USED, (7, 30))
    assert first.in_flight
    assert used_tokens(store, rows) == (117, 55, 2), "a kill now: requests in flight count in full"
    first.add("b", TokensUsed(7, 3), (0, 0))
    assert not first.in_flight
    Spending(store, NOTHING_USED).add("a", TokensUsed(1, 1), (0, 0))
    assert used_tokens(store, TokensUsed(117, 28)) == (118, 29, 2), "rows are part of it"
    assert used_tokens(store, TokensUsed(200, 29)) == (200, 29, 2), "rows of batches are not"
    (tmp_path / FOLDER / "x.json").write_text("{")
    with pytest.raises(UserError, match=r"x.json: not a record of used tokens. Remove it"):
        used_tokens(store, rows)
