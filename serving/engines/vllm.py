"""Decoder-only students in vLLM's asynchronous engine: continuous batching, and each request can be cancelled by itself."""

from __future__ import annotations

import asyncio
import dataclasses
import difflib
import itertools
import os
import sys
import time
from collections.abc import AsyncGenerator, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Self

from pipelines.config.serving import ServingConfig
from pipelines.errors import UserError
from pipelines.runtime.compat.vllm import engine_dead_error, ray_stat_logger, stat_logger_base
from pipelines.runtime.durations import duration
from pipelines.runtime.terminal import own_log
from pipelines.runtime.vllm_cpu import cpu_environment, engine_threads
from pipelines.storage.manifest import require_manifest
from pipelines.storage.store import Store
from pipelines.students.decoding import GenerationOutput, GenerationRequest
from pipelines.students.decoding.constrained import label_walk
from pipelines.students.decoding.label_scores import Scores
from pipelines.students.decoding.vllm_settings import engine_arguments as student_arguments
from pipelines.students.decoding.vllm_settings import (
    parts_of,
    returns_scores,
    sampling_parameters,
    scores_of,
    vllm_files,
)
from serving.engines.base import Engine, replicas_per_machine
from serving.metrics import ReplicaMetrics
from serving.model_card import StudentCard

if TYPE_CHECKING:
    from vllm import AsyncEngineArgs

VLLM_BATCH = 256
"""Texts that vLLM generates at the same time by default (its max_num_seqs)."""
_DEFAULTS = {"block_size"}
"""Arguments that serving.engine_args replaces."""
_PROBE_S = 20.0
"""Serve's limit for a health check is 30 s."""
_FIRST_TOKEN_S = 120.0


class VllmEngine(Engine):
    """One engine with its own worker process."""

    name = "vllm"
    continuous = True

    def __init__(self, card: StudentCard, serving: ServingConfig, engine: Any, *, silent_after_s: float = 60.0) -> None:
        """
        Args:
            engine: vLLM's AsyncLLMEngine.
            silent_after_s: the health check asks for a token if requests run and none has been generated for this time.
        """
        self._engine = engine
        super().__init__(card, engine.get_tokenizer(), serving.max_new_tokens, constrained=serving.constrained)
        self.computed = serving.max_batch_size or VLLM_BATCH
        self._eos = int(self.tokenizer.eos_token_id)
        self._numbers = itertools.count()
        self._silent_after_s = silent_after_s
        self._running = 0
        """Requests."""
        self._has_generated = False
        self._silent_since: float | None = None
        """Time of the last token, or of the first request after an idle time; also if that request was cancelled. None: idle."""
        self._closed = False

    @classmethod
    def cpu_environment(cls, serving: ServingConfig) -> dict[str, str]:
        """See Engine."""
        return cpu_environment(serving.cpu_kv_cache_gib)

    @classmethod
    def load(cls, card: StudentCard, serving: ServingConfig, metrics: ReplicaMetrics) -> Self:
        """See Engine."""
        store = Store(card.folder)
        # Counted here: the process that deploys may run on another machine.
        threads = {} if serving.gpus_per_replica else engine_threads(replicas_per_machine(serving))
        shared = " or serving.students_per_replica" if serving.students_per_replica else ""
        remedy = f"lower serving.max_batch_size{shared}, or set serving.engine: transformers"
        manifest = require_manifest(store, "student", "train RUN")
        with vllm_files(store, manifest, threads, gpus=serving.gpus_per_replica, remedy=remedy) as folder:
            return cls.start(card, serving, folder, metrics)

    @classmethod
    def start(cls, card: StudentCard, serving: ServingConfig, folder: str, metrics: ReplicaMetrics) -> Self:
        """An engine for student files on this machine.

        Raises:
            ImportError: vLLM is not installed.
            ValueError: vLLM does not know the architecture.
            RuntimeError: its process does not start.
        """
        from vllm import AsyncLLMEngine

        if serving.constrained and not returns_scores():
            raise ValueError("this version of vLLM cannot decode constrained; 0.29 can")
        arguments = engine_arguments(card, serving, folder)
        loggers = [_queue_times(metrics), ray_stat_logger()]
        return cls(card, serving, AsyncLLMEngine.from_engine_args(arguments, stat_loggers=loggers))

    async def complete(self, request: GenerationRequest) -> GenerationOutput:
        """See Engine."""
        output, scores = await self._complete(request)
        walk = label_walk(request, output, scores, self.tokenizer) if returns_scores() else None
        if walk is None:
            return output
        while walk.choices:
            parts = await asyncio.gather(*(self._complete(part) for part in parts_of(walk.next_request)))
            walk.take([score for _, found in parts if found is not None for score in found(0)])
        return walk.output(output)

    async def _complete(self, request: GenerationRequest) -> tuple[GenerationOutput, Scores | None]:
        """The free answer, and the scores of the watched tokens at each step if vLLM returns them."""
        prompt = request.encoded(self.tokenizer, self._family)
        output = None
        async for latest in self._generate([*prompt, *request.written], request, "FINAL_ONLY"):
            output = latest.outputs[0]
        if output is None:
            raise RuntimeError("the engine returned nothing")
        ids = tuple(output.token_ids)
        log_probs = tuple(at[token].logprob for at, token in zip(output.logprobs, ids, strict=True))
        scores = scores_of(output.logprobs, request)
        label = request.labels.log_prob(ids, scores) if request.labels and scores else None
        ended = bool(ids) and ids[-1] == self._eos
        return GenerationOutput(ids, log_probs, len(prompt), "stop" if ended else "length", label), scores

    async def tokens(self, request: GenerationRequest) -> AsyncGenerator[int, None]:
        """See Engine."""
        prompt = request.encoded(self.tokenizer, self._family)
        outputs = self._generate(prompt, request, "DELTA")
        try:
            async for latest in outputs:
                for token in latest.outputs[0].token_ids:
                    yield token
        finally:
            await outputs.aclose()

    async def _check_alive(self) -> None:
        """See Engine."""
        with self._exit_if_dead():
            await self._engine.check_health()
        if self._silent_since is None or time.monotonic() - self._silent_since < self._silent_after_s:
            return
        try:
            async with asyncio.timeout(_PROBE_S):
                await self._probe()
        except TimeoutError as error:
            silent_s = time.monotonic() - self._silent_since
            rule = f"the engine has generated no token for {duration(silent_s)}, and does not answer a probe"
            raise RuntimeError(rule) from error
        if not self._running:
            self._silent_since = None

    async def close(self) -> None:
        """See Engine."""
        await super().close()
        self._closed = True
        self._engine.shutdown()

    async def _first_token(self) -> GenerationOutput:
        """See Engine. Raises RuntimeError if that fails, or takes more than two minutes: vLLM starts with models it cannot compute."""
        try:
            async with asyncio.timeout(_FIRST_TOKEN_S):
                return await super()._first_token()
        except Exception as error:
            failure = f"fails at its first token ({type(error).__name__}: {error})"
            if isinstance(error, TimeoutError):
                failure = f"has not generated a token after {duration(_FIRST_TOKEN_S)}"
            remedy = f"See {own_log()}, or set serving.engine: transformers."
            raise RuntimeError(f"vLLM starts with this student and {failure}. {remedy}") from error

    async def _probe(self) -> None:
        """Generate one token."""
        async for _ in self._generate([self._eos], GenerationRequest("", 1), "FINAL_ONLY"):
            pass

    @contextmanager
    def _exit_if_dead(self) -> Iterator[None]:
        """End this process if vLLM's has died, for example out of memory.

        Its requests then go to another replica, and Serve starts a new one at once. If it stayed, its empty queue would attract requests.
        """
        dead_error = engine_dead_error()
        try:
            yield
        except dead_error as error:
            if self._closed or not self._has_generated:
                raise
            print(f"student: vLLM's engine has died ({error}); this replica ends", file=sys.stderr, flush=True)
            os._exit(1)

    async def _generate(self, prompt: list[int], request: GenerationRequest, kind: str) -> AsyncGenerator[Any, None]:
        """vLLM's outputs. `kind`: name of a RequestOutputKind."""
        parameters = sampling_parameters(request, kind)
        outputs = self._engine.generate({"prompt_token_ids": prompt}, parameters, f"request-{next(self._numbers)}")
        self._running += 1
        self._silent_since = self._silent_since or time.monotonic()
        generated = False
        try:
            with self._exit_if_dead():
                async for latest in outputs:
                    self._has_generated = generated = True
                    self._silent_since = time.monotonic()
                    yield latest
        finally:
            self._running -= 1
            if generated and not self._running:
                self._silent_since = None
            await outputs.aclose()  # cancels the request in the engine


def _queue_times(metrics: ReplicaMetrics) -> type:
    """A class of vLLM's loggers that records how long each request waited for its place in a batch."""

    class QueueTimes(stat_logger_base()):  # type: ignore[misc]
        def __init__(self, vllm_config: Any, engine_index: int = 0) -> None:
            pass

        def record(self, scheduler_stats: Any, iteration_stats: Any, *_: Any, **__: Any) -> None:
            for finished in iteration_stats.finished_requests if iteration_stats else ():
                metrics.waited(finished.queued_time)

        def log_engine_initialized(self) -> None:
            pass

    return QueueTimes


def engine_arguments(card: StudentCard, serving: ServingConfig, folder: str) -> AsyncEngineArgs:
    """The settings of an engine for student files on this machine.

    Raises:
        UserError: vLLM has no argument of a name in `engine_args`, or another setting decides it.
    """
    from vllm import AsyncEngineArgs

    arguments = student_arguments(
        folder,
        weights=serving.weights,
        max_tokens=card.max_input_tokens + max(serving.max_new_tokens, card.max_target_tokens),
        sequences=serving.max_batch_size or VLLM_BATCH,
        gpu_share=1.0 / (serving.students_per_replica or 1) if serving.gpus_per_replica else None,
    )
    arguments["served_model_name"] = card.id  # the label of its metrics
    if serving.gpus_per_replica > 1:
        # Worker processes of this replica. By default vLLM would start actors, for which Ray has no GPUs left.
        arguments |= {"tensor_parallel_size": serving.gpus_per_replica, "distributed_executor_backend": "mp"}
    own = {*arguments, "tensor_parallel_size", "distributed_executor_backend"} - _DEFAULTS
    check_engine_args(serving.engine_args, own, [field.name for field in dataclasses.fields(AsyncEngineArgs)])
    return AsyncEngineArgs(**{**arguments, **serving.engine_args})


def check_engine_args(given: Collection[str], own: Collection[str], known: Sequence[str]) -> None:
    """Raises UserError for the first name that cannot be set. `own`: those that other settings decide. `known`: vLLM's."""
    for name in given:
        value = f"serving.engine_args.{name}"
        if name in own:
            raise UserError(value, "other settings of the section, or the student, decide it", "Remove it.")
        if name not in known:
            nearest = difflib.get_close_matches(name, known, 3)
            remedy = f"Set {' or '.join(nearest)}." if nearest else "Remove it."
            raise UserError(value, "vLLM has no such argument", remedy)
