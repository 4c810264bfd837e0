"""A teacher in vLLM's asynchronous engine: continuous batching, so that a long answer holds up nobody but itself.

Few-shot prompts share a prefix, which the engine computes once (prefix caching).

Log-probabilities are the model's own, before temperature and top_p; where `teacher.constrained` forbids tokens, they are renormalised
over the allowed ones. Constrained answers use xgrammar. Measured on the pattern of nli with a vocabulary of 49k: xgrammar compiles it
in 0.2 s, once, and takes 18 us per token; llguidance 2 ms for each request and 50 us per token, and it stopped in the middle of an
answer (`ParserTooComplex`) on patterns that count characters; outlines had not compiled it after a minute.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

from pipelines.config import TeacherConfig
from pipelines.label.teachers.base import EngineDeadError, Generation, Prompt, PromptRefusedError, Sample
from pipelines.label.teachers.label_probabilities import LIKELIEST, AnswerTokens
from pipelines.label.teachers.vllm_logprobs import (
    decode_single_tokens_from_a_table,
    decoder,
    distribution,
    encoder,
    likeliest,
    top_k,
)
from pipelines.runtime.cpus import computes_bf16, vllm_threads
from pipelines.tasks import Example, Task

if TYPE_CHECKING:
    from vllm import SamplingParams

# Prompt tokens that stand before an answer when it is decoded.
_BEFORE = 4


class VllmTeacher:
    """One engine, with its own worker processes. Construct it inside the actor that owns the devices."""

    def __init__(self, config: TeacherConfig, task: Task, engine: Any = None) -> None:
        """`engine`: one that runs already, to share it; None starts one."""
        self._config, self._task = config, task
        self._max_prompt_tokens = config.vllm.max_model_len - config.sampling.max_tokens
        self._logprobs = max(config.token_logprobs or 0, LIKELIEST if config.soft_labels == "logprobs" else 0)
        self.engine = engine or _start_engine(config, self._logprobs)
        self._tokenizer = self.engine.get_tokenizer()
        self._encode, self._decode = encoder(self._tokenizer), decoder(self._tokenizer)
        if self._logprobs and engine is None:
            decode_single_tokens_from_a_table(self._tokenizer)
        self._parameters: dict[str | None, Any] = {}
        self._number = itertools.count()

    async def answer(self, prompt: Prompt) -> Generation:
        """n samples. Raises PromptRefusedError for a prompt that leaves no room for the answer, EngineDeadError as it says."""
        from vllm.v1.engine.exceptions import EngineDeadError as VllmDeadError

        tokens = self._tokens(prompt)
        if len(tokens) > self._max_prompt_tokens:
            rule = f"{len(tokens)} tokens, max_model_len less max_tokens leaves {self._max_prompt_tokens}"
            raise PromptRefusedError("too_long", rule)
        pattern = self._task.answer_pattern(prompt.example) if self._config.constrained else None
        output = None
        try:
            parameters = self._sampling(pattern)
            request = self.engine.generate({"prompt_token_ids": tokens}, parameters, f"row-{next(self._number)}")
            async for latest in request:
                output = latest
        except VllmDeadError as error:
            raise EngineDeadError(str(error)) from error
        except ValueError as error:  # vLLM's verdict on this one request
            raise PromptRefusedError("engine_error", str(error)) from error
        if output is None:
            raise PromptRefusedError("engine_error", "the engine returned nothing")
        return Generation(tuple(self._sample(o, tokens, prompt.example) for o in output.outputs), len(tokens))

    def _sample(self, output: Any, prompt_tokens: list[int], example: Example) -> Sample:
        ids, reason = list(output.token_ids), output.finish_reason or "unknown"
        if not self._logprobs:
            return Sample(output.text, len(ids), reason)
        k = self._config.token_logprobs
        probabilities = None
        if self._config.soft_labels == "logprobs":
            at = likeliest(output.logprobs, self._logprobs)
            answer = AnswerTokens(ids, prompt_tokens[-_BEFORE:], at, self._decode)
            probabilities = distribution(output.text, answer, self._task, example)
        logprobs = top_k(output.logprobs, self._logprobs, k) if k else None
        return Sample(output.text, len(ids), reason, logprobs, probabilities)

    def _sampling(self, pattern: str | None) -> Any:
        """The sampling parameters for answers of this form; made once for each."""
        if pattern not in self._parameters:
            self._parameters[pattern] = sampling_parameters(self._config, self._task, self._logprobs, pattern)
        return self._parameters[pattern]

    def _tokens(self, prompt: Prompt) -> list[int]:
        if not prompt.messages:
            return self._encode(prompt.text, True)
        messages = list(prompt.messages)
        text = self._tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        return self._encode(str(text), False)  # the template has written the special tokens


def cpu_environment(config: TeacherConfig) -> dict[str, str]:
    """What vLLM must be told on CPUs before it starts, of the machine that it runs on: Ray gives each actor one thread, vLLM leaves one
    core idle; both waste a small machine."""
    return {
        **vllm_threads(config.replicas.max),
        "VLLM_CPU_NUM_OF_RESERVED_CPU": "0",
        "VLLM_CPU_KVCACHE_SPACE": str(config.vllm.cpu_kv_cache_gib),
    }


def _start_engine(config: TeacherConfig, logprobs: int) -> Any:
    from vllm import AsyncEngineArgs
    from vllm.usage.usage_lib import UsageContext
    from vllm.v1.engine.async_llm import AsyncLLM

    # vLLM sizes its batches by who asks: offline, a step on a large GPU prefills 16384 tokens; unasked, 2048.
    context = UsageContext.LLM_CLASS
    return AsyncLLM.from_engine_args(AsyncEngineArgs(**engine_arguments(config, logprobs)), usage_context=context)


def engine_dtype(config: TeacherConfig) -> str:
    """What an engine on this machine computes in."""
    if config.vllm.dtype != "auto":
        return config.vllm.dtype
    return "bfloat16" if config.gpus_per_replica or computes_bf16() else "float32"


def engine_arguments(config: TeacherConfig, logprobs: int = 0) -> dict[str, Any]:
    """vLLM's arguments for a teacher whose requests want that many log-probabilities at each position."""
    engine = config.vllm
    arguments: dict[str, Any] = {
        "model": config.model,
        "dtype": engine_dtype(config),
        "max_model_len": engine.max_model_len,
        "max_num_seqs": engine.max_num_seqs,
        "seed": config.sampling.seed,
        "enable_prefix_caching": True,
        "disable_log_stats": True,
    }
    if logprobs:
        arguments |= {"max_logprobs": logprobs, "logprobs_mode": "raw_logprobs"}
    if config.constrained:
        arguments["structured_outputs_config"] = {"backend": "xgrammar"}
    if config.gpus_per_replica == 0:
        # A request with its own seed whose prompt is prefilled in pieces ends the CPU engine of vLLM 0.29 ("CPU Generator does
        # not use offset"), so prompts are prefilled whole there.
        return arguments | {
            "enforce_eager": True,
            "enable_chunked_prefill": False,
            "max_num_batched_tokens": max(engine.max_model_len, 4096),
        }
    return arguments | {
        "enforce_eager": engine.enforce_eager,
        "gpu_memory_utilization": engine.gpu_memory_utilization,
        "tensor_parallel_size": config.gpus_per_replica,
    }


def sampling_parameters(
    config: TeacherConfig, task: Task, logprobs: int = 0, pattern: str | None = None
) -> SamplingParams:
    """vLLM's SamplingParams for answers that match the pattern."""
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams

    sampling = config.sampling
    return SamplingParams(
        n=sampling.n,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        max_tokens=sampling.max_tokens,
        seed=sampling.seed if sampling.temperature > 0 else None,
        stop=list(task.stops) if config.prompt == "plain" else None,
        logprobs=logprobs or None,
        flat_logprobs=bool(logprobs),
        structured_outputs=None if pattern is None else StructuredOutputsParams(regex=pattern),
        output_kind=RequestOutputKind.FINAL_ONLY,
    )
