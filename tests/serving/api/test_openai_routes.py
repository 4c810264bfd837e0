"""OpenAI's API, called by its official client and by hand. Fake students answer from a table."""

import asyncio
import json
from contextlib import suppress
from typing import Any

import openai
import pytest
from fastapi.testclient import TestClient
from starlette.requests import ClientDisconnect

from pipelines.config.serving import ServingConfig
from pipelines.students.decoding import Sampling
from serving.api import event_stream
from serving.api.errors import ApiError
from serving.messages import Failed, TextRequest
from tests.support.asgi import error_of, http_scope
from tests.support.fake_students import FakeMetrics, FakeStudents, app_of, card, client_of

CHAT: Any = [{"role": "user", "content": "one"}]


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
    return openai.OpenAI(base_url="http://localhost/v1", api_key="none", http_client=client, max_retries=0)


def complete(client: TestClient, **body: Any) -> Any:
    return client.post("/v1/completions", json={"model": "sums", "prompt": "one", **body})


def test_a_completion_continues_each_prompt(official: openai.OpenAI, students: FakeStudents) -> None:
    made = official.completions.create(model="sums", prompt=["[label] one", "else"], max_tokens=7, stop=["\n"])
    assert (made.object, made.model) == ("text_completion", "sums")
    assert [(choice.index, choice.text) for choice in made.choices] == [(0, "1 + 1 is two"), (1, "4 - 1")]
    assert [choice.finish_reason for choice in made.choices] == ["stop", "stop"]
    assert (made.usage.prompt_tokens, made.usage.completion_tokens, made.usage.total_tokens) == (20, 8, 28)
    texts = [TextRequest(text, True, 7, None, ("\n",)) for text in ("[label] one", "else")]
    assert students.requests == [("sums", text) for text in texts]


def test_a_chat_is_an_input_of_the_task(official: openai.OpenAI, students: FakeStudents) -> None:
    made = official.chat.completions.create(
        model="other", messages=[{"role": "user", "content": " one "}], temperature=0.5, top_p=0.9, seed=3, max_tokens=5
    )
    assert (made.choices[0].message.role, made.choices[0].message.content) == ("assistant", "two")
    parts: Any = [{"role": "user", "content": [{"type": "text", "text": "o"}, {"type": "text", "text": "ne"}]}]
    again = official.chat.completions.create(model="other", messages=parts, max_completion_tokens=6)
    message = again.choices[0].message
    assert (message.content, message.refusal) == ("two", None)
    sampled = TextRequest("one", False, 5, Sampling(0.5, 3, top_p=0.9))
    assert students.requests == [("other", sampled), ("other", TextRequest("one", False, 6))]


def test_streams_send_pieces_and_usage(official: openai.OpenAI, students: FakeStudents, metrics: FakeMetrics) -> None:
    options: Any = {"include_usage": True}
    chunks = list(official.completions.create(model="sums", prompt="[label] one", stream=True, stream_options=options))
    assert "".join(c.text for chunk in chunks for c in chunk.choices) == "1 + 1 is two"
    assert [c.finish_reason for chunk in chunks for c in chunk.choices] == [None] * 4 + ["stop"]
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.total_tokens == 15
    assert len({chunk.id for chunk in chunks}) == 1
    chat = list(official.chat.completions.create(model="sums", messages=CHAT, stream=True))
    assert chat[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chat) == "two"
    assert all(chunk.usage is None for chunk in chat)
    assert students.closed_streams == 2
    assert metrics.first_tokens == ["sums", "sums"]
    assert metrics.token_counts == [("sums", 10, 5), ("sums", 10, 1)]


def test_an_error_before_the_first_piece_has_a_status(official: openai.OpenAI, students: FakeStudents) -> None:
    with pytest.raises(openai.UnprocessableEntityError, match="1,234 tokens"):
        official.completions.create(model="sums", prompt="x" * 501, stream=True)
    students.failure = ApiError(503, "queue_full", "the queue is full", retry_after_s=1)
    with pytest.raises(openai.InternalServerError, match="queue is full"):
        official.chat.completions.create(model="sums", messages=CHAT, stream=True)
    assert students.closed_streams == 2
    with pytest.raises(openai.NotFoundError):
        official.completions.create(model="nobody", prompt="one")


@pytest.mark.parametrize(
    ("error", "code"),
    [(ApiError(503, "model_away", "unavailable"), "model_away"), (RuntimeError("secret detail"), "internal_error")],
)
def test_an_error_within_a_stream_is_an_event(
    client: TestClient, students: FakeStudents, metrics: FakeMetrics, caplog: pytest.LogCaptureFixture,
    error: Exception, code: str,
) -> None:  # fmt: skip
    students.breaks_after, students.breaks_with = 2, error
    response = complete(client, prompt="[label] one", stream=True)
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/event-stream")
    first, _, last = (json.loads(event.removeprefix("data: ")) for event in response.text.strip().split("\n\n"))
    assert first["choices"][0]["text"] == "1 "
    found = last["error"]
    assert (found["code"], found["type"]) == (code, "server_error")
    assert "secret" not in response.text
    assert ("secret detail" in caplog.text) == (code == "internal_error")
    assert metrics.requests == [("/v1/completions", "sums", 200, code)]
    assert students.closed_streams == 1


@pytest.mark.parametrize("failure", [None, ApiError(503, "model_away", "unavailable")])
def test_a_stream_lives_while_its_student_starts(
    client: TestClient, students: FakeStudents, monkeypatch: pytest.MonkeyPatch, failure: ApiError | None
) -> None:
    monkeypatch.setattr(event_stream, "HEARTBEAT_S", 0.05)
    students.starts_after_s, students.failure = 0.5, failure
    response = complete(client, stream=True)
    events = response.text.split("\n\n")
    assert (response.status_code, sum(event.startswith(":") for event in events) >= 2) == (200, True)
    assert (events[-2:] == ["data: [DONE]", ""]) == (failure is None)
    first = next(event for event in events if not event.startswith(":"))
    assert ('"code":"model_away"' in first) == (failure is not None)
    assert students.closed_streams == 1


@pytest.mark.parametrize(
    "body",
    [
        *[{"max_tokens": value} for value in (-1, 0, "5", 1.5)],
        *[{"temperature": value} for value in (2.1, "0")],
        *[{"seed": value} for value in (2**63, -(2**63) - 1)],
        *[{"stop": value} for value in (["a"] * 5, "")],
        *[{"prompt": value} for value in ([], [1, 2, 3], None)],
        {"top_p": 0}, {"n": 0}, {"n": 17}, {"best_of": 3}, {"echo": True}, {"logprobs": 5}, {"suffix": "x"}, {"presence_penalty": 0.5},
        {"logit_bias": {"50256": -100}}, {"stream": "yes"}, {"tools": []}, {"stream_options": {"include_usage": "yes"}},
        {"store": True}, {"guided_choice": []}, {"structured_outputs": {"regex": "a"}},
        *[{"guided_choice": ["a"], **more} for more in ({"stop": "a"}, {"temperature": 1.0}, {"n": 2}, {"logprobs": 0}, {"stream": True})],
        {"logprobs": 0, "stream": True}, {"logprobs": 1, "temperature": 1.0}, {"stream": True, "n": 2},
        # CTranslate2 samples without seeds.
        {"seed": 1, "temperature": 1.0},
    ],
)  # fmt: skip
def test_an_unsupported_parameter_is_refused(client: TestClient, students: FakeStudents, body: dict[str, Any]) -> None:
    response = complete(client, **body)
    assert response.status_code == 400, response.text
    assert response.json()["error"]["param"] == next(iter(body))
    assert students.requests == []


TURNS = ["system user", "user assistant user", "developer user assistant user"]
OTHER_TURNS = ["assistant", "system", "user user", "user system user", "user assistant", "tool user"]


@pytest.mark.parametrize("roles", [*TURNS, *OTHER_TURNS])
def test_a_student_with_a_chat_template_reads_turns(students: FakeStudents, roles: str) -> None:
    messages = [{"role": role, "content": f" {i} "} for i, role in enumerate(roles.split())]
    with_template = client_of([card("sums", prompt="chat")], students, ServingConfig(), FakeMetrics())
    response = with_template.post("/v1/chat/completions", json={"messages": messages})
    if roles in OTHER_TURNS:
        assert response.status_code == 400, response.text
        return
    turns = [(role.replace("developer", "system"), str(i)) for i, role in enumerate(roles.split())]
    assert students.requests == [("sums", TextRequest(turns[-1][1], False, turns=tuple(turns[:-1])))]  # type: ignore[arg-type]
    students.failed = {turns[-1][1]: Failed(refused="its chat template has no system turn")}
    refused = with_template.post("/v1/chat/completions", json={"messages": messages})
    assert "has no system turn. Send one user" in error_of(refused, 400, "unsupported_messages", "messages")


@pytest.mark.parametrize(
    ("messages", "status"),
    [
        ([], 400),
        *[([{"role": role, "content": "a"} for role in roles.split()], 400) for roles in TURNS + OTHER_TURNS],
        ([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}], 400),
        *[([{"role": "user", "content": content}], 422) for content in ("", "a\x00", "a" * 100_001)],
    ],
)
def test_an_unsupported_chat_is_refused(client: TestClient, students: FakeStudents, messages: Any, status: int) -> None:
    response = client.post("/v1/chat/completions", json={"model": "sums", "messages": messages})
    assert response.status_code == status, response.text
    assert students.requests == []


def test_several_texts_of_a_prompt(official: openai.OpenAI, students: FakeStudents) -> None:
    made = official.completions.create(model="other", prompt=["a", "b"], n=3, temperature=1.0, seed=2**63 - 1)
    assert [choice.index for choice in made.choices] == list(range(6))
    assert (made.usage.prompt_tokens, made.usage.completion_tokens) == (20, 24)
    drawn = [(request.text, request.sampling) for _, request in students.requests]
    seed = 2**63 - 1 - 2
    assert drawn == [(text, Sampling(1.0, seed, draw)) for text in "ab" for draw in range(3)]
    students.requests.clear()
    chat = official.chat.completions.create(model="other", messages=CHAT, n=2)
    assert [(choice.index, choice.message.content) for choice in chat.choices] == [(0, "two"), (1, "two")]
    assert [request.sampling for _, request in students.requests] == [None], "greedy texts are equal: one is generated"
    assert chat.usage is not None
    assert (chat.usage.prompt_tokens, chat.usage.completion_tokens) == (10, 4)
    made = official.completions.create(model="other", prompt=["one", "b"], n=2)
    assert [(choice.index, choice.text) for choice in made.choices] == list(enumerate(["two", "two", "4 - 1", "4 - 1"]))
    with pytest.raises(openai.APIStatusError, match="20 prompts in one request, 16 texts of each, the limit is 256"):
        official.completions.create(model="other", prompt=["a"] * 20, n=16, temperature=1.0)


def test_tokens_have_log_probabilities(official: openai.OpenAI, students: FakeStudents) -> None:
    chat = official.chat.completions.create(model="sums", messages=CHAT, logprobs=True, top_logprobs=1)
    assert chat.choices[0].logprobs is not None
    content = chat.choices[0].logprobs.content or []
    found = [(token.token, token.logprob, bytes(token.bytes or []), token.top_logprobs[0].token) for token in content]
    assert found == [("tw", -0.25, b"tw", "tw"), ("o", -0.25, b"o", "o")]
    for number, top in ((0, None), (1, [{"tw": -0.25}, {"o": -0.25}])):
        logprobs = official.completions.create(model="sums", prompt="one", logprobs=number).choices[0].logprobs
        assert (logprobs.tokens, logprobs.token_logprobs, logprobs.text_offset) == (["tw", "o"], [-0.25] * 2, [0, 2])
        assert logprobs.top_logprobs == top
    assert all(request.log_probs for _, request in students.requests)


@pytest.mark.parametrize("given", [{"guided_choice": ["a", "b", "a"]}, {"structured_outputs": {"choice": ["a", "b"]}}])
def test_a_text_is_one_of_the_choices(client: TestClient, students: FakeStudents, given: dict[str, Any]) -> None:
    assert complete(client, **given).json()["choices"][0]["text"] == "b"
    assert students.requests[0][1].choices == ("a", "b")


def test_harmless_parameters_are_accepted(client: TestClient, students: FakeStudents) -> None:
    both: Any = {"user": "u", "metadata": {"a": "b"}, "store": False, "service_tier": "auto", "logit_bias": {}, "n": 1}
    both["stop"] = []
    chat: Any = {
        "tools": [],
        "tool_choice": "auto",
        "parallel_tool_calls": True,
        "functions": [],
        "modalities": ["text"],
    }
    chat |= {
        "logprobs": False,
        "top_logprobs": 0,
        "stream_options": {"include_usage": None, "include_obfuscation": False},
    }
    chat |= dict.fromkeys(["audio", "prediction", "reasoning_effort", "verbosity", "web_search_options"])
    assert complete(client, **both, suffix="").status_code == 200
    assert complete(client, stream_options=chat["stream_options"]).status_code == 200
    empty = dict.fromkeys(["refusal", "audio", "function_call", "reasoning", "reasoning_content"])
    answer = {"role": "assistant", "content": "two", "annotations": [], "tool_calls": [], **empty}
    templated = client_of([card("sums", prompt="chat")], students, ServingConfig(), FakeMetrics())
    body = {"model": "sums", "messages": [*CHAT, answer, *CHAT], **both, **chat}
    response = templated.post("/v1/chat/completions", json=body)
    assert response.status_code == 200, response.text
    for name, value, rule in [
        ("tools", [{}], "tools: List should have at most 0 items"), ("stop", ["a"] * 5, "stop: List should have at most 4 items"),
        ("top_logprobs", 1, "top_logprobs needs logprobs: true"), ("best_of", 1, "best_of: unknown key `best_of`. Remove it"),
        ("messages", [{**answer, "tool_calls": [{}]}], "messages[0]: List should have at most 0 items"),
        ("messages", [{"role": "user", "content": [{"type": "image_url"}]}], "messages[0]: Input should be 'text'"),
        ("messages", [{**answer, "x": 1}], "messages[0]: unknown key `x`. Remove it"),
    ]:  # fmt: skip
        refused = templated.post("/v1/chat/completions", json={**body, name: value})
        assert error_of(refused, 400, refused.json()["error"]["code"], rule.split(":")[0].split()[0]).startswith(rule)


def test_seeds_have_64_bits_and_tiny_temperatures_are_greedy(client: TestClient, students: FakeStudents) -> None:
    """vLLM reads seeds of 64 bits. Logits divided by 1e-300 are not finite. Greedy answers need no seed."""
    for model, temperature, seed in [
        ("other", 1e-3, 2**63 - 1), ("other", 1e-3, -(2**63)), ("sums", 0, 1), ("other", 1e-300, None), ("other", 9e-4, None),
    ]:  # fmt: skip
        assert complete(client, model=model, temperature=temperature, seed=seed).status_code == 200
        sampling = students.requests[-1][1].sampling
        assert sampling == (Sampling(1e-3, seed) if temperature == 1e-3 and seed else None)
    assert complete(client, temperature=1.0).status_code == 200


def test_too_many_prompts_are_refused_unread(client: TestClient) -> None:
    """A million of them would keep the ingress busy for seconds. Alone, the first one would get 422."""
    response = complete(client, prompt=["", *["one"] * 256])
    assert (response.status_code, response.json()["error"]["param"]) == (413, "prompt")
    assert response.json()["error"]["message"] == "257 prompts in one request, the limit is 256"
    assert complete(client, prompt=["one"] * 256).status_code == 200


@pytest.mark.anyio
@pytest.mark.parametrize("ending", ["message", "failed send", "cancelled", "early error"])
@pytest.mark.parametrize(("leaves_after", "starts_after_s"), [(1, 0.0), (5, 0.0), (2, 5.0)])
async def test_every_end_closes_the_stream_at_once(
    students: FakeStudents, monkeypatch: pytest.MonkeyPatch, leaves_after: int, starts_after_s: float, ending: str
) -> None:
    """Not when the garbage collector runs: the student would go on generating.

    After a disconnect, servers of ASGI 2.3, such as Serve, send a message and cancel the request; with 2.4 sending fails.
    """
    monkeypatch.setattr(event_stream, "HEARTBEAT_S", 0.01)
    students.starts_after_s = 0.0 if ending == "early error" else starts_after_s
    text = "x" * 501 if ending == "early error" else "one"
    students.labels = {"one": " ".join(["word"] * 50)}
    body = json.dumps({"prompt": text, "stream": True}).encode()
    messages = [{"type": "http.request", "body": body, "more_body": False}]
    sent: list[Any] = []
    reached = asyncio.Event()

    async def receive() -> dict[str, Any]:
        if messages:
            return messages.pop()
        await (reached if ending == "message" else asyncio.Event()).wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        if len(sent) == leaves_after and ending == "failed send":
            raise OSError
        sent.append(message)
        if len(sent) == leaves_after:
            reached.set()
            await (asyncio.Event().wait() if ending == "cancelled" else asyncio.sleep(0))
        await asyncio.sleep(0)

    scope = http_scope("/v1/completions", spec_version="2.4" if ending == "failed send" else "2.3")
    request = asyncio.ensure_future(app_of([card("sums")], students)(scope, receive, send))
    if ending == "cancelled":
        await reached.wait()
        request.cancel()
    with suppress(ClientDisconnect, asyncio.CancelledError):
        await request
    assert students.closed_streams == 1
    assert len(sent) < 50
