"""OpenAI's API, spoken by its official client and by hand; students that answer from a table stand behind it."""

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
from tests.support.fake_students import Counted, Standins, app_of, card, client_of


@pytest.fixture
def students() -> Standins:
    return Standins(labels={"[label] one": "1 + 1 is two", "one": "two"})


@pytest.fixture
def metrics() -> Counted:
    return Counted()


@pytest.fixture
def client(students: Standins, metrics: Counted) -> TestClient:
    return client_of([card("sums"), card("other", family="decoder-only")], students, ServingConfig(), metrics)


@pytest.fixture
def official(client: TestClient) -> openai.OpenAI:
    return openai.OpenAI(base_url="http://testserver/v1", api_key="none", http_client=client, max_retries=0)


def test_a_completion(official: openai.OpenAI, students: Standins) -> None:
    made = official.completions.create(model="sums", prompt="[label] one", max_tokens=7, stop=["\n"])
    assert (made.object, made.model, made.choices[0].text, made.choices[0].finish_reason) == (
        "text_completion", "sums", "1 + 1 is two", "stop",
    )  # fmt: skip
    assert made.usage is not None
    assert (made.usage.prompt_tokens, made.usage.completion_tokens, made.usage.total_tokens) == (10, 4, 14)
    assert students.orders == [("sums", TextRequest("[label] one", True, 7, None, ("\n",)))]


def test_several_prompts_are_several_choices(official: openai.OpenAI) -> None:
    made = official.completions.create(model="sums", prompt=["[label] one", "else"])
    assert [(c.index, c.text) for c in made.choices] == [(0, "1 + 1 is two"), (1, "4 - 1")]
    assert made.usage is not None
    assert made.usage.total_tokens == 28


def test_a_chat_is_an_input_of_the_task(official: openai.OpenAI, students: Standins) -> None:
    made = official.chat.completions.create(
        model="other", messages=[{"role": "user", "content": " one "}], temperature=0.5, top_p=0.9, seed=3, max_tokens=5
    )
    assert (made.choices[0].message.role, made.choices[0].message.content) == ("assistant", "two")
    assert students.orders == [("other", TextRequest("one", False, 5, Sampling(0.5, 3, top_p=0.9)))]
    parts: Any = [{"type": "text", "text": "o"}, {"type": "text", "text": "ne"}]
    again = official.chat.completions.create(
        model="other", messages=[{"role": "user", "content": parts}], max_completion_tokens=6
    )
    assert again.choices[0].message.content == "two"
    assert students.orders[-1] == ("other", TextRequest("one", False, 6))


def test_streams_end_with_usage_where_it_is_asked_for(
    official: openai.OpenAI, students: Standins, metrics: Counted
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
    assert students.closed == 2
    assert metrics.firsts == ["sums", "sums"]
    assert metrics.counted == [("sums", 10, 5), ("sums", 10, 1)]


def test_the_wire_format_of_a_stream(client: TestClient) -> None:
    response = client.post("/v1/completions", json={"model": "sums", "prompt": "one", "stream": True})
    assert response.headers["content-type"].startswith("text/event-stream")
    events = response.text.split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""]
    assert json.loads(events[0].removeprefix("data: "))["choices"][0]["text"] == "two"


def test_an_error_before_the_first_piece_has_a_status(official: openai.OpenAI, students: Standins) -> None:
    with pytest.raises(openai.UnprocessableEntityError, match="1,234 tokens"):
        official.completions.create(model="sums", prompt="x" * 501, stream=True)
    students.failure = ApiError(503, "queue_full", "the queue is full", retry_after_s=1)
    with pytest.raises(openai.InternalServerError, match="queue is full"):
        official.chat.completions.create(model="sums", messages=[{"role": "user", "content": "one"}], stream=True)
    assert students.closed == 2
    with pytest.raises(openai.NotFoundError):
        official.completions.create(model="nobody", prompt="one")


def test_an_error_in_the_middle_is_an_event(client: TestClient, students: Standins, metrics: Counted) -> None:
    students.breaks_after = 2
    response = client.post("/v1/completions", json={"model": "sums", "prompt": "[label] one", "stream": True})
    assert response.status_code == 200
    last = json.loads(response.text.strip().split("\n\n")[-1].removeprefix("data: "))
    assert last["error"]["code"] == "model_away"
    assert metrics.requests == [("/v1/completions", "sums", 200, "model_away")]


def test_a_fault_in_the_middle_is_an_event_that_shows_nothing_of_it(
    client: TestClient, students: Standins, metrics: Counted, caplog: pytest.LogCaptureFixture
) -> None:
    """Not a connection that is cut off: to a client that might as well be the end of the text."""
    students.breaks_after, students.breaks_with = 2, RuntimeError("secret detail")
    response = client.post("/v1/completions", json={"model": "sums", "prompt": "[label] one", "stream": True})
    events = response.text.strip().split("\n\n")
    last = json.loads(events[-1].removeprefix("data: "))
    assert len(events) == 3
    assert (last["error"]["code"], last["error"]["type"]) == ("internal_error", "server_error")
    assert "secret" not in response.text
    assert "secret detail" in caplog.text
    assert metrics.requests == [("/v1/completions", "sums", 200, "internal_error")]
    assert students.closed == 1


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
def test_what_a_completion_does_not_offer_is_refused(
    client: TestClient, students: Standins, change: dict[str, Any], param: str
) -> None:
    response = client.post("/v1/completions", json={"model": "sums", "prompt": "one", **change})
    assert response.status_code == 400, response.text
    assert response.json()["error"]["param"] == param
    assert students.orders == []


def test_a_seed_is_any_number_of_64_bits_and_next_to_no_temperature_is_none(
    client: TestClient, students: Standins
) -> None:
    """vLLM reads a seed of 64 bits; divided by 1e-300, logits are no numbers."""
    drawn = {"model": "other", "prompt": "one"}
    for seed in (2**63 - 1, -(2**63)):
        assert client.post("/v1/completions", json={**drawn, "temperature": 1e-3, "seed": seed}).status_code == 200
        assert students.orders[-1][1].sampling == Sampling(1e-3, seed)
    for temperature in (0, 1e-300, 9e-4):
        assert client.post("/v1/completions", json={**drawn, "temperature": temperature}).status_code == 200
        assert students.orders[-1][1].sampling is None


def test_too_many_prompts_are_refused_before_they_are_looked_at(client: TestClient, students: Standins) -> None:
    """A million of them would keep the ingress busy for seconds. The first one would be refused with 422."""
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
def test_chats_that_are_no_input(client: TestClient, students: Standins, messages: Any, status: int) -> None:
    response = client.post("/v1/chat/completions", json={"model": "sums", "messages": messages})
    assert response.status_code == status, response.text
    assert students.orders == []


def test_a_seed_that_could_not_count_is_refused(client: TestClient) -> None:
    """The encoder-decoder student's engine draws without seeds; greedy answers have nothing to seed."""
    drawn = {"model": "sums", "prompt": "one", "temperature": 1.0}
    assert client.post("/v1/completions", json={**drawn, "seed": 1}).json()["error"]["param"] == "seed"
    assert client.post("/v1/completions", json=drawn).status_code == 200
    assert client.post("/v1/completions", json={**drawn, "seed": 1, "temperature": 0}).status_code == 200
    assert client.post("/v1/completions", json={**drawn, "seed": 1, "model": "other"}).status_code == 200


def stream_scope(spec_version: str = "2.3") -> dict[str, Any]:
    """A request for a stream, as a server hands it to the application."""
    return {
        "type": "http", "asgi": {"version": "3.0", "spec_version": spec_version}, "http_version": "1.1", "method": "POST",
        "path": "/v1/completions", "raw_path": b"/v1/completions", "query_string": b"", "scheme": "http", "root_path": "",
        "headers": [(b"content-type", b"application/json")], "server": ("t", 80), "client": ("c", 1),
    }  # fmt: skip


STREAM = {"type": "http.request", "body": b'{"prompt": "one", "stream": true}', "more_body": False}


@pytest.mark.parametrize("spec_version", ["2.3", "2.4"])
@pytest.mark.parametrize("leaves_after", [1, 5])
def test_a_client_that_goes_away_ends_its_stream(students: Standins, leaves_after: int, spec_version: str) -> None:
    """At once, not when the garbage collector comes by: what is left of the text would be written for nobody.

    With 2.3 a message tells that the client has gone, as Serve's does; with 2.4 sending fails.
    """
    students.labels = {"one": " ".join(["word"] * 50)}
    app = app_of([card("sums")], students)
    sent: list[Any] = []
    asked = [STREAM]

    async def receive() -> dict[str, Any]:
        if asked:
            return asked.pop()
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
        assert students.closed == 1, "closed only when the loop is"

    asyncio.run(run())
    assert len(sent) < 50


def test_a_request_that_is_cancelled_ends_its_stream(students: Standins) -> None:
    """As Serve ends the ingress' work on a request whose client has gone."""
    students.labels = {"one": " ".join(["word"] * 50)}
    app = app_of([card("sums")], students)
    asked = [STREAM]
    sending = asyncio.Event()

    async def receive() -> dict[str, Any]:
        if not asked:
            await asyncio.Event().wait()
        return asked.pop()

    async def send(message: Any) -> None:
        sending.set()
        await asyncio.Event().wait()

    async def run() -> None:
        request = asyncio.ensure_future(app(stream_scope(), receive, send))
        await sending.wait()
        request.cancel()
        with pytest.raises(asyncio.CancelledError):
            await request
        assert students.closed == 1

    asyncio.run(run())


def test_an_error_before_the_first_piece_closes_its_stream_at_once(students: Standins) -> None:
    async def run() -> None:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app_of([card("sums")], students))) as client:
            body = {"prompt": "x" * 501, "stream": True}
            assert (await client.post("http://t/v1/completions", json=body)).status_code == 422
            assert students.closed == 1

    asyncio.run(run())
