"""The optimizer steps that a training takes, before any label exists."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence

from cluster.planning.estimate import CHARACTERS_PER_TOKEN, OUTPUT_SHARE
from cluster.planning.local_models import token_counter
from cluster.planning.model import ReplicaThroughput, TrainingSteps
from pipelines.config import RunConfig
from pipelines.data.heldout import validation_share
from pipelines.methods import METHODS, TrainingRow, prompt_of
from pipelines.tasks import Example, Task
from pipelines.train.data.step_counts import planned_steps


def training_steps(
    run: RunConfig, task: Task, examples: Sequence[Example], rows: int, throughput: ReplicaThroughput
) -> TrainingSteps:
    """The steps of `run.training`. By epochs, an estimate: every row is accepted, its label as long as a gold one.

    Args:
        examples: some readable rows.
        rows: all readable rows of the training corpus that are learned from.
        throughput: of the teacher; its tokens per row are the rationale's length.
    """
    training = run.training
    if training.steps is not None:
        return TrainingSteps(steps=training.steps, source="training.steps")
    count, how = token_counter(run.student.model, "student")
    answer = throughput.output_tokens_per_row or run.teacher.sampling.max_tokens * OUTPUT_SHARE
    rationale = "x" * round(answer * CHARACTERS_PER_TOKEN)
    per_row = statistics.mean(_tokens(run, task, example, rationale, answer, count) for example in examples)
    seen = per_row * rows * (1 - validation_share(run.corpus.validation)) * training.fraction
    steps = planned_steps(round(seen), training.tokens_per_batch, training.epochs, None)
    return TrainingSteps(
        steps=steps,
        source=f"an estimate for {training.epochs:g} epochs of {rows:,} rows, {per_row:,.0f} tokens a row, by {how}",
    )


def _tokens(
    run: RunConfig, task: Task, example: Example, rationale: str, answer: float, count: Callable[[str], int]
) -> float:
    """Tokens that the student reads and writes for one row."""
    method = METHODS[run.student.method]
    row = TrainingRow(example.id, example.input, example.gold or "label", rationale)
    prompt = count(prompt_of(run.student.method, method.answer, example.input))
    if method.learns_teacher_tokens:  # the teacher's text, which no row has yet
        return prompt + answer
    total = 0.0
    for target in method.targets(row, task):
        written = target.text or ""
        own = answer if rationale in written or target.part == "rationale" else count(written)
        reads = answer if target.input is not None else 0.0  # the input with the rationale
        total += prompt + own + reads + (answer if target.rationale else 0.0)
    return total
