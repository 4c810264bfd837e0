"""The remote teacher against a real HTTP server on this machine: requests, answers, budget, key."""

import logging
import pickle
import re
from collections import Counter
from typing import Any

import pytest
from fastapi.responses import JSONResponse
from pydantic import SecretStr

from pipelines.errors import UserError
from pipelines.label.teachers import base
from pipelines.label.teachers.base import BudgetExhaustedError, Generation, PromptRefusedError, TeacherUnusableError
from pipelines.label.teachers.openai import OpenaiTeacher
from pipelines.label.teachers.reach import check_reachable
from pipelines.label.teachers.remote_settings import check_remote, remote_key
from tests.support.remote_teacher import TASK, ask, config, one, prompt, rows, teacher_of
from tests.support.teacher_endpoint import KEY, Endpoint, error


def test_plain_prompts_go_to_completions_with_the_stops(endpoint: Endpoint) -> None:
    generation = one(teacher_of(config(endpoint)))
    [sample] = generation.samples
    assert sample.text == "answer 0 with seed None to row"
    assert (generation.prompt_tokens, sample.tokens, sample.finish_reason) == (20, 10, "stop")
    [seen] = endpoint.seen
    assert seen.path == "/v1/completions"
    assert seen.body == {"model": "m", "prompt": "row", "max_tokens": 30, "temperature": 0.0, "stop": list(TASK.stops)}


def test_chat_prompts_go_to_chat_completions(endpoint: Endpoint) -> None:
    sampling = {"n": 3, "temperature": 0.7, "top_p": 0.9, "top_k": 20, "stop": ["END"], "seed": 5, "max_tokens": 30}
    further, seed = {"chat_template_kwargs": {"enable_thinking": False}}, base.row_seed(5, "row")
    generation = one(teacher_of(config(endpoint, prompt="chat", sampling=sampling, **further)), chat=True)
    assert [s.text for s in generation.samples] == [f"answer {i} with seed {seed} to row" for i in range(3)]
    assert generation.output_tokens == 30
    [seen] = endpoint.seen
    assert seen.path == "/v1/chat/completions"
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "row"}]
    assert seen.body == {"model": "m", "messages": messages, **sampling, **further, "seed": seed}


@pytest.mark.parametrize("choices", [1, 2, 3])
def test_missing_choices_are_requested_with_other_seeds(endpoint: Endpoint, choices: int) -> None:
    endpoint.choices_at_most = choices
    teacher = teacher_of(config(endpoint, sampling={"n": 4, "temperature": 1.0, "max_tokens": 30}))
    first = one(teacher, "a")
    requests = -(-4 // choices)
    assert len({s.text for s in first.samples}) == 4
    assert (first.prompt_tokens, first.output_tokens) == (20 * requests, 40)
    before = len(endpoint.seen)
    teacher._client = None  # it belonged to the first call's event loop
    one(teacher, "b")
    assert len(endpoint.seen) - before == requests, "learned once"


def test_refused_fields_are_learned(endpoint: Endpoint) -> None:
    endpoint.behaviour = lambda seen, _: error(400, "n must be 1", param="n") if seen.body.get("n", 1) > 1 else None
    generation = one(teacher_of(config(endpoint, sampling={"n": 3, "temperature": 1.0, "max_tokens": 30})))
    assert len({s.text for s in generation.samples}) == 3
    assert Counter(endpoint.statuses()) == {400: 1, 200: 3}
    message = "'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead."
    refusal = error(400, message, "unsupported_parameter", param="max_tokens")
    endpoint.behaviour = lambda seen, _: refusal if "max_tokens" in seen.body else None
    teacher = teacher_of(config(endpoint, prompt="chat"))
    results = ask(teacher, *(prompt(f"row {number}", chat=True) for number in range(3)))
    assert [type(result) for result in results] == [Generation] * 3
    assert {seen.body["max_completion_tokens"] for seen in endpoint.seen[4:] if seen.status == 200} == {30}


def test_the_budget_stops_within_what_requests_may_use(endpoint: Endpoint) -> None:
    """An answered row uses 30 tokens. A request reserves 2 for its prompt and 30 for its answer."""
    endpoint.latency_s = 0.01
    teacher = teacher_of(config(endpoint, budget={"tokens": 1000}, remote={"max_concurrent_requests": 4}))
    results = ask(teacher, *rows(100))
    answered = [r for r in results if isinstance(r, Generation)]
    assert {type(r) for r in results} == {Generation, BudgetExhaustedError}
    assert len(answered) == len(endpoint.seen), "sent requests are answered, and none is sent after the end"
    used = sum(teacher.meter.used[:2])
    assert used == 30 * len(answered)
    assert 1000 - 4 * 33 < used <= 1000
    assert teacher.meter.reserved == (0, 0)


def test_the_key_is_shown_nowhere(
    endpoint: Endpoint, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """Right and wrong keys, an endpoint that quotes both in every kind of error, all logs on."""
    wrong = "sk-wrong-91c4e0"
    caplog.set_level(logging.DEBUG)
    shown = []
    for behaviour in (401, 400, 500):
        endpoint.behaviour = lambda seen, _, status=behaviour: error(status, f"your key {KEY} is {wrong}")  # type: ignore[misc]
        for key in (wrong, KEY):
            teacher = teacher_of(config(endpoint, remote={"max_attempts": 2}), key=SecretStr(key))
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


def test_the_key_comes_from_the_named_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = config(remote={"key_variable": "OUR_KEY"})
    monkeypatch.setenv("OUR_KEY", f" {KEY}\n")
    assert remote_key(settings).get_secret_value() == KEY
    monkeypatch.delenv("OUR_KEY")
    with pytest.raises(UserError, match=r"key_variable OUR_KEY: this environment variable is not set. Export OUR_KEY"):
        OpenaiTeacher(settings, TASK)
    monkeypatch.setenv("OUR_KEY", f"{KEY}\nsecond line")
    with pytest.raises(UserError) as caught:
        remote_key(settings)
    assert KEY not in str(caught.value)


def test_a_wrong_key_is_refused_before_the_start(endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    for key in (KEY, ""):  # a missing one is reported later
        monkeypatch.setenv("OPENAI_API_KEY", key)
        check_reachable(config(endpoint))
    monkeypatch.setenv("OPENAI_API_KEY", "sk-wrong")
    with pytest.raises(UserError, match=r"key_variable OPENAI_API_KEY: .* refuses its key \(HTTP 401\)") as caught:
        check_reachable(config(endpoint))
    assert "sk-wrong" not in str(caught.value)
    assert not endpoint.seen, "without a prompt"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"remote": {"url": "host/v1"}}, "not an http or https URL"),
        ({"remote": {"url": "https://me:secret@host/v1"}}, "would end in logs"),
        ({"remote": {"max_concurrent_requests": 1001}}, "the client holds 1000 connections"),
        ({"replicas": {"min": 1, "max": 2}, "budget": {"tokens": 10}}, "each replica counts for itself"),
    ],
)
def test_wrong_settings_are_refused_before_the_start(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)) as caught:
        check_remote(config(**changes))
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("field", ["temperature", "top_p", "seed"])
def test_a_model_that_takes_only_its_default_is_learned(endpoint: Endpoint, field: str) -> None:
    refusal = error(400, f"'{field}' does not support 0.0 with this model.", "unsupported_value", param=field)
    endpoint.behaviour = lambda seen, _: refusal if field in seen.body else None
    teacher = teacher_of(config(endpoint, sampling={"temperature": 0.5, "top_p": 0.9, "max_tokens": 30}))
    results = ask(teacher, *(prompt(f"row {number}") for number in range(3)))
    assert [type(result) for result in results] == [Generation] * 3
    assert endpoint.statuses().count(200) == 3


def test_a_model_without_a_system_turn_is_learned(endpoint: Endpoint) -> None:
    refusal = error(400, "System role not supported")
    endpoint.behaviour = lambda seen, _: refusal if seen.body["messages"][0]["role"] == "system" else None
    one(teacher_of(config(endpoint, prompt="chat")), chat=True)
    assert endpoint.seen[-1].body["messages"] == [{"role": "user", "content": "Be brief.\n\nrow"}]


def _part(text: str, kind: str = "text") -> dict[str, Any]:
    return {"type": kind, "thinking" if kind == "thinking" else "text": text}


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ({"content": "A", "reasoning_content": "B"}, ("A", "B", True)),
        ({"content": "A", "reasoning": "B"}, ("A", "B", True)),
        ({"content": None, "reasoning_content": "B"}, ("", "B", False)),
        ({"content": [_part("A"), _part("B")]}, ("AB", "", True)),
        ({"content": [{"type": "thinking", "thinking": [_part("B")]}, _part("A")]}, ("A", "B", True)),
        ({"content": [_part("B", "thinking")]}, ("", "B", False)),
        ({"content": None, "refusal": "I cannot."}, ("I cannot.", "", True)),
        ({"content": None}, ("", "", True)),
        ({}, ("", "", True)),
        ({"content": [{"type": "image_url"}]}, "the answer has a part that is no text but 'image_url'"),
        ({"content": ["A"]}, "the answer has a part that is no text but 'str'"),
        ({"content": {"a": 1}}, "the answer's content is no text but dict"),
        ({"content": None, "tool_calls": [{"id": "c"}]}, "the answer is no text but `tool_calls`"),
    ],
)
def test_every_form_of_an_answer_is_read(endpoint: Endpoint, message: Any, expected: Any) -> None:
    """(text, thoughts, whether they end), or the problem that the row is rejected with, after one request."""
    body = {"choices": [{"finish_reason": None, "message": message}]}
    endpoint.behaviour = lambda *_: JSONResponse(body | {"usage": {"prompt_tokens": "20", "completion_tokens": 9}})
    teacher = teacher_of(config(endpoint, prompt="chat"))
    [found] = ask(teacher, prompt("row", chat=True))
    if isinstance(found, Generation):
        [sample] = found.samples
        assert (sample.text, sample.thoughts, sample.thoughts_end) == expected
        assert (sample.finish_reason, sample.tokens) == ("unknown", 9)
    else:
        assert (type(found), str(found)) == (PromptRefusedError, f"engine_error: {expected}")
    assert (len(endpoint.seen), teacher.meter.used[:2]) == (1, (20, 9))


@pytest.mark.parametrize("usage", [None, {}, {"prompt_tokens": None, "completion_tokens": "many"}, "none", [1]])
def test_tokens_without_a_count_are_estimated(endpoint: Endpoint, usage: Any) -> None:
    choice = {"finish_reason": "content_filter", "text": "y" * 30}
    endpoint.behaviour = lambda *_: JSONResponse({"choices": [choice], "usage": usage})
    generation = one(teacher_of(config(endpoint)), "x" * 300)
    assert (generation.prompt_tokens, generation.samples[0].tokens) == (100, 10)
    assert generation.samples[0].finish_reason == "content_filter", "as the endpoint says"
