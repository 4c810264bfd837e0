"""Decoder-only students in vLLM's engine for whole batches: what evaluation asks, in the engine that serves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self, Unpack

from pipelines.errors import UserError, last_line
from pipelines.runtime.cpus import inherited
from pipelines.runtime.terminal import own_log
from pipelines.runtime.vllm_cpu import cpu_environment, engine_threads
from pipelines.storage.manifest import require_manifest
from pipelines.storage.store import Store
from pipelines.students.content import checked_copy
from pipelines.students.decoding.checks import check_student_files
from pipelines.students.decoding.engines import EngineUnsuitableError
from pipelines.students.decoding.label_scores import Scores
from pipelines.students.decoding.requests import GenerationRequest
from pipelines.students.decoding.sampling import IsCancelled, OnEnd, OnTokens
from pipelines.students.decoding.transformers_student import Student, StudentLimits, student_limits
from pipelines.students.decoding.vllm_settings import (
    check_cpu_attention,
    engine_arguments,
    parts_of,
    returns_scores,
    sampling_parameters,
    scores_of,
)

_CACHE_GIB = 1
"""Memory for keys and values on CPUs."""


class VllmStudent(Student):
    """A student in an engine with its own process, which ends with this object. Reports no tokens and cancels no rows."""

    engine = "vllm"
    schedules = True

    def __init__(self, llm: Any, weights: str, **limits: Unpack[StudentLimits]) -> None:
        """
        Args:
            llm: a vllm.LLM.
        """
        self._llm = llm
        self.weights, self.returns_scores = weights, returns_scores()
        self._configure(llm.get_tokenizer(), "decoder-only", limits)

    @classmethod
    def open(cls, folder: str, *, weights: str, gpus: int, sequences: int, workers: int, max_new_tokens: int) -> Self:
        """Start an engine for the student of a folder or URI. Arguments as in `open_student`.

        Raises:
            EngineUnsuitableError: vLLM is not installed, or does not know the model.
            UserError: the artifact is not finished, its files fail `check_student_files`, or the engine does not start.
        """
        store = Store(folder)
        manifest = require_manifest(store, "student", "train RUN")
        check_student_files(store)
        limits = student_limits(manifest)
        environment = {} if gpus else {**cpu_environment(_CACHE_GIB), **engine_threads(workers)}
        try:
            with checked_copy(store, manifest) as path, inherited(environment):
                if not gpus:
                    check_cpu_attention(str(path))
                from vllm import LLM

                arguments = engine_arguments(
                    str(path),
                    weights=weights,
                    max_tokens=limits["max_input_tokens"] + max(limits["max_target_tokens"], max_new_tokens),
                    sequences=sequences,
                    gpu_share=1.0 if gpus else None,
                )
                return cls(LLM(**arguments), weights, **limits)
        except (ImportError, ValueError) as error:
            raise EngineUnsuitableError(str(error)) from error
        except RuntimeError as error:  # its process failed; that process' log lines say more than this error
            rule = f"vLLM does not start for it ({last_line(error)})"
            lower = "lower evaluation.batch_size, or set evaluation.engine: transformers"
            remedy = f"See {own_log()}. If memory is short, {lower}."
            raise UserError(store.shown(), rule, remedy) from error

    def _generate(
        self,
        prompts: list[list[int]],
        requests: Sequence[GenerationRequest],
        on_tokens: OnTokens | None,
        is_cancelled: IsCancelled | None,
        on_end: OnEnd | None = None,
    ) -> tuple[list[list[int]], list[list[float]], list[Scores | None]]:
        outputs = self._llm.generate(
            [{"prompt_token_ids": [*p, *request.written]} for p, request in zip(prompts, requests, strict=True)],
            [sampling_parameters(request, "FINAL_ONLY") for request in requests],
            use_tqdm=False,
        )
        answers = [output.outputs[0] for output in outputs]
        tokens = [list(answer.token_ids) for answer in answers]
        log_probs = [
            [at[token].logprob for at, token in zip(answer.logprobs, ids, strict=True)]
            for answer, ids in zip(answers, tokens, strict=True)
        ]
        scores = [scores_of(answer.logprobs, request) for answer, request in zip(answers, requests, strict=True)]
        return tokens, log_probs, scores

    def _next_scores(self, requests: Sequence[GenerationRequest]) -> list[Sequence[float]]:
        parts = [parts_of(request) for request in requests]
        every = [part for some in parts for part in some]
        prompts = [part.encoded(self.tokenizer, self.family) for part in every]
        _, _, scores = self._generate(prompts, every, None, None)
        found = iter([row(0) for row in scores if row is not None])
        return [[score for _ in some for score in next(found)] for some in parts]
