"""The remote teacher against a real HTTP server on this machine (endpoint.py)."""

from __future__ import annotations

import asyncio
import logging
import pickle
import random
import re
import time
from collections import Counter
from collections.abc import Iterator
from email.utils import formatdate
from typing import Any

import pytest
from fastapi.responses import JSONResponse, Response

from pipelines.config import TeacherConfig
from pipelines.errors import UserError
from pipelines.label.secret import Secret
from pipelines.label.teachers import failures
from pipelines.label.teachers.base import (
    BudgetExhaustedError,
    Generation,
    Prompt,
    PromptRefusedError,
    TeacherUnusableError,
)
from pipelines.label.teachers.failures import retry_after_s, wait_s
from pipelines.label.teachers.openai import OpenaiTeacher, check_remote, remote_key
from pipelines.tasks import Example, load_task, task_spec
from tests.pipelines.label.teachers.endpoint import KEY, Endpoint, Seen, error, running_endpoint

TASK = load_task(task_spec("arithmetic", {}))


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[Endpoint]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(failures, "FIRST_WAIT_S", 0.02)
    monkeypatch.setattr(failures, "MAX_WAIT_S", 0.2)
    with running_endpoint() as running:
        yield running


def config(endpoint: Endpoint | None = None, **changes: Any) -> TeacherConfig:
    remote = {
        "url": endpoint.url if endpoint else "http://127.0.0.1:9/v1",
        "timeout_s": 10.0,
        **changes.pop("remote", {}),
    }
    values = {"engine": "openai", "model": "m", "remote": remote, "sampling": {"max_tokens": 30}, **changes}
    return TeacherConfig.model_validate(values)


def prompt(text: str, chat: bool = False) -> Prompt:
    messages = ({"role": "system", "content": "Be brief."}, {"role": "user", "content": text}) if chat else ()
    return Prompt(Example(text, text, None), text, messages)


def teacher_of(settings: TeacherConfig, **more: Any) -> OpenaiTeacher:
    return OpenaiTeacher(settings, TASK, **{"key": Secret(KEY), **more})


def ask(teacher: OpenaiTeacher, *prompts: Prompt) -> list[Generation | BaseException]:
    """All at once; what each came to, in order."""

    async def all_of_them() -> list[Generation | BaseException]:
        try:
            return await asyncio.gather(*(teacher.answer(p) for p in prompts), return_exceptions=True)
        finally:
            await teacher.aclose()

    return asyncio.run(all_of_them())


def one(teacher: OpenaiTeacher, text: str = "row", chat: bool = False) -> Generation:
    [result] = ask(teacher, prompt(text, chat))
    if isinstance(result, BaseException):
        raise result
    return result


def rows(count: int) -> list[Prompt]:
    return [prompt(f"row {number}") for number in range(count)]


# What is asked, and what comes back


def test_plain_prompts_go_to_completions_with_the_stops(endpoint: Endpoint) -> None:
    generation = one(teacher_of(config(endpoint)))
    assert generation.samples[0].text == "answer 0 with seed None to row"
    assert (generation.prompt_tokens, generation.samples[0].tokens, generation.samples[0].finish_reason) == (
        20,
        10,
        "stop",
    )
    [seen] = endpoint.seen
    assert seen.path == "/v1/completions"
    assert seen.body == {"model": "m", "prompt": "row", "max_tokens": 30, "temperature": 0.0, "stop": list(TASK.stops)}


def test_chat_prompts_go_to_chat_completions_with_their_messages(endpoint: Endpoint) -> None:
    sampling = {"n": 3, "temperature": 0.7, "top_p": 0.9, "seed": 5, "max_tokens": 30}
    generation = one(teacher_of(config(endpoint, prompt="chat", sampling=sampling)), chat=True)
    assert [s.text for s in generation.samples] == [f"answer {i} with seed 5 to row" for i in range(3)]
    assert sum(s.tokens for s in generation.samples) == 30
    [seen] = endpoint.seen
    assert seen.path == "/v1/chat/completions"
    assert seen.body == {
        "model": "m", "max_tokens": 30, "temperature": 0.7, "top_p": 0.9, "seed": 5, "n": 3,
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "row"}],
    }  # fmt: skip


@pytest.mark.parametrize("at_most", [1, 2, 3])
def test_an_endpoint_that_gives_fewer_choices_is_asked_for_the_missing_ones(endpoint: Endpoint, at_most: int) -> None:
    endpoint.choices_at_most = at_most
    teacher = teacher_of(config(endpoint, sampling={"n": 4, "temperature": 1.0, "max_tokens": 30}))
    first, second = (ask(teacher, prompt("a")), ask_again(teacher, endpoint))
    assert isinstance(first[0], Generation)
    assert len(first[0].samples) == 4
    assert len({s.text for s in first[0].samples}) == 4, "each of the samples is another one"
    requests = -(-4 // at_most)
    assert first[0].prompt_tokens == 20 * requests
    assert sum(s.tokens for s in first[0].samples) == 40
    assert len(second) == requests, "what the endpoint is like is learned once"


def ask_again(teacher: OpenaiTeacher, endpoint: Endpoint) -> list[Seen]:
    before = len(endpoint.seen)
    teacher._client = None  # ask() ended the loop that the client belonged to
    ask(teacher, prompt("b"))
    return endpoint.seen[before:]


def test_an_endpoint_that_refuses_n_is_asked_one_by_one(endpoint: Endpoint) -> None:
    endpoint.behaviour = lambda seen, _: error(400, "n must be 1", param="n") if seen.body.get("n", 1) > 1 else None
    generation = one(teacher_of(config(endpoint, sampling={"n": 3, "temperature": 1.0, "max_tokens": 30})))
    assert len({s.text for s in generation.samples}) == 3
    assert Counter(endpoint.statuses()) == {400: 1, 200: 3}


def test_an_endpoint_that_knows_the_limit_by_another_name(endpoint: Endpoint) -> None:
    message = (
        "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead."
    )
    endpoint.behaviour = lambda seen, _: (
        error(400, message, "unsupported_parameter", param="max_tokens") if "max_tokens" in seen.body else None
    )
    results = ask(
        teacher_of(config(endpoint, prompt="chat")), *(prompt(f"row {number}", chat=True) for number in range(3))
    )
    assert [type(result) for result in results] == [Generation] * 3
    assert {seen.body["max_completion_tokens"] for seen in endpoint.seen if seen.status == 200} == {30}


@pytest.mark.parametrize(
    ("theirs", "ours"), [("stop", "stop"), ("length", "length"), ("content_filter", "content_filter")]
)
def test_finish_reasons(endpoint: Endpoint, theirs: str, ours: str) -> None:
    endpoint.finish_reason = theirs
    assert one(teacher_of(config(endpoint))).samples[0].finish_reason == ours


def test_without_usage_tokens_are_estimated(endpoint: Endpoint) -> None:
    endpoint.usage = False
    generation = one(teacher_of(config(endpoint)), "x" * 300)
    assert generation.prompt_tokens == 100
    assert generation.samples[0].tokens > 100


# What heals


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
    monkeypatch.setattr(failures, "FIRST_WAIT_S", 0.01)
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


# What does not heal


@pytest.mark.parametrize(
    ("status", "message", "code", "reason"),
    [
        (400, "bad prompt", None, "engine_error"),
        (422, "no such field", None, "engine_error"),
        (400, "whatever", "context_length_exceeded", "too_long"),
        (400, "This model's maximum context length is 512 tokens, you requested 600.", None, "too_long"),
        (400, "prompt is too long: 210000 tokens > 200000 maximum", None, "too_long"),
        (413, "Request Entity Too Large", None, "too_long"),
    ],
)
def test_a_refused_prompt_is_not_asked_again(
    endpoint: Endpoint, status: int, message: str, code: str, reason: str
) -> None:
    endpoint.behaviour = lambda seen, _: error(status, message, code) if seen.question == "bad" else None
    teacher = teacher_of(config(endpoint))
    refused, fine = ask(teacher, prompt("bad"), prompt("good"))
    assert isinstance(refused, PromptRefusedError)
    assert (refused.reason, refused.detail) == (reason, f"HTTP {status}: {message}")
    assert isinstance(fine, Generation)
    assert len(endpoint.seen) == 2
    assert teacher.meter.used == (20, 10), "refused prompts cost nothing"


@pytest.mark.parametrize(
    ("status", "message", "code", "headers"),
    [
        (401, "who are you", "invalid_api_key", {}),
        (402, "insufficient balance", None, {}),
        (403, "not you", None, {}),
        (404, "The model `m` does not exist", "model_not_found", {}),
        (404, "Not Found", None, {}),
        (429, "You exceeded your current quota", "insufficient_quota", {}),
        (429, "daily limit", None, {"retry-after": "43200"}),
    ],
)
def test_what_no_row_is_to_blame_for_stops_the_teacher(
    endpoint: Endpoint, status: int, message: str, code: str | None, headers: dict[str, str]
) -> None:
    endpoint.behaviour = lambda seen, _: error(status, message, code, headers)
    results = ask(teacher_of(config(endpoint, remote={"max_concurrent_requests": 3})), *rows(20))
    assert {type(result) for result in results} == {TeacherUnusableError}
    assert message in str(results[0])
    assert endpoint.url in str(results[-1])
    assert len(endpoint.seen) <= 3, "what waited for its turn is not sent any more"
    again = pickle.loads(pickle.dumps(results[0]))  # noqa: S301
    assert (type(again), str(again)) == (TeacherUnusableError, str(results[0]))


# The key


def test_the_key_is_shown_nowhere(
    endpoint: Endpoint, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """A wrong key, an endpoint that quotes it in every kind of error, all logs on."""
    wrong = "sk-wrong-91c4e0"
    caplog.set_level(logging.DEBUG)
    shown = []
    for behaviour in (401, 400, 500):
        endpoint.behaviour = lambda seen, _, status=behaviour: error(status, f"your key {KEY} is {wrong}")  # type: ignore[misc]
        for key in (wrong, KEY):
            teacher = teacher_of(config(endpoint, remote={"max_attempts": 2}), key=Secret(key))
            [problem] = ask(teacher, prompt("row"))
            assert isinstance(problem, TeacherUnusableError | PromptRefusedError)
            logging.getLogger("test").error("failed", exc_info=problem)
            links = [problem, problem.__cause__, problem.__context__]
            texts = [str(problem), repr(problem), repr(links), repr(teacher.__dict__), str(pickle.dumps(problem))]
            shown += [text for text in texts if key in text]
            shown += [record for record in caplog.text.splitlines() if key in record]
            caplog.clear()
    output = capfd.readouterr()
    assert not shown
    assert wrong not in output.out + output.err
    assert KEY not in output.out + output.err


def test_a_secret_shows_itself_only_when_asked() -> None:
    secret = Secret(KEY)
    assert f"{secret} {secret!r} {[secret]} {vars(type(secret))}".count(KEY) == 0
    assert pickle.loads(pickle.dumps(secret)).reveal() == KEY  # noqa: S301
    assert secret.scrub(f"Bearer {KEY}!") == "Bearer ***!"


def test_the_key_comes_from_the_named_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = config(remote={"key_variable": "OUR_KEY"})
    monkeypatch.setenv("OUR_KEY", f" {KEY}\n")
    check_remote(settings)
    assert remote_key(settings).reveal() == KEY
    monkeypatch.delenv("OUR_KEY")
    with pytest.raises(UserError, match=r"key_variable OUR_KEY: this environment variable is not set. Export OUR_KEY"):
        check_remote(settings)
    with pytest.raises(UserError):
        OpenaiTeacher(settings, TASK)
    monkeypatch.setenv("OUR_KEY", f"{KEY}\nsecond line")
    with pytest.raises(UserError) as caught:
        check_remote(settings)
    assert KEY not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"remote": {"url": "host/v1"}}, "not an http or https URL"),
        ({"remote": {"url": "https://me:secret@host/v1"}}, "would end in logs"),
        ({"remote": {"max_concurrent_requests": 1001}}, "the client holds 1000 connections"),
        ({"replicas": {"min": 1, "max": 2}, "budget": {"tokens": 10}}, "each replica counts for itself"),
    ],
)
def test_wrong_settings_are_found_before_anything_is_sent(
    monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], message: str
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with pytest.raises(UserError, match=re.escape(message)) as caught:
        check_remote(config(**changes))
    assert "secret" not in str(caught.value)


# The budget


def test_the_budget_stops_within_what_a_request_may_use(endpoint: Endpoint) -> None:
    """An answered row uses 30 tokens; a request reserves 2 for its prompt and 30 for its answer."""
    endpoint.latency_s = 0.01
    teacher = teacher_of(config(endpoint, budget={"tokens": 1000}, remote={"max_concurrent_requests": 4}))
    results = ask(teacher, *rows(100))
    answered = [r for r in results if isinstance(r, Generation)]
    assert {type(r) for r in results} == {Generation, BudgetExhaustedError}
    assert len(answered) == len(endpoint.seen), "what was sent was answered, and nothing was sent after the end"
    used = sum(teacher.meter.used)
    assert used == 30 * len(answered)
    assert 1000 - 4 * 33 < used <= 1000
    assert teacher.meter.reserved == (0, 0)


def test_a_resumed_run_has_what_is_left(endpoint: Endpoint) -> None:
    results = ask(teacher_of(config(endpoint, budget={"tokens": 1000}), used=(600, 340)), *rows(10))
    assert sum(isinstance(r, Generation) for r in results) == len(endpoint.seen) == 1


def test_what_may_have_been_worked_on_is_charged(endpoint: Endpoint) -> None:
    endpoint.behaviour = truncated
    teacher = teacher_of(config(endpoint))
    one(teacher, "x" * 30)
    assert teacher.meter.used == (2 * 10 + 20, 2 * 30 + 10)


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
