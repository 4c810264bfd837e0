"""An outage of the endpoint costs time and no rows."""

import asyncio
import time

import pytest
from fastapi.responses import Response

from pipelines.label.teachers import circuit_breaker
from pipelines.label.teachers.base import Generation, PromptRefusedError, TeacherUnusableError
from pipelines.label.teachers.circuit_breaker import CircuitBreaker
from tests.support.remote_teacher import ask, config, one, rows, teacher_of
from tests.support.teacher_endpoint import Endpoint, Seen, error


@pytest.fixture(autouse=True)
def short_probes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(circuit_breaker, "FIRST_PROBE_S", 0.05)
    monkeypatch.setattr(circuit_breaker, "MAX_PROBE_S", 0.2)


def test_an_outage_in_the_middle_burns_no_row(endpoint: Endpoint, capsys: pytest.CaptureFixture[str]) -> None:
    """The endpoint is dead for 2 s after 400 answers, which is 20 times what all attempts of a row take."""
    dead: list[float] = []

    def behaviour(seen: Seen, here: Endpoint) -> Response | None:
        if len(here.seen) < 400 or (dead and time.monotonic() > dead[0] + 2.0):
            return None
        dead.append(time.monotonic())
        return error(502, "bad gateway")

    endpoint.behaviour = behaviour
    teacher = teacher_of(config(endpoint, remote={"max_attempts": 3, "max_concurrent_requests": 32}))
    results = ask(teacher, *rows(1500))
    assert [result for result in results if not isinstance(result, Generation)] == []
    assert capsys.readouterr().err.count("pausing until it answers") == 1
    assert endpoint.statuses().count(502) < 32 + 64, "the outage is probed, not hammered"
    assert endpoint.statuses().count(200) == 1500


def test_a_row_that_always_fails_opens_nothing(endpoint: Endpoint, capsys: pytest.CaptureFixture[str]) -> None:
    endpoint.behaviour = lambda seen, _: error(500, "boom") if seen.question in ("row 3", "row 7") else None
    teacher = teacher_of(config(endpoint, remote={"max_attempts": 4}))
    results = ask(teacher, *rows(60))
    failed = [i for i, result in enumerate(results) if isinstance(result, PromptRefusedError)]
    assert (failed, capsys.readouterr().err) == ([3, 7], "")


def test_an_endpoint_that_stays_dead_fails_the_stage(endpoint: Endpoint) -> None:
    endpoint.behaviour = lambda *_: error(503, "down")
    teacher = teacher_of(config(endpoint, remote={"max_attempts": 9, "max_outage_s": 0.5}))
    assert {type(result) for result in ask(teacher, *rows(40))} == {TeacherUnusableError}
    with pytest.raises(TeacherUnusableError, match=r"has not answered for .* teacher.remote.max_outage_s is 0.5"):
        one(teacher)


def test_one_probe_at_a_time_and_a_late_answer_closes() -> None:
    now = 0.0
    breaker = CircuitBreaker("url", 60.0, lambda: now)
    for _ in range(20):
        breaker.record(False)
    assert breaker.is_open
    now = 1.0

    async def probes() -> list[bool | None]:
        return [await asyncio.wait_for(breaker.admit(), 0.05) for _ in range(2)]

    with pytest.raises(TimeoutError):
        asyncio.run(probes())
    breaker.record(False, probe=True)
    assert breaker.is_open
    breaker.record(True)
    assert not breaker.is_open
    assert asyncio.run(breaker.admit()) is False
