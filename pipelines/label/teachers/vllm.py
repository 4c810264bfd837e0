"""A teacher in vLLM's asynchronous engine: continuous batching, so that a long answer holds up nobody but itself.

Few-shot prompts share a prefix, which the engine computes once (prefix caching).
"""

from __future__ import annotations

import itertools
from typing import Any

from pipelines.config import TeacherConfig
from pipelines.label.teachers.base import EngineDeadError, Generation, Prompt, PromptRefusedError, Sample
from pipelines.tasks import Task


class VllmTeacher:
    """One engine, with its own worker processes. Construct it inside the actor that owns the devices."""

    def __init__(self, config: TeacherConfig, task: Task) -> None:
        from vllm import AsyncEngineArgs, SamplingParams
        from vllm.sampling_params import RequestOutputKind
        from vllm.usage.usage_lib import UsageContext
        from vllm.v1.engine.async_llm import AsyncLLM

        sampling, engine = config.sampling, config.vllm
        on_cpu = config.gpus_per_replica == 0
        self._max_prompt_tokens = engine.max_model_len - sampling.max_tokens
        arguments: dict[str, Any] = {
            "model": config.model,
            "dtype": engine.dtype,
            "max_model_len": engine.max_model_len,
            "max_num_seqs": engine.max_num_seqs,
            "seed": sampling.seed,
            "enable_prefix_caching": True,
            "disable_log_stats": True,
        }
        if on_cpu:
            # A request with its own seed whose prompt is prefilled in pieces ends the CPU engine of vLLM 0.29 ("CPU Generator does
            # not use offset"), so prompts are prefilled whole there.
            arguments |= {
                "enforce_eager": True,
                "enable_chunked_prefill": False,
                "max_num_batched_tokens": max(engine.max_model_len, 4096),
            }
        else:
            arguments |= {
                "enforce_eager": engine.enforce_eager,
                "gpu_memory_utilization": engine.gpu_memory_utilization,
                "tensor_parallel_size": config.gpus_per_replica,
            }
        # vLLM sizes its batches by who asks: offline, a step on a large GPU prefills 16384 tokens; unasked, 2048.
        context = UsageContext.LLM_CLASS
        self._engine = AsyncLLM.from_engine_args(AsyncEngineArgs(**arguments), usage_context=context)
        self._tokenizer = self._engine.get_tokenizer()
        self._sampling = SamplingParams(
            n=sampling.n,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            max_tokens=sampling.max_tokens,
            seed=sampling.seed if sampling.temperature > 0 else None,
            stop=list(task.stops) if config.prompt == "plain" else None,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        self._number = itertools.count()

    async def answer(self, prompt: Prompt) -> Generation:
        """n samples. Raises PromptRefusedError for a prompt that leaves no room for the answer, EngineDeadError as it says."""
        from vllm.v1.engine.exceptions import EngineDeadError as VllmDeadError

        tokens = self._tokens(prompt)
        if len(tokens) > self._max_prompt_tokens:
            rule = f"{len(tokens)} tokens, max_model_len less max_tokens leaves {self._max_prompt_tokens}"
            raise PromptRefusedError("too_long", rule)
        output = None
        try:
            request = self._engine.generate({"prompt_token_ids": tokens}, self._sampling, f"row-{next(self._number)}")
            async for latest in request:
                output = latest
        except VllmDeadError as error:
            raise EngineDeadError(str(error)) from error
        except ValueError as error:  # vLLM's verdict on this one request
            raise PromptRefusedError("engine_error", str(error)) from error
        if output is None:
            raise PromptRefusedError("engine_error", "the engine returned nothing")
        samples = tuple(Sample(o.text, len(o.token_ids), o.finish_reason or "unknown") for o in output.outputs)
        return Generation(samples, len(tokens))

    def _tokens(self, prompt: Prompt) -> list[int]:
        if prompt.messages:
            ids = self._tokenizer.apply_chat_template(
                list(prompt.messages), add_generation_prompt=True, tokenize=True, return_dict=False
            )
            return list(ids)
        return list(self._tokenizer(prompt.text)["input_ids"])
