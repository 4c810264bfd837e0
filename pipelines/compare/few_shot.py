"""The arm `few-shot`: students before any training answer the teacher's prompt.

In: the students of the grid and the scored examples. Out: OUTPUT/compare/few-shot/NAME-MARK, scores like those of a cell.

A closed label set is ranked by likelihood, so that every answer is a label. Free labels are read from a greedy text, as the teacher's are.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from pipelines.compare.cells import Scores, score_missing
from pipelines.config import RunConfig
from pipelines.data.shots import read_shots
from pipelines.label.answers.prompts import PromptMaker
from pipelines.runtime.progress_file import ProgressFile
from pipelines.scoring.predict import Predictions, PredictRequest
from pipelines.scoring.predictor import Query
from pipelines.scoring.sources import Untrained
from pipelines.storage.manifest import Manifest
from pipelines.students.init import max_positions, student_config
from pipelines.tasks import Answer, Example, Task

_PROMPT_TOKENS = 4096
"""Room for the prompt, if the student has as many positions."""


def score_few_shot(
    runs: Mapping[str, RunConfig], task: Task, examples: Sequence[Example], live: ProgressFile | None = None
) -> dict[str, Manifest]:
    """Score the students of some runs before training, unless they are scored. Ray is running.

    Args:
        runs: by model; equal in all but the student, of the method rationale-then-label, whose texts are the teacher's.
        live: progress file of the comparison.
    """
    prepared = {}
    for model, run in runs.items():
        maker = PromptMaker(task, run.teacher.model_copy(update={"prompt": "plain"}), read_shots(run.teacher, task))
        limits = {"max_target_tokens": run.training.max_target_tokens}
        scores = Scores.before_training("few-shot", run, task, examples, limits, prompt=maker.version)
        prepared[model] = run, _request(run, task, maker, examples), scores
    return score_missing(prepared, task, examples, live, lambda predicted: _until_stop(predicted, task))


def _request(run: RunConfig, task: Task, maker: PromptMaker, examples: Sequence[Example]) -> PredictRequest:
    limits = run.training
    positions = max_positions(student_config(run.student))
    room = _PROMPT_TOKENS if positions is None else min(_PROMPT_TOKENS, positions - limits.max_target_tokens)
    source = Untrained(run.student, limits.seed, room, limits.max_target_tokens)
    prompts = [maker.render(example).text for example in examples]
    title = f"few-shot {run.student.model}"
    if not task.is_closed:
        return PredictRequest(title, Query(source), prompts)
    sets = [tuple(_stated(task, label, example) for label in task.label_set(example)) for example in examples]
    return PredictRequest(title, Query(source, ranked=True), prompts, sets)


def _stated(task: Task, label: str, example: Example) -> str:
    """The teacher's sentence for a label, without rationale and full stop."""
    return task.shown(Answer(label, ""), example).strip().rstrip(".")


def _until_stop(predicted: Predictions, task: Task) -> Predictions:
    """The texts up to the first stop string: a model without training writes the next question."""
    answers = []
    for drawn in predicted.answers:
        texts = [_before(one.text, task.stops) for one in drawn]
        answers.append(tuple(dataclasses.replace(one, text=text) for one, text in zip(drawn, texts, strict=True)))
    return dataclasses.replace(predicted, answers=answers)


def _before(text: str, stops: Sequence[str]) -> str:
    return text[: min((at for stop in stops if (at := text.find(stop)) > 0), default=len(text))]
