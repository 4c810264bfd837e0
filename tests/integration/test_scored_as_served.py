"""Evaluation and the endpoint's engines give the same answers, with real vLLM and CTranslate2, as transformers in float32."""

import asyncio
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from pipelines.config import EvaluationConfig
from pipelines.config.serving import ServingConfig
from pipelines.methods import METHODS, written_labels
from pipelines.runtime.cpus import inherited
from pipelines.scoring.predict import PredictRequest, predict
from pipelines.scoring.predictor import Query
from pipelines.scoring.sources import Trained
from pipelines.students.decoding import Decoded, Family, Student, encode_prompt
from pipelines.tasks.base import Example
from pipelines.tasks.multiple_choice import MultipleChoice
from serving.engines.select import cpu_environment, start_engine
from serving.messages import Question, Reply
from serving.model_card import read_card
from tests.support.fake_engines import FakeMetrics
from tests.support.local_ray import local_ray
from tests.support.tiny_students import tiny_tokenizer, write_student

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]
TASK = MultipleChoice()
WORDS = ("sea", "sea shore", "river", "a", "ab", "河", "<b>", "apples and pears", "apples", "10%")
NUM_ROWS, TOKENS = 200, 6


def examples(family: Family) -> list[Example]:
    """The first is as long as the student reads."""
    chance = random.Random(4)
    rows = [
        {"id": str(row), "question": f"Where are {row} apples?", "choices": chance.sample(WORDS, chance.randint(2, 5))}
        for row in range(NUM_ROWS)
    ]
    longest: dict[str, Any] = {"id": "longest", "question": "", "choices": ["sea", "sea shore"]}
    tokenizer = tiny_tokenizer(family)
    fitting = lambda n: len(encode_prompt(tokenizer, family, TASK.read({**longest, "question": "x" * n}).input)) <= 64  # noqa: E731
    longest["question"] = "x" * max(filter(fitting, range(1, 64)))
    return [TASK.read(row) for row in [longest, *rows[1:]]]


@pytest.mark.parametrize("family", ["encoder-decoder", pytest.param("decoder-only", marks=pytest.mark.full)])
def test_evaluation_and_endpoint_give_the_same_answers(tmp_path: Path, family: Family) -> None:
    method = "label-then-rationale"  # its labels are written as those of finetune
    folder = str(write_student(tmp_path / "student", family, method, "multiple-choice", width=256))
    rows = examples(family)
    labels = [written_labels(method, TASK, example) for example in rows]
    source, texts = Trained(folder), [example.input for example in rows]
    with local_ray():
        requests = [
            PredictRequest("s", Query(source, part, constrained=c), texts, labels)
            for part in (None, "rationale")
            for c in (False, True)
        ]
        free, constrained, *rationales = predict(requests, EvaluationConfig(max_new_tokens=TOKENS, batch_size=50))
    engine = {"encoder-decoder": "ctranslate2", "decoder-only": "vllm"}[family]
    assert {answer.engine for (answer,) in free.answers} == {engine}
    assert (free.answers[0][0].prompt_tokens, free.answers[0][0].too_long) == (64, False)
    assert sum(not answer.in_set for (answer,) in free.answers) > NUM_ROWS // 2
    plain = Student.load(folder).answer(texts, METHODS[method].answer, TOKENS)
    assert len({one.text for one in plain}) > NUM_ROWS // 2, "labels must depend on the input"
    assert sum(one.text == answer.text for one, (answer,) in zip(plain, free.answers, strict=True)) >= NUM_ROWS - 1
    for (answer,), some in zip(constrained.answers, labels, strict=True):
        assert answer.in_set
        assert answer.text in some
    served = asyncio.run(served_answers(folder, rows, labels))
    for found, answers in zip((free, constrained), served[:2], strict=True):
        scored = [answer for (answer,) in found.answers]
        assert [answer.text for answer in answers] == [answer.text for answer in scored]
        confidences = pytest.approx([answer.confidence for answer in scored], rel=1e-3)
        assert [answer.confidence for answer in answers] == confidences
    for found, answers in zip(rationales, served[2:], strict=True):
        same = [answer.text == scored.text for answer, (scored,) in zip(answers, found.answers, strict=True)]
        assert sum(same) >= 0.98 * NUM_ROWS, "over 32 tokens a near tie may fall either way"
        assert len({answer.text for answer in answers}) > NUM_ROWS // 2


async def served_answers(
    folder: str, rows: Sequence[Example], labels: Sequence[tuple[str, ...]]
) -> list[list[Decoded]]:
    """Free and constrained labels of one engine, as a replica starts it; then the rationales that follow both."""
    serving = ServingConfig(max_new_tokens=TOKENS, max_batch_size=16)
    with inherited(cpu_environment(serving, ["vllm"])):
        engine = start_engine(read_card("s", folder), serving, FakeMetrics())  # type: ignore[arg-type]
    found: list[list[Decoded]] = []
    follow: list[list[Decoded]] = []
    for engine._constrained in (False, True):  # instead of a second start of vLLM
        questions = [Question(row.input, True, some) for row, some in zip(rows, labels, strict=True)]
        replies = await asyncio.gather(*(engine.answer(question) for question in questions))
        found.append([reply.answer for reply in replies if isinstance(reply, Reply)])
        follow.append([reply.rationale for reply in replies if isinstance(reply, Reply) and reply.rationale])
    await engine.close()
    return [*found, *follow]
