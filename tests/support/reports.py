"""A made-up report.json of `raystill evaluate` with every section."""

from typing import Any

from pipelines.evaluate.model import Report

FIXED = frozenset({
    "heldout.split", "student.fingerprint", "student.method", "student.family", "settings.labels", "systems.name",
    "comparisons.student_vs", "majority.of", "rationale.of", "weights.weights", "weights.engine",
})  # fmt: skip
"""Paths of texts with a fixed set of values, for page_reader.hostile."""


def report_tree() -> dict[str, Any]:
    """The JSON tree of a report of format 7; change it as a test needs."""
    labels = ("entailment", "neutral", "contradiction")
    confusion = [
        {"gold": gold, "student": answer, "count": 52 - 6 * i if gold == answer else 9 - i - j}
        for i, gold in enumerate(labels)
        for j, answer in enumerate((*labels, None))
    ]
    bins = [{"count": 6 * t + 4, "confidence": t / 10 + 0.056, "accuracy": t / 12 + 0.02} for t in range(2, 10)]
    return {
        "format": 7,
        "run": "esnli",
        "headline": "The student (57M parameters) is right on 61.5% (54.6-68.0) of 200 held-out examples; the untrained student on 33.0% "
        "(the student is better, p = 2e-09); the majority label on 34.5% (the student is better, p = 3e-08).",
        "task": {"name": "nli", "version": "2"},
        "heldout": {
            "split": "test",
            "scored": 200,
            "without_gold": {"count": 1, "ids": ["e-9"]},
            "unreadable": {"count": 1, "ids": ["e-11"], "problems": [{"id": "e-11", "problem": "hypothesis is missing"}]},
            "duplicates": {"count": 1, "ids": ["e-12"]},
            "trained_on": {"count": 2, "ids": ["e-3", "e-4"], "by": {"id": 1, "input": 1, "near": 1}},
            "chosen_on": {"count": 1, "ids": ["e-5"], "by": {"id": 0, "input": 1, "near": 0}},
        },
        "student": {"fingerprint": "f" * 64, "method": "step-by-step", "family": "decoder-only", "parameters": 57_000_000},
        "settings": {
            "labels": "teacher",
            "filters": {"gold": "keep", "min_agreement": 0.6, "drop_giveaways": True},
            "training": {"epochs": 1, "tokens_per_batch": 65_536, "precision": "bf16", "patience": None, "seed": 0},
        },
        "systems": [
            _system("student", 123, unanswered=4, too_long=1, seconds_per_example=0.0455, tokens=(35.1, 7.2)),
            _system("untrained", 66, unanswered=31, seconds_per_example=0.047, tokens=(35.1, 9.9)),
            _system("teacher", 156, unanswered=2),
            _system("majority", 69, note="`entailment`, the label of 2,001 of 6,000"),
        ],
        "comparisons": [
            _versus("untrained", 71, 14, 2e-9, 0.285),
            _versus("teacher", 11, 44, 9e-6, -0.165),
            _versus("majority", 44, 34, 0.081, 0.05),
        ],
        "calibration": {"error": 0.1237, "bins": [None, None, *bins]},
        "confusion": confusion,
        "confusion_note": "",
        "majority": {"label": "entailment", "count": 2001, "rows": 6000, "of": "gold"},
        "rationale": {"of": "student", "examples": 200, "empty": 3, "leads_to_label": 0.914, "states_gold": 0.582,
                      "repeats_input": 0.021, "words": {"p10": 6, "median": 13, "p90": 22}},
        "weights": [{"weights": "int8", "engine": "ctranslate2", "correct": 121, "total": 200, "accuracy": 0.605, "interval": [0.536, 0.67],
                     "same_label": 0.985, "better": 1, "worse": 3, "p_value": 0.625, "difference": -0.01,
                     "difference_interval": [-0.033, 0.013], "seconds_per_example": 0.0112}],
        "votes": {"n": 5, "temperature": 0.7, "agreement": 0.883},
        "baseline": {"run": "esnli", "created": "2026-01-24T09:00:00+00:00", "accuracy": 0.59, "total": 200, "same_examples": True,
                     "difference": 0.025, "interval": [-0.031, 0.079], "better": 19, "worse": 14, "p_value": 0.487, "note": ""},
        "errors": [
            {"id": f"e-{i}", "input": "premise: A person on a horse jumps over a broken down airplane. hypothesis: A person is training "
             "his horse for a competition.", "gold": "neutral", "student": "entailment", "confidence": 0.98 - i / 50,
             "teacher": "neutral" if i % 2 else None}
            for i in range(5)
        ],
        "cost": {
            "teacher": {"prompt_tokens": 812_000, "output_tokens": 46_000, "gpu_hours": 1.24, "money": 3.1},
            "training": {"seconds": 912.0, "gpu_hours": 0.5, "money": 1.25},
            "answers": {"seconds_per_example": 0.0455, "per_1000": 0.0316},
        },
        "provenance": {"labels": {"teacher": {"engine": "vllm", "model": "Qwen/Qwen2.5-7B-Instruct"}, "accepted": 5988}},
        "versions": {"torch": "2.13.0", "transformers": "5.19.0"},
        "seconds": 31.2,
        "created": "2026-01-31T12:00:00+00:00",
    }  # fmt: skip


def _system(
    name: str, correct: int, *, unanswered: int = 0, too_long: int = 0, seconds_per_example: float | None = None,
    tokens: tuple[float, float] | None = None, note: str = "",
) -> dict[str, Any]:  # fmt: skip
    accuracy = correct / 200
    return {
        "name": name, "correct": correct, "total": 200, "unanswered": unanswered, "too_long": too_long, "accuracy": accuracy,
        "interval": [accuracy - 0.069, accuracy + 0.065], "seconds": 9.1 if tokens else None,
        "prompt_tokens": round(200 * tokens[0]) if tokens else None, "output_tokens": round(200 * tokens[1]) if tokens else None,
        "seconds_per_example": seconds_per_example, "prompt_tokens_per_example": tokens[0] if tokens else None,
        "output_tokens_per_example": tokens[1] if tokens else None, "note": note,
    }  # fmt: skip


def _versus(name: str, better: int, worse: int, p_value: float, difference: float) -> dict[str, Any]:
    return {
        "student_vs": name, "better": better, "worse": worse, "p_value": p_value, "difference": difference,
        "difference_interval": [difference - 0.08, difference + 0.08],
    }  # fmt: skip


def report(**changes: Any) -> Report:
    """The report with other top-level values."""
    return Report.model_validate(report_tree() | changes)


def without(tree: dict[str, Any], name: str) -> dict[str, Any]:
    nothing = dict.fromkeys(("correct", "total", "unanswered", "accuracy", "interval"))
    systems = [one | nothing | {"note": "there are none"} if one["name"] == name else one for one in tree["systems"]]
    return tree | {"systems": systems, "comparisons": [c for c in tree["comparisons"] if c["student_vs"] != name]}
