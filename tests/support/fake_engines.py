"""Engines over fakes that can be held up: a fake student under padded batches, and a fake of vLLM's engine.

Every text has two tokens, FIRST and end-of-sequence, with the log-probabilities LOG_PROBS.
"""

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable, Sequence
from types import SimpleNamespace
from typing import Any

from pipelines.config.serving import ServingConfig
from pipelines.students.decoding import Family, GenerationOutput, GenerationRequest
from serving.engines.base import Engine
from serving.engines.batched import TransformersEngine
from serving.engines.vllm import VllmEngine
from tests.support.fake_students import FakeMetrics, card
from tests.support.tiny_students import tiny_tokenizer

FIRST = 5
LOG_PROBS = (-0.5, -0.1)


class FakeStudent:
    """A Student under a BatchedEngine. A held one stops after the first token of each text."""

    workers = 1

    def __init__(self) -> None:
        self.tokenizer = tiny_tokenizer("encoder-decoder")
        self.batches: list[list[str]] = []
        self.max_tokens: list[int] = []
        self.log_probs: tuple[float, ...] = LOG_PROBS
        self.error: Exception | None = None
        """Raised instead of an answer."""
        self.bad: str | None = None
        """A prompt whose batch fails."""
        self.is_abandoned: Callable[[int], bool] = lambda _: False
        self._may_end = threading.Event()
        self._may_end.set()

    def hold(self) -> None:
        self._may_end.clear()

    def release(self) -> None:
        self._may_end.set()

    def abandoned(self) -> list[bool]:
        return [self.is_abandoned(row) for row in range(len(self.batches[-1]))]

    def write(
        self,
        requests: Sequence[GenerationRequest],
        on_tokens: Callable[[list[int | None]], None],
        is_abandoned: Callable[[int], bool],
        on_output: Callable[[int, GenerationOutput], None],
    ) -> list[GenerationOutput]:
        self.is_abandoned = is_abandoned
        self.max_tokens += [request.max_new_tokens for request in requests]
        self.batches.append([request.prompt for request in requests])
        on_tokens([FIRST] * len(requests))
        assert self._may_end.wait(10.0)
        if self.error:
            raise self.error
        if self.bad in self.batches[-1]:
            raise ValueError(self.bad)
        end = self.tokenizer.eos_token_id
        on_tokens([end] * len(requests))
        return [GenerationOutput((FIRST, end), self.log_probs, 3, "stop") for _ in requests]


class FakeAsyncLLM:
    """AsyncLLMEngine under a VllmEngine."""

    def __init__(self) -> None:
        self.tokenizer = tiny_tokenizer("decoder-only")
        self.prompts: list[list[int]] = []
        self.max_tokens: list[int] = []
        self.log_probs: tuple[float, ...] = LOG_PROBS
        self.parameters: Any = None
        self.error: Exception | None = None
        self.running: dict[str, bool] = {}
        self.shut_down = False
        self._may_end = asyncio.Event()
        self._may_end.set()

    def hold(self) -> None:
        self._may_end.clear()

    def release(self) -> None:
        self._may_end.set()

    def abandoned(self) -> list[bool]:
        return list(self.running.values())

    def get_tokenizer(self) -> Any:
        return self.tokenizer

    async def check_health(self) -> None:
        if self.error:
            raise self.error

    def shutdown(self) -> None:
        self.shut_down = True

    async def generate(self, prompt: Any, parameters: Any, request_id: str) -> AsyncGenerator[Any, None]:
        self.prompts.append(prompt["prompt_token_ids"])
        self.max_tokens.append(parameters.max_tokens)
        self.parameters = parameters
        self.running[request_id] = True  # until it ends by itself
        end = self.tokenizer.eos_token_id
        first, last = self.log_probs
        log_probs = [{FIRST: SimpleNamespace(logprob=first)}, {end: SimpleNamespace(logprob=last)}]
        for at in log_probs:
            at |= {t: SimpleNamespace(logprob=-2.0) for t in parameters.logprob_token_ids or () if t not in at}
        self.running[request_id] = False
        try:
            whole = parameters.output_kind.name == "FINAL_ONLY"
            if not whole:
                yield SimpleNamespace(outputs=[SimpleNamespace(token_ids=[FIRST], logprobs=log_probs[:1])])
            await self._may_end.wait()
            if self.error:
                raise self.error
            ids, rest = ([FIRST, end], log_probs) if whole else ([end], log_probs[1:])
            yield SimpleNamespace(outputs=[SimpleNamespace(token_ids=ids, logprobs=rest)])
            del self.running[request_id]
        finally:
            if request_id in self.running:
                self.running[request_id] = True


Fake = FakeStudent | FakeAsyncLLM
"""What an engine runs on."""


def batched_engine(hang_after_s: float = 300.0, **settings: Any) -> tuple[TransformersEngine, FakeStudent, FakeMetrics]:
    student, metrics = FakeStudent(), FakeMetrics()
    serving = ServingConfig(**{"batch_wait_s": 0.01, **settings})
    engine = TransformersEngine(card("sums"), serving, student, metrics, hang_after_s=hang_after_s)  # type: ignore[arg-type]
    return engine, student, metrics


def vllm_engine(silent_after_s: float = 60.0, **settings: Any) -> tuple[VllmEngine, FakeAsyncLLM]:
    llm = FakeAsyncLLM()
    student = card("sums", family="decoder-only")
    return VllmEngine(student, ServingConfig(**settings), llm, silent_after_s=silent_after_s), llm


def engine_over_fake(family: Family, **settings: Any) -> tuple[Engine, Fake]:
    """An engine that takes a text of the fake for a hang at once."""
    if family == "decoder-only":
        return vllm_engine(silent_after_s=0.0, **settings)
    return batched_engine(hang_after_s=0.05, **settings)[:2]
