"""Remote teachers over an endpoint, and prompts for them."""

import asyncio
from collections import deque
from typing import Any

from pydantic import SecretStr

from pipelines.config import TeacherConfig
from pipelines.label.teachers.base import Generation, Prompt
from pipelines.label.teachers.openai import OpenaiTeacher
from pipelines.label.teachers.rate_limit import AdaptiveLimit, Admission
from pipelines.tasks import Example, load_task, task_spec
from tests.support.teacher_endpoint import KEY, Endpoint

TASK = load_task(task_spec("arithmetic", {}))


def config(endpoint: Endpoint | None = None, **changes: Any) -> TeacherConfig:
    """Settings for an endpoint; None: one that nobody serves."""
    url = endpoint.url if endpoint else "http://127.0.0.1:9/v1"
    remote = {"url": url, "timeout_s": 10.0, **changes.pop("remote", {})}
    values = {"engine": "openai", "model": "m", "remote": remote, "sampling": {"max_tokens": 30}, **changes}
    return TeacherConfig.model_validate(values)


def prompt(text: str, chat: bool = False) -> Prompt:
    """A prompt whose example has the text as its id."""
    messages = ({"role": "system", "content": "Be brief."}, {"role": "user", "content": text}) if chat else ()
    return Prompt(Example(text, text, None), text, messages)


def rows(count: int) -> list[Prompt]:
    """Prompts `row 0`, `row 1`, ..."""
    return [prompt(f"row {number}") for number in range(count)]


def teacher_of(settings: TeacherConfig, **more: Any) -> OpenaiTeacher:
    """A teacher with the endpoint's key."""
    return OpenaiTeacher(settings, TASK, **{"key": SecretStr(KEY), **more})


def ask(teacher: OpenaiTeacher, *prompts: Prompt) -> list[Generation | BaseException]:
    """Send all prompts at the same time. Returns an answer or an error per prompt."""

    async def all_of_them() -> list[Generation | BaseException]:
        try:
            return await asyncio.gather(*(teacher.answer(p) for p in prompts), return_exceptions=True)
        finally:
            await teacher.aclose()

    return asyncio.run(all_of_them())


def one(teacher: OpenaiTeacher, text: str = "row", chat: bool = False) -> Generation:
    """The answer to one prompt. Raises its error."""
    [result] = ask(teacher, prompt(text, chat))
    if isinstance(result, BaseException):
        raise result
    return result


def simulate_endpoint(limit: AdaptiveLimit, capacity: int) -> tuple[list[int], float]:
    """Round trips of 10 ticks to an endpoint that takes `capacity` requests at the same time and refuses the others.

    Returns:
        The limit at each of 9,000 ticks after the first 1,000, and the share of requests that were refused.
    """
    sent, values, refused, requests = deque[tuple[int, int, bool]](), list[int](), 0, 0
    for clock in range(1, 10_001):
        while sent and sent[0][0] <= clock:
            _, epoch, accepted = sent.popleft()
            if accepted:
                limit.succeeded(epoch)
            else:
                limit.overloaded(epoch)
            if clock > 1000:
                refused += not accepted
                requests += 1
        while len(sent) < limit.value:
            accepted = sum(accepted for *_, accepted in sent) < capacity
            sent.append((clock + 10, limit.epoch, accepted))
        values.append(limit.value)
    return values[1000:], refused / requests


async def hold(admission: Admission, release: asyncio.Event) -> None:
    """Be one request, until it is released."""
    async with admission.slot():
        await release.wait()


async def settle() -> None:
    """Let all tasks run until they wait."""
    for _ in range(8):
        await asyncio.sleep(0)
