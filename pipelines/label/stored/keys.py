"""The key of an answer: a hash of the rendered prompt, the model's identity and the sampling.

Two prompts with the same key would get the same answer, or draws of the same distribution. So the key has everything that the teacher
reads, and nothing that only decides what is made of its text: filters, parsers, gold labels, ids.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from pipelines.config import RunConfig
from pipelines.label.teachers.base import Prompt, stop_strings
from pipelines.label.teachers.registry import teacher_class
from pipelines.storage.fingerprint import file_fingerprint, fingerprint
from pipelines.storage.fingerprint_cache import weights_fingerprint
from pipelines.tasks import load_task, task_spec

KEY_BYTES = 16
_FORMAT = 1
"""Raise it if prompts with the same identity are sent in another form."""


@dataclass(frozen=True)
class AnswerKeys:
    """The keys of one run's prompts."""

    identity: str = ""
    """Fingerprint of `answer_identity`."""
    by: tuple[str, ...] = ()
    """Fields of the example that the teacher reads beside the prompt."""

    @classmethod
    def of_run(cls, run: RunConfig, model: str | None) -> AnswerKeys:
        """`model`: what identifies the model, from `Teacher.model_identity`."""
        return cls(fingerprint(answer_identity(run, model)), teacher_class(run.teacher.engine).answers_by)

    def of(self, prompt: Prompt) -> bytes:
        """The key of a prompt, of KEY_BYTES bytes."""
        text: object = list(prompt.messages) or prompt.text
        read = json.dumps([text, *(getattr(prompt.example, name) for name in self.by)], sort_keys=True)
        return hashlib.blake2b(f"{self.identity}{read}".encode(), digest_size=KEY_BYTES).digest()


def answer_identity(run: RunConfig, model: str | None) -> dict[str, Any]:
    """What decides an answer beside its prompt, as JSON."""
    teacher, task = run.teacher, load_task(task_spec(run.task, run.task_options))
    sampling = teacher.sampling.model_dump(exclude={"stop"}, exclude_none=True)
    if not teacher.sampling.temperature:
        sampling.pop("seed", None)  # nothing is drawn
    identity: dict[str, Any] = {
        "format": _FORMAT,
        "engine": teacher.engine,
        "model": model,
        "outputs": file_fingerprint(teacher.outputs) if teacher.outputs else None,
        "sampling": {**sampling, "stop": stop_strings(teacher, task)},
        "chat_template_kwargs": teacher.chat_template_kwargs,
    }
    if teacher.engine == "vllm":
        revision = teacher_class("vllm").revision(teacher)
        identity |= {"revision": revision, "dtype": teacher.vllm.dtype, "engine_args": teacher.vllm.engine_args}
        identity["lora"] = weights_fingerprint(teacher.vllm.lora) if teacher.vllm.lora else None
        identity["keeps_marks"] = teacher.reasoning != "none"  # special tokens in the text
    if teacher.constrained or teacher.soft_labels == "logprobs":
        # Then the task decides what may be written, or where the label's probability is read.
        spec = task_spec(run.task, run.task_options)
        identity["task"] = [task.prompt_version(), task.parser, spec.options, spec.source]
        identity |= {"constrained": teacher.constrained, "soft_labels": teacher.soft_labels}
    return identity
