"""The comparison: what was measured of every cell -> report.json.

`report.json` (shares are between 0 and 1, times in seconds; null: there is no such figure):

    {"format": 1, "run": "svamp", "headline": "With 100% of the labels, step-by-step is right on 12.3% ...",
     "task": {"name": "arithmetic", "version": "1"}, "baseline": "finetune",
     "heldout": {"split": "test", "scored": 200, "without_gold": {...}, "unreadable": ..., "trained_on": {...}},
     "students": [{"name": "SmolLM2-135M", "model": "HuggingFaceTB/SmolLM2-135M", "parameters": 134515008}],
     "lines": [{"name": "teacher" | "majority" | "untrained", "student": null | "SmolLM2-135M", "correct": 148, "total": 200,
                "accuracy": 0.74, "interval": [0.67, 0.8], "note": ""}],
     "groups": [{"student": "SmolLM2-135M", "method": "step-by-step", "fraction": 0.25, "accuracy": 0.071,
                 "interval": [0.03, 0.12], "train_examples": 150.0,
                 "cells": [{"seed": 0, "correct": 14, "total": 200, "unanswered": 3, "train_examples": 148, "steps": 60,
                            "tokens": 61000, "train_s": 210.1, "gpu_hours": 0.0, "seconds_per_example": 0.12,
                            "prompt_tokens": 40.1, "output_tokens": 7.9, "learning_rate": 1e-4, "weight": 0.5 | null,
                            "fingerprint": "3f..."}]}],
     "differences": [{"student": "SmolLM2-135M", "method": "step-by-step", "fraction": 1.0, "difference": 0.032,
                      "interval": [-0.012, 0.076], "seeds": 3}],
     "search": null | {"trials": 2, "fraction": 1.0, "seed": 0, "split": "validation", "examples": 60,
                       "settings": [{"student": "...", "method": "...", "learning_rate": 5e-5, "weight": null, "correct": 7,
                                     "total": 60, "chosen": true}]},
     "missing": [{"student": "...", "method": "...", "fraction": 1.0, "seed": 2, "why": "not there yet"}],
     "cost": {"teacher": {"prompt_tokens": 812000, "output_tokens": 46000, "gpu_hours": null, "money": null},
              "training": [{"student", "method", "fraction", "seconds", "gpu_hours", "money"}],
              "answers": [{"student", "method", "seconds_per_example", "per_1000"}]},
     "provenance": {"labels": {...}}, "versions": {"torch": "2.13.0"}, "created": "2026-01-31T12:00:00+00:00"}

A group's accuracy and interval, and the differences to the baseline method (same student, fraction, seeds and examples): seeds.py. Of
differences only seeds that both have count. `answers`: at the largest fraction; `cells` times are those of the last run that trained
the cell. `prompt_tokens`, `output_tokens`: of an answer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from pipelines.artifacts import Manifest, Store, library_versions
from pipelines.compare.grid import Cell, Setting, baseline_of, cells, student_name, students_of, without_search
from pipelines.config import RunConfig
from pipelines.corpus import Heldout
from pipelines.evaluate.baselines import majority_label, teacher_answers
from pipelines.evaluate.overlap import overlap_part, seen_in_training
from pipelines.evaluate.report import System
from pipelines.evaluate.seeds import Estimate, mean, mean_difference
from pipelines.evaluate.systems import heldout_key, heldout_part, majority_system, teacher_system
from pipelines.filesystems import join
from pipelines.methods import Method
from pipelines.tasks import Example, Task

FORMAT = 1
_NEW_METHODS: tuple[Method, ...] = ("step-by-step", "rationale-then-label", "task-distillation")
"""Whose difference the headline tells, the first that is there: fixed beforehand, never the one that did best."""


@dataclass
class Found:
    """What is known of a grid so far."""

    run: RunConfig
    task: Task
    labels: Manifest
    heldout: Heldout
    examples: Sequence[Example]
    chosen: dict[tuple[str, Method], Setting] = field(default_factory=dict)
    """By a search; empty where there was none."""
    trials: dict[Cell, Manifest] = field(default_factory=dict)
    cells: dict[Cell, Manifest] = field(default_factory=dict)
    rights: dict[Cell, list[bool]] = field(default_factory=dict)
    untrained: dict[str, Manifest] = field(default_factory=dict)
    missing: dict[Cell, str] = field(default_factory=dict)
    shared: dict[str, Any] | None = None
    """What does not change while cells are made: held-out examples, teacher and majority."""


def comparison(found: Found) -> dict[str, Any]:
    """report.json but for `created`."""
    run = found.run
    if found.shared is None:
        found.shared = _shared(found)
    groups = list(_groups(found))
    differences = list(_differences(found))
    content: dict[str, Any] = {
        "format": FORMAT,
        "run": run.name,
        "task": {"name": found.task.name, "version": found.task.version},
        "baseline": baseline_of(run.compare),
        "heldout": found.shared["heldout"],
        "students": list(_students(found)),
        "lines": [*found.shared["lines"], *_untrained_lines(found)],
        "groups": groups,
        "differences": differences,
        "search": _search(found),
        "missing": [{**_place(cell), "seed": cell.seed, "why": why} for cell, why in found.missing.items()],
        "cost": _cost(found, groups),
        "provenance": {"labels": _labels(found.labels)},
        "versions": library_versions(),
    }
    return content | {"headline": headline(content)}


def headline(content: dict[str, Any]) -> str:
    """One sentence on the largest student with the most labels: the method that was to help, against the baseline."""
    base, students = content["baseline"], {s["name"]: s for s in content["students"]}
    scored = content["heldout"]["scored"]
    groups = {(g["student"], g["method"], g["fraction"]): g for g in content["groups"]}
    order = [*_NEW_METHODS, *(d["method"] for d in content["differences"])]
    told = sorted(
        content["differences"],
        key=lambda d: (order.index(d["method"]), -d["fraction"], -students[d["student"]]["parameters"]),
    )
    if not told:
        return f"No method can be compared yet: {len(content['groups'])} groups of cells are there."
    one = told[0]
    method, baseline = (groups[one["student"], name, one["fraction"]] for name in (one["method"], base))
    low, high = (100 * bound for bound in one["interval"])
    shown = Estimate(one["difference"], *one["interval"]).shows
    verdict = ("it is better" if one["difference"] > 0 else "it is worse") if shown else "no difference is shown"
    seeds = "1 seed" if one["seeds"] == 1 else f"mean of {one['seeds']} seeds"
    return (
        f"With {100 * one['fraction']:.4g}% of the labels {one['method']} is right on {100 * method['accuracy']:.1f}% of {scored:,} "
        f"held-out examples and {base} on {100 * baseline['accuracy']:.1f}% ({one['student']}, {seeds}): "
        f"{100 * one['difference']:+.1f} points (95% interval {low:+.1f} to {high:+.1f}), {verdict}."
    )


def _shared(found: Found) -> dict[str, Any]:
    """Reads the labels once."""
    run, task, examples = found.run, found.task, found.examples
    store = Store(join(run.output, "labels"))
    answers = teacher_answers(store, run.corpus, [example.id for example in examples])
    majority = majority_label(store, run.corpus, task, {example.id for example in found.heldout.examples})
    seen = seen_in_training(store, run.corpus, examples)
    overlap = overlap_part(seen, len(examples), heldout_key(run))
    systems = [teacher_system(run, task, answers, examples), majority_system(task, majority, examples)]
    return {
        "heldout": {**heldout_part(run, found.heldout, len(examples)), "trained_on": overlap},
        "lines": [_line(system) for system in systems],
    }


def _line(system: System) -> dict[str, Any]:
    row = system.row()
    return {"student": None, **{key: row[key] for key in ("name", "correct", "total", "accuracy", "interval", "note")}}


def _untrained_lines(found: Found) -> Iterator[dict[str, Any]]:
    for model in students_of(found.run):
        line: dict[str, Any] = {"name": "untrained", "student": student_name(model), "note": ""}
        manifest = found.untrained.get(model)
        if manifest is None:
            note = "its tokenizer is made by the training"
            yield line | {"correct": None, "total": None, "accuracy": None, "interval": None, "note": note}
        else:
            correct, total = manifest.counts["correct"], manifest.counts["total"]
            estimate = mean([[True] * correct + [False] * (total - correct)])
            yield line | {"correct": correct, "total": total, **_estimate("accuracy", estimate)}


def _students(found: Found) -> Iterator[dict[str, Any]]:
    known = {cell.student: manifest.details["parameters"] for cell, manifest in found.cells.items()}
    for model in students_of(found.run):
        if model in known:
            yield {"name": student_name(model), "model": model, "parameters": known[model]}


def _by_group(found: Found) -> dict[tuple[str, Method, float], list[Cell]]:
    groups: dict[tuple[str, Method, float], list[Cell]] = {}
    for cell in cells(found.run, found.chosen or without_search(found.run)):
        if cell in found.cells:
            groups.setdefault((cell.student, cell.method, cell.fraction), []).append(cell)
    return groups


def _groups(found: Found) -> Iterator[dict[str, Any]]:
    for members in _by_group(found).values():
        rows = [_cell(found, cell) for cell in members]
        yield {
            **_place(members[0]),
            **_estimate("accuracy", mean([found.rights[cell] for cell in members])),
            "train_examples": fmean(row["train_examples"] for row in rows),
            "cells": rows,
        }


def _cell(found: Found, cell: Cell) -> dict[str, Any]:
    manifest, training = found.cells[cell], found.run.training
    details = manifest.details
    workers = details["training"]["world_size"]
    return {
        "seed": cell.seed,
        **{key: manifest.counts[key] for key in ("correct", "total", "unanswered")},
        "train_examples": details["train_examples"],
        "steps": details["training"]["steps"],
        "tokens": details["tokens"],
        "train_s": details["train_s"],
        "gpu_hours": workers * training.gpus_per_worker * details["train_s"] / 3600,
        "seconds_per_example": details.get("seconds_per_example"),
        "prompt_tokens": details.get("prompt_tokens_per_example"),
        "output_tokens": details.get("output_tokens_per_example"),
        "learning_rate": cell.setting.learning_rate,
        "weight": cell.setting.weight,
        "fingerprint": details["student"],
    }


def _differences(found: Found) -> Iterator[dict[str, Any]]:
    groups, base = _by_group(found), baseline_of(found.run.compare)
    for (student, method, fraction), members in groups.items():
        mine = {cell.seed: found.rights[cell] for cell in members}
        theirs = {cell.seed: found.rights[cell] for cell in groups.get((student, base, fraction), ())}
        both = [seed for seed in mine if seed in theirs]
        if method != base and both:
            estimate = mean_difference([mine[seed] for seed in both], [theirs[seed] for seed in both])
            yield {**_place(members[0]), **_estimate("difference", estimate), "seeds": len(both)}


def _search(found: Found) -> dict[str, Any] | None:
    if not found.trials:
        return None
    first = next(iter(found.trials))
    settings = [
        {
            "student": student_name(cell.student), "method": cell.method, "learning_rate": cell.setting.learning_rate,
            "weight": cell.setting.weight, "correct": manifest.counts["correct"], "total": manifest.counts["total"],
            "chosen": found.chosen.get((cell.student, cell.method)) == cell.setting,
        }
        for cell, manifest in found.trials.items()
    ]  # fmt: skip
    return {
        "trials": found.run.compare.search.trials,
        "fraction": first.fraction,
        "seed": first.seed,
        "split": "validation",
        "examples": settings[0]["total"],
        "settings": settings,
    }


def _cost(found: Found, groups: Sequence[dict[str, Any]]) -> dict[str, Any]:
    price, training = found.run.compare.price_per_worker_hour, found.run.training
    details = found.labels.details
    charged, tokens = details.get("cost"), details.get("tokens") or {}
    largest = max((group["fraction"] for group in groups), default=None)

    def of(group: dict[str, Any], *keys: str) -> dict[str, Any]:
        return {key: group[key] for key in ("student", "method", *keys)}

    def average(group: dict[str, Any], key: str) -> float | None:
        values = [cell[key] for cell in group["cells"] if cell[key] is not None]
        return fmean(values) if values else None

    trained, answered = [], []
    for group in groups:
        seconds = average(group, "train_s") or 0.0
        money = None if price is None else training.workers * seconds / 3600 * price
        trained.append(
            {**of(group, "fraction"), "seconds": seconds, "gpu_hours": average(group, "gpu_hours"), "money": money}
        )
        if group["fraction"] == largest:
            each = average(group, "seconds_per_example")
            per_1000 = None if price is None or each is None else 1000 * each / 3600 * price
            answered.append({**of(group), "seconds_per_example": each, "per_1000": per_1000})
    return {
        "teacher": {
            "prompt_tokens": tokens.get("prompt"),
            "output_tokens": tokens.get("output"),
            "gpu_hours": details.get("gpu_hours"),
            "money": charged["amount"] if charged else None,
        },
        "training": trained,
        "answers": answered,
    }


def _labels(manifest: Manifest) -> dict[str, Any]:
    details = manifest.details
    kept = {key: details.get(key) for key in ("prompt_version", "teacher", "task")}
    return {"fingerprint": manifest.fingerprint, **kept, "counts": manifest.counts}


def _place(cell: Cell) -> dict[str, Any]:
    return {"student": student_name(cell.student), "method": cell.method, "fraction": cell.fraction}


def _estimate(name: str, estimate: Estimate) -> dict[str, Any]:
    return {name: estimate.value, "interval": [estimate.low, estimate.high]}
