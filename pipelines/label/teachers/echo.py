"""A teacher without a model, for tests and for measuring our own overhead. Its answers are right by construction: never a result.

It says the gold label in the task's output format (or a hash of the input where there is no gold), after `latency_s` seconds. With a
latency it answers `vllm.max_num_seqs` prompts at a time, as an engine with a batch of that size does.
"""

from __future__ import annotations

import asyncio
import hashlib
import random

from pipelines.config import TeacherConfig
from pipelines.label.teachers.base import Generation, Prompt, Sample
from pipelines.tasks import Answer, Task

_LONGEST = 20.0


def latency(config: TeacherConfig, example_id: str) -> float:
    """Seconds that the answer to an example takes: latency_s, or drawn by the id from a Pareto distribution with that mean, and cut at
    20 times it, as max_tokens cuts answers."""
    if config.latency_tail is None:
        return config.latency_s
    shape = config.latency_tail
    shortest = config.latency_s * (shape - 1) / shape
    return min(shortest * random.Random(example_id).paretovariate(shape), _LONGEST * config.latency_s)


class EchoTeacher:
    """Answers with the gold label. Tokens are counted as words."""

    def __init__(self, config: TeacherConfig, task: Task) -> None:
        self._config, self._task = config, task
        self._places = asyncio.Semaphore(config.vllm.max_num_seqs)

    async def answer(self, prompt: Prompt) -> Generation:
        """The gold label n times."""
        example = prompt.example
        if self._config.latency_s:
            async with self._places:
                await asyncio.sleep(latency(self._config, example.id))
        label = example.gold or hashlib.sha256(example.input.encode()).hexdigest()[:8]
        text = self._task.render(Answer(label, f"The label of this example is known to be {label}."))
        sample = Sample(text, len(text.split()), "stop")
        return Generation((sample,) * self._config.sampling.n, len(prompt.text.split()))
