"""A teacher in vLLM's asynchronous engine. Continuous batching: a long answer delays only its own row.

Few-shot prompts share a prefix, which the engine computes once (prefix caching). Log-probabilities are the model's own, before
temperature and top_p. If `teacher.constrained` forbids tokens, they are renormalised over the allowed ones.

Constrained answers use xgrammar. On nli's pattern with a vocabulary of 49k it compiles in 0.2 s, once, and takes 18 us per token.
llguidance takes 2 ms per request and 50 us per token, and aborted answers on patterns that count characters (`ParserTooComplex`).
outlines had not compiled the pattern after a minute.
"""

from __future__ import annotations

import copy
import dataclasses
import difflib
import itertools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from pipelines.config import TeacherConfig
from pipelines.errors import UserError
from pipelines.label.answers.thoughts import ThoughtCutter, marks_are_special, opens_thought
from pipelines.label.teachers.base import (
    Access,
    EngineDeadError,
    Generation,
    Load,
    Prompt,
    PromptRefusedError,
    Sample,
    Teacher,
    TeacherUnusableError,
    row_seed,
    stop_strings,
)
from pipelines.label.teachers.chat import ChatTemplate, TemplateError
from pipelines.label.teachers.hub_revision import resolved_revision
from pipelines.label.teachers.label_probabilities import LIKELIEST, AnswerTokens
from pipelines.label.teachers.lora import lora_rank, lora_request
from pipelines.label.teachers.vllm_logprobs import cache_single_tokens, decoder, distribution, encoder, likeliest, top_k
from pipelines.runtime.compat.vllm import engine_dead_error, flat_logprobs, offline_usage
from pipelines.runtime.cpus import computes_bf16
from pipelines.runtime.vllm_cpu import cpu_arguments, cpu_environment, engine_threads
from pipelines.students.decoding import check_model
from pipelines.tasks import Example, Task

if TYPE_CHECKING:
    from vllm import SamplingParams

_OWN_KEYS = {
    "model": "teacher.model",
    "tokenizer": "teacher.model",
    "revision": "teacher.revision",
    "tokenizer_revision": "teacher.revision",
    "dtype": "teacher.vllm.dtype",
    "max_model_len": "teacher.vllm.max_model_len",
    "max_num_seqs": "teacher.vllm.max_num_seqs",
    "seed": "teacher.sampling.seed",
    "tensor_parallel_size": "teacher.gpus_per_replica",
    "pipeline_parallel_size": "teacher.pipeline_parallel",
    "enable_lora": "teacher.vllm.lora",
    "lora_modules": "teacher.vllm.lora",
    "gpu_memory_utilization": "teacher.vllm.gpu_memory_utilization",
    "enforce_eager": "teacher.vllm.enforce_eager",
    "max_logprobs": "teacher.token_logprobs",
    "logprobs_mode": "teacher.token_logprobs",
}
"""Arguments of the engine -> keys of the run file."""
_CONTEXT_TOKENS = 4
"""Prompt tokens that stand before an answer when it is decoded."""


class VllmTeacher(Teacher):
    """One engine, with its own worker processes. Start it in the actor that owns the devices."""

    def __init__(self, config: TeacherConfig, task: Task, engine: Any = None) -> None:
        """`engine`: a running vllm.AsyncLLMEngine to share; None starts one."""
        self._config, self._task = config, task
        self._max_prompt_tokens = config.vllm.max_model_len - config.sampling.max_tokens
        self._logprobs = max(config.token_logprobs or 0, LIKELIEST if config.soft_labels == "logprobs" else 0)
        self.engine = engine or _start_engine(config, self._logprobs)
        self._tokenizer = self.engine.get_tokenizer()
        self._encode, self._decode = encoder(self._tokenizer), decoder(self._tokenizer)
        self._template = ChatTemplate(self._tokenizer, config.chat_template_kwargs)
        self._thoughts = ThoughtCutter(config.reasoning)
        self._keeps_marks = config.reasoning != "none" and marks_are_special(self._tokenizer)
        if self._logprobs and engine is None:
            cache_single_tokens(self._tokenizer)
        self._parameters: dict[str | None, SamplingParams] = {}
        self._number = itertools.count()
        self._adapter = {"lora_request": lora_request(config.vllm.lora)} if config.vllm.lora else {}

    @classmethod
    def check(cls, config: TeacherConfig) -> None:
        check_model(config.model or "", "teacher.model")
        engine, sampling = config.vllm, config.sampling
        room = engine.max_model_len - sampling.max_tokens
        if room < 1:
            rule = f"max_model_len {engine.max_model_len} less sampling.max_tokens {sampling.max_tokens} leaves {room}"
            raise UserError("teacher.vllm", f"{rule} tokens for the prompt", "Raise max_model_len or lower max_tokens.")
        own = [name for name in engine.engine_args if name in _OWN_KEYS]
        if own:
            rule = "the run file has a key of its own for it"
            raise UserError(f"teacher.vllm.engine_args.{own[0]}", rule, f"Set {_OWN_KEYS[own[0]]}.")
        if engine.lora:
            lora_rank(engine.lora)

    @classmethod
    def notice(cls, config: TeacherConfig) -> str | None:
        """See Teacher. A run file that sets `prompt: plain` has chosen it."""
        if "prompt" in config.model_fields_set or not has_chat_template(config.model or ""):
            return None
        return f"{config.model} has a chat template, and teacher.prompt is plain. Set teacher.prompt: chat, or plain."

    @classmethod
    def revision(cls, config: TeacherConfig) -> str | None:
        return resolved_revision(config.model or "", config.revision)

    @classmethod
    def load(cls, config: TeacherConfig) -> Load:
        return Load.of_batch(config)

    @classmethod
    def dtype(cls, config: TeacherConfig) -> str:
        return engine_dtype(config)

    @classmethod
    def try_prompt(cls, config: TeacherConfig, prompt: Prompt) -> None:
        if not prompt.messages:
            return
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(config.model, revision=config.revision or "main")
        where = f"teacher.model {config.model}"
        if not getattr(tokenizer, "chat_template", None):
            raise TeacherUnusableError(f"{where}: the model has no chat template. Set teacher.prompt: plain")
        try:
            ChatTemplate(tokenizer, config.chat_template_kwargs).render(prompt.messages)
        except TemplateError as error:
            remedy = "Set teacher.prompt: plain, or use a model whose template takes few-shot turns"
            raise TeacherUnusableError(f"{where}: its chat template refuses the prompt ({error}). {remedy}") from error

    @classmethod
    def preload(cls) -> None:
        """The imports of vLLM take 10 s."""
        from vllm import AsyncEngineArgs, AsyncLLMEngine  # noqa: F401

    @classmethod
    def start(cls, config: TeacherConfig, task: Task, access: Access) -> Self:
        if not config.gpus_per_replica:
            os.environ.update(teacher_environment(config))  # of this machine, not of the driver's
        return cls(config, task)

    async def answer(self, prompt: Prompt) -> Generation:
        """n samples. Raises PromptRefusedError if the prompt leaves no room for the answer, EngineDeadError if vLLM died."""
        tokens, opened = self._tokens(prompt)
        if len(tokens) > self._max_prompt_tokens:
            rule = f"{len(tokens)} tokens, max_model_len less max_tokens leaves {self._max_prompt_tokens}"
            raise PromptRefusedError("too_long", rule)
        pattern = self._task.answer_pattern(prompt.example) if self._config.constrained else None
        output = None
        try:
            parameters = self._row_sampling(pattern, prompt.example.id)
            name = f"row-{next(self._number)}"
            request = self.engine.generate({"prompt_token_ids": tokens}, parameters, name, **self._adapter)
            async for latest in request:
                output = latest
        except engine_dead_error() as error:
            raise EngineDeadError(str(error)) from error
        except (ValueError, TypeError) as error:  # vLLM refuses this one request
            raise PromptRefusedError("engine_error", str(error)) from error
        if output is None:
            raise PromptRefusedError("engine_error", "the engine returned nothing")
        samples = (self._sample(o, tokens, prompt.example, opened) for o in output.outputs)
        return Generation(tuple(samples), len(tokens))

    def _sample(self, output: Any, prompt_tokens: list[int], example: Example, opened: bool) -> Sample:
        """`output`: a vllm.CompletionOutput. `opened`: the prompt ends within a thought."""
        ids, reason = list(output.token_ids), output.finish_reason or "unknown"
        cut = self._thoughts.cut_sample(Sample(output.text, len(ids), reason, opened=opened), opened)
        if not self._logprobs:
            return cut
        flat, k = flat_logprobs(output.logprobs), self._config.token_logprobs
        probabilities = None
        if self._config.soft_labels == "logprobs":
            context = prompt_tokens[-_CONTEXT_TOKENS:]
            answer = AnswerTokens(ids, context, likeliest(flat, self._logprobs), self._decode)
            if cut.thoughts_end:
                probabilities = distribution(output.text, answer, self._task, example, cut.text)
        logprobs = top_k(flat, self._logprobs, k) if k else None
        return dataclasses.replace(cut, logprobs=logprobs, label_probabilities=probabilities)

    def _sampling(self, pattern: str | None) -> SamplingParams:
        """The sampling parameters for answers that match a pattern, cached per pattern."""
        if pattern not in self._parameters:
            parameters = sampling_parameters(self._config, self._task, self._logprobs, pattern)
            parameters.skip_special_tokens = not self._keeps_marks
            self._parameters[pattern] = parameters
        return self._parameters[pattern]

    def _row_sampling(self, pattern: str | None, row_id: str) -> SamplingParams:
        """The parameters of one row. Rows with the same seed would share their draws."""
        parameters = self._sampling(pattern)
        if parameters.seed is None:
            return parameters
        own = copy.copy(parameters)
        own.seed = row_seed(parameters.seed, row_id)
        return own

    def _tokens(self, prompt: Prompt) -> tuple[list[int], bool]:
        """The prompt's tokens, and whether it ends within a thought."""
        if not prompt.messages:
            return self._encode(prompt.text, True), False
        text = self._template.render(prompt.messages)
        return self._encode(text, False), opens_thought(text)  # the template has written the special tokens


def teacher_environment(config: TeacherConfig) -> dict[str, str]:
    """Environment variables of vLLM on this machine's CPUs, to be set before it starts. By default Ray gives each actor one thread."""
    return {**engine_threads(config.replicas.max), **cpu_environment(config.vllm.cpu_kv_cache_gib)}


def _start_engine(config: TeacherConfig, logprobs: int) -> Any:
    from vllm import AsyncEngineArgs, AsyncLLMEngine

    check_engine_args(config, [field.name for field in dataclasses.fields(AsyncEngineArgs)])
    arguments = AsyncEngineArgs(**engine_arguments(config, logprobs))
    return AsyncLLMEngine.from_engine_args(arguments, usage_context=offline_usage())


def check_engine_args(config: TeacherConfig, known: Sequence[str]) -> None:
    """Raise TeacherUnusableError if vLLM has no argument of a name in `vllm.engine_args`. `known`: vLLM's own names."""
    for name in config.vllm.engine_args:
        if name not in known:
            nearest = difflib.get_close_matches(name, known, 3)
            remedy = f"Did you mean {' or '.join(nearest)}?" if nearest else "Remove it."
            raise TeacherUnusableError(f"teacher.vllm.engine_args.{name}: vLLM has no such argument. {remedy}")


def has_chat_template(model: str) -> bool:
    """True if a model folder has a chat template. False for hub ids, whose files are not here."""
    folder = Path(model).expanduser()
    if (folder / "chat_template.jinja").is_file():
        return True
    try:
        return '"chat_template"' in (folder / "tokenizer_config.json").read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return False


def engine_dtype(config: TeacherConfig) -> str:
    """The dtype that an engine on this machine computes in."""
    if config.vllm.dtype != "auto":
        return config.vllm.dtype
    return "bfloat16" if config.gpus_per_replica or computes_bf16() else "float32"


def engine_arguments(config: TeacherConfig, logprobs: int = 0) -> dict[str, Any]:
    """Keyword arguments of vllm.AsyncEngineArgs. `logprobs`: the most that a request asks for at each position."""
    engine = config.vllm
    arguments: dict[str, Any] = {
        "model": config.model,
        "dtype": engine_dtype(config),
        "max_model_len": engine.max_model_len,
        "max_num_seqs": engine.max_num_seqs,
        "seed": config.sampling.seed or 0,
        "enable_prefix_caching": True,
        "disable_log_stats": True,
    }
    if config.revision:
        arguments |= {"revision": config.revision, "tokenizer_revision": config.revision}
    if logprobs:
        arguments |= {"max_logprobs": logprobs, "logprobs_mode": "raw_logprobs"}
    if engine.lora:
        arguments |= {"enable_lora": True, "max_lora_rank": lora_rank(engine.lora)}
    if config.constrained:
        arguments["structured_outputs_config"] = {"backend": "xgrammar"}
    if config.gpus_per_replica == 0:
        settings = cpu_arguments(engine.max_model_len)
        fixed = {name: settings[name] for name in ("enforce_eager", "enable_chunked_prefill")}
        return {**arguments, **settings, **engine.engine_args, **fixed}
    # vLLM's workers are actors in the replica's placement group (engines/placement.py).
    several = {"pipeline_parallel_size": config.pipeline_parallel, "distributed_executor_backend": "ray"}
    spread = several if config.pipeline_parallel > 1 else {}
    return arguments | {
        "enforce_eager": engine.enforce_eager,
        "gpu_memory_utilization": engine.gpu_memory_utilization,
        "tensor_parallel_size": config.gpus_per_replica // config.pipeline_parallel,
        **spread,
        **engine.engine_args,
    }


def sampling_parameters(
    config: TeacherConfig, task: Task, logprobs: int = 0, pattern: str | None = None
) -> SamplingParams:
    """Sampling parameters of a request.

    Args:
        logprobs: tokens per position whose log-probabilities are returned.
        pattern: regular expression that the answer must match.
    """
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams

    sampling = config.sampling
    return SamplingParams(
        n=sampling.n,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=sampling.top_k or 0,
        min_p=sampling.min_p or 0.0,
        repetition_penalty=sampling.repetition_penalty or 1.0,
        max_tokens=sampling.max_tokens,
        seed=sampling.seed if sampling.temperature > 0 else None,
        stop=stop_strings(config, task) or None,
        logprobs=logprobs or None,
        flat_logprobs=bool(logprobs),
        structured_outputs=None if pattern is None else StructuredOutputsParams(regex=pattern),
        output_kind=RequestOutputKind.FINAL_ONLY,
    )
