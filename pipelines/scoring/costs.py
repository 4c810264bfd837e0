"""What labels, trainings and answers take, as the reports of `evaluate` and `compare` tell it. Pure functions of manifests.

In: the manifests of labels and student, and what a worker's hour costs. Out: report.json's `cost` of `raystill evaluate`:

    {"teacher": {"prompt_tokens": 812000, "output_tokens": 46000, "gpu_hours": null, "money": null},
     "training": {"seconds": 911.0, "gpu_hours": 0.5, "money": 1.25 | null},
     "answers": {"seconds_per_example": 0.12, "per_1000": 0.0213 | null}}

`teacher`: all its answers, those to held-out examples and those that became rejects among them; `money` is by the prices of the run that
made the labels (`teacher.price`). Trainings and answers are charged by the worker's hour (`compare.price_per_worker_hour`). `per_1000`: of
the student alone. Times are in seconds; null: not known, or there is no price for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipelines.reports.format import duration, number
from pipelines.storage.manifest import Manifest

_HOUR_S = 3600


def teacher_cost(labels: Manifest) -> dict[str, Any]:
    """What the teacher's answers took."""
    details = labels.details
    charged, tokens = details.get("cost"), details.get("tokens") or {}
    return {
        # A recording counts none: nothing is known, and 0 would be a claim.
        "prompt_tokens": tokens.get("prompt") or None,
        "output_tokens": tokens.get("output") or None,
        "gpu_hours": details.get("gpu_hours"),
        "money": charged["amount"] if charged else None,
    }


def training_s(student: Manifest) -> float:
    """How long the training took: of one that was gone on from, `train` is the last attempt's time, `steps` that of all attempts' steps."""
    return max(student.timings_s["train"], student.timings_s["steps"])


def worker_hours(workers: int, seconds: float) -> float:
    """Hours of all workers together."""
    return workers * seconds / _HOUR_S


def money_of(hours: float, price: float | None) -> float | None:
    """What workers' hours cost; None without a price."""
    return None if price is None else hours * price


def per_1000(seconds_per_example: float | None, price: float | None) -> float | None:
    """What 1,000 answers of one worker cost; None where their time or the price is not known."""
    return None if seconds_per_example is None else money_of(1000 * seconds_per_example / _HOUR_S, price)


def student_cost(
    labels: Manifest, student: Manifest, seconds_per_example: float | None, price: float | None
) -> dict[str, Any]:
    """report.json's `cost` of one student, which was trained on these labels."""
    seconds, workers = training_s(student), student.details["training"]["world_size"]
    hours = worker_hours(workers, seconds)
    return {
        "teacher": teacher_cost(labels),
        "training": {
            "seconds": seconds,
            "gpu_hours": hours * student.config["training"]["gpus_per_worker"],
            "money": money_of(hours, price),
        },
        "answers": {"seconds_per_example": seconds_per_example, "per_1000": per_1000(seconds_per_example, price)},
    }


def teacher_facts(cost: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What the teacher's answers took, in words; only what is known. `cost`: `teacher_cost`."""
    known = {
        "Tokens the teacher read": cost["prompt_tokens"],
        "Tokens it wrote": cost["output_tokens"],
        "Its GPU-hours": cost["gpu_hours"],
        "Its cost": cost["money"],
    }
    return [(name, number(value)) for name, value in known.items() if value is not None]


def student_facts(cost: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What the student's training and answers take, in words; only what is known. `cost`: `student_cost`."""
    training, answers = cost["training"], cost["answers"]
    known = {
        "Training time": (training["seconds"], duration),
        "GPU-hours of the training": (training["gpu_hours"], number),
        "Cost of the training": (training["money"], number),
        "Time per answer": (answers["seconds_per_example"], duration),
        "Cost of 1,000 answers": (answers["per_1000"], number),
    }
    return [(name, said(value)) for name, (value, said) in known.items() if value is not None]
