"""The health of vLLM's engine, before stand-ins of it that answer or hang."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncGenerator, Callable, Coroutine
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("vllm")

from vllm.sampling_params import MAX_LOGPROB_TOKEN_IDS
from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError

from pipelines.config.serving import ServingConfig
from pipelines.students.decoding import GenerationRequest, LabelSet
from serving.engines import vllm as module
from serving.engines.vllm import VllmEngine, _wanted
from serving.messages import TextRequest
from tests.support.fake_students import card
from tests.support.tiny_students import tiny_tokenizer

pytestmark = pytest.mark.vllm


class Hanging:
    """AsyncLLM: writes two tokens for each request, unless it hangs."""

    def __init__(self) -> None:
        self.hangs = False
        self.error: Exception | None = None
        self.asked: list[list[int]] = []
        self._tokenizer = tiny_tokenizer("decoder-only")

    def get_tokenizer(self) -> Any:
        return self._tokenizer

    async def check_health(self) -> None:
        if self.error:
            raise self.error

    def shutdown(self) -> None:
        pass

    async def generate(self, prompt: Any, parameters: Any, request_id: str) -> AsyncGenerator[Any, None]:
        self.asked.append(prompt["prompt_token_ids"])
        self.parameters = parameters
        if self.error:
            raise self.error
        await (asyncio.Event().wait() if self.hangs else asyncio.sleep(0))
        end = self._tokenizer.eos_token_id
        logs = [{5: SimpleNamespace(logprob=-0.5)}, {end: SimpleNamespace(logprob=-0.1)}]
        for at in logs:
            at |= {t: SimpleNamespace(logprob=-2.0) for t in parameters.logprob_token_ids or () if t not in at}
        yield SimpleNamespace(outputs=[SimpleNamespace(token_ids=[5, end], logprobs=logs)])


def made(*, silent_after_s: float) -> tuple[VllmEngine, Hanging]:
    inner = Hanging()
    student = card("sums", family="decoder-only")
    return VllmEngine(student, ServingConfig(), inner, silent_after_s=silent_after_s), inner


async def _given_up(engine: VllmEngine) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await engine.complete(GenerationRequest("[label] 4 apples", 4))


def test_an_engine_that_hangs_is_found_out_though_nobody_waits_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PROBE_S", 0.2)

    async def run() -> None:
        engine, inner = made(silent_after_s=0.0)
        await engine.complete(GenerationRequest("[label] 4 apples", 4))
        asked = len(inner.asked)
        await engine.check_health()
        assert len(inner.asked) == asked, "an engine that owes nothing is not asked"
        inner.hangs = True
        await _given_up(engine)
        with pytest.raises(RuntimeError, match="asked for one it hangs"):
            await engine.check_health()

    asyncio.run(run())


@pytest.mark.parametrize("error", [EngineDeadError(), EngineGenerateError(), ValueError("no such head")], ids=str)
def test_it_is_ready_when_it_has_written_a_token(error: Exception) -> None:
    """vLLM starts with what it cannot compute, and ends at the first token: no reason to end this process again and again."""

    async def run() -> None:
        engine, inner = made(silent_after_s=60.0)
        inner.error = error
        with pytest.raises(RuntimeError, match=r"fails at its first token.*serving\.engine: transformers"):
            await engine.check_health()
        inner.error = None
        await engine.check_health()
        assert len(inner.asked) == 2
        await engine.check_health()
        assert len(inner.asked) == 2

    asyncio.run(run())


def test_an_engine_that_hangs_at_its_first_token_is_not_waited_for_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_FIRST_TOKEN_S", 0.1)

    async def run() -> None:
        engine, inner = made(silent_after_s=60.0)
        inner.hangs = True
        with pytest.raises(RuntimeError, match="has not written a token after 0 s"):
            await engine.check_health()

    asyncio.run(run())


def test_a_client_that_went_away_is_no_fault_of_the_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PROBE_S", 5.0)

    async def run() -> None:
        engine, inner = made(silent_after_s=0.0)
        await engine.complete(GenerationRequest("[label] 4 apples", 4))
        inner.hangs = True
        await _given_up(engine)
        inner.hangs = False
        await engine.check_health()
        asked = len(inner.asked)
        assert asked == 3, "the engine is asked for one token"
        await engine.check_health()
        assert len(inner.asked) == asked, "and then trusted again"

    asyncio.run(run())


def test_an_engine_that_is_slow_is_not_asked_at_once() -> None:
    async def run() -> None:
        engine, inner = made(silent_after_s=60.0)
        await engine.check_health()
        inner.hangs = True
        began = time.monotonic()
        await _given_up(engine)
        await engine.check_health()
        assert len(inner.asked) == 2
        assert time.monotonic() - began < 5.0

    asyncio.run(run())


def test_it_is_asked_for_the_tokens_at_which_labels_part() -> None:
    async def run() -> None:
        engine, inner = made(silent_after_s=60.0)
        end = inner.get_tokenizer().eos_token_id
        labels = LabelSet(((5, end), (6, 7, end), (6, 8, end)))
        written = await engine.complete(GenerationRequest("[label] 4 apples", 4, labels=labels))
        assert (inner.parameters.logprobs, inner.parameters.logprob_token_ids) == (4, [5, 6, 7, 8])
        assert written.label_log_prob == pytest.approx(-0.5 - math.log(math.exp(-0.5) + math.exp(-2.0)))
        assert written.log_probs == (-0.5, -0.1)
        free = await engine.complete(GenerationRequest("[label] 4 apples", 4))
        assert (inner.parameters.logprobs, inner.parameters.logprob_token_ids) == (0, None)
        assert free == replace(written, label_log_prob=None)
        only = await engine.complete(GenerationRequest("[label] 4 apples", 4, labels=LabelSet(((5, end),))))
        assert (inner.parameters.logprobs, inner.parameters.logprob_token_ids, only.label_log_prob) == (0, None, 0.0)

    asyncio.run(run())


def test_it_lets_itself_be_asked_for_so_many(monkeypatch: pytest.MonkeyPatch) -> None:
    from vllm.v1.engine.async_llm import AsyncLLM

    given: list[Any] = []
    monkeypatch.setattr(AsyncLLM, "from_engine_args", lambda arguments, **_: given.append(arguments) or Hanging())
    student = card("sums", family="decoder-only")
    VllmEngine.start(student, ServingConfig(gpus_per_replica=0), "folder", None)  # type: ignore[arg-type]
    assert (given[0].max_logprobs, given[0].logprobs_mode) == (MAX_LOGPROB_TOKEN_IDS, "raw_logprobs")
    assert given[0].load_format == "safetensors"


@pytest.mark.parametrize(("together", "share"), [(None, 0.85), (1, 0.85), (2, 0.425), (4, 0.2125)])
def test_students_that_share_a_gpu_share_its_memory(
    monkeypatch: pytest.MonkeyPatch, together: int | None, share: float
) -> None:
    """Each engine takes its part when it starts: after one that took all, the next could not start."""
    from vllm.v1.engine.async_llm import AsyncLLM

    given: list[Any] = []
    monkeypatch.setattr(AsyncLLM, "from_engine_args", lambda arguments, **_: given.append(arguments) or Hanging())
    serving = ServingConfig(gpus_per_replica=1, students_per_replica=together)
    VllmEngine.start(card("sums", family="decoder-only"), serving, "folder", None)  # type: ignore[arg-type]
    assert given[0].gpu_memory_utilization == pytest.approx(share)


def test_where_labels_part_at_more_tokens_than_it_tells_of_an_answer_has_its_plain_product() -> None:
    async def run() -> None:
        engine, inner = made(silent_after_s=60.0)
        end = inner.get_tokenizer().eos_token_id
        labels = LabelSet(tuple((token, end) for token in range(5, 5 + 129)))
        written = await engine.complete(GenerationRequest("[label] 4 apples", 4, labels=labels))
        assert (inner.parameters.logprobs, inner.parameters.logprob_token_ids) == (0, None)
        assert written.label_log_prob is None

    asyncio.run(run())


class Ended(BaseException):
    """In place of the end of this process."""


def test_a_process_whose_engine_has_died_ends(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """So that the ingress asks another replica, and Serve starts a new one: not 500 for as long as health checks take."""
    from vllm.v1.engine.exceptions import EngineDeadError

    def end(code: int) -> None:
        raise Ended(code)

    monkeypatch.setattr(module.os, "_exit", end)

    async def run() -> None:
        engine, inner = made(silent_after_s=60.0)
        await engine.check_health()
        inner.error = EngineDeadError()
        asked: list[Callable[[], Coroutine[Any, Any, Any]]] = [
            lambda: engine.complete(GenerationRequest("[label] 4 apples", 4)),
            lambda: anext(engine.stream(TextRequest("4 apples", raw=False))),
            engine.check_health,
        ]
        for ask in asked:
            with pytest.raises(Ended, match="1"):
                await ask()
        assert "engine has died" in capfd.readouterr().err
        inner.error = ValueError("this prompt")
        with pytest.raises(ValueError, match="this prompt"):
            await engine.complete(GenerationRequest("[label] 4 apples", 4))
        inner.error = EngineDeadError()
        await engine.close()
        with pytest.raises(EngineDeadError):
            await engine.check_health()

    asyncio.run(run())


def test_a_version_that_takes_no_such_tokens_is_not_asked_for_them(monkeypatch: pytest.MonkeyPatch) -> None:
    order = GenerationRequest("a", 4, labels=LabelSet(((5, 2), (6, 2))))
    assert _wanted(order) == {"logprobs": 2, "logprob_token_ids": [5, 6]}
    monkeypatch.setattr("vllm.SamplingParams", SimpleNamespace())
    assert _wanted(order) == {"logprobs": 0}
