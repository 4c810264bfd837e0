"""What the teacher tells vLLM. The engine itself: tests/integration/test_vllm_teacher.py."""

from __future__ import annotations

import pytest

from pipelines.config import EngineConfig, RunConfig, TeacherConfig
from pipelines.label.engines.actor import TeacherSetup
from pipelines.label.teachers import vllm
from pipelines.tasks import task_spec


@pytest.mark.parametrize(
    ("dtype", "gpus", "knows_bf16", "told"),
    [
        ("auto", 0, True, "bfloat16"),
        ("auto", 0, False, "float32"),
        ("auto", 1, False, "bfloat16"),
        ("bfloat16", 0, False, "bfloat16"),
        ("float32", 1, True, "float32"),
    ],
)
def test_the_precision_is_one_that_the_hardware_computes_in_and_told_with_each_row(
    dtype: str, gpus: int, knows_bf16: bool, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vllm, "computes_bf16", lambda: knows_bf16)
    monkeypatch.setattr("pipelines.label.engines.actor.node_name", lambda: "this one")
    settings = EngineConfig(dtype=dtype)  # type: ignore[arg-type]
    config = TeacherConfig(engine="vllm", model="some/model", gpus_per_replica=gpus, vllm=settings)
    assert vllm.engine_arguments(config)["dtype"] == told
    run = RunConfig.model_validate(
        {"name": "r", "output": "o", "task": "arithmetic", "student": {"model": "m"}, "corpus": {"train": "t.jsonl"},
         "teacher": config.model_dump()})  # fmt: skip
    assert TeacherSetup(run, task_spec("arithmetic"), 4).origin() == {"node": "this one", "dtype": told}
