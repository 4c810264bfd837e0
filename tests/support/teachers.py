"""Every registered teacher, started without a model; and a further one, as an extension would add it."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from pydantic import SecretStr

from pipelines.config import TeacherConfig
from pipelines.label.teachers.base import Access, Generation, Prompt, Sample, Teacher
from pipelines.label.teachers.registry import teacher_class
from pipelines.label.teachers.vllm import VllmTeacher
from pipelines.tasks import Example, Task, load_task, task_spec
from tests.support.corpora import write_jsonl
from tests.support.fake_vllm import FakeEngine
from tests.support.teacher_endpoint import KEY, Endpoint

TASK = load_task(task_spec("arithmetic"))


class UpperTeacher(Teacher):
    """Answers in capitals. Only what a teacher must have."""

    @classmethod
    def start(cls, config: TeacherConfig, task: Task, access: Access) -> Self:
        return cls()

    async def answer(self, prompt: Prompt) -> Generation:
        return Generation((Sample(prompt.text.upper(), 1, "stop"),), 1)


def teacher_config(engine: str, folder: Path, endpoint: Endpoint) -> TeacherConfig:
    """Settings with which a teacher of this engine answers the prompts of `word_problems`."""
    recording = [{"id": prompt.example.id, "output": f"recorded {prompt.example.id}"} for prompt in word_problems(20)]
    settings: dict[str, dict[str, Any]] = {
        "vllm": {"model": "m", "vllm": {"max_model_len": 16}, "sampling": {"max_tokens": 4}},
        "openai": {"model": "m", "remote": {"url": endpoint.url}, "sampling": {"max_tokens": 4}},
        "replay": {"outputs": write_jsonl(folder / "outputs.jsonl", recording)},
        "echo": {},
    }
    return TeacherConfig.model_validate({"engine": engine, **settings[engine]})


def started(config: TeacherConfig) -> Teacher:
    """The teacher of these settings. vLLM's engine is a stand-in."""
    if config.engine == "vllm":
        return VllmTeacher(config, TASK, FakeEngine())
    return teacher_class(config.engine).start(config, TASK, Access(key=SecretStr(KEY)))


def word_problems(count: int) -> list[Prompt]:
    """Prompts of 7 words, each with its own number in input and gold label."""
    examples = [Example(f"r{i}", f"Anne has {i} apples. How many?", f"{i} + 0") for i in range(count)]
    return [Prompt(example, f"{example.input} A:") for example in examples]


def answers(teacher: Teacher, prompts: Sequence[Prompt]) -> list[Generation | BaseException]:
    """All prompts at the same time. An answer or an error per prompt."""

    async def ask() -> list[Generation | BaseException]:
        return await asyncio.gather(*map(teacher.answer, prompts), return_exceptions=True)

    return asyncio.run(ask())
