from collections.abc import Iterator
from contextlib import nullcontext
from types import SimpleNamespace

import pyarrow as pa
import pytest

from pipelines.config import LabellingConfig
from pipelines.errors import StageFailedError
from pipelines.label import early_stop
from pipelines.label.early_stop import FirstRows, TaskFailures, while_budget_lasts
from pipelines.label.engines.health import StopReasons
from pipelines.label.output.counts import Counts
from pipelines.label.teachers.base import NOTHING_USED
from tests.support.corpora import run_config
from tests.support.outcomes import accepted, reject, table


@pytest.mark.parametrize(("tokens", "rows"), [(None, 9), (20, 4), (1, 1)])
def test_rows_count_against_the_budget_before_a_commit(tokens: int | None, rows: int) -> None:
    """Each row is of 5 tokens."""
    run = run_config({"engine": "echo", "budget": {"tokens": tokens}})
    tables = (table(accepted(f"row {i}")) for i in range(9))
    found = list(while_budget_lasts(run, NOTHING_USED, None, tables))
    assert sum(map(len, found)) == rows


@pytest.mark.parametrize(("settles", "ends"), [(True, 6), (False, 33)])
def test_a_used_up_budget_ends_a_run_without_rows_under_way(
    settles: bool, ends: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A killed engine never settles what it has reserved: then the run waits remote.timeout_s for a row."""
    stop, clock = StopReasons(), [0]
    health = SimpleNamespace(
        stop_reasons=SimpleNamespace(remote=lambda: stop),
        in_flight=SimpleNamespace(remote=lambda: not settles or clock[0] < 2),
    )
    monkeypatch.setattr("ray.get", lambda found: found)
    monkeypatch.setattr(early_stop.time, "monotonic", lambda: clock[0])

    def tables() -> Iterator[pa.Table]:
        nonlocal stop
        for clock[0] in range(1000):
            stop = StopReasons(budget="used up" if clock[0] else "")
            yield table(accepted("late")) if clock[0] == 3 and settles else table()

    run = run_config({"engine": "echo", "remote": {"timeout_s": 30.0}})
    found = list(while_budget_lasts(run, NOTHING_USED, health, tables()))
    assert (sum(map(len, found)), clock[0]) == (int(settles), ends)


@pytest.mark.parametrize(("rejected", "fails"), [(9, False), (10, True)])
def test_mostly_rejected_first_rows_fail_the_run(rejected: int, fails: bool) -> None:
    check = FirstRows(LabellingConfig(first_rows=10, max_reject_share=0.9), 64).check
    rows = [reject(f"r{i}", "unparsable") if i < rejected else accepted("a") for i in range(10)]
    check(table(*rows[:5], accepted("h", "heldout")))
    rule = r"10 of the first 10 answers are rejected \(unparsable 10\).*r0.*'output'"
    with pytest.raises(StageFailedError, match=rule) if fails else nullcontext():
        check(table(*rows[5:]))
    check(pa.concat_tables([table(reject("late", "tie"))] * 20))


@pytest.mark.parametrize(("cut", "warns"), [(5, False), (6, True)])
def test_mostly_cut_first_answers_are_reported_early(cut: int, warns: bool, capsys: pytest.CaptureFixture[str]) -> None:
    first_rows = FirstRows(LabellingConfig(first_rows=12, max_reject_share=0.4), 64)
    first_rows.check(table(*(reject(f"r{i}", "truncated") if i < cut else accepted(f"r{i}") for i in range(10))))
    said = "label: 6 of the first 10 answers are cut at teacher.sampling.max_tokens 64. End with Ctrl-C, raise it,"
    assert (said in capsys.readouterr().err) == warns
    with pytest.raises(StageFailedError, match=r"truncated .* Raise teacher.sampling.max_tokens, which is 64, and add"):
        first_rows.check(table(reject("a", "truncated"), reject("b", "truncated")))
    assert ("cut at" in capsys.readouterr().err) != warns, "once"


@pytest.mark.parametrize(("failed", "fails"), [(1, False), (2, False), (3, True)])
def test_a_task_may_raise_on_its_share_of_all_rows(failed: int, fails: bool) -> None:
    failures = TaskFailures(LabellingConfig(max_task_error_share=0.02), Counts())
    rows = [reject(f"r{i}", "unparsable", detail="the task raised KeyError: 'x'") for i in range(failed)]
    rule = "on 3 of 100 rows.*For example row r0: the task raised KeyError: 'x'.*max_task_error_share=1"
    with pytest.raises(StageFailedError, match=rule) if fails else nullcontext():
        failures.check(table(*rows, reject("u", "unparsable"), accepted("a")), 100)


def test_failures_of_the_scan_and_of_earlier_runs_count() -> None:
    rows = table(*(reject(f"r{i}", "bad_input", detail="the task raised KeyError: 'x'") for i in range(2)))
    failures = TaskFailures(LabellingConfig(), Counts.of(rows.slice(1)))
    failures.check(rows.slice(1), None)  # it is not known yet how many rows there are
    with pytest.raises(StageFailedError, match="on 2 of 9 rows"):
        failures.decide(9)
