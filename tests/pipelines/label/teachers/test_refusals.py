"""What a remote teacher does not retry, and that its key is shown nowhere."""

from __future__ import annotations

import logging
import pickle
import re
from typing import Any

import pytest
from pydantic import SecretStr

from pipelines.errors import UserError
from pipelines.label.teachers.base import Generation, PromptRefusedError, TeacherUnusableError
from pipelines.label.teachers.openai import OpenaiTeacher, check_remote, remote_key
from tests.support.remote_teacher import TASK, ask, config, prompt, rows, teacher_of
from tests.support.teacher_endpoint import KEY, Endpoint, error


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
def test_a_refused_prompt_is_not_retried(endpoint: Endpoint, status: int, message: str, code: str, reason: str) -> None:
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
        *[(status, "not for you", None, {}) for status in (402, 403, 404, 405)],
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
    assert message in str(results[0])
    assert endpoint.url in str(results[-1])
    assert len(endpoint.seen) <= 3, "requests that waited for admission are not sent"
    again = pickle.loads(pickle.dumps(results[0]))  # noqa: S301
    assert (type(again), str(again)) == (TeacherUnusableError, str(results[0]))


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
    check_remote(settings)
    assert remote_key(settings).get_secret_value() == KEY
    monkeypatch.delenv("OUR_KEY")
    with pytest.raises(UserError, match=r"key_variable OUR_KEY: this environment variable is not set. Export OUR_KEY"):
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
def test_wrong_settings_are_refused_before_the_start(
    monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], message: str
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with pytest.raises(UserError, match=re.escape(message)) as caught:
        check_remote(config(**changes))
    assert "secret" not in str(caught.value)
