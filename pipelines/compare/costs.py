"""report.json's `cost` of a grid."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from pipelines.compare.model import AnswerCost, CellScores, Cost, Group, GroupKey, TrainingCost
from pipelines.compare.results import GridResults
from pipelines.methods import METHODS
from pipelines.scoring.costs import money_of, per_1000, teacher_cost, worker_hours


def grid_cost(results: GridResults, groups: Sequence[Group]) -> Cost:
    """The cost of labels and trainings, and that of answers at the largest fraction."""
    largest = max((group.fraction for group in groups), default=None)
    return Cost(
        teacher=teacher_cost(results.labels),
        training=[_training(group, results.run.compare.price_per_worker_hour) for group in groups],
        # A treatment changes what is learned, not what an answer costs.
        answers=[_answers(group, results) for group in groups if group.fraction == largest and group.treatment is None],
    )


def _training(group: Group, price: float | None) -> TrainingCost:
    hours = fmean(worker_hours(cell.workers, cell.train_s) for cell in group.cells)
    return TrainingCost(
        **group.model_dump(include=set(GroupKey.model_fields)),
        seconds=fmean(cell.train_s for cell in group.cells),
        gpu_hours=fmean(cell.gpu_hours for cell in group.cells),
        money=money_of(hours, price),
    )


def _answers(group: Group, results: GridResults) -> AnswerCost:
    seconds = _mean_seconds(group.cells)
    reads, references = METHODS[group.method].reads_rationale, results.references
    return AnswerCost(
        student=group.student,
        method=group.method,
        seconds_per_example=seconds,
        per_1000=per_1000(seconds, results.run.compare.price_per_worker_hour),
        teacher_prompt_tokens=references.teacher_prompt_tokens if reads else None,
        teacher_output_tokens=references.teacher_output_tokens if reads else None,
    )


def _mean_seconds(cells: Sequence[CellScores]) -> float | None:
    known = [cell.seconds_per_example for cell in cells if cell.seconds_per_example is not None]
    return fmean(known) if known else None
