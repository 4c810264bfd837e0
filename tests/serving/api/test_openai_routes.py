"""OpenAI's API, called by its official client and by hand. Fake students answer from a table."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from typing import Any

import httpx
import openai
import pytest
from fastapi.testclient import TestClient
from starlette.requests import ClientDisconnect

from pipelines.config.serving import ServingConfig
from pipelines.students.decoding import Sampling
from serving.api.errors import ApiError
from serving.messages import TextRequest
from tests.support.fake_students import FakeMetrics, FakeStudents, app_of, card, client_of


@pytest.fixture
def students() -> FakeStudents:
    return FakeStudents(labels={"[label] one": "1 + 1 is two", "one": "two"})


@pytest.fixture
def metrics() -> FakeMetrics:
    return FakeMetrics()


@pytest.fixture
def client(students: FakeStudents, metrics: FakeMetrics) -> TestClient:
    return client_of([card("sums"), card("other", family="decoder-only")], students, ServingConfig(), metrics)


@pytest.fixture
def official(client: TestClient) -> openai.OpenAI:
    return openai.OpenAI(base_url="http://testserver/v1", api_key="none", http_client=client, max_retries=0)


def test_a_completion_continues_its_prompt(official: openai.OpenAI, students: FakeStudents) -> None:
    made = official.completions.create(model="sums", prompt="[label] one", max_tokens=7, stop=["\n"])
    assert (made.object, made.model, made.choices[0].text, made.choices[0].finish_reason) == (
        "text_completion", "sums", "1 + 1 is two", "stop",
    )  # fmt: skip
    assert made.usage is not None
    assert (made.usage.prompt_tokens, made.usage.completion_tokens, made.usage.total_tokens) == (10, 4, 14)
    assert students.requests == [("sums", TextRequest("[label] one", True, 7, None, ("\n",)))]


def test_several_prompts_get_several_choices(official: openai.OpenAI) -> None:
    made = official.completions.create(model="sums", prompt=["[label] one", "else"])
    assert [(c.index, c.text) for c in made.choices] == [(0, "1 + 1 is two"), (1, "4 - 1")]
    assert made.usage is not None
    assert made.usage.total_tokens == 28


def test_a_chat_is_an_input_of_the_task(official: openai.OpenAI, students: FakeStudents) -> None:
    made = official.chat.completions.create(
        model="other", messages=[{"role": "user", "content": " one "}], temperature=0.5, top_p=0.9, seed=3, max_tokens=5
    )
    assert (made.choices[0].message.role, made.choices[0].message.content) == ("assistant", "two")
    assert students.requests == [("other", TextRequest("one", False, 5, Sampling(0.5, 3, top_p=0.9)))]
    parts: Any = [{"type": "text", "text": "o"}, {"type": "text", "text": "ne"}]
    again = official.chat.completions.create(
        model="other", messages=[{"role": "user", "content": parts}], max_completion_tokens=6
    )
    assert again.choices[0].message.content == "two"
    assert students.requests[-1] == ("other", TextRequest("one", False, 6))


def test_a_stream_ends_with_usage_if_requested(
    official: openai.OpenAI, students: FakeStudents, metrics: FakeMetrics
) -> None:
    stream = official.completions.create(
        model="sums", prompt="[label] one", stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    assert "".join(c.text for chunk in chunks for c in chunk.choices) == "1 + 1 is two"
    assert [c.finish_reason for chunk in chunks for c in chunk.choices] == [None] * 4 + ["stop"]
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.total_tokens == 15
    assert len({chunk.id for chunk in chunks}) == 1
    chat = list(
        official.chat.completions.create(model="sums", messages=[{"role": "user", "content": "one"}], stream=True)
    )
    assert chat[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chat) == "two"
    assert all(chunk.usage is None for chunk in chat)
    assert students.closed_streams == 2
    assert metrics.first_tokens == ["sums", "sums"]
    assert metrics.token_counts == [("sums", 10, 5), ("sums", 10, 1)]


def test_a_stream_is_server_sent_events(client: TestClient) -> None:
    response = client.post("/v1/completions", json={"model": "sums", "prompt": "one", "stream": True})
    assert response.headers["content-type"].startswith("text/event-stream")
    events = response.text.split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""]
    assert json.loads(events[0].removeprefix("data: "))["choices"][0]["text"] == "two"


def test_an_error_before_the_first_piece_has_a_status(official: openai.OpenAI, students: FakeStudents) -> None:
    with pytest.raises(openai.UnprocessableEntityError, match="1,234 tokens"):
        official.completions.create(model="sums", prompt="x" * 501, stream=True)
    students.failure = ApiError(503, "queue_full", "the queue is full", retry_after_s=1)
    with pytest.raises(openai.InternalServerError, match="queue is full"):
        official.chat.completions.create(model="sums", messages=[{"role": "user", "content": "one"}], stream=True)
    assert students.closed_streams == 2
    with pytest.raises(openai.NotFoundError):
        official.completions.create(model="nobody", prompt="one")


@pytest.mark.parametrize(
    ("error", "code", "kind"),
    [
        (ApiError(503, "model_away", "model sums is unavailable"), "model_away", "server_error"),
        (RuntimeError("secret detail"), "internal_error", "server_error"),
    ],
)
def test_an_error_within_a_stream_is_an_event(
    client: TestClient, students: FakeStudents, metrics: FakeMetrics, caplog: pytest.LogCaptureFixture,
    error: Exception, code: str, kind: str,
) -> None:  # fmt: skip
    """If the connection just closed, the client could take that for the end of the text."""
    students.breaks_after, students.breaks_with = 2, error
    response = client.post("/v1/completions", json={"model": "sums", "prompt": "[label] one", "stream": True})
    assert response.status_code == 200
    events = response.text.strip().split("\n\n")
    assert len(events) == 3
    last = json.loads(events[-1].removeprefix("data: "))
    assert (last["error"]["code"], last["error"]["type"]) == (code, kind)
    assert "secret" not in response.text
    assert ("secret detail" in caplog.text) == (code == "internal_error")
    assert metrics.requests == [("/v1/completions", "sums", 200, code)]
    assert students.closed_streams == 1


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"max_tokens": -1}, "max_tokens"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": "5"}, "max_tokens"),
        ({"max_tokens": 1.5}, "max_tokens"),
        ({"temperature": 2.1}, "temperature"),
        ({"temperature": "0"}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"seed": 2**63}, "seed"),
        ({"seed": -(2**63) - 1}, "seed"),
        ({"n": 2}, "n"),
        ({"best_of": 3}, "best_of"),
        ({"echo": True}, "echo"),
        ({"logprobs": 5}, "logprobs"),
        ({"suffix": "x"}, "suffix"),
        ({"presence_penalty": 0.5}, "presence_penalty"),
        ({"logit_bias": {"50256": -100}}, "logit_bias"),
        ({"stop": ["a"] * 5}, "stop"),
        ({"stop": ""}, "stop"),
        ({"stream": "yes"}, "stream"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [1, 2, 3]}, "prompt"),
        ({"prompt": None}, "prompt"),
        ({"tools": []}, "tools"),
    ],
)
def test_an_unsupported_parameter_is_refused(
    client: TestClient, students: FakeStudents, change: dict[str, Any], param: str
) -> None:
    response = client.post("/v1/completions", json={"model": "sums", "prompt": "one", **change})
    assert response.status_code == 400, response.text
    assert response.json()["error"]["param"] == param
    assert students.requests == []


def test_seeds_have_64_bits_and_tiny_temperatures_are_greedy(client: TestClient, students: FakeStudents) -> None:
    """vLLM reads seeds of 64 bits. Logits divided by 1e-300 are not finite."""
    drawn = {"model": "other", "prompt": "one"}
    for seed in (2**63 - 1, -(2**63)):
        assert client.post("/v1/completions", json={**drawn, "temperature": 1e-3, "seed": seed}).status_code == 200
        assert students.requests[-1][1].sampling == Sampling(1e-3, seed)
    for temperature in (0, 1e-300, 9e-4):
        assert client.post("/v1/completions", json={**drawn, "temperature": temperature}).status_code == 200
        assert students.requests[-1][1].sampling is None


def test_too_many_prompts_are_refused_unread(client: TestClient, students: FakeStudents) -> None:
    """A million of them would keep the ingress busy for seconds. Alone, the first one would get 422."""
    response = client.post("/v1/completions", json={"model": "sums", "prompt": ["", *["one"] * 256]})
    assert (response.status_code, response.json()["error"]["param"]) == (413, "prompt")
    assert response.json()["error"]["message"] == "257 prompts in one request, the limit is 256"
    assert client.post("/v1/completions", json={"model": "sums", "prompt": ["one"] * 256}).status_code == 200


@pytest.mark.parametrize(
    ("messages", "status"),
    [
        ([], 400),
        ([{"role": "system", "content": "a"}, {"role": "user", "content": "b"}], 400),
        ([{"role": "assistant", "content": "a"}], 400),
        ([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}], 400),
        ([{"role": "user", "content": ""}], 422),
        ([{"role": "user", "content": "a\x00"}], 422),
        ([{"role": "user", "content": "a" * 100_001}], 422),
    ],
)
def test_an_unsupported_chat_is_refused(client: TestClient, students: FakeStudents, messages: Any, status: int) -> None:
    response = client.post("/v1/chat/completions", json={"model": "sums", "messages": messages})
    assert response.status_code == status, response.text
    assert students.requests == []


def test_a_seed_that_the_engine_ignores_is_refused(client: TestClient) -> None:
    """CTranslate2 samples without seeds; greedy answers need none."""
    drawn = {"model": "sums", "prompt": "one", "temperature": 1.0}
    assert client.post("/v1/completions", json={**drawn, "seed": 1}).json()["error"]["param"] == "seed"
    assert client.post("/v1/completions", json=drawn).status_code == 200
    assert client.post("/v1/completions", json={**drawn, "seed": 1, "temperature": 0}).status_code == 200
    assert client.post("/v1/completions", json={**drawn, "seed": 1, "model": "other"}).status_code == 200


def stream_scope(spec_version: str = "2.3") -> dict[str, Any]:
    """A streaming request, as a server passes it to the application."""
    return {
        "type": "http", "asgi": {"version": "3.0", "spec_version": spec_version}, "http_version": "1.1", "method": "POST",
        "path": "/v1/completions", "raw_path": b"/v1/completions", "query_string": b"", "scheme": "http", "root_path": "",
        "headers": [(b"content-type", b"application/json")], "server": ("t", 80), "client": ("c", 1),
    }  # fmt: skip


STREAM = {"type": "http.request", "body": b'{"prompt": "one", "stream": true}', "more_body": False}


@pytest.mark.parametrize("spec_version", ["2.3", "2.4"])
@pytest.mark.parametrize("leaves_after", [1, 5])
def test_a_disconnect_closes_the_stream_at_once(students: FakeStudents, leaves_after: int, spec_version: str) -> None:
    """Not when the garbage collector runs: the student would go on generating.

    Servers of 2.3, such as Serve, send a message; with 2.4 sending fails.
    """
    students.labels = {"one": " ".join(["word"] * 50)}
    app = app_of([card("sums")], students)
    sent: list[Any] = []
    messages = [STREAM]

    async def receive() -> dict[str, Any]:
        if messages:
            return messages.pop()
        while len(sent) < leaves_after:
            await asyncio.sleep(0)
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        if spec_version == "2.4" and len(sent) == leaves_after:
            raise OSError
        sent.append(message)
        await asyncio.sleep(0)

    async def run() -> None:
        with suppress(ClientDisconnect):
            await app(stream_scope(spec_version), receive, send)
        assert students.closed_streams == 1

    asyncio.run(run())
    assert len(sent) < 50


def test_a_cancelled_request_closes_its_stream(students: FakeStudents) -> None:
    """Serve cancels a request after a disconnect."""
    students.labels = {"one": " ".join(["word"] * 50)}
    app = app_of([card("sums")], students)
    messages = [STREAM]
    sending = asyncio.Event()

    async def receive() -> dict[str, Any]:
        if not messages:
            await asyncio.Event().wait()
        return messages.pop()

    async def send(message: Any) -> None:
        sending.set()
        await asyncio.Event().wait()

    async def run() -> None:
        request = asyncio.ensure_future(app(stream_scope(), receive, send))
        await sending.wait()
        request.cancel()
        with pytest.raises(asyncio.CancelledError):
            await request
        assert students.closed_streams == 1

    asyncio.run(run())


def test_an_early_error_closes_the_stream_at_once(students: FakeStudents) -> None:
    async def run() -> None:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app_of([card("sums")], students))) as client:
            body = {"prompt": "x" * 501, "stream": True}
            assert (await client.post("http://t/v1/completions", json=body)).status_code == 422
            assert students.closed_streams == 1

    asyncio.run(run())
