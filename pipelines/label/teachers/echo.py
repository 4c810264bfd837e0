"""A teacher without a model, for tests and for measuring our own overhead. Its answers are right by construction: never a result.

It says the gold label in the task's output format (or a hash of the input where there is no gold), after `latency_s` seconds.
"""

from __future__ import annotations

import asyncio
import hashlib

from pipelines.config import TeacherConfig
from pipelines.label.teachers.base import Generation, Prompt, Sample
from pipelines.tasks import Answer, Task


class EchoTeacher:
    """Answers with the gold label. Tokens are counted as words."""

    def __init__(self, config: TeacherConfig, task: Task) -> None:
        self._config, self._task = config, task

    async def answer(self, prompt: Prompt) -> Generation:
        """The gold label n times."""
        if self._config.latency_s:
            await asyncio.sleep(self._config.latency_s)
        example = prompt.example
        label = example.gold or hashlib.sha256(example.input.encode()).hexdigest()[:8]
        text = self._task.render(Answer(label, f"The label of this example is known to be {label}."))
        sample = Sample(text, len(text.split()), "stop")
        return Generation((sample,) * self._config.sampling.n, len(prompt.text.split()))
