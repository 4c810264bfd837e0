"""A teacher without a model, for tests and to measure our own overhead. Its labels are gold by construction: never report them.

It answers with the gold label in the task's output format, after `latency_s` seconds. Without a gold label it answers with a hash of the
input. With a latency it answers `vllm.max_num_seqs` prompts at a time, like an engine with a batch of that size.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
from typing import Self

from pipelines.config import TeacherConfig
from pipelines.label.teachers.base import Access, Generation, Load, Prompt, Sample, Teacher
from pipelines.tasks import Answer, Task

_LONGEST = 20.0


def latency(config: TeacherConfig, example_id: str) -> float:
    """Seconds until an example is answered.

    `latency_s`, or with `latency_tail` a draw from a Pareto distribution with that mean, seeded by the id. The draw is cut at 20 times
    the mean, as max_tokens cuts answers.
    """
    if config.latency_tail is None:
        return config.latency_s
    shape = config.latency_tail
    shortest = config.latency_s * (shape - 1) / shape
    return min(shortest * random.Random(example_id).paretovariate(shape), _LONGEST * config.latency_s)


class EchoTeacher(Teacher):
    """Answers with the gold label. Counts words as tokens."""

    answers_by = ("gold", "input")

    def __init__(self, config: TeacherConfig, task: Task) -> None:
        self._config, self._task = config, task
        self._batch = asyncio.Semaphore(config.vllm.max_num_seqs)

    @classmethod
    def load(cls, config: TeacherConfig) -> Load | None:
        return Load.of_batch(config) if config.latency_s else None

    @classmethod
    def start(cls, config: TeacherConfig, task: Task, access: Access) -> Self:
        return cls(config, task)

    async def answer(self, prompt: Prompt) -> Generation:
        example = prompt.example
        if self._config.latency_s:
            async with self._batch:
                await asyncio.sleep(latency(self._config, example.id))
        label = example.gold or hashlib.sha256(example.input.encode()).hexdigest()[:8]
        text = self._task.render(Answer(label, f"The label of this example is known to be {label}."))
        sample = Sample(text, len(text.split()), "stop")
        return Generation((sample,) * self._config.sampling.n, len(prompt.text.split()))
