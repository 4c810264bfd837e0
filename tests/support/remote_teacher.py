"""Remote teachers over an endpoint, and prompts for them."""

import asyncio
from typing import Any

from pydantic import SecretStr

from pipelines.config import TeacherConfig
from pipelines.label.teachers.base import Generation, Prompt
from pipelines.label.teachers.openai import OpenaiTeacher
from pipelines.label.teachers.rate_limit import Admission
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


async def hold(admission: Admission, release: asyncio.Event) -> None:
    """Be one request, until it is released."""
    async with admission.slot():
        await release.wait()


async def settle() -> None:
    """Let all tasks run until they wait."""
    for _ in range(8):
        await asyncio.sleep(0)
