"""Engines with padded batches: requests that arrive at the same time share a batch, whichever client they come from."""

from __future__ import annotations

import asyncio
import itertools
import time
from abc import abstractmethod
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Self

from pipelines.config.serving import ServingConfig
from pipelines.runtime.cpus import threads_of_each
from pipelines.students.decoding import GenerationOutput, GenerationRequest, Student
from serving.engines.base import Engine, EngineUnsuitableError, replicas_per_machine
from serving.engines.dynamic_batching import DynamicBatcher, Size
from serving.metrics import ReplicaMetrics
from serving.model_card import StudentCard

BATCH = 16
"""Texts of a batch by default: on CPUs larger ones are hardly faster, and all their texts take longer."""
_BULK_STEPS = 1000.0
_NEW_SHARE = 0.1


@dataclass
class _PendingRequest:
    request: GenerationRequest
    tokens: asyncio.Queue[int | None] | None = None
    """Receives the tokens as they are generated; None: not a stream."""
    streamed: bool = False
    """True after its first token was sent."""
    abandoned: bool = False
    """True if no caller waits any more: answered, cancelled, or past a stop string."""


class ExpectedSteps:
    """Tokens that texts of one kind have had, as a moving average: labels have fewer than their limit."""

    def __init__(self) -> None:
        self._means: dict[tuple[bool, bool, int], float] = {}

    def of(self, request: GenerationRequest) -> float:
        """Expected tokens of a text. Of bulk many more: an interactive text shares no batch with it, and does not wait for it."""
        mean = self._means.get(self._kind(request), float(request.max_new_tokens))
        return mean * _BULK_STEPS if request.bulk else mean

    def note(self, request: GenerationRequest, output: GenerationOutput) -> None:
        """A text has ended."""
        kind = self._kind(request)
        mean = self._means.get(kind, float(request.max_new_tokens))
        self._means[kind] = mean + _NEW_SHARE * (len(output.ids) - mean)

    def _kind(self, request: GenerationRequest) -> tuple[bool, bool, int]:
        return request.prompt.startswith("[rationale]"), request.labels is not None, request.max_new_tokens


class BatchedEngine(Engine):
    """Runs batches in threads, so that meanwhile the next one forms and health checks are answered."""

    def __init__(
        self, card: StudentCard, serving: ServingConfig, student: Student, metrics: ReplicaMetrics, *,
        hang_after_s: float = 300.0,
    ) -> None:  # fmt: skip
        """
        Args:
            hang_after_s: a batch without a new token for this time hangs.
        """
        super().__init__(card, student.tokenizer, serving.max_new_tokens, constrained=serving.constrained)
        self._student: Student | None = student
        self._metrics = metrics
        self._hang_after_s = hang_after_s
        workers, rows = self._workers(student), serving.max_batch_size or BATCH
        self.computed = workers * rows
        self._threads = ThreadPoolExecutor(workers + 1, thread_name_prefix="generate")
        self._steps = ExpectedSteps()
        self._last_token_at: dict[int, float] = {}
        """Time of the last token, by number of the running batch."""
        self._numbers = itertools.count()
        self._batches: DynamicBatcher[_PendingRequest, GenerationOutput] = DynamicBatcher(
            self._run, max_items=rows, workers=workers, wait_s=serving.batch_wait_s
        )

    @classmethod
    def load(cls, card: StudentCard, serving: ServingConfig, metrics: ReplicaMetrics) -> Self:
        """See Engine."""
        return cls(card, serving, cls._load_student(card, serving), metrics)

    @staticmethod
    def _workers(student: Student) -> int:
        """Batches that run side by side, without the express one."""
        return student.workers

    @staticmethod
    @abstractmethod
    def _load_student(card: StudentCard, serving: ServingConfig) -> Student:
        """The student of the card. Raises UserError if it cannot be loaded."""

    async def complete(self, request: GenerationRequest) -> GenerationOutput:
        """See Engine."""
        pending = _PendingRequest(request)
        try:
            output = await self._batches.submit(pending, self._size(request))
            self._steps.note(request, output)
            return output
        finally:
            pending.abandoned = True

    async def tokens(self, request: GenerationRequest) -> AsyncGenerator[int, None]:
        """See Engine."""
        queue: asyncio.Queue[int | None] = asyncio.Queue()
        pending = _PendingRequest(request, queue)
        task = asyncio.ensure_future(self._batches.submit(pending, self._size(request)))
        task.add_done_callback(lambda _: queue.put_nowait(None))
        try:
            while (token := await queue.get()) is not None:
                yield token
            await task  # raises the error of a failed batch
        finally:
            pending.abandoned = True
            task.cancel()

    async def _check_alive(self) -> None:
        """See Engine."""
        if self._last_token_at and time.monotonic() - min(self._last_token_at.values()) > self._hang_after_s:
            raise RuntimeError(f"the engine has generated no token for {self._hang_after_s:g} s")

    async def close(self) -> None:
        """The student's memory is freed once the last batch has ended."""
        await super().close()
        self._student = None
        self._threads.shutdown(wait=False)

    def _size(self, request: GenerationRequest) -> Size:
        return Size(float(len(request.ids or ())), self._steps.of(request))

    async def _run(
        self, batch: list[_PendingRequest], waited_s: list[float], answer: Callable[[int, GenerationOutput], None]
    ) -> list[GenerationOutput | Exception]:
        self._metrics.batch(waited_s)
        try:
            return [*await self._write(batch, answer)]
        except Exception as error:
            if len(batch) == 1:
                raise
            # One text may be to blame: each is tried by itself.
            return [await self._write_alone(pending, error) for pending in batch]

    async def _write_alone(self, pending: _PendingRequest, error: Exception) -> GenerationOutput | Exception:
        if pending.abandoned or pending.streamed:
            return error
        try:
            [output] = await self._write([pending])
        except Exception as own_error:  # noqa: BLE001 its caller raises it
            return own_error
        return output

    async def _write(
        self, batch: list[_PendingRequest], answer: Callable[[int, GenerationOutput], None] | None = None
    ) -> list[GenerationOutput]:
        if self._student is None:
            raise RuntimeError("the engine is closed")
        loop = asyncio.get_running_loop()
        number = next(self._numbers)
        has_streams = any(pending.tokens for pending in batch)

        def on_tokens(tokens: list[int | None]) -> None:
            self._last_token_at[number] = time.monotonic()
            if has_streams:
                loop.call_soon_threadsafe(_distribute, batch, tokens)

        def on_output(row: int, output: GenerationOutput) -> None:
            if answer is not None:
                loop.call_soon_threadsafe(answer, row, output)

        def is_abandoned(row: int) -> bool:
            return batch[row].abandoned

        self._last_token_at[number] = time.monotonic()
        write = partial(self._student.write, [pending.request for pending in batch], on_tokens, is_abandoned, on_output)
        try:
            return await loop.run_in_executor(self._threads, write)
        finally:
            del self._last_token_at[number]


class TransformersEngine(BatchedEngine):
    """Both families, on CPUs and GPUs."""

    name = "transformers"

    @staticmethod
    def _load_student(card: StudentCard, serving: ServingConfig) -> Student:
        import torch

        if serving.gpus_per_replica:
            return Student.load(card.folder, device="cuda", dtype=serving.weights)
        torch.set_num_threads(threads_of_each(replicas_per_machine(serving)))
        return Student.load(card.folder, device="cpu", dtype=serving.weights)


class Ctranslate2Engine(BatchedEngine):
    """Encoder-decoder students on CPUs."""

    name = "ctranslate2"
    draws_with_seeds = False

    @staticmethod
    def _load_student(card: StudentCard, serving: ServingConfig) -> Student:
        from pipelines.students.decoding.ctranslate2_student import ConversionError, Ctranslate2Student

        # One more than cores, for the express batch. The threads share the weights.
        threads = threads_of_each(replicas_per_machine(serving)) + 1
        try:
            return Ctranslate2Student.open(card.folder, weights=serving.weights, threads=threads, workers=threads)
        except (ConversionError, ImportError) as error:  # as in evaluation: another engine may run it
            raise EngineUnsuitableError(str(error)) from error

    @staticmethod
    def _workers(student: Student) -> int:
        """See BatchedEngine."""
        return max(student.workers - 1, 1)


def _distribute(batch: list[_PendingRequest], tokens: list[int | None]) -> None:
    for pending, token in zip(batch, tokens, strict=True):
        if pending.tokens is not None and token is not None:
            pending.tokens.put_nowait(token)
            pending.streamed = True
