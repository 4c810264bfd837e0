"""The identity of labels: everything that decides them. Its fingerprint is the artifact's."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from pipelines.config import RunConfig, SamplingConfig, TeacherConfig
from pipelines.data.files import corpus_files
from pipelines.data.heldout import heldout_files, validation_share
from pipelines.label.teachers.registry import teacher_class
from pipelines.storage.fingerprint import file_fingerprint, model_fingerprint
from pipelines.storage.fingerprint_cache import file_fingerprints, weights_fingerprint
from pipelines.tasks import load_task, task_spec

FORMAT = 1
"""Raise it if the stage makes other rows from the same input."""


def label_identity(run: RunConfig) -> dict[str, Any]:
    """The identity as JSON.

    An endpoint's address (`teacher.remote.url`) is no part of it, since servers move and the model stays. `teacher.model` names the
    model, so other weights, or the same ones in another quantisation, need another name. The manifest's `config` has the last URL.
    """
    spec = task_spec(run.task, run.task_options)
    teacher, task = run.teacher, load_task(spec)
    # Rows of the validation split are never rationalised, so then it matters which these are.
    rationalises = teacher.filters.gold == "rationalise"
    rationalised = {"never_rationalised": validation_share(run.corpus.validation)} if rationalises else {}
    return {
        "format": FORMAT,
        "task": {
            "prompt": task.prompt_version(),
            "options": spec.options,
            "source": _digest(spec.source),
            "parser": task.parser,
        },
        "corpus": {
            "train": file_fingerprints(corpus_files(run.corpus.train, "corpus.train")),
            "heldout": file_fingerprints(heldout_files(run.corpus) or []),
            "fields": run.corpus.fields,
            "limit": run.corpus.limit,
        },
        "teacher": {
            "engine": teacher.engine,
            "model": teacher_class(teacher.engine).model_identity(teacher),
            "outputs": file_fingerprint(teacher.outputs) if teacher.outputs else None,
            "prompt": teacher.prompt,
            "system": teacher.system,
            "constrained": teacher.constrained,
            "soft_labels": teacher.soft_labels,
            "token_logprobs": teacher.token_logprobs,
            "shots": file_fingerprint(teacher.shots) if teacher.shots else None,
            "sampling": _sampling(teacher.sampling),
            "filters": teacher.filters.model_dump(),
            "dtype": teacher.vllm.dtype,
            "max_model_len": teacher.vllm.max_model_len,
            **_chosen(teacher),
        },
        **rationalised,
    }


def comparable_identity(
    identity: dict[str, Any], found: Mapping[str, Any] | None, model: str | None = None
) -> dict[str, Any]:
    """The identity for comparison with that of labels that exist.

    0.1 recorded no version of the parser, so any fits its labels. Of weight files over 256 MiB it read both ends only.

    Args:
        model: `teacher.model`, if it may be a folder.
    """
    if not found:  # nothing, or only its fingerprint is left
        return identity
    if "parser" not in found.get("task", {}):
        identity = {**identity, "task": {name: value for name, value in identity["task"].items() if name != "parser"}}
    recorded, teacher = found.get("teacher", {}).get("model"), identity["teacher"]
    if model and recorded != teacher["model"] and recorded == model_fingerprint(model):
        return {**identity, "teacher": {**teacher, "model": recorded}}
    return identity


_ADDED_SAMPLING = ("top_k", "min_p", "repetition_penalty", "stop")


def _sampling(sampling: SamplingConfig) -> dict[str, Any]:
    """The sampling. Settings that 0.1 did not have are part of it once they are set."""
    settings = sampling.model_dump()
    return {key: value for key, value in settings.items() if key not in _ADDED_SAMPLING or value is not None}


def _chosen(teacher: TeacherConfig) -> dict[str, Any]:
    """Settings that 0.1 did not have, if they differ from their default."""
    settings: dict[str, Any] = {
        "revision": teacher.revision,
        "chat_template_kwargs": teacher.chat_template_kwargs,
        "reasoning": None if teacher.reasoning == "auto" else teacher.reasoning,
        "keep_thoughts": teacher.keep_thoughts,
        "engine_args": teacher.vllm.engine_args,
        "lora": weights_fingerprint(teacher.vllm.lora) if teacher.vllm.lora else None,
    }
    return {key: value for key, value in settings.items() if value}


def _digest(source: str | None) -> str | None:
    return None if source is None else hashlib.sha256(source.encode()).hexdigest()
