"""A row and its answers, of a teacher or stored before: render the prompt, cut thoughts, judge, and rationalise if the run wants that."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from pipelines.config import RunConfig
from pipelines.data.heldout import validation_share
from pipelines.data.reader import DataSplit
from pipelines.label.answers.outcomes import Outcome, judge, refused, second_attempt, wants_rationalising
from pipelines.label.answers.prompts import PromptMaker
from pipelines.label.answers.thoughts import ThoughtCutter
from pipelines.label.stored.keys import AnswerKeys
from pipelines.label.stored.texts import StoredAnswer
from pipelines.label.teachers.base import Generation, Prompt, PromptRefusedError
from pipelines.tasks import Example, Shot, Task
from pipelines.tasks.failures import failure_detail

Generate = Callable[[Prompt], Awaitable[Generation | None]]
"""A prompt -> the teacher's answer, None if the row stays without an outcome. Raises PromptRefusedError."""


class Labeller:
    """Of one run, in one process."""

    def __init__(self, run: RunConfig, task: Task, shots: Sequence[Shot] | None, keys: AnswerKeys) -> None:
        """`shots`: of teacher.shots; None: the task's own."""
        self.prompts = PromptMaker(task, run.teacher, shots)
        self.filters = run.teacher.filters
        self._task, self._keys = task, keys
        self._validation = validation_share(run.corpus.validation)
        self._thoughts = ThoughtCutter(run.teacher.reasoning)
        self._keeps_thoughts = run.teacher.keep_thoughts

    async def label(self, split: DataSplit, example: Example, generate: Generate) -> Outcome | None:
        """The outcome of an example. None if `generate` returned None."""
        try:
            prompt = self.prompts.render(example)
        except Exception as error:  # noqa: BLE001 - the task may be the user's code
            return refused(split, example, PromptRefusedError("bad_input", failure_detail(error)))
        texts: list[StoredAnswer] = []
        try:
            first = await self._answer(prompt, generate, texts)
        except PromptRefusedError as refusal:
            return refused(split, example, refusal)
        if first is None:
            return None
        outcome = judge(split, example, first, self._task, self.filters)
        if wants_rationalising(outcome, self.filters, self._validation):
            try:
                second = await self._answer(self.prompts.render(example, hint=True), generate, texts)
            except PromptRefusedError:
                pass
            else:
                if second is None:
                    return None
                outcome = second_attempt(example, outcome, second, self._task, self.filters)
        outcome.in_prompt = self.prompts.quotes(example)
        outcome.texts = texts
        outcome.cached_tokens = sum(text.generation.cached_tokens for text in texts)
        outcome.thoughts = outcome.thoughts if self._keeps_thoughts else None
        return outcome

    async def _answer(self, prompt: Prompt, generate: Generate, texts: list[StoredAnswer]) -> Generation | None:
        generation = await generate(prompt)
        if generation is None:
            return None
        texts.append(StoredAnswer(self._keys.of(prompt), generation))
        return self._thoughts.cut(generation)
