"""What a teacher actor works with: teachers with one behaviour, an EngineHealth in this process, blocks."""

import asyncio
from types import SimpleNamespace
from typing import Any, Self

import pyarrow as pa
import pytest

from pipelines.config import RunConfig
from pipelines.data.reader import DataSplit
from pipelines.data.schema import EXAMPLE
from pipelines.label.answers.outcomes import Outcome
from pipelines.label.engines.actor import TeacherActor, TeacherSetup
from pipelines.label.engines.health import EngineHealth
from pipelines.label.teachers.base import Generation, Prompt, PromptRefusedError, Sample, Teacher
from pipelines.tasks import Example, Shot, task_spec
from tests.support.corpora import run_config


class HintedTeacher(Teacher):
    """Is wrong unless the prompt has a hint."""

    def __init__(self, refuses_hints: bool = False) -> None:
        self.prompts: list[str] = []
        self._refuses_hints = refuses_hints

    @classmethod
    def start(cls, *_: Any) -> Self:
        return cls()

    async def answer(self, prompt: Prompt) -> Generation:
        self.prompts.append(prompt.text)
        hinted = "(The answer is 4 - 1.)" in prompt.text
        if hinted and self._refuses_hints:
            raise PromptRefusedError("too_long", "9 tokens")
        text = "4 - 1 = 3. The answer is 3." if hinted else "4 + 1 = 5. The answer is 5."
        return Generation((Sample(text, 5, "stop"),), 100)


class FailingTeacher(HintedTeacher):
    """Raises one error for every prompt."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self._error = error

    async def answer(self, prompt: Prompt) -> Generation:
        raise self._error


class LocalHealth:
    """An EngineHealth in this process, with the interface of an actor's handle."""

    def __init__(self) -> None:
        self.health = EngineHealth()

    def __getattr__(self, name: str) -> Any:
        async def call(*arguments: Any) -> Any:
            return getattr(self.health, name)(*arguments)

        return SimpleNamespace(remote=lambda *arguments: asyncio.ensure_future(call(*arguments)))


def block(*ids: str) -> pa.Table:
    """A block of the same word problem with these ids."""
    rows = [{"split": "train", "id": i, "input": "4 - 1?", "gold": "4 - 1", "choices": []} for i in ids]
    return pa.Table.from_pylist(rows, schema=EXAMPLE)


APPLES = Example("a", "Anne has 4 apples and gives Peter 1. How many has she left?", "4 - 1")
SHOTS = (Shot("1 and 1?", "1 + 1 = 2. The answer is (1 + 1)."),)


def actor_of(health: LocalHealth | None = None, run: RunConfig | None = None) -> TeacherActor:
    return TeacherActor(TeacherSetup(run or run_config(), task_spec("arithmetic"), 4, SHOTS), health)


def label_apples(
    teacher: Teacher, split: DataSplit, gold: str, validation: float | str = 0.1, filters: dict[str, Any] | None = None
) -> Outcome:
    """What an actor with this teacher makes of one word problem."""
    settings = {"engine": "echo", "filters": {"gold": gold, **(filters or {})}}
    run = run_config(settings, corpus={"validation": validation})
    row = asyncio.run(actor_of(run=run)._label(teacher, APPLES, split))
    assert row is not None
    return row


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    resources = {"CPU": 64.0}
    monkeypatch.setattr("ray.cluster_resources", lambda: resources)
    monkeypatch.setattr("pipelines.label.engines.actor.node_name", lambda: "here")
    return resources
