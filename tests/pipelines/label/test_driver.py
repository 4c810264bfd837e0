"""When the stream of outcomes ends early."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from pipelines.config.load import parse_run
from pipelines.label.driver import _while_budget_lasts
from pipelines.label.output.counts import Counts
from tests.pipelines.label.output.test_writer import accepted, table
from tests.support.run_files import TREE


@pytest.mark.parametrize(("tokens", "rows"), [(None, 9), (20, 4), (1, 1)])
def test_rows_count_against_the_budget_before_they_are_committed(tokens: int | None, rows: int) -> None:
    """Each row is of 5 tokens; none is committed meanwhile."""
    run = parse_run({**TREE, "teacher": {**TREE["teacher"], "budget": {"tokens": tokens}}})
    sink: Any = SimpleNamespace(tally=Counts())
    found = list(_while_budget_lasts(run, sink, (table(accepted(f"row {i}")) for i in range(9))))
    assert sum(len(one) for one in found) == rows
