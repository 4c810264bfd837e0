"""The endpoint's engines generate the labels that `evaluate` scores: CTranslate2 and vLLM against transformers in float32."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipelines.config.base import ReplicasConfig
from pipelines.config.serving import ServingConfig
from pipelines.recipes.word_problems import test_rows as heldout_rows
from pipelines.storage.store import MANIFEST
from pipelines.students.decoding import Family, Student
from serving.engines.base import Engine
from serving.engines.select import cpu_environment, start_engine
from serving.messages import Question, Reply
from serving.model_card import read_card
from tests.support.tiny_students import write_student

pytestmark = [pytest.mark.integration, pytest.mark.vllm, pytest.mark.timeout(300)]
ROWS, SAME = 200, 199
TOKENS = 8
SETTINGS = ServingConfig(replicas=ReplicasConfig(min=1, max=1), max_new_tokens=TOKENS, max_batch_size=50)


class Silent:
    """Metrics without effect."""

    def batch(self, waited_s: list[float]) -> None:
        pass

    def waited(self, seconds: float) -> None:
        pass


@pytest.fixture(scope="module", autouse=True)
def variables() -> Iterator[None]:
    """The environment of a replica. vLLM gets a fresh process, since this one already has threads."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in cpu_environment(SETTINGS, ["vllm"]).items():
            patch.setenv(name, value)
        patch.setenv("VLLM_WORKER_MULTIPROC_METHOD", "spawn")
        yield


def long_reader(folder: Path, family: Family) -> Path:
    """A student with a long input limit, since its tokens are little more than letters."""
    write_student(folder, family, width=128)
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["details"]["max_input_tokens"] = 400
    (folder / MANIFEST).write_text(json.dumps(manifest))
    return folder


async def answers(engine: Engine, texts: list[str]) -> list[Any]:
    """Responses to concurrent requests, as from many clients."""
    try:
        return await asyncio.gather(*(engine.answer(Question(text)) for text in texts))
    finally:
        await engine.close()


@pytest.mark.parametrize(("family", "name"), [
    ("encoder-decoder", "ctranslate2"), pytest.param("decoder-only", "vllm", marks=pytest.mark.full)
])  # fmt: skip
def test_of_200_labels_199_are_those_of_evaluate(tmp_path: Path, family: Family, name: str) -> None:
    folder = long_reader(tmp_path / "student", family)
    texts = [str(row["input"]) for row in heldout_rows(ROWS, seed=3)]
    student = Student.load(folder)
    expected = student.answer(texts, "label", TOKENS)
    assert len({one.text for one in expected}) > ROWS // 2, "labels must depend on the input"

    async def request_all() -> list[Any]:
        engine = await asyncio.to_thread(start_engine, read_card("sums", str(folder)), SETTINGS, Silent())  # type: ignore[arg-type]
        assert engine.name == name
        return await answers(engine, texts)

    replies = asyncio.run(request_all())
    assert all(isinstance(reply, Reply) for reply in replies), "a problem was too long"
    same = [one.text == reply.answer.text for one, reply in zip(expected, replies, strict=True)]
    assert sum(same) >= SAME, [
        (one.text, r.answer.text) for one, r, s in zip(expected, replies, same, strict=True) if not s
    ]
