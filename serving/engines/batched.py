"""Students in padded batches: what is asked at the same time is written as one batch, of whatever requests."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncGenerator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from pipelines.config.serving import ServingConfig
from pipelines.students.decoding import GenerationOutput, GenerationRequest, Student
from serving.engines.base import Engine
from serving.engines.dynamic_batching import DynamicBatcher
from serving.metrics import ReplicaMetrics
from serving.model_card import StudentCard


@dataclass
class _Wanted:
    order: GenerationRequest
    tokens: asyncio.Queue[int | None] | None = None
    """Where the tokens go as they are chosen; None: nobody reads them before the end."""
    gone: bool = False
    """Whether nobody waits for it any more: answered, cancelled, or at a stop."""


class BatchedEngine(Engine):
    """Batches in threads, so that the next can form and health checks are answered meanwhile."""

    def __init__(
        self, card: StudentCard, serving: ServingConfig, student: Student, *, name: str, metrics: ReplicaMetrics,
        wedged_after_s: float = 300.0,
    ) -> None:  # fmt: skip
        """
        Args:
            wedged_after_s: a batch whose last token is older than this hangs.
        """
        super().__init__(card, student.tokenizer, serving.max_new_tokens)
        self.name = name
        self._student: Student | None = student
        self._metrics = metrics
        self._wedged_after_s = wedged_after_s
        self._threads = ThreadPoolExecutor(student.lanes, thread_name_prefix="writes")
        self._moved: dict[int, float] = {}
        """When each running batch has written its last token."""
        self._numbers = itertools.count()
        self._batches: DynamicBatcher[_Wanted, GenerationOutput] = DynamicBatcher(
            self._run, most=serving.max_batch_size, lanes=student.lanes, wait_s=serving.batch_wait_s
        )

    async def complete(self, order: GenerationRequest) -> GenerationOutput:
        wanted = _Wanted(order)
        try:
            return await self._batches.ask(wanted)
        finally:
            wanted.gone = True

    async def tokens(self, order: GenerationRequest) -> AsyncGenerator[int, None]:
        queue: asyncio.Queue[int | None] = asyncio.Queue()
        wanted = _Wanted(order, queue)
        task = asyncio.ensure_future(self._batches.ask(wanted))
        task.add_done_callback(lambda _: queue.put_nowait(None))
        try:
            while (token := await queue.get()) is not None:
                yield token
            await task  # an engine that failed says so here
        finally:
            wanted.gone = True
            task.cancel()

    async def check_health(self) -> None:
        if self._moved and time.monotonic() - min(self._moved.values()) > self._wedged_after_s:
            raise RuntimeError(f"the engine has written no token for {self._wedged_after_s:g} s")

    async def close(self) -> None:
        """Its memory is free when the last batch has ended."""
        self._student = None
        self._threads.shutdown(wait=False)

    async def _run(self, wanted: list[_Wanted], waited_s: list[float]) -> list[GenerationOutput]:
        if self._student is None:
            raise RuntimeError("the engine is closed")
        self._metrics.batch(waited_s)
        loop = asyncio.get_running_loop()
        number = next(self._numbers)
        streamed = any(w.tokens for w in wanted)

        def told(tokens: list[int | None]) -> None:
            self._moved[number] = time.monotonic()
            if streamed:
                loop.call_soon_threadsafe(self._hand_out, wanted, tokens)

        def gone(row: int) -> bool:
            return wanted[row].gone

        self._moved[number] = time.monotonic()
        orders = [w.order for w in wanted]
        try:
            return await loop.run_in_executor(self._threads, self._student.write, orders, told, gone)
        finally:
            del self._moved[number]

    def _hand_out(self, wanted: list[_Wanted], tokens: list[int | None]) -> None:
        for w, token in zip(wanted, tokens, strict=True):
            if w.tokens is not None and token is not None:
                w.tokens.put_nowait(token)
