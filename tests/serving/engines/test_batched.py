"""Students in padded batches, before a stand-in that can be held up: cancelled questions, streams, an engine that fails or hangs."""

from __future__ import annotations

import asyncio
import gc
import math
import threading
import weakref
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from pipelines.config.serving import ServingConfig
from pipelines.students.decoding import GenerationOutput, GenerationRequest, LabelSet, Student
from serving.engines.batched import BatchedEngine
from serving.messages import Piece, Question, Reply, TextRequest
from tests.support.fake_students import card
from tests.support.tiny_students import tiny_model, tiny_tokenizer

ORDER = GenerationRequest("[label] 4 apples", 4)


class Held:
    """A student whose batches wait until they are let go."""

    def __init__(self) -> None:
        self.tokenizer = tiny_tokenizer("encoder-decoder")
        self.lanes = 1
        self.batches: list[list[str]] = []
        self.lengths: list[int] = []
        self.go = threading.Event()
        self.begun = threading.Event()
        self.error: Exception | None = None

    def write(
        self,
        orders: Sequence[GenerationRequest],
        on_tokens: Callable[[list[int | None]], None],
        gone: Callable[[int], bool],
    ) -> list[GenerationOutput]:
        self.gone = gone
        self.batches.append([order.prompt for order in orders])
        self.lengths += [order.max_new_tokens for order in orders]
        self.begun.set()
        on_tokens([5] * len(orders))
        assert self.go.wait(10.0)
        if self.error:
            raise self.error
        on_tokens([self.tokenizer.eos_token_id] * len(orders))
        return [GenerationOutput((5, self.tokenizer.eos_token_id), (-0.5, -0.1), 3, "stop") for _ in orders]


class Counts:
    """Batch sizes."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def batch(self, waited_s: list[float]) -> None:
        self.sizes.append(len(waited_s))


def made(**settings: Any) -> tuple[BatchedEngine, Held, Counts]:
    student, counts = Held(), Counts()
    wedged = settings.pop("wedged_after_s", 300.0)
    serving = ServingConfig(batch_wait_s=0.01, **settings)
    engine = BatchedEngine(card("sums"), serving, student, name="made", metrics=counts, wedged_after_s=wedged)  # type: ignore[arg-type]
    return engine, student, counts


async def until(event: threading.Event) -> None:
    assert await asyncio.to_thread(event.wait, 10.0)


def test_questions_of_one_moment_are_one_batch() -> None:
    async def run() -> None:
        engine, student, counts = made(max_batch_size=4)
        student.go.set()
        written = await asyncio.gather(*(engine.complete(ORDER) for _ in range(4)))
        assert (len(student.batches), counts.sizes) == (1, [4])
        assert all(w.ids == (5, student.tokenizer.eos_token_id) for w in written)

    asyncio.run(run())


def test_a_question_that_is_cancelled_before_its_batch_is_not_written() -> None:
    async def run() -> None:
        engine, student, counts = made(max_batch_size=4)
        first = asyncio.ensure_future(engine.complete(ORDER))
        await until(student.begun)
        gone = asyncio.ensure_future(engine.complete(GenerationRequest("[label] gone", 4)))
        stays = asyncio.ensure_future(engine.complete(GenerationRequest("[label] stays", 4)))
        await asyncio.sleep(0.05)
        gone.cancel()
        with pytest.raises(asyncio.CancelledError):
            await gone
        student.go.set()
        assert (await first).ids == (await stays).ids
        assert student.batches == [["[label] 4 apples"], ["[label] stays"]]
        assert counts.sizes == [1, 1]

    asyncio.run(run())


def test_a_question_that_is_cancelled_in_its_batch_takes_nobody_with_it() -> None:
    async def run() -> None:
        engine, student, _ = made(max_batch_size=4)
        gone, stays = (asyncio.ensure_future(engine.complete(ORDER)) for _ in range(2))
        await until(student.begun)
        gone.cancel()
        await asyncio.sleep(0.05)
        student.go.set()
        assert (await stays).finish_reason == "stop"
        assert (await engine.complete(ORDER)).finish_reason == "stop"

    asyncio.run(run())


def test_a_stream_gives_tokens_as_they_come_and_may_be_left() -> None:
    async def run() -> None:
        engine, student, _ = made()
        pieces = engine.stream(TextRequest("4 apples", raw=False))
        first = await anext(pieces)
        assert not student.go.is_set(), "the first piece comes before the text is whole"
        assert first
        await pieces.aclose()
        student.go.set()
        assert (await engine.complete(ORDER)).finish_reason == "stop"

    asyncio.run(run())


def test_an_engine_that_fails_says_so_to_everyone_in_the_batch_and_lives_on() -> None:
    async def run() -> None:
        engine, student, _ = made(max_batch_size=2)
        student.error = RuntimeError("out of memory")
        student.go.set()
        found = await asyncio.gather(*(engine.complete(ORDER) for _ in range(2)), return_exceptions=True)
        assert all("out of memory" in str(error) for error in found)
        with pytest.raises(RuntimeError, match="out of memory"):
            _ = [piece async for piece in engine.stream(TextRequest("4 apples", raw=False))]
        student.error = None
        assert (await engine.complete(ORDER)).finish_reason == "stop"

    asyncio.run(run())


def test_a_batch_that_hangs_is_found_out() -> None:
    async def run() -> None:
        engine, student, _ = made(wedged_after_s=0.05)
        await engine.check_health()
        asked = asyncio.ensure_future(engine.complete(ORDER))
        await until(student.begun)
        await asyncio.sleep(0.1)
        with pytest.raises(RuntimeError, match="written no token"):
            await engine.check_health()
        student.go.set()
        await asked
        await engine.check_health()

    asyncio.run(run())


def test_no_client_asks_for_more_than_a_text_may_have() -> None:
    """10**30 tokens are no number for CTranslate2, and a million would hold up all who are in the batch."""

    async def run() -> None:
        engine, student, _ = made(max_batch_size=4, max_new_tokens=8)
        student.go.set()
        orders = [TextRequest("[label] 4 apples", raw=True, max_tokens=n) for n in (10**30, 1_000_000, 5, None)]
        pieces = await asyncio.gather(*(engine.write(order) for order in orders))
        assert [piece.finish_reason for piece in pieces if isinstance(piece, Piece)] == ["stop"] * 4
        _ = [piece async for piece in engine.stream(orders[0])]
        # 32: what the card says that the student was trained to write.
        assert student.lengths == [32, 32, 5, 8, 32]

    asyncio.run(run())


def test_the_student_is_told_who_has_gone() -> None:
    async def run() -> None:
        engine, student, _ = made(max_batch_size=3)
        cancelled = asyncio.ensure_future(engine.complete(ORDER))
        stays = asyncio.ensure_future(engine.complete(ORDER))
        stream = engine.stream(TextRequest("4 apples", raw=False))
        await anext(stream)
        assert [student.gone(row) for row in range(3)] == [False] * 3
        cancelled.cancel()
        await stream.aclose()
        await asyncio.sleep(0)
        assert [student.gone(row) for row in range(3)] == [True, False, True]
        student.go.set()
        await stays
        assert student.gone(1)

    asyncio.run(run())


def test_a_text_that_has_reached_its_stop_is_not_written_on() -> None:
    async def run() -> None:
        engine, student, _ = made()
        first = student.tokenizer.decode([5])
        await engine.write(TextRequest("4 apples", raw=False, stop=(first,)))
        assert not student.go.is_set(), "the answer is there before the batch ends"
        assert student.gone(0)
        student.go.set()

    asyncio.run(run())


def test_a_closed_engine_keeps_no_student() -> None:
    async def run() -> None:
        engine, student, _ = made()
        student.go.set()
        await engine.complete(ORDER)
        left = weakref.ref(student)
        del student
        await engine.close()
        await engine.close()
        gc.collect()
        assert left() is None
        with pytest.raises(RuntimeError, match="closed"):
            await engine.complete(ORDER)

    asyncio.run(run())


def test_a_question_is_answered_with_the_student_s_own_confidence() -> None:
    """That of evaluate: of the label among the labels that there are, of a rationale its own."""
    tokenizer = tiny_tokenizer("encoder-decoder")
    student = Student(
        tiny_model("encoder-decoder", len(tokenizer)), tokenizer, method="step-by-step", max_input_tokens=64
    )
    (before,) = student.write([student.order("4 apples", "label", 3)])
    # Whatever the student writes is a label of the set: the end token is written only by chance.
    labels = LabelSet((before.ids, (before.ids[0], 7, 8), (9,)))

    async def run() -> None:
        engine = BatchedEngine(card("sums"), ServingConfig(max_new_tokens=3), student, name="made", metrics=Counts())  # type: ignore[arg-type]
        asked: list[Any] = []
        engine._label_set = lambda part, given: asked.append((part, given)) or (labels if part == "label" else None)  # type: ignore[func-returns-value]
        reply = await engine.answer(Question("4 apples", rationale=True, labels=("a", "b")))
        assert isinstance(reply, Reply)
        assert asked == [("label", ("a", "b")), ("rationale", ("a", "b"))]
        (expected,) = student.write([replace(student.order("4 apples", "label", 3), labels=labels)])
        assert expected.label_log_prob is not None
        assert math.fsum(before.log_probs) < expected.label_log_prob < 0.0
        assert reply.answer.confidence == pytest.approx(math.exp(expected.label_log_prob), abs=1e-6)
        rationale = student.answer(["4 apples"], "rationale", 3)[0]
        assert reply.rationale is not None
        assert reply.rationale.confidence == pytest.approx(rationale.confidence, abs=1e-6)

    asyncio.run(run())
