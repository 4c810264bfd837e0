"""Students in padded batches: what is asked at the same time is written as one batch, of whatever requests."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field

from ray import serve

from pipelines.config_serving import ServingConfig
from pipelines.decode import Order, Student, Written
from serving.cards import StudentCard
from serving.engines.base import Engine
from serving.metrics import ReplicaMetrics


@dataclass
class _Wanted:
    order: Order
    tokens: asyncio.Queue[int | None] | None = None
    """Where the tokens go as they are chosen; None: nobody reads them before the end."""
    gone: bool = False
    """Whether who asked has gone away."""
    since: float = field(default_factory=time.monotonic)


class BatchedEngine(Engine):
    """One batch at a time, in a thread, so that the next can form and health checks are answered meanwhile."""

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
        self._student = student
        self._metrics = metrics
        self._wedged_after_s = wedged_after_s
        self._moved: float | None = None
        self._batched = serve.batch(
            max_batch_size=serving.max_batch_size, batch_wait_timeout_s=serving.batch_wait_s
        )(self._run)  # fmt: skip

    async def complete(self, order: Order) -> Written:
        return await self._ask(_Wanted(order))

    async def tokens(self, order: Order) -> AsyncGenerator[int, None]:
        queue: asyncio.Queue[int | None] = asyncio.Queue()
        task = asyncio.ensure_future(self._ask(_Wanted(order, queue)))
        task.add_done_callback(lambda _: queue.put_nowait(None))
        try:
            while (token := await queue.get()) is not None:
                yield token
            await task  # an engine that failed says so here
        finally:
            task.cancel()

    async def check_health(self) -> None:
        if self._moved is not None and time.monotonic() - self._moved > self._wedged_after_s:
            raise RuntimeError(f"the engine has written no token for {self._wedged_after_s:g} s")

    async def _ask(self, wanted: _Wanted) -> Written:
        try:
            written: Written = await self._batched(wanted)
            return written
        except asyncio.CancelledError:
            wanted.gone = True
            raise

    async def _run(self, batch: list[_Wanted]) -> list[Written]:
        wanted = [w for w in batch if not w.gone]
        self._metrics.batch([time.monotonic() - w.since for w in wanted])
        loop = asyncio.get_running_loop()

        def told(tokens: list[int | None]) -> None:
            self._moved = time.monotonic()
            if any(w.tokens for w in wanted):
                loop.call_soon_threadsafe(self._hand_out, wanted, tokens)

        self._moved = time.monotonic()
        try:
            written = iter(await asyncio.to_thread(self._student.write, [w.order for w in wanted], told))
        finally:
            self._moved = None
        return [Written((), (), 0, "stop") if w.gone and w not in wanted else next(written) for w in batch]

    def _hand_out(self, wanted: list[_Wanted], tokens: list[int | None]) -> None:
        for w, token in zip(wanted, tokens, strict=True):
            if w.tokens is not None and token is not None:
                w.tokens.put_nowait(token)
