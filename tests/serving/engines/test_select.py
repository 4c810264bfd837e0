"""Engines that do not start: what is said of it, and what takes their place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipelines.config.serving import ServingConfig
from pipelines.errors import UserError
from serving.engines import select
from serving.engines.select import start_engine
from serving.engines.vllm import VllmEngine, check_cpu_attention
from serving.model_card import StudentCard, read_card
from tests.support.tiny_students import write_student

GONE = "Engine core initialization failed. See root cause above. Failed core proc(s): {}"


@pytest.fixture
def student(tmp_path: Path) -> StudentCard:
    return read_card("sums", str(write_student(tmp_path / "student", "decoder-only")))


def start(student: StudentCard, **settings: Any) -> Any:
    return start_engine(student, ServingConfig(**settings), None)  # type: ignore[arg-type]


@pytest.mark.parametrize("engine", ["auto", "vllm"])
def test_a_vllm_that_does_not_start_is_told_of(
    student: StudentCard, monkeypatch: pytest.MonkeyPatch, engine: str
) -> None:
    """It was a fault of ours to each who asked, for ever."""

    def fails(*_: Any) -> Any:
        raise RuntimeError(GONE)

    monkeypatch.setattr(select, "_vllm", fails)
    with pytest.raises(
        UserError, match=r"vLLM does not start for it .*initialization failed.* lower serving\.max_batch_size, or set"
    ):
        start(student, engine=engine)
    with pytest.raises(UserError, match=r"lower serving\.max_batch_size or serving\.students_per_replica, or set"):
        start(student, engine=engine, students_per_replica=2)


def test_what_vllm_does_not_know_runs_in_transformers(student: StudentCard, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any) -> Any:
        raise ValueError("no such architecture")

    monkeypatch.setattr(select, "_vllm", fails)
    assert start(student).name == "transformers"
    with pytest.raises(UserError, match=r"serving\.engine vllm: no such architecture"):
        start(student, engine="vllm")


def test_vllm_is_given_nothing_that_may_not_be_opened(student: StudentCard, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever names a folder by its manifest alone has not looked: a folder may have changed since its card was read."""
    monkeypatch.setattr(VllmEngine, "start", lambda *_: pytest.fail("it was started"))
    monkeypatch.setattr(select, "vllm_threads", lambda _: {})
    (Path(student.folder) / "model.safetensors").rename(Path(student.folder) / "pytorch_model.bin")
    with pytest.raises(UserError, match="its weights are pickled"):
        start(student)


def test_heads_that_vllm_on_cpus_does_not_know_run_in_transformers(
    tmp_path: Path, student: StudentCard, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """vLLM says nothing until the first token, at which it ends."""
    monkeypatch.setattr(VllmEngine, "start", lambda *_: "started")
    monkeypatch.setattr(select, "vllm_threads", lambda _: {})
    assert start(student).name == "transformers"
    assert "transformers in place of vLLM (the student's attention has heads of 16" in caplog.text
    with pytest.raises(UserError, match=r"heads of 16, and vLLM on CPUs knows those of 32, 64"):
        start(student, engine="vllm")
    wider = read_card("wider", str(write_student(tmp_path / "wider", "decoder-only", width=128)))
    assert start(wider) == "started"
    assert start(student, gpus_per_replica=1) == "started", "GPUs know others"


def test_of_what_has_no_heads_vllm_says_itself_whether_it_knows_it(tmp_path: Path) -> None:
    from transformers import MambaConfig

    MambaConfig().save_pretrained(tmp_path)
    check_cpu_attention(str(tmp_path))
