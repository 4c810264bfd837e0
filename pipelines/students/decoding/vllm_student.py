"""Decoder-only students in vLLM's engine for whole batches: what evaluation asks, in the engine that serves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

from pipelines.runtime.vllm_cpu import cpu_environment, engine_threads
from pipelines.storage.manifest import require_manifest
from pipelines.storage.store import Store
from pipelines.students.decoding.label_scores import Scores
from pipelines.students.decoding.requests import GenerationRequest
from pipelines.students.decoding.sampling import IsCancelled, OnEnd, OnTokens
from pipelines.students.decoding.transformers_student import Student
from pipelines.students.decoding.vllm_settings import (
    engine_arguments,
    parts_of,
    returns_scores,
    sampling_parameters,
    scores_of,
    vllm_files,
)

_CACHE_GIB = 1
"""Memory for keys and values on CPUs."""


class VllmStudent(Student):
    """A student in an engine with its own process, which ends with this object. Reports no tokens and cancels no rows."""

    engine = "vllm"
    schedules = True

    def __init__(self, llm: Any, weights: str, details: Mapping[str, Any]) -> None:
        """
        Args:
            llm: a vllm.LLM.
            details: of the student's manifest.
        """
        self._llm = llm
        self.weights, self.returns_scores = weights, returns_scores()
        self._configure(llm.get_tokenizer(), "decoder-only", details)

    @classmethod
    def open(cls, folder: str, *, weights: str, gpus: int, sequences: int, workers: int, max_new_tokens: int) -> Self:
        """Start an engine for the student of a folder or URI. Arguments as in `open_student`.

        Raises:
            EngineUnsuitableError, UserError: as `vllm_files`, or the artifact is not finished.
        """
        store = Store(folder)
        manifest = require_manifest(store, "student", "train RUN")
        details = manifest.details
        environment = {} if gpus else {**cpu_environment(_CACHE_GIB), **engine_threads(workers)}
        remedy = "lower evaluation.batch_size, or set evaluation.engine: transformers"
        with vllm_files(store, manifest, environment, gpus=gpus, remedy=remedy) as path:
            from vllm import LLM

            arguments = engine_arguments(
                path,
                weights=weights,
                max_tokens=details["max_input_tokens"] + max(details["max_target_tokens"], max_new_tokens),
                sequences=sequences,
                gpu_share=1.0 if gpus else None,
            )
            return cls(LLM(**arguments), weights, details)

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
