"""Padded batches over a fake student: what shares a batch, and what a batch costs."""

import asyncio
import gc
import math
import weakref
from dataclasses import replace
from typing import Any

import pytest

from pipelines.config.serving import ServingConfig
from pipelines.students.decoding import GenerationOutput, GenerationRequest, LabelSet, Student
from serving.engines.batched import TransformersEngine
from serving.messages import Question, TextRequest
from tests.support.fake_engines import batched_engine
from tests.support.fake_students import FakeMetrics, card
from tests.support.tiny_students import tiny_model, tiny_tokenizer

pytestmark = pytest.mark.anyio
REQUEST = GenerationRequest("[label] 4 apples", 4)


async def test_the_student_learns_which_rows_are_abandoned() -> None:
    engine, student, _ = batched_engine(max_batch_size=3, batch_wait_s=30.0)
    student.hold()
    cancelled = asyncio.ensure_future(engine.complete(REQUEST))
    stays = asyncio.ensure_future(engine.complete(REQUEST))
    stream = engine.stream(TextRequest("4 apples", raw=False, max_tokens=4))
    await anext(stream)
    assert student.abandoned() == [False] * 3
    cancelled.cancel()
    await stream.aclose()
    await asyncio.sleep(0)
    assert student.abandoned() == [True, False, True]
    student.release()
    await stays
    assert student.abandoned() == [True] * 3


async def test_a_bad_text_costs_no_other_its_answer() -> None:
    engine, student, metrics = batched_engine(max_batch_size=3)
    student.bad = "[label] bad"
    calls = [engine.complete(GenerationRequest(f"[label] {text}", 4)) for text in ("4 apples", "bad", "5 apples")]
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    assert [isinstance(outcome, ValueError) for outcome in outcomes] == [False, True, False]
    assert metrics.batch_sizes == [3]


def tiny(method: str = "step-by-step") -> Student:
    tokenizer = tiny_tokenizer("encoder-decoder")
    return Student(tiny_model("encoder-decoder", len(tokenizer)), tokenizer, method=method, max_input_tokens=64)


async def test_a_row_is_answered_at_its_own_end() -> None:
    student = tiny()
    ended: list[tuple[int, GenerationOutput]] = []
    steps: list[int] = []
    requests = [GenerationRequest("[label] 4 apples", limit) for limit in (2, 6)]
    outputs = student.write(requests, lambda _: steps.append(1), None, lambda _, out: ended.append((len(steps), out)))
    assert [output for _, output in ended] == outputs
    assert [step for step, _ in ended] == [len(output.ids) for output in outputs]


async def test_a_closed_engine_frees_its_student() -> None:
    engine, student, _ = batched_engine()
    await engine.complete(REQUEST)
    reference = weakref.ref(student)
    del student
    await engine.close()
    gc.collect()
    assert reference() is None
    with pytest.raises(RuntimeError, match="closed"):
        await engine.complete(REQUEST)


async def test_a_rationale_continues_after_its_label() -> None:
    method = "label-then-rationale"
    student = tiny(method)
    engine = TransformersEngine(card("sums", method), ServingConfig(max_new_tokens=3), student, FakeMetrics())  # type: ignore[arg-type]
    alone, both = [await engine.answer(Question("4 apples", rationale=wanted)) for wanted in (False, True)]
    assert (alone.answer, alone.rationale) == (both.answer, None)
    (label,) = student.write([GenerationRequest("4 apples", 3)])
    (follows,) = student.write([GenerationRequest("4 apples", 28, written=(*label.ids, student.eos))])
    assert (both.rationale.text, both.rationale.output_tokens) == (follows.text(student.tokenizer).strip(), 28)


async def test_confidences_are_those_of_evaluate() -> None:
    """The label's within its closed set; a rationale's plain product."""
    student = tiny()
    (before,) = student.write([student.request("4 apples", "label", 3)])
    # The set holds whatever the student writes: it ends with the end token only by chance.
    labels = LabelSet((before.ids, (before.ids[0], 7, 8), (9,)))
    engine = TransformersEngine(card("sums"), ServingConfig(max_new_tokens=3), student, FakeMetrics())  # type: ignore[arg-type]
    sets: list[Any] = []
    engine._label_set = lambda part, given: sets.append((part, given)) or (labels if part == "label" else None)  # type: ignore[func-returns-value]
    reply = await engine.answer(Question("4 apples", rationale=True, labels=("a", "b")))
    assert sets == [("label", ("a", "b")), ("rationale", ("a", "b"))]
    (expected,) = student.write([replace(student.request("4 apples", "label", 3), labels=labels)])
    assert math.fsum(before.log_probs) < expected.label_log_prob < 0.0
    assert reply.answer.confidence == pytest.approx(math.exp(expected.label_log_prob), abs=1e-6)
    rationale = student.answer(["4 apples"], "rationale", 3)[0]
    assert reply.rationale.confidence == pytest.approx(rationale.confidence, abs=1e-6)
