"""What failures of a remote endpoint mean: retry, slow down, refuse the row, or stop."""

import asyncio
import pickle
import random
import time
from collections import Counter

import pytest
from fastapi.responses import Response

from pipelines.label.teachers.base import Generation, PromptRefusedError, TeacherUnusableError
from pipelines.label.teachers.http_errors import quota_pause_s, retry_after_s, wait_s
from tests.support.remote_teacher import ask, config, one, prompt, rows, teacher_of
from tests.support.teacher_endpoint import TRANSIENT, Endpoint, Seen, error, normal_answer
from tests.support.waiting import until


def test_a_storm_of_429_loses_and_doubles_no_row(endpoint: Endpoint) -> None:
    coin = random.Random(1)
    slow_down = error(429, "slow down", headers={"retry-after-ms": "20"})
    endpoint.behaviour = lambda seen, _: slow_down if coin.random() < 0.5 else None
    teacher = teacher_of(config(endpoint, remote={"max_concurrent_requests": 16, "max_attempts": 30}))
    results = ask(teacher, *rows(100))
    texts = [r.samples[0].text for r in results if isinstance(r, Generation)]
    assert texts == [f"answer 0 with seed None to row {number}" for number in range(100)]
    answered = Counter(seen.question for seen in endpoint.seen if seen.status == 200)
    assert (len(answered), set(answered.values())) == (100, {1})
    assert Counter(endpoint.statuses())[429] == len(endpoint.seen) - 100 > 20
    assert teacher.admission.limit.epoch > 0, "it was halved"


def test_retry_after_pauses_the_whole_teacher(endpoint: Endpoint) -> None:
    """Row 0 is refused. Rows 1 to 5, which come meanwhile, are not sent before the second is over."""
    refused_at: list[float] = []

    def refuse_once(seen: Seen, _: Endpoint) -> Response | None:
        if refused_at:
            return None
        refused_at.append(time.monotonic())
        return error(429, "slow down", headers={"retry-after": "1"})

    endpoint.behaviour = refuse_once
    teacher = teacher_of(config(endpoint))

    async def run() -> None:
        first = asyncio.create_task(teacher.answer(prompt("row 0")))
        await until(lambda: teacher.admission.pause_s > 0)
        await asyncio.gather(first, *(teacher.answer(p) for p in rows(6)[1:]))
        await teacher.aclose()

    asyncio.run(run())
    assert len(endpoint.seen) == 7
    assert all(0.98 <= seen.at_s - refused_at[0] < 4 for seen in endpoint.seen[1:])


@pytest.mark.parametrize("failure", TRANSIENT)
def test_transient_failures_are_retried(endpoint: Endpoint, failure: str) -> None:
    endpoint.behaviour = lambda seen, e: TRANSIENT[failure]() if len(e.seen) < 3 else None
    teacher = teacher_of(config(endpoint))
    assert one(teacher, "x" * 30).samples
    assert len(endpoint.seen) == 3
    charged = (0, 0) if failure.isdigit() else (2 * 10, 2 * 30)  # of an unreadable answer nobody knows the tokens
    assert teacher.meter.used[:2] == (charged[0] + 20, charged[1] + 10)


def test_requests_to_a_hanging_endpoint_end_and_close(endpoint: Endpoint) -> None:
    endpoint.latency_s = 30
    with pytest.raises(PromptRefusedError, match=r"no answer within remote.timeout_s") as caught:
        one(teacher_of(config(endpoint, remote={"timeout_s": 0.3, "max_attempts": 2})))
    assert caught.value.reason == "engine_error"
    assert len(endpoint.seen) == 2
    asyncio.run(until(lambda: endpoint.disconnected == 2))


@pytest.mark.parametrize(("listens", "last"), [(True, "HTTP 500: boom"), (False, "ConnectError")])
def test_attempts_have_an_end(endpoint: Endpoint, listens: bool, last: str) -> None:
    endpoint.behaviour = lambda seen, e: error(500, "boom")
    teacher = teacher_of(config(endpoint if listens else None, remote={"max_attempts": 3}, budget={"tokens": 1000}))
    with pytest.raises(PromptRefusedError, match=f"engine_error: 3 attempts failed; the last: {last}"):
        one(teacher)
    assert endpoint.statuses() == [500] * 3 * listens
    assert teacher.meter.used[:2] == (0, 0), "an error of the endpoint costs nothing"


def test_cancelled_requests_close(endpoint: Endpoint) -> None:
    endpoint.latency_s = 30
    teacher = teacher_of(config(endpoint, remote={"max_concurrent_requests": 2}))

    async def run() -> None:
        tasks = [asyncio.create_task(teacher.answer(p)) for p in rows(5)]
        await until(lambda: len(endpoint.seen) == 2)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert teacher.admission.in_flight == 0
        await until(lambda: endpoint.disconnected == 2)
        await teacher.aclose()

    asyncio.run(run())
    assert len(endpoint.seen) == 2, "requests that waited for admission are never sent"
    assert endpoint.working == 0


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None), ({"retry-after": "7"}, 7.0), ({"retry-after": "0.5"}, 0.5), ({"retry-after": "-3"}, 0.0),
        ({"retry-after": "soon"}, None), ({"retry-after": "nan"}, None),
        ({"retry-after": "7", "retry-after-ms": "250"}, 0.25),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}, 80.0),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT", "date": "Wed, 21 Oct 2015 07:27:55 GMT"}, 5.0),
        ({"retry-after": "Wed, 21 Oct 2015 07:20:00 GMT"}, 0.0),
    ],
)  # fmt: skip
def test_retry_after_is_read_in_every_form(
    headers: dict[str, str], seconds: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.time", lambda: 1445412400.0)  # Wed, 21 Oct 2015 07:26:40 GMT
    assert retry_after_s(headers) == seconds


def test_waits_grow_to_a_ceiling_with_full_jitter() -> None:
    chance = random.Random(0)
    for attempt, ceiling in [(1, 0.5), (2, 1.0), (5, 8.0), (8, 60.0), (1000, 60.0)]:
        waits = [wait_s(attempt, None, chance) for _ in range(2000)]
        assert 0 <= min(waits) < 0.05 * ceiling
        assert 0.95 * ceiling < max(waits) <= ceiling
    assert 3.0 <= wait_s(1, 3.0, chance) <= 3.5


@pytest.mark.parametrize(
    ("status", "message", "code", "reason"),
    [
        (400, "bad prompt", None, "engine_error"),
        (400, "whatever", "context_length_exceeded", "too_long"),
        (400, "This model's maximum context length is 512 tokens, you requested 600.", None, "too_long"),
        (400, "prompt is too long: 210000 tokens > 200000 maximum", None, "too_long"),
        (413, "Request Entity Too Large", None, "too_long"),
    ],
)
def test_a_refused_prompt_is_not_retried(endpoint: Endpoint, status: int, message: str, code: str, reason: str) -> None:
    endpoint.behaviour = lambda seen, _: error(status, message, code) if seen.question == "bad" else None
    teacher = teacher_of(config(endpoint))
    refused, fine = ask(teacher, prompt("bad"), prompt("good"))
    assert (type(refused), refused.reason, refused.detail) == (PromptRefusedError, reason, f"HTTP {status}: {message}")
    assert (type(fine), len(endpoint.seen)) == (Generation, 2)
    assert teacher.meter.used[:2] == (20, 10), "refused prompts cost nothing"


@pytest.mark.parametrize(
    ("status", "message", "code", "headers"),
    [
        *[(status, "not for you", None, {}) for status in (401, 402, 403, 404, 405)],
        (400, "no such model", "model_not_found", {}),
        (429, "You exceeded your current quota", "insufficient_quota", {}),
        (429, "daily limit", None, {"retry-after": "43200"}),
    ],
)
def test_a_fault_of_no_row_stops_the_teacher(
    endpoint: Endpoint, status: int, message: str, code: str | None, headers: dict[str, str]
) -> None:
    endpoint.behaviour = lambda seen, _: error(status, message, code, headers)
    results = ask(teacher_of(config(endpoint, remote={"max_concurrent_requests": 3})), *rows(20))
    assert {type(result) for result in results} == {TeacherUnusableError}
    assert all(message in str(result) and endpoint.url in str(result) for result in results)
    assert len(endpoint.seen) == 1, "the others wait for the first result"
    again = pickle.loads(pickle.dumps(results[0]))  # noqa: S301
    assert (type(again), str(again)) == (TeacherUnusableError, str(results[0]))


@pytest.mark.parametrize(
    ("headers", "pause_s"),
    [
        ({}, 0.0), ({"x-ratelimit-remaining-requests": "3", "x-ratelimit-reset-requests": "2s"}, 0.0),
        ({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "2s"}, 2.0),
        ({"x-ratelimit-remaining-tokens": "99", "x-ratelimit-reset-tokens": "20ms"}, 0.02),
        ({"x-ratelimit-remaining-tokens": "99", "x-ratelimit-reset-tokens": "6m0s"}, 60.0),
        ({"x-ratelimit-remaining-tokens": "100", "x-ratelimit-reset-tokens": "6m0s"}, 0.0),
        ({"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "soon"}, 0.0), ({"x-ratelimit-remaining-tokens": "many"}, 0.0),
    ],
)  # fmt: skip
def test_an_empty_quota_pauses_until_its_reset(headers: dict[str, str], pause_s: float) -> None:
    assert quota_pause_s(headers, tokens=100) == pytest.approx(pause_s)


def test_requests_wait_for_the_quota(endpoint: Endpoint) -> None:
    """Two requests per 0.3 s. An endpoint that says so refuses nothing."""

    def limited(seen: Seen, here: Endpoint) -> Response:
        recent = sum(other.at_s > seen.at_s - 0.3 for other in here.seen) - 1
        if recent >= 2:
            return error(429, "slow down")
        answer = normal_answer(seen, here)
        answer.headers["x-ratelimit-remaining-requests"] = str(1 - recent)
        answer.headers["x-ratelimit-reset-requests"] = "320ms"
        return answer

    endpoint.behaviour = limited
    results = ask(teacher_of(config(endpoint, remote={"max_concurrent_requests": 1})), *rows(6))
    assert [type(result) for result in results] == [Generation] * 6
    assert endpoint.statuses() == [200] * 6
