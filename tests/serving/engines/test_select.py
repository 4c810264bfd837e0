"""The registry of engines: which one a student gets, and what replaces an engine that cannot run it."""

from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from pipelines.config.serving import ServingConfig
from pipelines.errors import UserError
from pipelines.students.decoding import Family
from pipelines.students.decoding.ctranslate2_student import ConversionError, Ctranslate2Student
from pipelines.students.decoding.engines import FACTS
from pipelines.students.decoding.vllm_settings import check_cpu_attention
from serving.engines import vllm as vllm_module
from serving.engines.select import engine_name, start_engine
from serving.engines.vllm import VllmEngine
from serving.model_card import StudentCard, read_card
from tests.support.fake_students import FakeMetrics
from tests.support.tiny_students import write_student

GONE = "Engine core initialization failed. See root cause above. Failed core proc(s): {}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_student(tmp_path_factory.mktemp("students") / "student", "decoder-only")


@pytest.fixture
def student(folder: Path) -> StudentCard:
    return read_card("sums", str(folder))


@pytest.fixture
def vllm_start(monkeypatch: pytest.MonkeyPatch) -> Mock:
    """Takes the place of vLLM's start."""
    monkeypatch.setattr(vllm_module, "engine_threads", lambda _: {})
    started = Mock(return_value="started")
    monkeypatch.setattr(VllmEngine, "start", started)
    return started


def start(student: StudentCard, **settings: Any) -> Any:
    return start_engine(student, ServingConfig(**settings), FakeMetrics())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("family", "settings", "name"),
    [
        ("encoder-decoder", {}, "ctranslate2"),
        ("encoder-decoder", {"weights": "int8"}, "ctranslate2"),
        ("encoder-decoder", {"weights": "bfloat16"}, "transformers"),
        ("encoder-decoder", {"gpus_per_replica": 1}, "transformers"),
        ("decoder-only", {"weights": "float16", "gpus_per_replica": 4}, "vllm"),
        *[(family, {"engine": name}, name) for name, facts in FACTS.items() for family in facts.weights],
    ],
)
def test_family_device_and_weights_select_the_engine(family: Family, settings: dict[str, Any], name: str) -> None:
    assert engine_name(family, ServingConfig(**settings)) == name


@pytest.mark.parametrize(
    ("family", "settings", "match"),
    [
        ("decoder-only", {"weights": "int8"}, "no engine has these weights for decoder-only students on CPUs"),
        ("encoder-decoder", {"weights": "float16"}, "no engine has these weights for encoder-decoder students"),
        ("decoder-only", {"engine": "vllm", "weights": "int8"}, "vllm has no such weights.*Set one of float32, bfloat16"),
        ("decoder-only", {"engine": "ctranslate2"}, "does not run decoder-only.*one of vllm, transformers"),
        ("encoder-decoder", {"engine": "ctranslate2", "gpus_per_replica": 1}, "CUDA"),
        ("encoder-decoder", {"gpus_per_replica": 1, "weights": "int8"}, "on GPUs. Set one of bfloat16, float32"),
        ("encoder-decoder", {"gpus_per_replica": 2}, "gpus_per_replica 2: no engine .* on 2 GPUs. Set serving.gpus_per_replica: 1"),
        ("encoder-decoder", {"engine": "transformers", "gpus_per_replica": 2}, "on one GPU. Set auto, or .*: 1"),
        ("encoder-decoder", {"engine_args": {"swap_space": 1}}, "engine_args swap_space: ctranslate2 runs encoder-decoder students"),
    ],
)  # fmt: skip
def test_an_impossible_engine_is_refused(family: Family, settings: dict[str, Any], match: str) -> None:
    with pytest.raises(UserError, match=match):
        engine_name(family, ServingConfig(**settings))


@pytest.mark.parametrize("engine", ["auto", "vllm"])
def test_a_vllm_that_does_not_start_is_reported(student: StudentCard, vllm_start: Mock, engine: str) -> None:
    vllm_start.side_effect = RuntimeError(GONE)
    match = r"vLLM does not start for it .*initialization failed.* lower serving\.max_batch_size%s, or set"
    with pytest.raises(UserError, match=match % ""):
        start(student, engine=engine, gpus_per_replica=1)
    with pytest.raises(UserError, match=match % r" or serving\.students_per_replica"):
        start(student, engine=engine, gpus_per_replica=1, students_per_replica=2)


@pytest.mark.parametrize("error", [ValueError("no such architecture"), ImportError("no module named vllm")])
def test_transformers_runs_what_vllm_does_not_know(
    student: StudentCard, vllm_start: Mock, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    monkeypatch.setattr("pipelines.students.decoding.vllm_settings.check_cpu_attention", lambda _: None)
    vllm_start.side_effect = error
    assert start(student).name == "transformers"
    with pytest.raises(UserError, match=rf"serving\.engine vllm: {error}"):
        start(student, engine="vllm")


def test_transformers_runs_what_ctranslate2_cannot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in evaluation: what is scored is what is served."""
    student = read_card("sums", str(write_student(tmp_path / "student", "encoder-decoder")))
    refused = ConversionError("student", "CTranslate2 cannot convert it", "Set serving.engine: transformers.")
    monkeypatch.setattr(Ctranslate2Student, "open", Mock(side_effect=refused))
    assert start(student).name == "transformers"
    with pytest.raises(UserError, match=r"serving\.engine ctranslate2: .*cannot convert it"):
        start(student, engine="ctranslate2")


def test_vllm_gets_no_pickled_weights(tmp_path: Path, vllm_start: Mock) -> None:
    """The folder may have changed since its card was read."""
    student = read_card("sums", str(write_student(tmp_path / "student", "decoder-only")))
    (Path(student.folder) / "model.safetensors").rename(Path(student.folder) / "pytorch_model.bin")
    with pytest.raises(UserError, match="its weights are pickled"):
        start(student)
    vllm_start.assert_not_called()


def test_transformers_runs_heads_that_vllm_lacks_on_cpus(
    tmp_path: Path, student: StudentCard, vllm_start: Mock, caplog: pytest.LogCaptureFixture
) -> None:
    """vLLM starts with them, and dies at the first token."""
    pytest.importorskip("vllm")
    assert start(student).name == "transformers"
    assert "transformers instead of vllm (the student has attention heads of size 16" in caplog.text
    with pytest.raises(UserError, match=r"heads of size 16, and vLLM on CPUs has sizes 32, 64"):
        start(student, engine="vllm")
    wider = read_card("wider", str(write_student(tmp_path / "wider", "decoder-only", width=128)))
    assert start(wider) == "started"
    assert start(student, gpus_per_replica=1) == "started", "GPUs have other sizes"
    from transformers import MambaConfig

    MambaConfig().save_pretrained(tmp_path)
    check_cpu_attention(str(tmp_path))  # it has no heads: vLLM decides itself
