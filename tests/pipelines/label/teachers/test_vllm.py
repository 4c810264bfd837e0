"""The vLLM teacher around a stand-in for the engine. The real one: tests/integration/test_vllm_teacher.py."""

from __future__ import annotations

from typing import Any

import pytest

from pipelines.config import TeacherConfig
from pipelines.errors import UserError
from pipelines.label.engines.actor import TeacherSetup
from pipelines.label.teachers import vllm
from pipelines.label.teachers.base import EngineDeadError, Generation, PromptRefusedError
from pipelines.label.teachers.vllm import VllmTeacher
from pipelines.runtime.compat.vllm import engine_dead_error
from pipelines.tasks import task_spec
from tests.support.corpora import run_config
from tests.support.fake_vllm import FakeEngine
from tests.support.teachers import TASK, answers, word_problems


def config(**settings: Any) -> TeacherConfig:
    return TeacherConfig.model_validate({"engine": "vllm", "model": "some/model", **settings})


@pytest.mark.parametrize(
    ("dtype", "gpus", "knows_bf16", "expected"),
    [("auto", 0, True, "bfloat16"), ("auto", 0, False, "float32"), ("auto", 1, False, "bfloat16"),
     ("bfloat16", 0, False, "bfloat16"), ("float32", 1, True, "float32")],
)  # fmt: skip
def test_dtype_suits_the_hardware_and_is_reported(
    dtype: str, gpus: int, knows_bf16: bool, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vllm, "computes_bf16", lambda: knows_bf16)
    settings = config(gpus_per_replica=gpus, vllm={"dtype": dtype})
    assert vllm.engine_arguments(settings)["dtype"] == expected
    assert TeacherSetup(run_config(settings.model_dump()), task_spec("arithmetic"), 4).dtype() == expected


def test_a_prompt_without_room_is_refused_before_the_start() -> None:
    with pytest.raises(UserError, match=r"max_model_len 64 less sampling.max_tokens 64 leaves 0 tokens for the prompt"):
        VllmTeacher.check(config(vllm={"max_model_len": 64}, sampling={"max_tokens": 64}))


@pytest.mark.parametrize(
    ("engine", "error", "message"),
    [
        (lambda: FakeEngine(engine_dead_error()()), EngineDeadError, "EngineCore"),
        (lambda: FakeEngine(ValueError("no such token")), PromptRefusedError, "engine_error: no such token"),
        (lambda: FakeEngine(silent=True), PromptRefusedError, "engine_error: the engine returned nothing"),
    ],
    ids=["dead", "refused", "silent"],
)
def test_failures_of_the_engine_have_their_errors(engine: Any, error: type[Exception], message: str) -> None:
    [found] = answers(VllmTeacher(config(), TASK, engine()), word_problems(1))
    assert isinstance(found, error)
    assert message in str(found)


@pytest.mark.parametrize(("prompt", "stops"), [("plain", list(TASK.stops)), ("chat", [])])
def test_requests_follow_the_run_file(prompt: str, stops: list[str]) -> None:
    engine = FakeEngine()
    sampling = {"n": 3, "temperature": 0.7, "top_p": 0.9, "max_tokens": 30, "seed": 5}
    teacher = VllmTeacher(config(prompt=prompt, sampling=sampling), TASK, engine)
    [first, _] = answers(teacher, word_problems(2))
    assert isinstance(first, Generation)
    assert len(first.samples) == 3
    one, two = engine.parameters
    assert one is two, "made once"
    assert (one.n, one.temperature, one.top_p, one.max_tokens, one.seed) == (3, 0.7, 0.9, 30, 5)
    assert (one.stop or []) == stops
