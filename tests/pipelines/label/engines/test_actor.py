from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from pipelines.config import RunConfig
from pipelines.label.answers.outcomes import RATIONALISED
from pipelines.label.engines.actor import TeacherActor, TeacherSetup
from pipelines.label.engines.health import EngineHealth
from pipelines.label.teachers.base import Generation, Prompt, PromptRefusedError, Sample, TeacherUnusableError
from pipelines.tasks import Example, Shot, task_spec

EXAMPLE = Example("a", "Anne has 4 apples and gives Peter 1. How many has she left?", "4 - 1")
SHOTS = (Shot("1 and 1?", "1 + 1 = 2. The answer is (1 + 1)."),)


class HintedTeacher:
    """Is wrong, unless it is told the answer. Keeps what it was asked."""

    def __init__(self, refuses_hints: bool = False) -> None:
        self.asked: list[str] = []
        self._refuses_hints = refuses_hints

    async def answer(self, prompt: Prompt) -> Generation:
        self.asked.append(prompt.text)
        hinted = "(The answer is 4 - 1.)" in prompt.text
        if hinted and self._refuses_hints:
            raise PromptRefusedError("too_long", "9 tokens")
        text = "4 - 1 = 3. The answer is 3." if hinted else "4 + 1 = 5. The answer is 5."
        return Generation((Sample(text, 5, "stop"),), 100)


def ask(
    teacher: HintedTeacher, split: str, gold: str, example: Example = EXAMPLE, validation: float | str = 0.1
) -> dict[str, Any]:
    run = RunConfig.model_validate(
        {"name": "r", "output": "out", "task": "arithmetic", "student": {"model": "m"},
         "corpus": {"train": "t.jsonl", "validation": validation},
         "teacher": {"engine": "echo", "filters": {"gold": gold}}})  # fmt: skip
    actor = TeacherActor(TeacherSetup(run, task_spec("arithmetic"), 4, SHOTS), None)
    row = asyncio.run(actor._ask(teacher, example, (split, example.id)))
    assert row is not None
    return row


def test_a_wrong_answer_is_asked_for_again_with_the_gold_label() -> None:
    teacher = HintedTeacher()
    row = ask(teacher, "train", "rationalise")
    assert (row["reason"], row["label"], row["note"], row["agrees"]) == (None, "4 - 1", RATIONALISED, False)
    assert len(teacher.asked) == 2
    assert all(text.startswith("Q: 1 and 1?\n") for text in teacher.asked)


@pytest.mark.parametrize(
    ("split", "gold"), [("heldout", "rationalise"), ("train", "keep"), ("train", "drop-disagreeing")]
)
def test_no_gold_label_is_shown_otherwise(split: str, gold: str) -> None:
    teacher = HintedTeacher()
    ask(teacher, split, gold)
    assert len(teacher.asked) == 1
    assert "4 - 1" not in teacher.asked[0]


def test_no_gold_label_is_shown_for_a_row_of_the_validation_split() -> None:
    teacher = HintedTeacher()
    row = ask(teacher, "train", "rationalise", validation=1.0)
    assert (len(teacher.asked), row["reason"]) == (1, "disagrees_with_gold")
    assert ask(teacher, "train", "rationalise", validation="v.jsonl")["note"] == RATIONALISED


def test_the_first_reject_stands_where_the_hint_makes_the_prompt_too_long() -> None:
    row = ask(HintedTeacher(refuses_hints=True), "train", "rationalise")
    assert (row["reason"], row["output"]) == ("disagrees_with_gold", "4 + 1 = 5. The answer is 5.")


class LocalLedger:
    """The ledger as an actor's handle has it, in this process."""

    def __init__(self) -> None:
        self._ledger = EngineHealth()

    def __getattr__(self, name: str) -> Any:
        async def call(*arguments: Any) -> Any:
            return getattr(self._ledger, name)(*arguments)

        return SimpleNamespace(remote=call)


@pytest.mark.parametrize(
    ("replicas", "gpus", "cluster", "starts"),
    [
        (1, 0, {"CPU": 64.0}, 8),
        (1000, 0, {"CPU": 4000.0}, 1007),
        (1000, 0, {"CPU": 3.0}, 10),
        (64, 2, {"CPU": 16.0, "GPU": 4.0}, 9),
    ],
)
def test_all_replicas_that_there_is_room_for_may_start_before_one_has_answered(
    replicas: int, gpus: int, cluster: dict[str, float], starts: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And 7 more, whose engines took the place of others that died; with the 8th of these there is no use in going on."""
    monkeypatch.setattr("ray.cluster_resources", lambda: cluster)
    run = RunConfig.model_validate(
        {"name": "r", "output": "out", "task": "arithmetic", "corpus": {"train": "t.jsonl"}, "student": {"model": "m"},
         "teacher": {"engine": "echo", "gpus_per_replica": gpus, "replicas": {"min": replicas, "max": replicas}}})  # fmt: skip
    ledger = LocalLedger()
    monkeypatch.setattr("pipelines.label.engines.actor.node_name", lambda: "here")

    async def start() -> None:
        await TeacherActor(TeacherSetup(run, task_spec("arithmetic"), 4, SHOTS), ledger)._ready()

    async def start_all() -> None:
        for _ in range(starts):
            await start()
        with pytest.raises(TeacherUnusableError, match="8 engines in a row died"):
            await start()

    asyncio.run(start_all())
