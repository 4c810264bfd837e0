"""Private names of vLLM 0.29, with the reason why no public name does the same. Importing this module does not import vLLM."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from pipelines.runtime.compat import private_name


@dataclass(frozen=True)
class FlatLogprobs:
    """Log-probabilities of one answer of T tokens, k likeliest tokens asked for at each position.

    Both lists have T x (k + 1) entries. A position begins with its sampled token; the k likeliest follow, likeliest first, whether or
    not the sampled one is among them:

        token_ids  [s0, a0, b0, ..., s1, a1, b1, ...]
    """

    token_ids: list[int]
    logprobs: list[float]


def engine_dead_error() -> type[Exception]:
    """The error of every request to an engine whose process has died.

    Private: the public errors in `vllm.exceptions` do not tell a dead engine, which a fresh process replaces, from a failed request.
    """
    with private_name("vllm", "vllm.v1.engine.exceptions.EngineDeadError"):
        from vllm.v1.engine.exceptions import EngineDeadError
    error: type[Exception] = EngineDeadError
    return error


def offline_usage() -> Any:
    """The usage context that makes `AsyncLLMEngine.from_engine_args` batch for throughput.

    Private: vLLM sizes batches by this context. On a large GPU a step prefills 16,384 tokens offline and 2,048 by default. The public
    argument `max_num_batched_tokens` would repeat vLLM's table of devices here.
    """
    with private_name("vllm", "vllm.usage.usage_lib.UsageContext.LLM_CLASS"):
        from vllm.usage.usage_lib import UsageContext

        return UsageContext.LLM_CLASS


def stat_logger_base() -> Any:
    """Base class of the loggers that an engine calls after each step (argument `stat_loggers` of `from_engine_args`).

    Private: the engine's own metrics end in its process' Prometheus registry, which Ray does not export.
    """
    with private_name("vllm", "vllm.v1.metrics.loggers.StatLoggerBase"):
        from vllm.v1.metrics.loggers import StatLoggerBase
    return StatLoggerBase


def ray_stat_logger() -> Any:
    """A logger that exports vLLM's own metrics through Ray's, as `ray_vllm_...`.

    Private: vLLM's guide names it for Ray, its API reference does not. Without it, vLLM's default fills a registry that nobody reads.
    """
    with private_name("vllm", "vllm.v1.metrics.ray_wrappers.RayPrometheusStatLogger"):
        from vllm.v1.metrics.ray_wrappers import RayPrometheusStatLogger
    return RayPrometheusStatLogger


def cpu_attention_head_sizes() -> Collection[int]:
    """Sizes of attention heads that vLLM computes on CPUs.

    Private: with another size vLLM starts on a CPU, and fails at the first token.
    """
    with private_name("vllm", "vllm.v1.attention.backends.cpu_attn.CPUAttentionBackend.get_supported_head_sizes"):
        from vllm.v1.attention.backends.cpu_attn import CPUAttentionBackend

        sizes: Collection[int] = CPUAttentionBackend.get_supported_head_sizes()
    return sizes


def executor_in_scheduler() -> type:
    """The executor that computes in the process that schedules: argument `distributed_executor_backend` of an engine.

    Private: on CPUs vLLM replaces the public name `uni` by `mp`, whose process only binds threads to cores and imports all once more.
    """
    with private_name("vllm", "vllm.v1.executor.uniproc_executor.UniProcExecutor"):
        from vllm.v1.executor.uniproc_executor import UniProcExecutor
    executor: type = UniProcExecutor
    return executor


def flat_logprobs(logprobs: Any) -> FlatLogprobs:
    """The `logprobs` of an answer that was requested with `SamplingParams(flat_logprobs=True)`.

    Private: the documented form is one dict per position; building them costs more than all else that is done to an answer.
    """
    with private_name("vllm", "vllm.logprobs.FlatLogprobs.token_ids"):
        return FlatLogprobs(logprobs.token_ids, logprobs.logprobs)
