"""report.json's `cost`: what labels, training and answers of one student cost."""

from __future__ import annotations

from pipelines.evaluate.model import AnswerCost, Cost, TrainingCost
from pipelines.reports.format import duration, number
from pipelines.scoring.costs import money_of, per_1000, teacher_cost, training_s, worker_hours
from pipelines.storage.manifest import Manifest


def student_cost(labels: Manifest, student: Manifest, seconds_per_example: float | None, price: float | None) -> Cost:
    """The cost of a student that was trained on these labels. `price`: per worker and hour."""
    seconds, workers = training_s(student), student.details["training"]["world_size"]
    hours = worker_hours(workers, seconds)
    return Cost(
        teacher=teacher_cost(labels),
        training=TrainingCost(
            seconds=seconds,
            gpu_hours=hours * student.config["training"]["gpus_per_worker"],
            money=money_of(hours, price),
        ),
        answers=AnswerCost(seconds_per_example=seconds_per_example, per_1000=per_1000(seconds_per_example, price)),
    )


def student_facts(cost: Cost) -> list[tuple[str, str]]:
    """The known costs of training and answers as (name, value)."""
    training, answers = cost.training, cost.answers
    known = {
        "Training time": (training.seconds, duration),
        "Training GPU-hours": (training.gpu_hours, number),
        "Training cost": (training.money, number),
        "Time per answer": (answers.seconds_per_example, duration),
        "Cost of 1,000 answers": (answers.per_1000, number),
    }
    return [(name, text(value)) for name, (value, text) in known.items() if value is not None]
