"""Decoder-only students in vLLM's asynchronous engine: continuous batching, a request is cancelled by itself."""

from __future__ import annotations

import itertools
from collections.abc import AsyncGenerator
from typing import Any

from pipelines.config_serving import ServingConfig
from pipelines.decode import Order, Written, encode_prompt
from serving.cards import StudentCard
from serving.engines.base import Engine

_MEMORY_SHARE = 0.85
_CPU_BATCH_TOKENS = 4096


class VllmEngine(Engine):
    """One engine with its own worker process."""

    name = "vllm"

    def __init__(self, card: StudentCard, serving: ServingConfig, folder: str) -> None:
        """`folder`: the student's files, on this machine. Raises ValueError where vLLM does not know the architecture."""
        from vllm import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM

        arguments: dict[str, Any] = {
            "model": folder,
            "dtype": serving.weights,
            "max_model_len": self.length(card, serving),
            "max_num_seqs": max(serving.max_batch_size, 1),
            "enable_prefix_caching": True,
            "disable_log_stats": True,
            "logprobs_mode": "raw_logprobs",
            # What a student's folder sets for generation (sampling, penalties) would change its answers.
            "generation_config": "vllm",
            "trust_remote_code": False,
        }
        if serving.gpus_per_replica == 0:
            # A request with its own seed whose prompt is prefilled in pieces ends the CPU engine of vLLM 0.29.
            tokens = max(arguments["max_model_len"], _CPU_BATCH_TOKENS)
            arguments |= {"enforce_eager": True, "enable_chunked_prefill": False, "max_num_batched_tokens": tokens}
        else:
            arguments["gpu_memory_utilization"] = _MEMORY_SHARE
        self._engine = AsyncLLM.from_engine_args(AsyncEngineArgs(**arguments))
        super().__init__(card, self._engine.get_tokenizer(), serving.max_new_tokens)
        self._eos = int(self.tokenizer.eos_token_id)
        self._number = itertools.count()

    @staticmethod
    def length(card: StudentCard, serving: ServingConfig) -> int:
        """Tokens of the longest prompt and the longest answer together."""
        return card.max_input_tokens + max(serving.max_new_tokens, card.max_target_tokens)

    async def complete(self, order: Order) -> Written:
        prompt = encode_prompt(self.tokenizer, self._family, order.prompt)
        output = None
        async for latest in self._request(prompt, order, "FINAL_ONLY"):
            output = latest.outputs[0]
        if output is None:
            raise RuntimeError("the engine returned nothing")
        ids = tuple(output.token_ids)
        log_probs = tuple(at[token].logprob for at, token in zip(output.logprobs, ids, strict=True))
        return Written(ids, log_probs, len(prompt), "stop" if ids and ids[-1] == self._eos else "length")

    async def tokens(self, order: Order) -> AsyncGenerator[int, None]:
        prompt = encode_prompt(self.tokenizer, self._family, order.prompt)
        requested = self._request(prompt, order, "DELTA")
        try:
            async for latest in requested:
                for token in latest.outputs[0].token_ids:
                    yield token
        finally:
            await requested.aclose()  # ends the request in the engine too

    async def check_health(self) -> None:
        await self._engine.check_health()

    async def close(self) -> None:
        self._engine.shutdown()

    def _request(self, prompt: list[int], order: Order, kind: str) -> AsyncGenerator[Any, None]:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        sampling = order.sampling
        parameters = SamplingParams(
            max_tokens=order.max_new_tokens,
            temperature=sampling.temperature if sampling else 0.0,
            top_p=sampling.top_p if sampling else 1.0,
            seed=sampling.seed if sampling else None,
            logprobs=0,  # of the chosen token alone
            detokenize=False,
            output_kind=RequestOutputKind[kind],
        )
        request = self._engine.generate({"prompt_token_ids": prompt}, parameters, f"order-{next(self._number)}")
        return request  # type: ignore[no-any-return]
