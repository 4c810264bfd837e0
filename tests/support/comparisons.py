"""Made-up comparison reports of any shape, deterministic in their arguments."""

import random
from collections.abc import Sequence
from statistics import fmean
from typing import Any

from pipelines.compare.model import ComparisonReport

METHODS = ("finetune", "task-distillation", "step-by-step", "rationale-then-label")
GAIN = {"finetune": 0.0, "task-distillation": -0.02, "step-by-step": 0.05, "rationale-then-label": 0.02}
HALF = 0.05
FIXED = frozenset({
    "heldout.split", "search.split", "search.settings.method", "lines.name", "settings.labels", "baseline", "groups.method",
    "differences.method", "missing.method", "cost.training.method", "cost.answers.method",
})  # fmt: skip
"""Paths of texts with a fixed set of values, for page_reader.hostile."""


def comparison_tree(
    methods: Sequence[str] = METHODS,
    fractions: Sequence[float] = (0.125, 0.25, 0.5, 0.75, 1.0),
    students: Sequence[str] = ("SmolLM2-135M", "SmolLM2-360M"),
    seeds: Sequence[int] = (0, 1, 2),
    teacher: float | None = 0.74,
) -> dict[str, Any]:
    """The JSON tree of a report of `raystill compare`, format 4."""
    parameters = {name: 134_515_008 * (1 + 2 * i) for i, name in enumerate(students)}
    groups = [
        _group(student, method, fraction, seeds, parameters[student])
        for student in students
        for method in methods
        for fraction in fractions
    ]
    by_key = {(g["student"], g["method"], g["fraction"]): g["accuracy"] for g in groups}
    differences = [
        {
            **{key: g[key] for key in ("student", "method", "fraction")},
            **_difference(g["accuracy"], by_key[g["student"], methods[0], g["fraction"]]),
            "seeds": len(seeds),
        }
        for g in groups
        if g["method"] != methods[0]
    ]
    return {
        "format": 4,
        "run": "svamp",
        "headline": f"With {100 * fractions[-1]:g}% of the labels (600 rows), {methods[-1]} is right on 41.2% and {methods[0]} on 36.7% "
        f"of 200 test examples ({students[-1]}, {len(seeds)} seeds): no difference is shown.",
        "notes": ["Methods are not trained equally long: one takes 1.9 times the optimizer steps and 2.9 times the tokens of the other."],
        "task": {"name": "arithmetic", "version": "1"},
        "baseline": methods[0],
        "settings": {"labels": {method: "teacher" if method == "task-distillation" else "gold" for method in methods},
                     "filters": {"gold": "drop-disagreeing", "min_agreement": 0.4, "drop_giveaways": False},
                     "training": {"epochs": 3, "tokens_per_batch": 16_384, "precision": "bf16", "patience": None}},
        "heldout": {"split": "test", "scored": 200, "without_gold": {"count": 0, "ids": []},
                    "unreadable": {"count": 0, "ids": [], "problems": []},
                    "duplicates": {"count": 0, "ids": []},
                    "trained_on": {"count": 0, "ids": [], "by": {"id": 0, "input": 0, "near": 0}}, "chosen_on": None},
        "rationales_read": None,
        "students": [{"name": n, "model": f"HuggingFaceTB/{n}", "parameters": p} for n, p in parameters.items()],
        "lines": [
            _line("teacher", None, teacher, "" if teacher else "the labels hold no answers to the held-out examples"),
            _line("majority", None, 0.045, "`8 / 2`, the label of 9 of 400"),
            *(_line("untrained", name, 0.01) for name in students),
        ],
        "groups": groups,
        "differences": differences,
        "search": {"trials": 2, "fraction": 1.0, "seed": 0, "examples": 60, "split": "validation",
                   "settings": [s for n in students for m in methods for s in _settings(n, m)]},
        "missing": [],
        "cost": {
            "teacher": {"prompt_tokens": 812_000, "output_tokens": 46_000, "gpu_hours": 1.24, "money": 3.1},
            "training": [{**{key: g[key] for key in ("student", "method", "fraction")}, "seconds": g["cells"][0]["train_s"],
                          "gpu_hours": 0.5, "money": 1.25} for g in groups],
            "answers": [{"student": n, "method": m, "seconds_per_example": 0.12, "per_1000": 0.0213,
                         "teacher_prompt_tokens": None, "teacher_output_tokens": None} for n in students for m in methods],
        },
        "provenance": {"labels": {"fingerprint": "a" * 64, "teacher": {"engine": "vllm", "model": "Qwen/Qwen2.5-7B-Instruct"},
                                  "prompt": "arithmetic 1", "accepted": 598, "filters": {"gold": "keep", "min_agreement": 0.0}}},
        "versions": {"torch": "2.13.0", "transformers": "5.19.0", "ray": "2.60.0"},
        "created": "2026-01-31T12:00:00+00:00",
    }  # fmt: skip


def comparison(**shape: Any) -> ComparisonReport:
    """The report; arguments as of `comparison_tree`."""
    return ComparisonReport.model_validate(comparison_tree(**shape))


def _group(student: str, method: str, fraction: float, seeds: Sequence[int], parameters: int) -> dict[str, Any]:
    cells = [_cell(student, method, fraction, seed, parameters) for seed in seeds]
    accuracy = fmean(cell["correct"] / cell["total"] for cell in cells)
    return {
        "student": student,
        "method": method,
        "fraction": fraction,
        "accuracy": accuracy,
        "interval": [max(accuracy - HALF, 0.0), accuracy + HALF],
        **{key: fmean(cell[key] for cell in cells) for key in ("train_examples", "steps", "tokens")},
        "cells": cells,
    }


def _cell(student: str, method: str, fraction: float, seed: int, parameters: int) -> dict[str, Any]:
    chance = random.Random(f"{student} {method} {fraction} {seed}")
    share = 0.08 + 0.3 * fraction**0.6 + GAIN[method] + 0.06 * (parameters > 200e6) + chance.uniform(-0.02, 0.02)
    rows = round(600 * fraction) - (2 if method != "finetune" else 0)
    return {
        "seed": seed, "correct": round(200 * max(share, 0.0)), "total": 200, "unanswered": chance.randrange(6),
        "train_examples": rows, "steps": rows // 3, "tokens": rows * 407, "train_s": rows * (1.4 if method == "finetune" else 2.9),
        "workers": 2, "gpu_hours": 0.5, "seconds_per_example": 0.12, "prompt_tokens": 40.1, "output_tokens": 7.9,
        "learning_rate": 1e-4, "weight": 0.5 if method == "step-by-step" else None,
        "fingerprint": f"{chance.getrandbits(256):064x}",
    }  # fmt: skip


def _difference(accuracy: float, baseline: float) -> dict[str, Any]:
    value = accuracy - baseline
    interval = [value - 0.044, value + 0.044]
    return {"accuracy": accuracy, "baseline_accuracy": baseline, "difference": value, "interval": interval}


def _line(name: str, student: str | None, accuracy: float | None, note: str = "") -> dict[str, Any]:
    line = {"name": name, "student": student, "note": note}
    if accuracy is None:
        return line | dict.fromkeys(("correct", "total", "accuracy", "interval"))
    interval = [max(accuracy - HALF, 0.0), accuracy + HALF]
    return line | {"correct": round(200 * accuracy), "total": 200, "accuracy": accuracy, "interval": interval}


def _settings(student: str, method: str) -> list[dict[str, Any]]:
    weight = 0.5 if method == "step-by-step" else None
    return [
        {"student": student, "method": method, "learning_rate": rate, "weight": weight, "correct": 17 + i, "total": 60, "chosen": i == 1,
         "why": ""}
        for i, rate in enumerate((5e-5, 1e-4))
    ]  # fmt: skip
