"""Costs of labels, trainings and answers in reports, from manifests and the price of a worker's hour."""

from __future__ import annotations

from pipelines.reports.format import number
from pipelines.scoring.model import TeacherCost
from pipelines.storage.manifest import Manifest

_HOUR_S = 3600


def teacher_cost(labels: Manifest) -> TeacherCost:
    """The cost of the teacher's answers."""
    details = labels.details
    charged, tokens = details.get("cost"), details.get("tokens") or {}
    return TeacherCost(
        # A replayed recording counts 0 tokens: the number is unknown.
        prompt_tokens=tokens.get("prompt") or None,
        output_tokens=tokens.get("output") or None,
        gpu_hours=details.get("gpu_hours"),
        money=charged["amount"] if charged else None,
    )


def training_s(student: Manifest) -> float:
    """Duration of a training. After a resume, `train` is the last attempt and `steps` the steps of all attempts; the longer counts."""
    return max(student.timings_s["train"], student.timings_s["steps"])


def worker_hours(workers: int, seconds: float) -> float:
    """Hours of all workers together."""
    return workers * seconds / _HOUR_S


def money_of(hours: float, price: float | None) -> float | None:
    """Cost of worker hours; None without a price."""
    return None if price is None else hours * price


def per_1000(seconds_per_example: float | None, price: float | None) -> float | None:
    """Cost of 1,000 answers on one worker; None if their time or the price is unknown."""
    return None if seconds_per_example is None else money_of(1000 * seconds_per_example / _HOUR_S, price)


def teacher_facts(cost: TeacherCost) -> list[tuple[str, str]]:
    """The known costs of the labels as (name, value)."""
    known = {
        "Teacher tokens read": cost.prompt_tokens,
        "Teacher tokens written": cost.output_tokens,
        "Teacher GPU-hours": cost.gpu_hours,
        "Cost of the labels": cost.money,
    }
    return [(name, number(value)) for name, value in known.items() if value is not None]
