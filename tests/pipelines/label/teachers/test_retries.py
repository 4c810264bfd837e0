"""What a remote teacher tries again, how it slows down, and how requests end."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from email.utils import formatdate
from typing import Any

import pytest
from fastapi.responses import JSONResponse, Response

from pipelines.label.teachers import http_errors
from pipelines.label.teachers.base import (
    Generation,
    PromptRefusedError,
)
from pipelines.label.teachers.http_errors import retry_after_s, wait_s
from tests.support.remote_teacher import ask, config, one, prompt, rows, teacher_of
from tests.support.teacher_endpoint import Endpoint, Seen, error


def storm(share: float, headers: dict[str, str] | None = None) -> Any:
    """A behaviour: this share of the requests is refused, by a seeded coin."""
    coin = random.Random(1)
    return lambda seen, endpoint: error(429, "slow down", headers=headers) if coin.random() < share else None


def test_a_storm_of_429_loses_and_doubles_no_row(endpoint: Endpoint) -> None:
    endpoint.behaviour = storm(0.5, {"retry-after-ms": "20"})
    teacher = teacher_of(config(endpoint, remote={"max_concurrent_requests": 16, "max_attempts": 30}))
    results = ask(teacher, *rows(100))
    assert [r.samples[0].text for r in results if isinstance(r, Generation)] == [
        f"answer 0 with seed None to row {number}" for number in range(100)
    ]
    answered = Counter(seen.question for seen in endpoint.seen if seen.status == 200)
    assert len(answered) == 100
    assert set(answered.values()) == {1}
    assert Counter(endpoint.statuses())[429] == len(endpoint.seen) - 100 > 20
    assert teacher.admission.limit.lowest < 4


def test_the_limit_falls_to_what_the_endpoint_takes_and_recovers(endpoint: Endpoint) -> None:
    """The endpoint takes 4 at a time; then as many as come."""
    endpoint.latency_s = 0.02
    endpoint.behaviour = lambda seen, e: error(429, "too many") if e.working >= 4 else None
    teacher = teacher_of(config(endpoint, remote={"max_concurrent_requests": 32, "max_attempts": 50}))
    limit = teacher.admission.limit

    async def run() -> tuple[list[Generation], int, list[Generation]]:
        crowded = await asyncio.gather(*(teacher.answer(p) for p in rows(150)))
        fallen = limit.value
        endpoint.behaviour = lambda seen, e: None
        endpoint.most_working = 0
        free = await asyncio.gather(*(teacher.answer(p) for p in rows(400)))
        await teacher.aclose()
        return crowded, fallen, free

    crowded, fallen, free = asyncio.run(run())
    assert (len(crowded), len(free)) == (150, 400)
    assert limit.lowest <= 4
    assert fallen <= 8
    assert limit.value > fallen + 10
    assert endpoint.most_working > 8


@pytest.mark.parametrize(
    "headers",
    [{"retry-after": "1"}, {"retry-after-ms": "1000"}, {"retry-after": "DATE"}],
    ids=["seconds", "milliseconds", "date"],
)
def test_retry_after_pauses_the_whole_teacher(endpoint: Endpoint, headers: dict[str, str]) -> None:
    """Row 0 is refused; rows 1 to 5, that come meanwhile, are not sent before the second is over."""
    refused_at: list[float] = []

    def once(seen: Seen, _: Endpoint) -> Response | None:
        if refused_at:
            return None
        refused_at.append(time.monotonic())
        now = time.time()  # an HTTP date has whole seconds: 2 s later is 1 to 2 s from now
        dated = {"retry-after": formatdate(now + 2, usegmt=True)} if headers.get("retry-after") == "DATE" else headers
        return error(429, "slow down", headers=dated)

    endpoint.behaviour = once
    teacher = teacher_of(config(endpoint))

    async def run() -> None:
        first = asyncio.create_task(teacher.answer(prompt("row 0")))
        while not teacher.admission.pause_s:
            await asyncio.sleep(0.005)
        await asyncio.gather(first, *(teacher.answer(p) for p in rows(6)[1:]))
        await teacher.aclose()

    asyncio.run(run())
    assert len(endpoint.seen) == 7
    waits = [seen.at_s - refused_at[0] for seen in endpoint.seen[1:]]
    assert min(waits) >= 0.98
    assert max(waits) < 4


@pytest.mark.parametrize("status", [408, 409, 500, 502, 503, 529])
def test_what_heals_is_tried_again(endpoint: Endpoint, status: int) -> None:
    endpoint.behaviour = lambda seen, e: error(status, "not now") if len(e.seen) < 3 else None
    assert one(teacher_of(config(endpoint))).samples
    assert endpoint.statuses() == [status, status, 200]


def truncated(seen: Seen, e: Endpoint) -> Response | None:
    return Response('{"choices": [{"text": "4 - 2', media_type="application/json") if len(e.seen) < 3 else None


def broken_off(seen: Seen, e: Endpoint) -> Response | None:
    """Promises more than it sends: the connection ends in the middle of the answer."""
    headers = {"content-length": "5000"}
    return Response('{"choices": [', media_type="application/json", headers=headers) if len(e.seen) < 3 else None


def empty(seen: Seen, e: Endpoint) -> Response | None:
    return JSONResponse({"choices": [], "error": "upstream failed"}) if len(e.seen) < 3 else None


def not_json(seen: Seen, e: Endpoint) -> Response | None:
    return Response("<html>a proxy's page</html>", media_type="text/html") if len(e.seen) < 3 else None


@pytest.mark.parametrize("behaviour", [truncated, broken_off, empty, not_json])
def test_an_unreadable_answer_is_asked_for_again(endpoint: Endpoint, behaviour: Any) -> None:
    endpoint.behaviour = behaviour
    assert one(teacher_of(config(endpoint))).samples
    assert len(endpoint.seen) == 3


def test_what_may_have_been_worked_on_is_charged(endpoint: Endpoint) -> None:
    endpoint.behaviour = truncated
    teacher = teacher_of(config(endpoint))
    one(teacher, "x" * 30)
    assert teacher.meter.used == (2 * 10 + 20, 2 * 30 + 10)


def test_attempts_have_an_end(endpoint: Endpoint) -> None:
    endpoint.behaviour = lambda seen, e: error(500, "boom")
    with pytest.raises(PromptRefusedError, match="engine_error: 3 attempts failed; the last: HTTP 500: boom"):
        one(teacher_of(config(endpoint, remote={"max_attempts": 3})))
    assert endpoint.statuses() == [500] * 3


def test_an_endpoint_that_hangs_is_given_up(endpoint: Endpoint) -> None:
    endpoint.latency_s = 30
    with pytest.raises(PromptRefusedError, match=r"no answer within remote.timeout_s") as caught:
        one(teacher_of(config(endpoint, remote={"timeout_s": 0.3, "max_attempts": 2})))
    assert caught.value.reason == "engine_error"
    assert len(endpoint.seen) == 2
    assert until(lambda: endpoint.disconnected == 2), "the connections of given-up requests are closed"


def test_nobody_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_errors, "FIRST_WAIT_S", 0.01)
    teacher = teacher_of(config(remote={"max_attempts": 3}, budget={"tokens": 1000}))
    with pytest.raises(PromptRefusedError, match="3 attempts failed; the last: ConnectError"):
        one(teacher)
    assert teacher.meter.used == (0, 0), "nothing was sent, nothing is charged"


def test_cancelled_requests_close(endpoint: Endpoint) -> None:
    endpoint.latency_s = 30
    teacher = teacher_of(config(endpoint, remote={"max_concurrent_requests": 2}))

    async def run() -> None:
        tasks = [asyncio.create_task(teacher.answer(p)) for p in rows(5)]
        while len(endpoint.seen) < 2:
            await asyncio.sleep(0.01)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert teacher.admission.in_flight == 0
        while endpoint.disconnected < 2:
            await asyncio.sleep(0.01)
        await teacher.aclose()

    asyncio.run(asyncio.wait_for(run(), 10))
    assert len(endpoint.seen) == 2, "those that waited for their turn were never sent"
    assert endpoint.working == 0


def until(holds: Any) -> bool:
    deadline = time.monotonic() + 5
    while not holds() and time.monotonic() < deadline:
        time.sleep(0.01)
    return bool(holds())


# How long to wait


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after": "-3"}, 0.0),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "7", "retry-after-ms": "250"}, 0.25),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}, 80.0),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT", "date": "Wed, 21 Oct 2015 07:27:55 GMT"}, 5.0),
        ({"retry-after": "Wed, 21 Oct 2015 07:20:00 GMT"}, 0.0),
    ],
)
def test_retry_after(headers: dict[str, str], seconds: float | None) -> None:
    now = 1445412400.0  # Wed, 21 Oct 2015 07:26:40 GMT
    assert retry_after_s(headers, now) == seconds


def test_waits_grow_up_to_a_ceiling_with_full_jitter() -> None:
    chance = random.Random(0)
    for attempt, ceiling in [(1, 0.5), (2, 1.0), (5, 8.0), (8, 60.0), (1000, 60.0)]:
        waits = [wait_s(attempt, None, chance) for _ in range(2000)]
        assert 0 <= min(waits) < 0.05 * ceiling
        assert 0.95 * ceiling < max(waits) <= ceiling
    assert 3.0 <= wait_s(1, 3.0, chance) <= 3.5
