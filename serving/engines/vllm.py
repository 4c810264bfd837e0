"""Decoder-only students in vLLM's asynchronous engine: continuous batching, a request is cancelled by itself."""

from __future__ import annotations

import asyncio
import itertools
import os
import sys
import time
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Self

from pipelines.config.serving import ServingConfig
from pipelines.students.decoding import GenerationOutput, GenerationRequest, encode_prompt
from pipelines.students.decoding.label_scores import Scores
from serving.engines.base import Engine
from serving.metrics import ReplicaMetrics
from serving.model_card import StudentCard

_MEMORY_SHARE = 0.85
"""Of a GPU's memory, for all engines of a replica together: each takes its part when it starts, whether or not it needs it."""
_CPU_BATCH_TOKENS = 4096
_PROBE_S = 20.0
"""Serve gives a health check 30 s."""
_FIRST_TOKEN_S = 120.0
_MOST_LOGPROBS = 128
"""Tokens that vLLM lets a request name to be told of (vllm.sampling_params.MAX_LOGPROB_TOKEN_IDS)."""


class VllmEngine(Engine):
    """One engine with its own worker process."""

    name = "vllm"

    def __init__(self, card: StudentCard, serving: ServingConfig, engine: Any, *, silent_after_s: float = 60.0) -> None:
        """
        Args:
            engine: vLLM's AsyncLLM.
            silent_after_s: an engine that has been asked and has written nothing for so long is asked for a token by the health check.
        """
        self._engine = engine
        super().__init__(card, engine.get_tokenizer(), serving.max_new_tokens)
        self._eos = int(self.tokenizer.eos_token_id)
        self._number = itertools.count()
        self._silent_after_s = silent_after_s
        self._under_way = 0
        self._has_written = False
        self._silent_since: float | None = None
        """When it was first asked for what it has not written since, whether or not who asked is still there."""
        self._closed = False

    @classmethod
    def start(cls, card: StudentCard, serving: ServingConfig, folder: str, metrics: ReplicaMetrics) -> Self:
        """An engine over a student's files on this machine.

        Raises:
            ValueError: vLLM does not know the architecture.
            RuntimeError: its process does not start, or ends while it starts.
        """
        from vllm import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM

        arguments: dict[str, Any] = {
            "model": folder,
            "dtype": serving.weights,
            "max_model_len": cls.length(card, serving),
            "max_num_seqs": max(serving.max_batch_size, 1),
            "enable_prefix_caching": True,
            "disable_log_stats": True,
            "logprobs_mode": "raw_logprobs",
            "max_logprobs": _MOST_LOGPROBS,
            # What a student's folder sets for generation (sampling, penalties) would change its answers.
            "generation_config": "vllm",
            "trust_remote_code": False,
            # By itself it would take pickled weights where there are no others.
            "load_format": "safetensors",
        }
        if serving.gpus_per_replica == 0:
            # A request with its own seed whose prompt is prefilled in pieces ends the CPU engine of vLLM 0.29.
            tokens = max(arguments["max_model_len"], _CPU_BATCH_TOKENS)
            arguments |= {"enforce_eager": True, "enable_chunked_prefill": False, "max_num_batched_tokens": tokens}
        else:
            arguments["gpu_memory_utilization"] = _MEMORY_SHARE / (serving.students_per_replica or 1)
        loggers = [_queue_times(metrics)]
        return cls(card, serving, AsyncLLM.from_engine_args(AsyncEngineArgs(**arguments), stat_loggers=loggers))

    @staticmethod
    def length(card: StudentCard, serving: ServingConfig) -> int:
        """Tokens of the longest prompt and the longest answer together."""
        return card.max_input_tokens + max(serving.max_new_tokens, card.max_target_tokens)

    async def complete(self, order: GenerationRequest) -> GenerationOutput:
        prompt = encode_prompt(self.tokenizer, self._family, order.prompt)
        output = None
        async for latest in self._request(prompt, order, "FINAL_ONLY"):
            output = latest.outputs[0]
        if output is None:
            raise RuntimeError("the engine returned nothing")
        ids = tuple(output.token_ids)
        log_probs = tuple(at[token].logprob for at, token in zip(output.logprobs, ids, strict=True))
        scores = _scores_of(output.logprobs, order.watched)
        label = order.labels.log_prob(ids, scores) if order.labels and _told(order) else None
        return GenerationOutput(
            ids, log_probs, len(prompt), "stop" if ids and ids[-1] == self._eos else "length", label
        )

    async def tokens(self, order: GenerationRequest) -> AsyncGenerator[int, None]:
        prompt = encode_prompt(self.tokenizer, self._family, order.prompt)
        requested = self._request(prompt, order, "DELTA")
        try:
            async for latest in requested:
                for token in latest.outputs[0].token_ids:
                    yield token
        finally:
            await requested.aclose()

    async def check_health(self) -> None:
        """The first one, before which Serve sends no request, asks for a token: vLLM starts with models that it cannot compute."""
        if not self._has_written:
            await self._write_first()
        with self._alive():
            await self._engine.check_health()
        if self._silent_since is None or time.monotonic() - self._silent_since < self._silent_after_s:
            return
        try:
            async with asyncio.timeout(_PROBE_S):
                async for _ in self._request([self._eos], GenerationRequest("", 1), "FINAL_ONLY"):
                    pass
        except TimeoutError as error:
            silent_s = time.monotonic() - self._silent_since
            raise RuntimeError(
                f"the engine has written no token for {silent_s:.0f} s, asked for one it hangs"
            ) from error
        if not self._under_way:
            self._silent_since = None

    async def _write_first(self) -> None:
        """Raises RuntimeError where it cannot, or has not after two minutes: neither Serve nor vLLM would find that out."""
        try:
            async with asyncio.timeout(_FIRST_TOKEN_S):
                async for _ in self._request([self._eos], GenerationRequest("", 1), "FINAL_ONLY"):
                    pass
        except Exception as error:
            late = isinstance(error, TimeoutError)
            failed = f"fails at its first token ({type(error).__name__}: {error})"
            why = f"has not written a token after {_FIRST_TOKEN_S:.0f} s" if late else failed
            raise RuntimeError(
                f"vLLM starts with this student and {why}: its lines in this replica's log say why. Set serving.engine: transformers."
            ) from error

    async def close(self) -> None:
        self._closed = True
        self._engine.shutdown()

    @contextmanager
    def _alive(self) -> Iterator[None]:
        """Ends this process where vLLM's has died, of a lack of memory for example. Those who ask it ask another replica then, and Serve
        starts a new one at once; a replica that goes on and only fails has the shortest queue, so that most are sent there."""
        from vllm.v1.engine.exceptions import EngineDeadError

        try:
            yield
        except EngineDeadError as error:
            if self._closed or not self._has_written:
                raise
            print(f"student: vLLM's engine has died ({error}); this replica ends", file=sys.stderr, flush=True)
            os._exit(1)

    async def _request(self, prompt: list[int], order: GenerationRequest, kind: str) -> AsyncGenerator[Any, None]:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        sampling = order.sampling
        parameters = SamplingParams(
            max_tokens=order.max_new_tokens,
            temperature=sampling.temperature if sampling else 0.0,
            top_p=sampling.top_p if sampling else 1.0,
            seed=sampling.seed if sampling else None,
            **_wanted(order),
            detokenize=False,
            output_kind=RequestOutputKind[kind],
        )
        request = self._engine.generate({"prompt_token_ids": prompt}, parameters, f"order-{next(self._number)}")
        self._under_way += 1
        self._silent_since = self._silent_since or time.monotonic()
        written = False
        try:
            with self._alive():
                async for latest in request:
                    self._has_written = written = True
                    self._silent_since = time.monotonic()
                    yield latest
        finally:
            self._under_way -= 1
            if written and not self._under_way:
                self._silent_since = None
            await request.aclose()  # ends the request in the engine too


def check_cpu_attention(folder: str) -> None:
    """Raises ValueError where the heads of a student are of a size that vLLM's attention on CPUs does not have: it would start, and end at
    the first token. Of what has no such heads vLLM says itself whether it knows it."""
    from transformers import AutoConfig
    from vllm.v1.attention.backends.cpu_attn import CPUAttentionBackend

    config = AutoConfig.from_pretrained(folder, trust_remote_code=False).get_text_config()
    heads = getattr(config, "num_attention_heads", None)
    size = getattr(config, "head_dim", None) or (config.hidden_size // heads if isinstance(heads, int) else None)
    known = CPUAttentionBackend.get_supported_head_sizes()
    if size is not None and size not in known:
        sizes = ", ".join(map(str, known))
        raise ValueError(f"the student's attention has heads of {size}, and vLLM on CPUs knows those of {sizes}")


def _wanted(order: GenerationRequest) -> dict[str, Any]:
    """Which log-probabilities vLLM gives at each step beside that of the chosen token: of the tokens at which the labels of a set part."""
    if not order.watched or not _told(order):
        return {"logprobs": 0}
    return {"logprobs": len(order.watched), "logprob_token_ids": list(order.watched)}


def _told(order: GenerationRequest) -> bool:
    """Whether vLLM tells of all those tokens: of so many at the most, and not in earlier versions. Else an answer has its plain product."""
    from vllm import SamplingParams

    return len(order.watched) <= _MOST_LOGPROBS and hasattr(SamplingParams, "logprob_token_ids")


def _scores_of(log_probs: Sequence[Any], watched: tuple[int, ...]) -> Scores:
    return lambda step: [log_probs[step][t].logprob for t in watched]


def _queue_times(metrics: ReplicaMetrics) -> Any:
    """What vLLM makes a logger of statistics with: one that tells how long each request waited for its place in a batch."""
    from vllm.v1.metrics.loggers import StatLoggerBase

    class QueueTimes(StatLoggerBase):  # type: ignore[misc]
        def __init__(self, vllm_config: Any, engine_index: int = 0) -> None:
            pass

        def record(self, scheduler_stats: Any, iteration_stats: Any, *_: Any, **__: Any) -> None:
            for finished in iteration_stats.finished_requests if iteration_stats else ():
                metrics.waited(finished.queued_time)

        def log_engine_initialized(self) -> None:
            pass

    return QueueTimes
